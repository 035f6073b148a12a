"""`Cancelling`, by which a handler is told that its run is cancelled gently, and what a pass knows
of that.

It is raised once, in the handler itself, at a place that is on record: at the wait that it is in,
or else at its next call. Until then nothing new begins; what is executing comes to its end first,
and is recorded. Afterwards all calls go on as ever.
"""

from __future__ import annotations

from asyncio import CancelledError, Future
from typing import Any

from stackshift_jobs.handler.failures import is_a, parts_of
from stackshift_jobs.handler.ops import RaiseCancel, Recorded, Steps


class Cancelling(CancelledError):
    """The run is being cancelled, gently: clean up, and let it pass on.

    An `asyncio.CancelledError`, and so a `BaseException`: `except Exception` does not catch it, and
    task groups, `asyncio.timeout` and `finally` blocks treat it as the cancellation that it is.
    """

    def __init__(self) -> None:
        super().__init__("the run is being cancelled")


class Cancellation:
    """That the run of a pass is to be cancelled. `raised_seq` is the place at which an earlier pass
    was told, 0 if none was, at the time `raised_us` and the call `raised_at`."""

    __slots__ = ("is_told", "must_wait", "raised_at", "raised_seq", "raised_us")

    def __init__(self, raised_seq: int = 0, raised_us: int = 0, raised_at: str = "") -> None:
        self.raised_seq = raised_seq
        self.raised_us = raised_us
        self.raised_at = raised_at
        self.is_told = False
        """Was `Cancelling` raised in this pass?"""
        self.must_wait = False
        """Did the daemon answer that other runs have to end first?"""


def ask_to_raise(step: str) -> Steps:
    """Ask the daemon to record that `Cancelling` is raised at `step`; true if it is, false if other
    runs have to end first."""
    answer: Recorded = yield RaiseCancel(step)
    return answer.body is None


def is_cancelling(error: BaseException) -> bool:
    """Is it nothing but a cancellation, how a handler that was told lets that pass on?"""
    return all(is_a(part, CancelledError) for part in parts_of(error))


def interrupt(task: Any) -> None:
    """Raise `Cancelling` in a task that waits: as `Task.cancel` would, but this error, and in this
    task. What it awaits of asyncio's is cancelled, as asyncio does it."""
    waiter = task._fut_waiter
    while hasattr(waiter, "_fut_waiter"):  # a task that is awaited by itself
        task, waiter = waiter, waiter._fut_waiter
    if waiter is None or waiter.done():
        return
    if isinstance(waiter, Waiter):
        waiter.error = Cancelling()
        waiter.cancel()
        return
    for child in getattr(waiter, "_children", ()):  # of `asyncio.gather`
        child.cancel()
    if not waiter.done():
        waiter.set_exception(Cancelling())


class Waiter(Future[Any]):
    """A future of asyncio's own in a handler: what locks, queues and task groups wait for. When it
    is cancelled, `error` is what its task gets."""

    error: Cancelling | None = None

    def result(self) -> Any:
        """As of any future, but for `error`."""
        if self.error is not None and self.cancelled():
            raise self.error
        return super().result()
