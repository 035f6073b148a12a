"""Decisions about ticks, and about pauses: what happens when a schedule is due.

The decision about a tick is one append: `schedule.fired`, which contains the next tick, and
`run.created` under a key made of schedule and tick. So a tick has at most one run, whatever crashes
in between.
"""

from __future__ import annotations

from typing import Final

import msgspec

from stackshift_jobs.errors import Conflict
from stackshift_jobs.values.durations import rfc3339
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.decide.cron.ticks import (
    Clock,
    Spread,
    clock_of,
    count,
    latest,
    newest,
    next_after,
    tick_key,
)
from stackshiftd.core.decide.ends import cancel
from stackshiftd.core.decide.runs import start
from stackshiftd.core.decide.schedule_terms import (
    ahead,
    alias,
    expected_again,
    known_schedule,
    unexpected,
)
from stackshiftd.core.effects import NOTHING, Changed, Decision, Started
from stackshiftd.core.state.schedules import LATE_US, Schedule
from stackshiftd.core.state.state import State

MAX_CAUGHT_UP: Final = 1000
"""Under `catch_up="all"`, at most this many missed ticks get a run each; older ones are skipped."""


# --- Ticks ---------------------------------------------------------------------------------


def fire(state: State, command: c.FireSchedule, now_us: int) -> Decision:
    """Decide the tick that is due; nothing follows if none is."""
    schedule = state.schedules.get(command.name)
    if schedule is None or not ready(state, schedule, now_us):
        return NOTHING
    name = alias(schedule.name, schedule.job)
    clock, spread = clock_of_schedule(schedule), spread_of(schedule)
    if schedule.held_us and not busy(state, schedule):
        coming = ahead(clock, spread, schedule.next_us, schedule.due_us)
        fired = r.ScheduleFired(
            schedule.job, rfc3339(schedule.held_us), coming[0], name=name, due_at=coming[1]
        )
        return _with_run(state, fired, schedule.held_us, command.start, now_us)
    until_us = _until(schedule, clock, spread, now_us)
    tick_us, is_counted = _choose(schedule, clock, until_us, now_us)
    passed = count(clock, schedule.next_us, tick_us)
    reason = _why_none(state, schedule, tick_us, spread.due_us(clock, tick_us), now_us)
    if reason == "waits" and schedule.held_us:
        passed += 1
    next_at, due_at = ahead(clock, spread, next_after(clock, tick_us))
    fired = r.ScheduleFired(
        job=schedule.job,
        tick=rfc3339(tick_us),
        next_at=next_at,
        reason=reason,
        passed=passed,
        counted=rfc3339(now_us) if is_counted else "",
        name=name,
        due_at=due_at,
    )
    if reason == "waits" and schedule.overlap == "cancel":
        return _in_place_of_last(state, schedule, fired, now_us)
    if reason:
        return Decision((fired,))
    return _with_run(state, fired, tick_us, command.start, now_us)


def _until(schedule: Schedule, clock: Clock, spread: Spread, now_us: int) -> int:
    """The time up to which ticks may be decided: now, or before the latest tick if that is not due
    yet because of its jitter. (No tick is due only after the next one.)"""
    if not schedule.jitter_ms:
        return now_us
    tick_us = latest(clock, schedule.next_us, now_us)
    is_next = tick_us == schedule.next_us
    due_us = schedule.due_us if is_next else spread.due_us(clock, tick_us)
    return now_us if due_us <= now_us else tick_us - 1


def _choose(schedule: Schedule, clock: Clock, until_us: int, now_us: int) -> tuple[int, bool]:
    """The tick to decide, of those from the next one up to `until_us`; and whether the ones from it
    on are counted, and so caught up one by one."""
    first_us = schedule.next_us
    if schedule.catch_up != "all":
        return latest(clock, first_us, until_us), False
    oldest_us = now_us - schedule.catch_up_for_ms * 1000
    if schedule.catch_up_for_ms and first_us < oldest_us:
        recent_us = next_after(clock, oldest_us - 1)
        if recent_us is None or recent_us > until_us:
            return latest(clock, first_us, until_us), False
        first_us = recent_us
    if first_us <= schedule.counted_us:
        return first_us, False
    tick_us = newest(clock, first_us, until_us, MAX_CAUGHT_UP)
    return tick_us, tick_us < latest(clock, first_us, until_us)


def _why_none(state: State, schedule: Schedule, tick_us: int, due_us: int, now_us: int) -> str:
    """The reason why the tick starts no run now, as in `ScheduleFired`; empty if it does."""
    if now_us - due_us > LATE_US:
        limit_us = schedule.catch_up_for_ms * 1000
        if schedule.catch_up == "skip" or (limit_us and now_us - tick_us > limit_us):
            return "missed"
    if schedule.overlap != "allow" and busy(state, schedule):
        return "overlap" if schedule.overlap == "skip" else "waits"
    return ""


def _in_place_of_last(
    state: State, schedule: Schedule, fired: r.ScheduleFired, now_us: int
) -> Decision:
    """The tick waits for the end of the last run, which is cancelled unless it was before: its
    handler may take a while to stop."""
    last = state.latest(schedule.last_run)
    if last is None or last.finished:
        return Decision((fired,))
    cancelled = cancel(state, (last,), "overlap", now_us, before=1)
    return Decision((fired, *cancelled.records), cancelled.effects)


def _with_run(
    state: State,
    fired: r.ScheduleFired,
    tick_us: int,
    prepared: c.StartRun,
    now_us: int,
) -> Decision:
    """`fired`, together with the tick's run: a new one, or the one that owns the tick's key. There
    is none if an unfinished run has the unique key of the job."""
    key = tick_key(fired.name or fired.job, tick_us)
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


def pause(state: State, command: c.PauseSchedule, now_us: int) -> Decision:
    """Pause a schedule; a tick that is due or held is dropped, and nothing is expected of it.
    Raises `NotFound`."""
    schedule = known_schedule(state, command.name)
    if schedule.paused_us:
        return Decision(reply=Changed(command.name, False))
    paused = r.SchedulePaused(schedule.job, alias(schedule.name, schedule.job))
    retired = unexpected(state, schedule, now_us)
    return Decision((paused, *retired), (), Changed(command.name, True))


def resume(state: State, command: c.ResumeSchedule, now_us: int) -> Decision:
    """Resume a paused schedule from now on; ticks during the pause are not caught up. Raises
    `NotFound`."""
    schedule = known_schedule(state, command.name)
    if not schedule.paused_us:
        return Decision(reply=Changed(command.name, False))
    clock = clock_of_schedule(schedule)
    next_us = None if schedule.retired_us else next_after(clock, now_us)
    next_at, due_at = ahead(clock, spread_of(schedule), next_us)
    name = alias(schedule.name, schedule.job)
    resumed = r.ScheduleResumed(schedule.job, next_at, name, due_at)
    expected = () if schedule.retired_us else expected_again(state, schedule, now_us)
    return Decision((resumed, *expected), (), Changed(command.name, True))


def clock_of_schedule(schedule: Schedule) -> Clock:
    """The ticks of a schedule."""
    return clock_of(schedule.expression, schedule.timezone, schedule.since_us)


def spread_of(schedule: Schedule) -> Spread:
    """How far the ticks of a schedule are spread."""
    return Spread(schedule.name, schedule.jitter_ms, schedule.seed)


# --- Due ticks -----------------------------------------------------------------------------


def busy(state: State, schedule: Schedule) -> bool:
    """Is the last run that a tick started, or the one as which it continues, still unfinished, or
    its handler still executing?"""
    run = state.latest(schedule.last_run)
    return run is not None and (not run.finished or bool(run.token))


def waits(state: State, schedule: Schedule, now_us: int) -> bool:
    """Is there a tick that can only be decided once the last run has finished?

    Under `overlap="queue"` these are all ticks that are caught up one by one. Under `skip` and
    `cancel` these are the ticks that were missed or came due together: they were not due while the
    last run was executing, so they must not be skipped because of it, nor cancel it.
    """
    if not schedule.lives or not busy(state, schedule):
        return False
    if schedule.held_us:
        return not _is_due(schedule, now_us)
    if schedule.catch_up != "all" or not _is_due(schedule, now_us):
        return False
    if schedule.overlap == "queue":
        return True
    late = now_us - schedule.due_us > LATE_US or schedule.next_us <= schedule.counted_us
    return schedule.overlap in ("skip", "cancel") and late


def ready(state: State, schedule: Schedule, now_us: int) -> bool:
    """Is there something to decide at `now_us`?"""
    if not schedule.lives:
        return False
    if _is_due(schedule, now_us):
        return not waits(state, schedule, now_us)
    return bool(schedule.held_us) and not busy(state, schedule)


def _is_due(schedule: Schedule, now_us: int) -> bool:
    return 0 < schedule.due_us <= now_us
