"""Decisions about schedules: which exist, and what happens at a tick.

The decision about a tick is one append: `schedule.fired`, which contains the next tick, and
`run.created` under a key made of job and tick. So a tick has at most one run, whatever crashes in
between.
"""

from __future__ import annotations

from typing import Final

import msgspec

from stackshift_jobs.errors import Conflict, NotFound
from stackshift_jobs.values.durations import rfc3339
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.decide.runs import start
from stackshiftd.core.decide.ticks import clock_of, count, latest, newest, next_after, tick_key
from stackshiftd.core.effects import NOTHING, Changed, Decision, Started
from stackshiftd.core.state.schedules import LATE_US, Schedule
from stackshiftd.core.state.state import State

MAX_CAUGHT_UP: Final = 1000
"""Under `catch_up="all"`, at most this many missed ticks get a run each; older ones are skipped."""
_SECOND_US: Final = 1_000_000


# --- Definitions ---------------------------------------------------------------------------


def define(state: State, command: c.DefineSchedules, now_us: int) -> Decision:
    """Record the schedules that are new, have changed, or are no longer in the code."""
    records: list[r.AnyRecord] = []
    for job, terms in sorted(command.schedules.items()):
        known = state.schedules.get(job)
        if known is None or known.retired_us or _differs(known, terms):
            records.append(_definition(job, terms, known, now_us))
    for job, known in sorted(state.schedules.items()):
        # If a module does not import, a missing job may be in it, so its schedule stays.
        gone = job not in command.schedules and (command.complete or job in command.jobs)
        if gone and not known.retired_us:
            records.append(r.ScheduleRetired(job))
    return Decision(tuple(records))


def _differs(known: Schedule, terms: c.ScheduleTerms) -> bool:
    return _clock_differs(known, terms) or (
        (known.catch_up, known.overlap, known.payload)
        != (terms.catch_up, terms.overlap, bytes(terms.payload))
    )


def _clock_differs(known: Schedule, terms: c.ScheduleTerms) -> bool:
    return (known.expression, known.timezone) != (terms.schedule, terms.timezone)


def _definition(
    job: str, terms: c.ScheduleTerms, known: Schedule | None, now_us: int
) -> r.ScheduleDefined:
    """The definition of a new or changed schedule. If the expression is the same, its ticks are
    still counted from when it was first seen, and one that is due stays due. Otherwise, or if the
    schedule had been retired, the next tick is in the future."""
    if known is None or _clock_differs(known, terms):
        since_us = -(-now_us // _SECOND_US) * _SECOND_US
    else:
        since_us = known.since_us
    next_us: int | None
    if known is not None and known.paused_us:
        next_us = None
    elif known is not None and not known.retired_us and not _clock_differs(known, terms):
        next_us = known.next_us
    else:
        # No tick was ever decided before its time, so none is repeated.
        next_us = next_after(clock_of(terms.schedule, terms.timezone, since_us), now_us)
    return r.ScheduleDefined(
        job,
        terms.schedule,
        terms.timezone,
        rfc3339(since_us),
        terms.catch_up,
        terms.overlap,
        terms.payload,
        _text(next_us),
    )


# --- Ticks ---------------------------------------------------------------------------------


def fire(state: State, command: c.FireSchedule, now_us: int) -> Decision:
    """Decide the tick that is due; nothing follows if none is."""
    schedule = state.schedules.get(command.job)
    if schedule is None or not ready(state, schedule, now_us):
        return NOTHING
    if schedule.held_us and not busy(state, schedule):
        fired = r.ScheduleFired(command.job, rfc3339(schedule.held_us), _text(schedule.next_us))
        return _with_run(state, fired, schedule.held_us, command.start, now_us)
    clock = clock_of(schedule.expression, schedule.timezone, schedule.since_us)
    due_us, counted = schedule.next_us, ""
    if schedule.catch_up != "all":
        tick_us = latest(clock, due_us, now_us)
    elif due_us <= schedule.counted_us:
        tick_us = due_us
    else:
        tick_us = newest(clock, due_us, now_us, MAX_CAUGHT_UP)
        counted = rfc3339(now_us) if tick_us < latest(clock, due_us, now_us) else ""
    passed = count(clock, due_us, tick_us)
    reason = _why_none(state, schedule, tick_us, now_us)
    if reason == "waits" and schedule.held_us:
        passed += 1
    fired = r.ScheduleFired(
        command.job,
        rfc3339(tick_us),
        _text(next_after(clock, tick_us)),
        "",
        reason,
        passed,
        counted,
    )
    if reason:
        return Decision((fired,))
    return _with_run(state, fired, tick_us, command.start, now_us)


def _why_none(state: State, schedule: Schedule, tick_us: int, now_us: int) -> str:
    """The reason why the tick starts no run now, as in `ScheduleFired`; empty if it does."""
    if schedule.catch_up == "skip" and now_us - tick_us > LATE_US:
        return "missed"
    if schedule.overlap != "allow" and busy(state, schedule):
        return "overlap" if schedule.overlap == "skip" else "waits"
    return ""


def _with_run(
    state: State,
    fired: r.ScheduleFired,
    tick_us: int,
    prepared: c.StartRun,
    now_us: int,
) -> Decision:
    """`fired`, together with the tick's run: a new one, or the one that owns the tick's key. There
    is none if an unfinished run has the unique key of the job."""
    key = tick_key(fired.job, tick_us)
    owner = state.key_owner(key, now_us)
    if owner is not None:
        return Decision((msgspec.structs.replace(fired, started=owner.run),))
    prepared = msgspec.structs.replace(prepared, due_us=tick_us, key=key)
    try:
        started = start(state, prepared, now_us, before=1)
    except Conflict:
        return Decision((msgspec.structs.replace(fired, reason="unique"),))
    assert isinstance(started.reply, Started)
    fired = msgspec.structs.replace(fired, started=started.reply.run)
    return Decision((fired, *started.records), started.effects, started.reply)


# --- Pause and resume ----------------------------------------------------------------------


def pause(state: State, command: c.PauseSchedule, _now_us: int) -> Decision:
    """Pause a schedule; a tick that is due or held is dropped. Raises `NotFound` if the job has
    none."""
    schedule = _known(state, command.job)
    if schedule.paused_us:
        return Decision(reply=Changed(command.job, False))
    return Decision((r.SchedulePaused(command.job),), (), Changed(command.job, True))


def resume(state: State, command: c.ResumeSchedule, now_us: int) -> Decision:
    """Resume a paused schedule from now on; ticks during the pause are not caught up. Raises
    `NotFound` if the job has none."""
    schedule = _known(state, command.job)
    if not schedule.paused_us:
        return Decision(reply=Changed(command.job, False))
    next_us: int | None = None
    if not schedule.retired_us:
        clock = clock_of(schedule.expression, schedule.timezone, schedule.since_us)
        next_us = next_after(clock, now_us)
    resumed = r.ScheduleResumed(command.job, _text(next_us))
    return Decision((resumed,), (), Changed(command.job, True))


def _known(state: State, job: str) -> Schedule:
    schedule = state.schedules.get(job)
    if schedule is None:
        raise NotFound(f"no job {job!r} has a schedule", hint="stackshift schedules list")
    return schedule


def _text(us: int | None) -> str | None:
    return rfc3339(us) if us else None


# --- Due ticks -----------------------------------------------------------------------------


def busy(state: State, schedule: Schedule) -> bool:
    """Is the last run that a tick started, or the one as which it continues, still unfinished?"""
    run = state.latest(schedule.last_run)
    return run is not None and not run.finished


def waits(state: State, schedule: Schedule, now_us: int) -> bool:
    """Is there a tick that can only be decided once the last run has finished?

    Under `overlap="queue"` these are all ticks that are caught up one by one. Under `skip` these
    are the ticks that were missed or came due together: they were not due while the last run was
    executing, so they must not be skipped because of it.
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
