"""asyncio's timers in an `async def` handler, as durable waits.

A timer has an identity, like a call, but no record until it needs one: when the run is suspended
with it, or when it is due. A timer that is set and cancelled in between costs nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from heapq import heappop, heappush
from traceback import walk_tb
from typing import Any

from stackshift_jobs.handler import steps
from stackshift_jobs.handler.failures import cause_of, exceptions_of, is_a, traceback_of
from stackshift_jobs.handler.replay import Pass
from stackshiftd.worker.loop.async_calls import AsyncCalls
from stackshiftd.worker.loop.handler_loop import Timer


class AsyncTimers:
    """The timers of a pass. It is the `handler_loop.TimerOwner` of its loop."""

    def __init__(self, pass_: Pass) -> None:
        self._pass = pass_
        self.calls: AsyncCalls
        """The calls of the pass; set before the handler is called."""
        self.unrecorded: list[tuple[int, int, Timer]] = []
        """Timers that are not on record, by when they are due: a heap. Some may be cancelled."""
        self._recorded: list[Timer] = []
        self._numbers = itertools.count()

    def timer_set(self, timer: Timer, now_us: int) -> None:
        """Keep a timer that the handler has set, under the identity that it has on every pass."""
        if self._pass.unwinding is not None:
            return
        timer.key = self._pass.identify_timer(max(1, (timer.due_us - now_us) // 1000))
        if timer.key in self._pass.recorded_calls:
            self._record(timer)
        else:
            heappush(self.unrecorded, (timer.due_us, next(self._numbers), timer))

    def timer_dropped(self, timer: Timer) -> None:
        """Withdraw a timer that is on record."""
        if timer.call is not None and self._pass.unwinding is None:
            self.calls.give_up(timer.call)

    @property
    def next_us(self) -> int | None:
        """When the first timer is due that is not on record; None for never."""
        while self.unrecorded and self.unrecorded[0][2].cancelled():
            heappop(self.unrecorded)
        return self.unrecorded[0][0] if self.unrecorded else None

    def unrecorded_keys(self) -> list[str]:
        """The identities of the timers that are not on record, by when they are due."""
        return [timer.key for *_, timer in sorted(self.unrecorded) if not timer.cancelled()]

    def record_due(self, now_us: int | None) -> bool:
        """Begin the durable waits of the timers that are due at `now_us`, or of all (None); false
        if there are none."""
        found = False
        while (due_us := self.next_us) is not None and (now_us is None or due_us <= now_us):
            self._record(heappop(self.unrecorded)[2])
            found = True
        return found

    def raised(self, error: BaseException) -> list[str]:
        """The identities of the timers that have raised `error`, a part or a cause of it: those of
        `asyncio.timeout` and `asyncio.as_completed`."""
        frames = [
            frame
            for each in _with_parts(error)
            for frame, _ in walk_tb(traceback_of(each))
            if frame.f_globals.get("__name__") in ("asyncio.timeouts", "asyncio.tasks")
        ]
        return [
            timer.key
            for timer in self._recorded
            if any(_is_of(timer, frame.f_locals) for frame in frames)
        ]

    def _record(self, timer: Timer) -> None:
        self._recorded.append(timer)
        made = steps.sleep(self._pass, timer.key, None, timer.due_us)
        timer.call = self.calls.begin(timer.key, made, timer=timer)


def _with_parts(error: BaseException) -> Iterator[BaseException]:
    """The error, its causes, and the parts of those that are groups."""
    left, seen = [error], set()
    while left:
        each = left.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        if (cause := cause_of(each)) is not None:
            left.append(cause)
        if is_a(each, BaseExceptionGroup):
            left.extend(exceptions_of(each))


def _is_of(timer: Timer, frame: dict[str, Any]) -> bool:
    """Was the timer set by the object or the function whose variables these are?"""
    owner = getattr(timer.callback, "__self__", None)
    if owner is not None:
        return owner is frame.get("self")
    shared = [cell.cell_contents for cell in getattr(timer.callback, "__closure__", None) or ()]
    return "done" in frame and any(each is frame["done"] for each in shared)
