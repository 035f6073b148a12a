"""Passes of a handler without a daemon: a record that outlives them, and ports that drive them.

`play(handler, record)` is one pass, from the top, as a worker makes it: what is on record is
answered from it, what is not is done and recorded, and a wait that is not over leaves the pass.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Any, NamedTuple

from sdk.handler.daemon_answers import answer
from stackshift_jobs.errors import StackshiftError
from stackshift_jobs.handler import ops
from stackshift_jobs.handler.async_context import AsyncJobContext
from stackshift_jobs.handler.clock import Clock
from stackshift_jobs.handler.context import Facts, JobContext
from stackshift_jobs.handler.ports import AsyncCall
from stackshift_jobs.handler.replay import Pass, Unwinding
from stackshift_jobs.handler.scope import current_step
from stackshift_jobs.values.secrets import current_secrets
from stackshift_jobs.values.strict_json import dumps

START_US = 1_795_000_000_000_000
PENDING = ("waiting", "retrying")


class Hands(Clock):
    """A clock that moves only when a test says so."""

    def __init__(self) -> None:
        self.us = START_US

    def now_us(self) -> int:
        """Microseconds since 1970, as set by the test."""
        return self.us

    def pass_(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self.us += round(seconds * 1_000_000)


class Record:
    """What is kept of a run between passes. `told` is all that was recorded, in order; `performed`
    names the steps whose function was called.

    `answers` and `refusals` are what is asked for is given, by step (within a step's function by
    method); `busy` are the locks that another holds.
    """

    def __init__(self, payload: Any = None) -> None:
        self.payload = payload
        self.clock = Hands()
        self.answers: dict[str, Any] = {}
        self.refusals: dict[str, StackshiftError] = {}
        self.busy: set[str] = set()
        self.passing: Pass | None = None
        self.recorded_calls: dict[str, ops.RecordedCall] = {}
        self.told: list[ops.Tell] = []
        self.performed: list[ops.Perform] = []
        self.progress: list[float] = []
        self.withdrawn: list[str] = []

    def take(self, op: ops.Tell) -> ops.Recorded:
        """Record as the core does."""
        self.told.append(op)
        match op:
            case ops.RecordResult():
                known = ops.RecordedCall(
                    "run", "completed", op.result, tried=op.tried, input=op.input
                )
            case ops.RecordFailure():
                again = op.failure.retryable and op.retry is not None
                again = again and op.tried < (op.retry or {})["max_attempts"]
                due_us = START_US + 1_000_000 if again else 0
                phase = "retrying" if again else "failed"
                known = ops.RecordedCall(
                    "run", phase, None, op.failure.as_json(), op.tried, due_us, input=op.input
                )
            case ops.RecordValue():
                known = ops.RecordedCall("value", "completed", op.value)
            case ops.Sleep():
                known = ops.RecordedCall("sleep", "waiting", due_us=START_US + 5_000_000)
            case ops.StartChild():
                child = f"run_of_{op.step}"
                if op.wait:
                    known = ops.RecordedCall("child", "waiting", child=child, job=op.job)
                else:
                    known = ops.RecordedCall("start", "completed", child=child, job=op.job)
            case ops.AwaitRun():
                known = ops.RecordedCall("child", "waiting", child=op.run)
            case ops.Ask():
                return answer(self, op)
            case ops.RecordBegin():
                return ops.Recorded()
        self.recorded_calls[op.step] = known
        return ops.Recorded(known.due_us, known.child)

    def ends(self, step: str, result: Any = None, *, status: str = "", error: str = "") -> None:
        """What `step` waits for has arrived: end the step."""
        known = self.recorded_calls[step]
        if known.phase == "retrying":
            self.recorded_calls[step] = known._replace(phase="running")
            return
        assert known.phase == "waiting", f"{step} waits for nothing"
        if known.kind == "child" and not status:
            status = "completed"
        told = {"type": "ValueError", "message": error, "traceback": ""} if error else None
        self.recorded_calls[step] = known._replace(
            phase="completed", body=dumps(result), child_status=status, error=told
        )

    def settle(self, step: str, known: ops.RecordedCall) -> None:
        """Put `known` on record, as the daemon does, also for a pass that is under way."""
        self.recorded_calls[step] = known
        if self.passing is not None:
            self.passing.recorded_calls[step] = known

    def asked(self) -> list[tuple[str, str, Any]]:
        """All requests, and the calls that made them: `(step, method, params)`."""
        return [
            (op.step, op.method, json.loads(op.params))
            for op in self.told
            if isinstance(op, ops.Ask)
        ]

    def calls(self) -> list[str]:
        """The steps whose functions were called, in order."""
        return [op.step for op in self.performed]

    def kinds(self) -> list[str]:
        """The names of the ops that were recorded, in order."""
        return [type(op).__name__ for op in self.told]


class Ended(NamedTuple):
    """How a pass ended: it returned `value`, raised `error`, or waits for the steps in `parked`."""

    value: Any = None
    error: BaseException | None = None
    parked: tuple[str, ...] = ()


class ThreadPort:
    """Drives a `def` handler."""

    def __init__(self, record: Record, pass_: Pass) -> None:
        self._record = record
        self._pass = pass_
        self.parked: list[str] = []

    def tell(self, op: ops.Tell) -> ops.Recorded:
        """Record `op`; unwinds if the pass is being unwound, as the worker does."""
        self._refuse()
        return self._record.take(op)

    def park(self, op: ops.Park) -> ops.RecordedCall:
        """The outcome of the step if it has one; otherwise unwinds the pass."""
        self._refuse()
        known = self._record.recorded_calls[op.step]
        if known.phase not in PENDING:
            self._record.settle(op.step, known)
            return known
        self.parked.append(op.step)
        self._pass.unwinding = "waits"
        raise Unwinding("waits")

    def park_any(self, parks: list[ops.Park]) -> None:
        """Returns if one of them has ended; otherwise unwinds the pass."""
        self._refuse()
        for op in parks:
            known = self._record.recorded_calls[op.step]
            if known.phase not in PENDING:
                self._record.settle(op.step, known)
                return
        self.parked.extend(op.step for op in parks)
        self._pass.unwinding = "waits"
        raise Unwinding("waits")

    def withdraw(self, step: str) -> None:
        """Note that nobody waits for the call any more."""
        self._record.withdrawn.append(step)

    def raise_cancel(self, _step: str) -> None:
        """No run is cancelled here."""

    def perform(self, op: ops.Perform) -> Any:
        """Call the function of the step on this thread."""
        self._refuse()
        self._record.performed.append(op)
        inside = current_step.set(op.step)
        try:
            return op.fn(*op.args, **op.kwargs)
        finally:
            current_step.reset(inside)

    def progress(self, done: float, _total: float | None, _message: str) -> None:
        """Note `done`; unwinds if the pass is being unwound."""
        self._refuse()
        self._record.progress.append(done)

    def _refuse(self) -> None:
        if self._pass.unwinding is not None:
            raise Unwinding(self._pass.unwinding)


class Call(NamedTuple):
    """A call that is under way."""

    future: asyncio.Future[Any]


class LoopPort:
    """Makes the calls of an `async def` handler; never answers a wait that is not over."""

    def __init__(self, record: Record, pass_: Pass) -> None:
        self._record = record
        self._pass = pass_
        self.parked: list[str] = []
        self.answered = 0

    def call(self, key: str, made: ops.Steps, *, releases: bool = False) -> Call:
        """Begin a call."""
        assert key or not releases, "a lock is released without the call that acquired it"
        return Call(asyncio.ensure_future(self.call_in_step(made)))

    def give_up(self, _call: AsyncCall) -> None:
        """Nothing is told of it."""

    async def call_in_step(self, made: ops.Steps) -> Any:
        """Answer the ops of a call until it returns."""
        try:
            op = next(made)
            while True:
                answer: Any
                try:
                    if isinstance(op, ops.Perform):
                        answer = await self.perform(op)
                    elif isinstance(op, ops.Park):
                        answer = await self.park(op)
                    else:
                        answer = await self.tell(op)
                except Exception as error:
                    op = made.throw(error)
                else:
                    op = made.send(answer)
        except StopIteration as done:
            return done.value

    async def tell(self, op: ops.Tell) -> ops.Recorded:
        """Record `op` after a turn of the loop, as a worker that waits for the daemon."""
        await asyncio.sleep(0)
        self.answered += 1
        return self._record.take(op)

    async def park(self, op: ops.Park) -> ops.RecordedCall:
        """The outcome of the step if it has one; otherwise never returns."""
        known = self._record.recorded_calls[op.step]
        if known.phase in PENDING:
            self.parked.append(op.step)
            await asyncio.get_running_loop().create_future()
        return self._record.recorded_calls[op.step]

    async def perform(self, op: ops.Perform) -> Any:
        """Call the function of the step on the loop, and await what it returns."""
        self._record.performed.append(op)
        inside = current_step.set(op.step)
        try:
            value = op.fn(*op.args, **op.kwargs)
            return await value if isinstance(value, Awaitable) else value
        finally:
            self.answered += 1
            current_step.reset(inside)

    def progress(self, done: float, _total: float | None, _message: str) -> None:
        """Note `done`."""
        self._record.progress.append(done)


def play(handler: Callable[[JobContext[Any]], Any], record: Record) -> Ended:
    """Run one pass of a `def` handler."""
    pass_ = record.passing = Pass(dict(record.recorded_calls), record.clock)
    port = ThreadPort(record, pass_)
    context = JobContext(facts(record), pass_, port)

    def work() -> Any:
        current_secrets.set(pass_.secrets)
        return handler(context)

    try:
        value = copy_context().run(work)
    except Unwinding:
        return Ended(parked=tuple(port.parked))
    except Exception as error:
        return Ended(error=error)
    return Ended(value)


def play_async(handler: Callable[[AsyncJobContext[Any]], Awaitable[Any]], record: Record) -> Ended:
    """Run one pass of an `async def` handler; it ends when all of its branches wait."""
    pass_ = record.passing = Pass(dict(record.recorded_calls), record.clock)
    port = LoopPort(record, pass_)
    context = AsyncJobContext(facts(record), pass_, port)

    async def work() -> Ended:
        current_secrets.set(pass_.secrets)
        task = asyncio.ensure_future(handler(context))
        still = 0
        while not task.done() and still < 100:
            before = port.answered
            await asyncio.sleep(0)
            still = still + 1 if port.answered == before else 0
        if not task.done():
            assert port.parked, "the handler stands still and waits for no step"
            pass_.unwinding = "waits"
            everyone = [each for each in asyncio.all_tasks() if each is not asyncio.current_task()]
            for each in everyone:
                each.cancel()
            await asyncio.gather(*everyone, return_exceptions=True)
            return Ended(parked=tuple(port.parked))
        error = task.exception()
        return Ended(error=error) if error is not None else Ended(task.result())

    return asyncio.run(work())


def facts(record: Record) -> Facts[Any]:
    """The facts of the run `run_1`, in its first attempt, with the payload of `record`."""
    return Facts(
        payload=record.payload,
        run_id="run_1",
        job="resize",
        queue="media",
        attempt=1,
        labels={},
        idempotency_key=None,
        scheduled_at=None,
        log=logging.getLogger("stackshift.resize"),
    )


def play_either(kind: str, call: Callable[[Any], Any], record: Record) -> Ended:
    """Run one pass of a handler, `def` or `async def`, that makes one `call` and returns what it
    gives."""
    if kind == "def":
        return play(call, record)

    async def handler(ctx: AsyncJobContext[Any]) -> Any:
        return await call(ctx)

    return play_async(handler, record)
