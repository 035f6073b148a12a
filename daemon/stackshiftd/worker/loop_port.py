"""What an `async def` handler asks of the world: of the daemon, and of the functions of its
steps."""

from __future__ import annotations

import asyncio
import itertools
from asyncio import get_running_loop
from typing import Any, Final, Protocol

from stackshift_jobs.handler import ops
from stackshift_jobs.handler.ports import AsyncCall
from stackshift_jobs.handler.replay import Pass
from stackshiftd.core import commands as c
from stackshiftd.worker.execution import command_of
from stackshiftd.worker.loop.async_calls import AsyncCalls, Call
from stackshiftd.worker.pipe import Pipe
from stackshiftd.worker.step_functions import Ended, Owner, StepFunctions

_numbers: Final = itertools.count(2, 2)
"""Of requests; those of handlers on threads have the odd ones."""


class Asker(Owner, Protocol):
    """The execution that a port is for: a `looped.LoopedExecution`."""

    calls: AsyncCalls
    pass_: Pass

    @property
    def token(self) -> int:
        """The token of the execution."""

    def refuse_unwinding(self, op: ops.Op | None = None) -> None:
        """See `Execution.refuse_unwinding`."""

    def failing(self, op: ops.Op) -> None:
        """See `Execution.failing`."""

    def withdrawal(self, step: str) -> c.WithdrawCall:
        """See `Execution.withdrawal`."""


class LoopPort:
    """The port of one execution; see `stackshift_jobs.handler.ports.AsyncPort`."""

    def __init__(
        self,
        execution: Asker,
        pipe: Pipe,
        calls: dict[int, Any],
        functions: StepFunctions,
    ) -> None:
        self.functions = functions
        self._execution = execution
        self._pipe = pipe
        self._calls = calls
        self._loop = get_running_loop()

    def call(self, key: str, made: ops.Steps, *, releases: bool = False) -> Call:
        """See `AsyncPort.call`."""
        execution = self._execution
        if execution.pass_.unwinding is not None:
            return execution.calls.never(key, made)
        return execution.calls.begin(key, made, releases=releases)

    def give_up(self, call: AsyncCall) -> None:
        """See `AsyncPort.give_up`."""
        if self._execution.pass_.unwinding is None:
            self._execution.calls.give_up(call)  # type: ignore[arg-type]  # it is one of ours

    async def call_in_step(self, made: ops.Steps) -> Any:
        """See `AsyncPort.call_in_step`."""
        try:
            op = next(made)
            while True:
                self._execution.refuse_unwinding(op)
                future: asyncio.Future[ops.Recorded] = self._loop.create_future()
                self._send(op, future)  # type: ignore[arg-type]  # it is an `Ask`
                op = made.send(await future)
        except StopIteration as done:
            return done.value

    def tell(self, call: Call, op: ops.Tell) -> None:
        """Send an op to the daemon; `answered` follows when its records are durable."""
        if type(op) is ops.RecordFailure:
            self._execution.failing(op)
        self._send(op, call)

    def _send(self, op: ops.Tell, asker: Call | asyncio.Future[ops.Recorded]) -> None:
        execution = self._execution
        number = next(_numbers)
        self._pipe.post(command_of(op, execution.run, execution.token, number))
        execution.calls.told[number] = asker
        self._calls[number] = execution

    def perform(self, call: Call, op: ops.Perform) -> Ended | None:
        """Call the function of a step. Returns how it has ended, if it has; otherwise `performed`
        follows."""
        return self.functions.perform(self._execution, call, op)

    def is_heard(self, _call: Call) -> bool:
        """Does the handler hear that the op of this call is durable? A test may let it die here."""
        return True

    def withdraw(self, call: Call) -> None:
        """Tell the daemon that nobody waits for `call`, and cancel the function of its step."""
        self.functions.cancel(self._execution, call.key)
        self._pipe.post(self._execution.withdrawal(call.key))

    def progress(self, done: float, total: float | None, message: str) -> None:
        """Report progress, without waiting for an answer."""
        execution = self._execution
        if execution.pass_.unwinding is None:
            self._pipe.post(
                c.ReportProgress(execution.run, execution.token, float(done), total, message)
            )
