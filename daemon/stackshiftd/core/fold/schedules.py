"""The fold of `schedule.*`: how records define, advance, pause, resume, retire and remove
schedules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from stackshift_jobs.values.durations import from_rfc3339
from stackshiftd.core import records as r
from stackshiftd.core.state.schedules import Schedule
from stackshiftd.core.state.state import State


class _Named(Protocol):
    """A record of a schedule, whose name is that of its job if the record has none."""

    @property
    def job(self) -> str: ...
    @property
    def name(self) -> str: ...


class _Ahead(Protocol):
    """A record that contains the next tick."""

    @property
    def next_at(self) -> str | None: ...
    @property
    def due_at(self) -> str | None: ...


def _defined(state: State, _entry: r.Entry, record: r.ScheduleDefined) -> None:
    name = record.name or record.job
    before = state.schedules.get(name)
    schedule = Schedule(
        name=name,
        job=record.job,
        expression=record.schedule,
        timezone=record.timezone,
        catch_up=record.catch_up,
        overlap=record.overlap,
        payload=bytes(record.payload),
        since_us=from_rfc3339(record.since),
        source=record.source,
        catch_up_for_ms=record.catch_up_for_ms,
        jitter_ms=record.jitter_ms,
        seed=record.seed,
        start=bytes(record.start),
        note=record.note,
        boot=record.boot,
        expect=record.expect,
        max_runtime_ms=record.max_runtime_ms,
        heartbeat=record.heartbeat,
    )
    _look_ahead(schedule, record)
    if before is not None:
        schedule.held_us = before.held_us
        schedule.counted_us = before.counted_us
        schedule.last_us, schedule.last_run = before.last_us, before.last_run
        schedule.paused_us = before.paused_us
        schedule.skipped = before.skipped
        schedule.succeeded_us = before.succeeded_us
        schedule.skipped_us, schedule.skipped_why = before.skipped_us, before.skipped_why
    state.schedules[name] = schedule


def _fired(state: State, _entry: r.Entry, record: r.ScheduleFired) -> None:
    schedule = _of(state, record)
    tick_us = from_rfc3339(record.tick)
    _look_ahead(schedule, record)
    schedule.skipped += record.passed
    if record.counted:
        schedule.counted_us = from_rfc3339(record.counted)
    if record.started:
        schedule.last_us, schedule.last_run = tick_us, record.started
        schedule.held_us = 0
    elif record.reason == "waits":
        schedule.held_us = tick_us
    else:
        schedule.skipped += 1
        schedule.skipped_us, schedule.skipped_why = tick_us, record.reason
        if record.reason == "unique":
            schedule.held_us = 0


def _booted(state: State, _entry: r.Entry, record: r.ScheduleBooted) -> None:
    schedule = _of(state, record)
    schedule.boot = record.boot
    _look_ahead(schedule, record)


def _retired(state: State, entry: r.Entry, record: r.ScheduleRetired) -> None:
    _stop(_of(state, record)).retired_us = entry.at_us


def _removed(state: State, _entry: r.Entry, record: r.ScheduleRemoved) -> None:
    del state.schedules[record.name or record.job]


def _paused(state: State, entry: r.Entry, record: r.SchedulePaused) -> None:
    _stop(_of(state, record)).paused_us = entry.at_us


def _resumed(state: State, _entry: r.Entry, record: r.ScheduleResumed) -> None:
    schedule = _of(state, record)
    schedule.paused_us = 0
    _look_ahead(schedule, record)


def _of(state: State, record: _Named) -> Schedule:
    return state.schedules[record.name or record.job]


def _look_ahead(schedule: Schedule, record: _Ahead) -> None:
    schedule.next_us = from_rfc3339(record.next_at) if record.next_at else 0
    schedule.due_us = from_rfc3339(record.due_at) if record.due_at else schedule.next_us


def _stop(schedule: Schedule) -> Schedule:
    schedule.next_us = schedule.due_us = schedule.held_us = 0
    return schedule


def _moving(fold: Callable[[State, r.Entry, Any], None]) -> Callable[[State, r.Entry, Any], None]:
    """`fold`, which also notes that the record has changed a schedule."""

    def folded(state: State, entry: r.Entry, record: Any) -> None:
        fold(state, entry, record)
        state.schedules_seq = entry.seq

    return folded


BY_TYPE: Final[dict[type[r.Record], Callable[[State, r.Entry, Any], None]]] = {
    r.ScheduleDefined: _moving(_defined),
    r.ScheduleFired: _moving(_fired),
    r.ScheduleBooted: _moving(_booted),
    r.ScheduleRetired: _moving(_retired),
    r.ScheduleRemoved: _moving(_removed),
    r.SchedulePaused: _moving(_paused),
    r.ScheduleResumed: _moving(_resumed),
}
