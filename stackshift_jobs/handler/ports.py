"""Drives a call on `ctx`: a port answers each op that it yields, until the call returns.

The port knows how: the worker has one for threads and one for its event loop, and tests have their
own. Nothing here knows what the ops mean.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Protocol

from stackshift_jobs.handler.ops import Park, Perform, Recorded, RecordedCall, Steps, Tell


class Port(Protocol):
    """Answers the ops of a `def` handler."""

    def tell(self, op: Tell) -> Recorded:
        """Returns once `op` is durable. Raises the error with which the daemon refuses it."""

    def park(self, op: Park) -> RecordedCall:
        """Returns how the step ended, if it ends soon; otherwise raises `Unwinding`."""

    def perform(self, op: Perform) -> Any:
        """Returns what the step's function returns, or raises what it raises; `TimeoutError` when
        its time is up."""

    def progress(self, done: float, total: float | None, message: str) -> None:
        """Report the handler's progress."""


class AsyncPort(Protocol):
    """Answers the ops of an `async def` handler; like `Port`, awaited."""

    def tell(self, op: Tell) -> Awaitable[Recorded]:
        """See `Port.tell`."""

    def park(self, op: Park) -> Awaitable[RecordedCall]:
        """See `Port.park`; may cancel the caller instead of returning, to drop the pass."""

    def perform(self, op: Perform) -> Awaitable[Any]:
        """See `Port.perform`."""

    def progress(self, done: float, total: float | None, message: str) -> None:
        """See `Port.progress`."""


def drive(made: Steps, port: Port) -> Any:
    """Answer each op of a call with `port` until it returns."""
    try:
        op = next(made)
        while True:
            answer: Any
            try:
                if type(op) is Perform:
                    answer = port.perform(op)
                elif type(op) is Park:
                    answer = port.park(op)
                else:
                    answer = port.tell(op)  # type: ignore[arg-type]  # what is left is a Tell
            except Exception as error:
                op = made.throw(error)
            else:
                op = made.send(answer)
    except StopIteration as done:
        return done.value


async def drive_awaited(
    made: Steps, port: AsyncPort, unawaited: set[str] | None = None, key: str = ""
) -> Any:
    """Answer each op of a call with `port` until it returns. The call `key`, which is being awaited
    now, is removed from `unawaited`."""
    if unawaited is not None:
        unawaited.discard(key)
    try:
        op = next(made)
        while True:
            answer: Any
            try:
                if type(op) is Perform:
                    answer = await port.perform(op)
                elif type(op) is Park:
                    answer = await port.park(op)
                else:
                    answer = await port.tell(op)  # type: ignore[arg-type]  # what is left is a Tell
            except Exception as error:
                op = made.throw(error)
            else:
                op = made.send(answer)
    except StopIteration as done:
        return done.value
