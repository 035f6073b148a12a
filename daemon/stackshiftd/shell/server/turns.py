"""Whose turn it is: which connection is served next, when several want to be.

What is shared out is time. A turn does one bounded part of a connection's work, the time that it
took is added to what the connection has used, and the next turn goes to the one that has used
least. So a client that asks little is served at once, however much others ask for. After
`SPELL_SECONDS` everything else has its turn: workers, timers, the journal, and what has just
arrived.

This is start-time fair queueing: a connection that had nothing to do begins level with whoever is
served, so nobody saves time up.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Final, Protocol

SPELL_SECONDS: Final = 0.004
"""The longest that connections are served before the loop turns, plus one part of a work."""


class Member(Protocol):
    """A connection. Whether it `is_due` a turn, and the seconds that it has `used`, are for `Turns`
    to keep."""

    is_due: bool
    used: float

    def take_turn(self) -> bool:
        """Do one bounded part of what there is to do; true if there is more that can be done."""


class Turns:
    """Gives turns to connections, in the order of the time that they have used."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._due: list[tuple[float, bool, int, Member]] = []
        """(time used, whether it has just been served, a number, the connection)."""
        self._count = itertools.count()
        self._level = 0.0
        """The time used by whoever was served last, at the beginning of that turn."""
        self._called = False

    def want(self, member: Member) -> None:
        """Give `member` a turn, unless it is already due one."""
        if member.is_due:
            return
        member.is_due = True
        member.used = max(member.used, self._level)
        heappush(self._due, (member.used, False, next(self._count), member))
        if not self._called:
            self._called = True
            self._loop.call_soon(self._serve)

    def _serve(self) -> None:
        clock, due = self._clock, self._due
        now = clock()
        until = now + SPELL_SECONDS
        while due and now < until:
            self._level, _, _, member = heappop(due)
            more = member.take_turn()
            before, now = now, clock()
            member.used = self._level + now - before
            if more:
                heappush(due, (member.used, True, next(self._count), member))
            else:
                member.is_due = False
        self._called = bool(due)
        if due:
            self._loop.call_soon(self._serve)
