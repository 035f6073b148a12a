"""Schedules as they are in the state: what one is, and how records change it.

A schedule belongs to the job whose code names it, and is known by the job's name. Nothing here
computes a tick (see `ticks`): the next one stands in the record that moves a schedule on.

Invariants:

- `next_us` is later than every tick that was decided; it is 0 while the schedule is paused or
  retired, and where no tick will come.
- `held_us` is a tick whose run waits for the end of `last_run`; there is one at most.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from stackshift_jobs.values.durations import from_rfc3339
from stackshiftd.core import records as r

if TYPE_CHECKING:
    from stackshiftd.core.state.state import State

LATE_US: Final = 60_000_000
"""A tick that is decided later than this was missed: the daemon was down, or the machine slept."""


class Schedule(msgspec.Struct):
    """The schedule of one job."""

    job: str
    expression: str
    timezone: str
    catch_up: str
    overlap: str
    payload: bytes
    since_us: int
    """When this expression was first seen; `@every` counts from here."""
    next_us: int = 0
    held_us: int = 0
    last_us: int = 0
    """The last tick that started a run, which is `last_run`."""
    last_run: str = ""
    counted_us: int = 0
    """Ticks until then are few enough to be caught up one by one."""
    paused_us: int = 0
    retired_us: int = 0

    @property
    def lives(self) -> bool:
        """Does it tick?"""
        return not self.paused_us and not self.retired_us


def busy(state: State, schedule: Schedule) -> bool:
    """Has the last run that a tick started not finished yet?"""
    run = state.runs.get(schedule.last_run)
    return run is not None and not run.finished


def waits(state: State, schedule: Schedule, now_us: int) -> bool:
    """Is a tick due which can only be decided once the last run has finished?

    So are all ticks under `overlap="queue"` that are caught up one by one, and under `skip` those
    that were missed, or found due together: they did not come while the last one ran.
    """
    if not schedule.lives or not busy(state, schedule):
        return False
    if schedule.held_us:
        return not _is_due(schedule, now_us)
    if schedule.catch_up != "all" or not _is_due(schedule, now_us):
        return False
    late = now_us - schedule.next_us > LATE_US or schedule.next_us <= schedule.counted_us
    return schedule.overlap == "queue" or (schedule.overlap == "skip" and late)


def ready(state: State, schedule: Schedule, now_us: int) -> bool:
    """Is there something to decide at `now_us`?"""
    if not schedule.lives:
        return False
    if _is_due(schedule, now_us):
        return not waits(state, schedule, now_us)
    return bool(schedule.held_us) and not busy(state, schedule)


def _is_due(schedule: Schedule, now_us: int) -> bool:
    return 0 < schedule.next_us <= now_us


# --- Folding -------------------------------------------------------------------------------


def _defined(state: State, entry: r.Entry, record: r.ScheduleDefined) -> None:
    before = state.schedules.get(record.job)
    made = Schedule(
        job=record.job,
        expression=record.schedule,
        timezone=record.timezone,
        catch_up=record.catch_up,
        overlap=record.overlap,
        payload=bytes(record.payload),
        since_us=from_rfc3339(record.since),
        next_us=_time(record.next_at),
    )
    if before is not None:
        made.held_us = before.held_us
        made.counted_us = before.counted_us
        made.last_us, made.last_run = before.last_us, before.last_run
        made.paused_us = before.paused_us
    state.schedules[record.job] = made


def _fired(state: State, entry: r.Entry, record: r.ScheduleFired) -> None:
    schedule = state.schedules[record.job]
    tick_us = from_rfc3339(record.tick)
    schedule.next_us = _time(record.next_at)
    if record.counted:
        schedule.counted_us = from_rfc3339(record.counted)
    if record.started:
        schedule.last_us, schedule.last_run = tick_us, record.started
        schedule.held_us = 0
    elif record.reason == "waits":
        schedule.held_us = tick_us


def _retired(state: State, entry: r.Entry, record: r.ScheduleRetired) -> None:
    schedule = state.schedules[record.job]
    schedule.retired_us = entry.at_us
    schedule.next_us = schedule.held_us = 0


def _paused(state: State, entry: r.Entry, record: r.SchedulePaused) -> None:
    schedule = state.schedules[record.job]
    schedule.paused_us = entry.at_us
    schedule.next_us = schedule.held_us = 0


def _resumed(state: State, entry: r.Entry, record: r.ScheduleResumed) -> None:
    schedule = state.schedules[record.job]
    schedule.paused_us = 0
    schedule.next_us = _time(record.next_at)


def _time(text: str | None) -> int:
    return from_rfc3339(text) if text else 0


def _moving(fold: Callable[[State, r.Entry, Any], None]) -> Callable[[State, r.Entry, Any], None]:
    """The fold of a record that changes schedules, and notes that it did."""

    def folded(state: State, entry: r.Entry, record: Any) -> None:
        fold(state, entry, record)
        state.schedules_seq = entry.seq

    return folded


BY_TYPE: Final[dict[type[r.Record], Callable[[State, r.Entry, Any], None]]] = {
    r.ScheduleDefined: _moving(_defined),
    r.ScheduleFired: _moving(_fired),
    r.ScheduleRetired: _moving(_retired),
    r.SchedulePaused: _moving(_paused),
    r.ScheduleResumed: _moving(_resumed),
}
