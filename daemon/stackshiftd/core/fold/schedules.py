"""The fold of `schedule.*`: how records define, advance, pause, resume and retire schedules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from stackshift_jobs.values.durations import from_rfc3339
from stackshiftd.core import records as r
from stackshiftd.core.state.schedules import Schedule
from stackshiftd.core.state.state import State


def _defined(state: State, _entry: r.Entry, record: r.ScheduleDefined) -> None:
    before = state.schedules.get(record.job)
    schedule = Schedule(
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
        schedule.held_us = before.held_us
        schedule.counted_us = before.counted_us
        schedule.last_us, schedule.last_run = before.last_us, before.last_run
        schedule.paused_us = before.paused_us
    state.schedules[record.job] = schedule


def _fired(state: State, _entry: r.Entry, record: r.ScheduleFired) -> None:
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
    elif record.reason == "unique":
        schedule.held_us = 0


def _retired(state: State, entry: r.Entry, record: r.ScheduleRetired) -> None:
    schedule = state.schedules[record.job]
    schedule.retired_us = entry.at_us
    schedule.next_us = schedule.held_us = 0


def _paused(state: State, entry: r.Entry, record: r.SchedulePaused) -> None:
    schedule = state.schedules[record.job]
    schedule.paused_us = entry.at_us
    schedule.next_us = schedule.held_us = 0


def _resumed(state: State, _entry: r.Entry, record: r.ScheduleResumed) -> None:
    schedule = state.schedules[record.job]
    schedule.paused_us = 0
    schedule.next_us = _time(record.next_at)


def _time(text: str | None) -> int:
    return from_rfc3339(text) if text else 0


def _moving(fold: Callable[[State, r.Entry, Any], None]) -> Callable[[State, r.Entry, Any], None]:
    """`fold`, which also notes that the record has changed a schedule."""

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
