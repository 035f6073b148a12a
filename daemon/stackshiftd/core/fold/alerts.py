"""The fold of `notify.*`, `alert.*`, `expectation.*`, `job.recovered` and `run.late`, and what the
ends of runs mean for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from stackshift_jobs.values.durations import from_rfc3339
from stackshiftd.core import records as r
from stackshiftd.core.state.alerts import (
    FAILED,
    LATE,
    MOST_NAMED,
    MOST_TROUBLES,
    OTHERS,
    OVERFLOW,
    RECOVERED,
    Expectation,
    Group,
    Target,
    Trouble,
    group_id,
    is_message,
    subject_id,
    subject_name,
)
from stackshiftd.core.state.expiry import EXPECTATION, GROUP
from stackshiftd.core.state.state import Run, State


def opened(state: State) -> None:
    """A daemon has claimed the journal."""
    state.alerts.was_cut_off = not state.alerts.is_closed
    state.alerts.is_closed = False


def closed(state: State, _entry: r.Entry, _record: r.JournalClosed) -> None:
    """A daemon has stopped in good order."""
    state.alerts.is_closed = True


def set_clock_back(state: State) -> None:
    """Daemon time is earlier than it was: nobody waits for what was late by the old one."""
    now_us = state.now_us
    for target in state.alerts.targets.values():
        target.until_us = target.told = 0
    for key, group in state.alerts.groups.items():
        group.until_us = min(group.until_us, now_us + group.span_us)
        state.set_expiry(group.until_us, GROUP, key)
    for expectation in state.alerts.expectations.values():
        expectation.since_us = min(expectation.since_us, now_us)
        expectation.succeeded_us = min(expectation.succeeded_us, now_us)


def failed(state: State, run: Run, at_us: int) -> None:
    """A run has failed for good."""
    job = subject_name(run.job, run.labels)
    if not is_message(run.job) and state.alerts.minds(job, run.queue):
        _trouble(state, job, FAILED, at_us)


def succeeded(state: State, run: Run, at_us: int) -> None:
    """A run has completed."""
    if is_message(run.job) or not (state.alerts.expectations or run.schedule):
        return
    job = subject_name(run.job, run.labels)
    _meets(state, subject_id(job), at_us)
    if run.schedule:
        _meets(state, subject_id(job, run.schedule), at_us)
        schedule = state.schedules.get(run.schedule)
        if schedule is not None:
            schedule.succeeded_us = at_us


def _meets(state: State, key: str, at_us: int) -> None:
    """What is expected of a job or schedule has happened."""
    expectation = state.alerts.expectations.get(key)
    if expectation is None:
        return
    expectation.succeeded_us = at_us
    expectation.missed, expectation.missed_us = "", 0
    if expectation.every_ms:
        expectation.since_us = at_us
        _set_due(state, expectation, at_us + expectation.every_ms * 1000)


def _trouble(state: State, key: str, alert: str, at_us: int) -> None:
    before = state.alerts.troubles.get(key)
    since_us = at_us if before is None else before.since_us
    troubles = state.alerts.troubles
    troubles[key] = Trouble(alert, since_us)
    if len(troubles) > MOST_TROUBLES:
        del troubles[min(troubles, key=lambda each: (troubles[each].since_us, each))]


def _late(state: State, entry: r.Entry, record: r.RunLate) -> None:
    run = state.runs[record.run]
    run.late_us = entry.at_us
    job = subject_name(run.job, run.labels)
    if state.alerts.minds(job, run.queue):
        _trouble(state, job, LATE, entry.at_us)


def _recovered(state: State, _entry: r.Entry, record: r.JobRecovered) -> None:
    state.alerts.troubles.pop(subject_id(record.job, record.schedule), None)


# --- Whom to tell --------------------------------------------------------------------------


def _defined(state: State, _entry: r.Entry, record: r.NotifyDefined) -> None:
    target = state.alerts.targets.get(record.notify)
    if target is None:
        state.alerts.targets[record.notify] = Target(record.notify, record.terms)
    else:
        target.terms = record.terms
    _forget_troubles(state)


def _retired(state: State, _entry: r.Entry, record: r.NotifyRetired) -> None:
    alerts = state.alerts
    del alerts.targets[record.notify]
    for key in [key for key, group in alerts.groups.items() if group.target == record.notify]:
        del alerts.groups[key]
    _forget_troubles(state)


def _forget_troubles(state: State) -> None:
    """Forget which jobs are in trouble if nobody is to be told that they are no longer."""
    alerts = state.alerts
    if any(RECOVERED in target.terms.on for target in alerts.targets.values()):
        return
    for job in alerts.troubles.keys() - alerts.expectations:
        del alerts.troubles[job]


def _told(state: State, entry: r.Entry, record: r.AlertTold) -> None:
    alerts = state.alerts
    target = alerts.targets[record.notify]
    if entry.at_us >= target.until_us:
        target.until_us, target.told = entry.at_us + target.terms.per_ms * 1000, 0
    target.told += 1
    if record.alert == RECOVERED:
        # What was held about its job is part of the message.
        for key, group in list(alerts.groups.items()):
            if group.target == record.notify and group.job == record.job and group.key != OVERFLOW:
                del alerts.groups[key]
    key = group_id(record.notify, record.group)
    alerts.groups.pop(key, None)
    if record.until is not None:
        until_us = from_rfc3339(record.until)
        alerts.groups[key] = Group(
            record.notify,
            record.group,
            record.alert,
            record.job,
            until_us,
            until_us - entry.at_us,
        )
        state.set_expiry(until_us, GROUP, key)


def _held(state: State, entry: r.Entry, record: r.AlertHeld) -> None:
    key = group_id(record.notify, record.group)
    group = state.alerts.groups.get(key)
    if group is None:
        until_us = from_rfc3339(record.until)
        group = Group(record.notify, record.group, "", "", until_us, until_us - entry.at_us)
        state.alerts.groups[key] = group
        state.set_expiry(until_us, GROUP, key)
    group.first_us = group.first_us or entry.at_us
    group.last_us = entry.at_us
    group.count += 1
    group.subject = record.subject
    if record.group == OVERFLOW:
        name = f"{record.alert} {record.job}".strip()
        if name not in group.named and len(group.named) >= MOST_NAMED:
            name = OTHERS
        group.named = {**group.named, name: group.named.get(name, 0) + 1}


def _postponed(state: State, _entry: r.Entry, record: r.AlertPostponed) -> None:
    key = group_id(record.notify, record.group)
    group = state.alerts.groups[key]
    group.until_us = from_rfc3339(record.until)
    state.set_expiry(group.until_us, GROUP, key)


def _group_closed(state: State, _entry: r.Entry, record: r.AlertClosed) -> None:
    del state.alerts.groups[group_id(record.notify, record.group)]


# --- Expectations --------------------------------------------------------------------------


def _expected(state: State, _entry: r.Entry, record: r.ExpectationDefined) -> None:
    key = subject_id(record.job, record.schedule)
    known = state.alerts.expectations.get(key)
    succeeded_us = from_rfc3339(record.succeeded_at) if record.succeeded_at is not None else 0
    expectation = Expectation(
        record.job,
        record.expect,
        record.timezone,
        from_rfc3339(record.since),
        record.every_ms,
        succeeded_us=max(succeeded_us, known.succeeded_us if known is not None else 0),
        schedule=record.schedule,
    )
    state.alerts.expectations[key] = expectation
    _set_due(state, expectation, _time(record.due_at))


def _expectation_retired(state: State, _entry: r.Entry, record: r.ExpectationRetired) -> None:
    key = subject_id(record.job, record.schedule)
    del state.alerts.expectations[key]
    state.alerts.troubles.pop(key, None)


def _met(state: State, _entry: r.Entry, record: r.ExpectationMet) -> None:
    expectation = state.alerts.expectations[subject_id(record.job, record.schedule)]
    expectation.since_us = from_rfc3339(record.due)
    _set_due(state, expectation, _time(record.due_at))


def _missed(state: State, entry: r.Entry, record: r.ExpectationMissed) -> None:
    key = subject_id(record.job, record.schedule)
    expectation = state.alerts.expectations[key]
    expectation.since_us = expectation.missed_us = from_rfc3339(record.due)
    expectation.missed = record.alert
    _set_due(state, expectation, _time(record.due_at))
    _trouble(state, key, record.alert, entry.at_us)


def _set_due(state: State, expectation: Expectation, due_us: int) -> None:
    expectation.due_us = due_us
    if due_us:
        key = subject_id(expectation.job, expectation.schedule)
        state.set_expiry(due_us, EXPECTATION, key)


def _time(text: str | None) -> int:
    return from_rfc3339(text) if text is not None else 0


BY_TYPE: Final[dict[type[r.Record], Callable[[State, r.Entry, Any], None]]] = {
    r.JournalClosed: closed,
    r.RunLate: _late,
    r.JobRecovered: _recovered,
    r.NotifyDefined: _defined,
    r.NotifyRetired: _retired,
    r.AlertTold: _told,
    r.AlertHeld: _held,
    r.AlertPostponed: _postponed,
    r.AlertClosed: _group_closed,
    r.ExpectationDefined: _expected,
    r.ExpectationRetired: _expectation_retired,
    r.ExpectationMet: _met,
    r.ExpectationMissed: _missed,
}
