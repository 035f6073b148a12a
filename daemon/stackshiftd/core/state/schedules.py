"""Schedules in memory.

A schedule belongs to the job whose code declares it, and is known by the job's name. Nothing here
computes a tick (see `decide.ticks`): the record of each tick contains the next one.

Invariants:

- `next_us` is later than every tick that was decided; it is 0 while the schedule is paused or
  retired, and if there are no more ticks.
- `held_us` is a tick whose run waits for the end of `last_run`, or 0; there is at most one.
"""

from __future__ import annotations

from typing import Final

import msgspec

LATE_US: Final = 60_000_000
"""A tick that is decided later than this was missed: the daemon was down, or the machine was
asleep."""


class Schedule(msgspec.Struct):
    """The schedule of one job."""

    job: str
    expression: str
    timezone: str
    catch_up: str
    overlap: str
    payload: bytes
    since_us: int
    """When this expression was first seen; `@every` counts from then."""
    next_us: int = 0
    held_us: int = 0
    last_us: int = 0
    """The last tick that started a run, which is `last_run`."""
    last_run: str = ""
    counted_us: int = 0
    """Ticks up to this time are few enough to be caught up one by one."""
    paused_us: int = 0
    retired_us: int = 0

    @property
    def lives(self) -> bool:
        """Does it tick?"""
        return not self.paused_us and not self.retired_us
