"""Drives a call on `ctx`: a port answers each op that it yields, until the call returns.

The port knows how: the worker has one for threads and one for its event loop, and tests have their
own. Nothing here knows what the ops mean.
"""

from __future__ import annotations

from asyncio import CancelledError, Future
from collections.abc import Awaitable
from contextvars import ContextVar
from typing import Any, Final, Protocol

from stackshift_jobs.handler.ops import Park, Perform, Recorded, RecordedCall, Steps, Tell
from stackshift_jobs.handler.scope import current_step

racing: Final[ContextVar[Port | None]] = ContextVar("stackshift_race", default=None)
"""The port of the race that the running code is in; see `race`."""


class Port(Protocol):
    """Answers the ops of a `def` handler."""

    def tell(self, op: Tell) -> Recorded:
        """Returns once `op` is durable. Raises the error with which the daemon refuses it."""

    def park(self, op: Park) -> RecordedCall:
        """Returns how the step ended, if it ends soon; otherwise raises `Unwinding`."""

    def park_any(self, parks: list[Park]) -> None:
        """Returns when one of these waits has ended, if it does soon; else raises `Unwinding`."""

    def withdraw(self, step: str) -> None:
        """Tell the daemon that nobody waits for the call `step` any more."""

    def raise_cancel(self, step: str) -> None:
        """Raise `Cancelling`, which is recorded for the call `step`, if the run is to be cancelled
        gently and its handler was not told."""

    def perform(self, op: Perform) -> Any:
        """Returns what the step's function returns, or raises what it raises; `TimeoutError` when
        its time is up."""

    def progress(self, done: float, total: float | None, message: str) -> None:
        """Report the handler's progress."""


class AsyncCall(Protocol):
    """A call that is under way."""

    @property
    def future(self) -> Future[Any]:
        """Gets its outcome."""


calls_made: Final[ContextVar[list[AsyncCall] | None]] = ContextVar(
    "stackshift_calls_made", default=None
)
"""Gets the calls of a branch of a race; see `race`."""


class AsyncPort(Protocol):
    """Makes the calls of an `async def` handler."""

    def call(self, key: str, made: Steps, *, releases: bool = False) -> AsyncCall:
        """Begin the call `made`, whose identity is `key`; with `releases`, it releases the lock
        that the call `key` acquired. The port answers the ops itself, so that the handler goes on
        once for each call: when its outcome comes, in the order of the journal. In a pass that is
        being dropped it never does."""

    def give_up(self, call: AsyncCall) -> None:
        """The task that waited for `call` was cancelled."""

    def call_in_step(self, made: Steps) -> Awaitable[Any]:
        """The result of a call in the function of a step, which acts at once."""

    def progress(self, done: float, total: float | None, message: str) -> None:
        """See `Port.progress`."""


def drive(made: Steps, port: Port) -> Any:
    """Answer each op of a call with `port` until it returns; in a race, with the race's."""
    port = racing.get() or port
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


async def awaited(
    made: Steps,
    port: AsyncPort,
    key: str,
    unawaited: dict[str, Any] | None = None,
    *,
    name: str = "",
    releases: bool = False,
) -> Any:
    """The result of the call `key`, which is being awaited now and so leaves `unawaited`, where it
    is called `name` or `key`."""
    if unawaited is not None:
        unawaited.pop(name or key, None)
    if current_step.get() is not None:
        return await port.call_in_step(made)
    call = port.call(key, made, releases=releases)
    if (made_here := calls_made.get()) is not None:
        made_here.append(call)
    try:
        return await call.future
    except CancelledError:
        port.give_up(call)
        raise
