"""Decisions about which schedules exist: those that code and `stackshift.toml` declare, and those
that a person adds and removes.

A schedule that a person has added belongs to no code, so no greeting of a worker changes or
retires it. Nor does a command change what the code declares: the next greeting would undo it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from stackshift_jobs.errors import Conflict, NotFound
from stackshift_jobs.values.durations import rfc3339
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.decide.cron.ticks import REBOOT, Clock, Spread, clock_of, next_after
from stackshiftd.core.decide.monitoring.expectations import of_schedule
from stackshiftd.core.effects import Changed, Decision
from stackshiftd.core.state.alerts import subject_name
from stackshiftd.core.state.schedules import IN_CODE, IN_FILE, Schedule
from stackshiftd.core.state.state import State

_SECOND_US: Final = 1_000_000


def define(state: State, command: c.DefineSchedules, now_us: int) -> Decision:
    """Record the schedules that are new, have changed, or are no longer declared.

    A declared schedule whose name a person has given to one that was added is left out: the shell
    says so (see `taken`)."""
    records: list[r.AnyRecord] = []
    for name, terms in sorted(command.schedules.items()):
        known = state.schedules.get(name)
        if known is not None and known.is_added:
            continue
        if known is None or known.retired_us or _differs(known, terms):
            records.append(_definition(name, terms, known, command.seed, command.boot, now_us))
            records += _expected(state, name, terms, now_us)
    for name, known in sorted(state.schedules.items()):
        gone = name not in command.schedules and _is_over(known, command)
        if gone and not known.retired_us:
            records.append(r.ScheduleRetired(known.job, alias(name, known.job)))
            records += unexpected(state, known, now_us)
    return Decision(tuple(records))


def note_boot(state: State, command: c.NoteBoot, now_us: int) -> Decision:
    """The ticks of `@reboot` schedules that have seen another boot of the machine, or none."""
    return Decision(
        tuple(
            _boot(known, command.boot, now_us)
            for _name, known in sorted(state.schedules.items())
            if known.expression == REBOOT and not known.retired_us and known.boot != command.boot
        )
    )


def add(state: State, command: c.AddSchedule, now_us: int) -> Decision:
    """Add a schedule. The same again changes nothing. Raises `Conflict` if its name belongs to one
    of the code or `stackshift.toml`, or to another that was added, unless it is to `replace`
    that."""
    name, terms = command.name, command.terms
    known = state.schedules.get(name)
    if known is not None and not known.retired_us:
        if not known.is_added:
            raise Conflict(
                f"{place(known)} already has a schedule named {name!r}",
                hint="give this one another name",
            )
        if not _differs(known, terms):
            return Decision(reply=Changed(name, False))
        if not command.replace:
            raise Conflict(
                f"there is another schedule named {name!r}: {known.expression}",
                hint=f"add --replace to change it, or stackshift schedules rm {name}",
            )
    defined = _definition(name, terms, known, command.seed, command.boot, now_us)
    expected = _expected(state, name, terms, now_us)
    return Decision((defined, *expected), (), Changed(name, True))


def remove(state: State, command: c.RemoveSchedule, now_us: int) -> Decision:
    """Remove a schedule that was added or is retired; a tick that is due or held is dropped, runs
    go on. Raises `NotFound`, and `Conflict` if it is declared by the code or `stackshift.toml`."""
    known = known_schedule(state, command.name)
    if not known.is_added and not known.retired_us:
        raise Conflict(
            f"schedule {command.name!r} is declared by {place(known)}",
            hint=f"remove it there, or stackshift schedules pause {command.name}",
        )
    removed = r.ScheduleRemoved(known.job, alias(known.name, known.job))
    return Decision((removed, *unexpected(state, known, now_us)), (), Changed(command.name, True))


def known_schedule(state: State, name: str) -> Schedule:
    """The schedule of this name. Raises `NotFound`."""
    schedule = state.schedules.get(name)
    if schedule is None:
        raise NotFound(f"no schedule is named {name!r}", hint="stackshift schedules list")
    return schedule


def taken(state: State, name: str, source: str) -> str:
    """Why a schedule that `source` declares cannot have the name, in words; empty if it can."""
    known = state.schedules.get(name)
    if known is None or not known.is_added or source not in (IN_CODE, IN_FILE):
        return ""
    return f"a schedule of this name was added by command: stackshift schedules rm {name}"


def place(schedule: Schedule) -> str:
    """What declares a schedule that nobody has added, in words."""
    if schedule.source == IN_FILE:
        return "stackshift.toml"
    return f"the code of job {schedule.job!r}"


def alias(name: str, job: str) -> str:
    """The name as records have it: empty if it is the job's."""
    return "" if name == job else name


def ahead(
    clock: Clock, spread: Spread, tick_us: int | None, due_us: int = 0
) -> tuple[str | None, str | None]:
    """`next_at` and `due_at` of a record whose next tick is `tick_us`; `due_us` is when it is
    decided, if an earlier record says so."""
    if not tick_us:
        return None, None
    due_us = due_us or spread.due_us(clock, tick_us)
    return rfc3339(tick_us), rfc3339(due_us) if due_us > tick_us else None


# --- What is expected of them --------------------------------------------------------------


def expected_again(
    state: State, schedule: Schedule, now_us: int
) -> tuple[r.ExpectationDefined | r.ExpectationRetired, ...]:
    """The record of what is expected of the runs of a schedule, as before it was paused."""
    terms = c.ExpectationTerms(schedule.expect, schedule.timezone)
    return of_schedule(state, schedule.name, _subject(schedule.job, schedule.start), terms, now_us)


def unexpected(
    state: State, schedule: Schedule, now_us: int
) -> tuple[r.ExpectationDefined | r.ExpectationRetired, ...]:
    """The record that nothing is expected of a schedule that does not tick any more."""
    job = _subject(schedule.job, schedule.start)
    return of_schedule(state, schedule.name, job, c.ExpectationTerms(""), now_us)


def _expected(
    state: State, name: str, terms: c.ScheduleTerms, now_us: int
) -> tuple[r.ExpectationDefined | r.ExpectationRetired, ...]:
    """The record of what these terms expect, if that has changed; nothing while it is paused."""
    known = state.schedules.get(name)
    is_paused = known is not None and known.paused_us
    expected = c.ExpectationTerms("" if is_paused else terms.expect, terms.timezone)
    job = _subject(terms.job or name, bytes(terms.start))
    return of_schedule(state, name, job, expected, now_us)


def _subject(job: str, start: bytes) -> str:
    """What alerts call the runs of a schedule whose options are `start`."""
    return subject_name(job, msgspec.json.decode(start, type=c.StartOptions).labels)


# --- Definitions ---------------------------------------------------------------------------


def _is_over(known: Schedule, command: c.DefineSchedules) -> bool:
    """Is a schedule that is not declared gone? If a module does not import, a missing job may be in
    it, so the schedules of its code stay."""
    if known.source == IN_CODE:
        return command.complete or known.job in command.jobs
    return known.source == IN_FILE


def _differs(known: Schedule, terms: c.ScheduleTerms) -> bool:
    return _clock_differs(known, terms) or (
        (
            known.catch_up,
            known.catch_up_for_ms,
            known.overlap,
            known.jitter_ms,
            known.payload,
            known.start,
            known.job,
            known.source,
            known.note,
            known.expect,
            known.max_runtime_ms,
            known.heartbeat,
        )
        != (
            terms.catch_up,
            terms.catch_up_for_ms,
            terms.overlap,
            terms.jitter_ms,
            bytes(terms.payload),
            bytes(terms.start),
            terms.job or known.name,
            terms.source,
            terms.note,
            terms.expect,
            terms.max_runtime_ms,
            terms.heartbeat,
        )
    )


def _clock_differs(known: Schedule, terms: c.ScheduleTerms) -> bool:
    return (known.expression, known.timezone) != (terms.schedule, terms.timezone)


def _definition(
    name: str,
    terms: c.ScheduleTerms,
    known: Schedule | None,
    seed: str,
    boot: str,
    now_us: int,
) -> r.ScheduleDefined:
    """The definition of a new or changed schedule. If the expression is the same, its ticks are
    still counted from when it was first seen, and one that is due stays due. Otherwise, or if the
    schedule had been retired, the next tick is in the future."""
    same = known is not None and not _clock_differs(known, terms)
    if known is not None and same:
        since_us = known.since_us
    else:
        since_us = -(-now_us // _SECOND_US) * _SECOND_US
    clock = clock_of(terms.schedule, terms.timezone, since_us)
    if known is not None and known.seed:
        seed = known.seed
    spread = Spread(name, terms.jitter_ms, seed if terms.jitter_ms else "")
    next_us: int | None
    due_us = 0
    if known is not None and known.paused_us:
        next_us = None
    elif known is not None and same and not known.retired_us:
        next_us = known.next_us
        due_us = known.due_us if known.jitter_ms == terms.jitter_ms else 0
    else:
        # No tick was ever decided before its time, so none is repeated.
        next_us = next_after(clock, now_us)
    next_at, due_at = ahead(clock, spread, next_us, due_us)
    job = terms.job or name
    if terms.schedule != REBOOT:
        boot = ""
    elif known is not None and same and not known.retired_us:
        boot = known.boot
    return r.ScheduleDefined(
        job=job,
        schedule=terms.schedule,
        timezone=terms.timezone,
        since=rfc3339(since_us),
        catch_up=terms.catch_up,
        overlap=terms.overlap,
        payload=terms.payload,
        next_at=next_at,
        name=alias(name, job),
        source=terms.source,
        due_at=due_at,
        jitter_ms=terms.jitter_ms,
        seed=spread.seed,
        catch_up_for_ms=terms.catch_up_for_ms,
        start=terms.start,
        note=terms.note,
        boot=boot,
        expect=terms.expect,
        max_runtime_ms=terms.max_runtime_ms,
        heartbeat=terms.heartbeat,
    )


def _boot(known: Schedule, boot: str, now_us: int) -> r.ScheduleBooted:
    """The tick of a start of the machine is when the daemon first sees it; but later than every
    tick before, even if the clock was set back."""
    clock = clock_of(known.expression, known.timezone, known.since_us)
    spread = Spread(known.name, known.jitter_ms, known.seed)
    tick_us = max(now_us, known.held_us + 1, known.last_us + 1, known.skipped_us + 1)
    next_at, due_at = ahead(clock, spread, None if known.paused_us else tick_us)
    return r.ScheduleBooted(known.job, boot, next_at, alias(known.name, known.job), due_at)
