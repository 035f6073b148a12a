"""The calls of one pass of an `async def` handler that are under way, and the order of their
outcomes.

An outcome is what the handler can see of a call: its result or error, the end of a wait, a timer
that goes off. Laws:

- Outcomes become visible in the order of the journal, one at a time: first those on record, then
  those that arrive.
- A call suspends its task once, until its outcome; the requests that it takes are not visible.
- What calls ask for waits in `asks`, so that whoever owns them can let in first what is on record.
- A call whose task is cancelled before it saw the outcome is given up: what it asked for is to be
  withdrawn.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from heapq import heappop, heappush
from typing import Any, NamedTuple

from stackshift_jobs.handler import ops
from stackshift_jobs.handler.replay import Pass
from stackshiftd.worker.loop.handler_loop import HandlerLoop, Timer


class Call:
    """One call of the handler that is under way: `made` yields its ops, `future` gets its outcome;
    or, for a timer that is on record, `timer` goes off at its end. `op` is what it waits for. With
    `releases` it releases the lock that the call `key` acquired, and is made in any case."""

    __slots__ = ("context", "future", "is_given_up", "key", "made", "op", "releases", "timer")

    context: Context
    is_given_up: Callable[[], bool]
    """Has the handler cancelled what waited for it? (Not a method: it is asked for each op.)"""

    def __init__(self, key: str, made: ops.Steps, loop: HandlerLoop, timer: Timer | None) -> None:
        self.key = key
        self.made = made
        self.timer = timer
        self.future: asyncio.Future[Any] = asyncio.Future(loop=loop)
        self.context = copy_context()
        self.op: ops.Op | None = None
        self.releases = False
        self.is_given_up = self.future.done if timer is None else timer.cancelled


class Arrival(NamedTuple):
    """The answer to what a call has asked for, or its error; or, with the name of a call, how what
    it waited for has ended. `at_us` is when that was recorded, 0 if it is no record."""

    call: Call | str
    answer: Any
    error: BaseException | None
    at_us: int


class AsyncCalls:
    """The calls of the pass `pass_`, whose handler runs on `loop`."""

    def __init__(self, pass_: Pass, loop: HandlerLoop) -> None:
        self._pass = pass_
        self._loop = loop
        self.told: dict[int, Call | asyncio.Future[ops.Recorded]] = {}
        """Requests that are not answered, by number; a future is that of a step's function."""
        self.parked: dict[str, Call] = {}
        """Calls that wait durably, by name."""
        self.asks: deque[Call] = deque()
        """Calls that ask for their `op`."""
        self.given_up: list[Call] = []
        """Calls that are to be withdrawn."""
        self.in_turn: list[tuple[int, int, Call, int]] = []
        """Calls with an outcome on record that the handler has not seen, with its time: a heap by
        its place."""
        self._numbers = itertools.count()
        self.arrived: deque[Arrival] = deque()
        """What has arrived and is not let in."""

    def begin(
        self, key: str, made: ops.Steps, *, timer: Timer | None = None, releases: bool = False
    ) -> Call:
        """Begin a call; with `releases` it releases the lock that the call `key` acquired."""
        call = Call(key, made, self._loop, timer)
        call.releases = releases
        known = self._pass.recorded_calls.get(key)
        place = 0
        if known is not None and known.has_ended:
            place = known.released_seq if releases else known.seq
        if place:
            assert known is not None
            self.queue(place, call, known.at_us)
            return call
        try:
            op = call.op = next(made)  # In its context, which is the one here.
        except StopIteration as done:
            self._end(call, done.value, None, 0)
        except BaseException as bad:
            self._end(call, None, bad, 0)
        else:
            if type(op) is ops.Park:
                self._park(call, op)
            else:
                self.asks.append(call)
        return call

    def queue(self, place: int, call: Call, at_us: int) -> None:
        """Let a call end at its `place` in the order of the journal; that is of the time
        `at_us`."""
        heappush(self.in_turn, (place, next(self._numbers), call, at_us))

    def never(self, key: str, made: ops.Steps) -> Call:
        """A call that has no outcome, for a pass that is being dropped."""
        return Call(key, made, self._loop, None)

    def give_up(self, call: Call) -> None:
        """The task that waited for `call` was cancelled: it is to be withdrawn, if anything of it
        has begun."""
        if not call.key or call.releases:
            return
        self.parked.pop(call.key, None)
        known = self._pass.recorded_calls.get(call.key)
        if known is not None and known.has_ended:
            # An event or a lock that the handler has not seen is for somebody else.
            if known.kind in ("event", "lock"):
                self.given_up.append(call)
        elif known is not None or call not in self.asks:
            self.given_up.append(call)

    def let_in(self) -> bool:
        """Let the handler see the next outcome, or let a call go on to it; false if there is
        nothing."""
        while self.in_turn:
            _, _, recorded, at_us = heappop(self.in_turn)
            if not recorded.is_given_up():
                self.advance(recorded, None, None, at_us)
                return True
        while self.arrived:
            arrival = self.arrived.popleft()
            call = self._called_for(arrival)
            if call is not None and not call.is_given_up():
                self.advance(call, arrival.answer, arrival.error, arrival.at_us)
                return True
        return False

    def call_of(self, future: Any) -> str:
        """The name of the call whose outcome is awaited by `future`; empty if it is none."""
        under_way = (*self.parked.values(), *self.asks, *(each[2] for each in self.in_turn))
        return next((call.key for call in under_way if call.future is future), "")

    def clear(self) -> None:
        """Forget what waits to be seen and to be asked for."""
        self.in_turn.clear()
        self.arrived.clear()
        self.asks.clear()

    def _called_for(self, arrival: Arrival) -> Call | None:
        """The call that an arrival is for; None if none waits for it."""
        if isinstance(arrival.call, Call):
            return arrival.call
        # A wait has ended, or a lock is lost.
        self._pass.recorded_calls[arrival.call] = arrival.answer
        return self.parked.pop(arrival.call, None)

    def advance(self, call: Call, answer: Any, error: BaseException | None, at_us: int = 0) -> None:
        """Give a call the answer to its op: it asks for the next, or ends."""
        made = call.made
        try:
            if error is None:
                op = call.context.run(made.send, answer)
            else:
                op = call.context.run(made.throw, error)
        except StopIteration as done:
            self._end(call, done.value, None, at_us)
        except BaseException as bad:
            self._end(call, None, bad, at_us)
        else:
            call.op = op
            if type(op) is ops.Park:
                self._park(call, op)
            else:
                self.asks.append(call)

    def _end(self, call: Call, value: Any, error: BaseException | None, at_us: int) -> None:
        loop = self._loop
        # It stands still at a release: that of a lock is on record only as a place in the order.
        if at_us > loop.now_us and not call.releases:
            loop.now_us = at_us
        call.op = None
        if call.timer is not None:
            loop.fire(call.timer)
        elif call.future.done():
            return  # the handler gave it up while it was being answered
        elif error is None:
            call.future.set_result(value)
        else:
            call.future.set_exception(error)

    def _park(self, call: Call, op: ops.Park) -> None:
        known = self._pass.recorded_calls.get(op.step)
        if known is not None and known.phase not in ("waiting", "retrying"):
            self.arrived.append(Arrival(call, known, None, known.at_us))
        else:
            self.parked[op.step] = call
