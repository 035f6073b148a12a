"""Driving a call: each op that it yields is answered by a port, until the call returns.

A port knows how: the worker has one for threads and one for its loop, a test may have another.
Nothing here knows what the ops mean.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Protocol

from stackshift_jobs.handler.ops import Park, Perform, Recorded, RecordedCall, Steps, Tell


class Port(Protocol):
    """What drives the calls of a `def` handler."""

    def tell(self, op: Tell) -> Recorded:
        """Returns when it is durable. Raises what the daemon refuses it with."""

    def park(self, op: Park) -> RecordedCall:
        """How the step ended, if it does so soon; else raises `Unwinding`."""

    def perform(self, op: Perform) -> Any:
        """What the step's function returns; raises what it raises, `TimeoutError` past its time."""

    def progress(self, done: float, total: float | None, message: str) -> None:
        """Tell how far the handler is."""


class AsyncPort(Protocol):
    """What drives the calls of an `async def` handler; as `Port`, awaited. `park` may cancel the
    caller instead of returning: the pass is dropped."""

    def tell(self, op: Tell) -> Awaitable[Recorded]: ...
    def park(self, op: Park) -> Awaitable[RecordedCall]: ...
    def perform(self, op: Perform) -> Awaitable[Any]: ...
    def progress(self, done: float, total: float | None, message: str) -> None: ...


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
    """Answer each op of a call with `port` until it returns. Until now the call `key` was among
    those that nobody has awaited."""
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
