"""Decisions about expectations: which exist, and whether one was met when it was due.

An expectation is `every 6h` (a success within 6 hours of the last one) or names times, `daily by
03:00`: then a success is expected between two of them. Times that passed while no daemon was there
are judged as one, the last of them.
"""

from __future__ import annotations

from typing import Final

from stackshift_jobs.values.durations import rfc3339
from stackshift_jobs.values.expectations import cron_of, every_ms_of
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.decide.cron.ticks import Clock, clock_of, latest, next_after
from stackshiftd.core.decide.monitoring.alerts import Alert, told
from stackshiftd.core.effects import NOTHING, Decision
from stackshiftd.core.state.alerts import LATE, MISSING, Expectation, subject_id, subject_name
from stackshiftd.core.state.state import Run, State

LOOK_BACK_US: Final = 40 * 86_400_000_000
"""How long before an expectation is defined the time before may lie: a month, and some days."""


def define(state: State, command: c.DefineExpectations, now_us: int) -> Decision:
    """Record the expectations that are new, have changed, or are no longer in the code."""
    records: list[r.AnyRecord] = []
    for job, terms in sorted(command.expectations.items()):
        known = state.alerts.expectations.get(subject_id(job))
        if known is None or (known.expect, known.timezone) != (terms.expect, terms.timezone):
            succeeded_us = command.succeeded.get(job, 0)
            records.append(_definition(job, terms, succeeded_us, now_us))
    for key in sorted(state.alerts.expectations.keys() - command.expectations):
        known = state.alerts.expectations[key]
        if not known.schedule and (command.complete or known.job in command.jobs):
            records.append(r.ExpectationRetired(known.job))
    return Decision(tuple(records))


def of_schedule(
    state: State, schedule: str, job: str, terms: c.ExpectationTerms, now_us: int
) -> tuple[r.ExpectationDefined | r.ExpectationRetired, ...]:
    """The records by which from now on `terms` are expected of the runs of a schedule, which alerts
    call `job`; nothing, if `terms` has an empty `expect`."""
    known = state.alerts.expectations.get(subject_id(job, schedule))
    if not terms.expect:
        return (r.ExpectationRetired(known.job, schedule),) if known is not None else ()
    if known is not None and (known.job, known.expect, known.timezone) == (
        job,
        terms.expect,
        terms.timezone,
    ):
        return ()
    before = state.schedules.get(schedule)
    succeeded_us = before.succeeded_us if before is not None else 0
    return (_definition(job, terms, succeeded_us, now_us, schedule),)


def _definition(
    job: str, terms: c.ExpectationTerms, succeeded_us: int, now_us: int, schedule: str = ""
) -> r.ExpectationDefined:
    every_us = every_ms_of(terms.expect) * 1000
    succeeded = rfc3339(succeeded_us) if succeeded_us else None
    if every_us:
        # Not the last success: what was not expected until now is not missing yet.
        due_us: int | None = now_us + every_us
        since_us = now_us
    else:
        clock = _clock(terms.expect, terms.timezone)
        due_us = next_after(clock, now_us)
        since_us = _before(clock, now_us)
    return r.ExpectationDefined(
        job,
        terms.expect,
        terms.timezone,
        rfc3339(since_us),
        rfc3339(due_us) if due_us else None,
        every_us // 1000,
        succeeded,
        schedule,
    )


def _clock(expect: str, timezone: str) -> Clock:
    return clock_of(cron_of(expect), timezone, 0)


def _before(clock: Clock, now_us: int) -> int:
    """The last time that something was due at or before `now_us`; `now_us` if there was none."""
    first_us = next_after(clock, now_us - LOOK_BACK_US)
    if first_us is None or first_us > now_us:
        return now_us
    return latest(clock, first_us, now_us)


def judge(state: State, key: str, now_us: int) -> Decision:
    """Decide whether what was due of the job or schedule that `Alerts.expectations` knows by `key`
    was there; nothing follows if nothing is due."""
    expectation = state.alerts.expectations.get(key)
    if expectation is None or not 0 < expectation.due_us <= now_us:
        return NOTHING
    job, due_us, since_us, next_us = expectation.job, expectation.due_us, expectation.since_us, 0
    if not expectation.every_ms:
        clock = _clock(expectation.expect, expectation.timezone)
        last_us = latest(clock, due_us, now_us)
        if last_us > due_us:
            due_us, since_us = last_us, max(since_us, _before(clock, last_us - 1))
        next_us = next_after(clock, now_us) or 0
    due_at = rfc3339(next_us) if next_us else None
    if expectation.succeeded_us > since_us:
        met = r.ExpectationMet(job, rfc3339(due_us), due_at, expectation.schedule)
        return Decision((met,))
    run = _under_way(state, expectation)
    alert = LATE if run is not None else MISSING
    subject = run.id if run is not None else ""
    missed = r.ExpectationMissed(job, rfc3339(due_us), alert, subject, due_at, expectation.schedule)
    notice = Alert(
        alert,
        job,
        run.queue if run is not None else "",
        run,
        f"expect {expectation.schedule}".strip(),
        detail=_detail(expectation, due_us),
    )
    return Decision((missed, *told(state, notice, now_us)))


def _detail(expectation: Expectation, due_us: int) -> dict[str, str]:
    detail = {"expect": expectation.expect, "due_at": rfc3339(due_us)}
    if expectation.succeeded_us:
        detail["succeeded_at"] = rfc3339(expectation.succeeded_us)
    if expectation.schedule:
        detail["schedule"] = expectation.schedule
    return detail


def _under_way(state: State, expectation: Expectation) -> Run | None:
    """The newest run of the job or schedule that has begun and not ended."""
    begun = (
        run
        for run in state.runs.values()
        if not run.finished and run.started_us and _is_of(run, expectation)
    )
    return max(begun, key=lambda run: run.created_seq, default=None)


def _is_of(run: Run, expectation: Expectation) -> bool:
    if expectation.schedule:
        return run.schedule == expectation.schedule
    return subject_name(run.job, run.labels) == expectation.job
