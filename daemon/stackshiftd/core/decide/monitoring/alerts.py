"""Decisions about alerts: what is told to whom, at once or together with more of the same.

The states of a group are in `core.state.alerts`. What is told is one append with what it is about:
the end of the run, `run.late`, `expectation.missed`. The message is a run of the built-in job
`NOTIFY_JOB`, created in that append, so a crash loses none and repeats none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from typing import Any, Final, NamedTuple

from msgspec import Raw

from stackshift_jobs.values.durations import rfc3339
from stackshift_jobs.values.names import NAME_LABEL, NOTIFY_JOB, NOTIFY_LABEL, NOTIFY_QUEUE
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.decide.follow_ups import MOST_TEXT, derived_id, shown_error
from stackshiftd.core.decide.monitoring.same_error import same_error
from stackshiftd.core.effects import NOTHING, Decision
from stackshiftd.core.state.alerts import (
    DAEMON_STOPPED,
    FAILED,
    LATE,
    OVERFLOW,
    RECOVERED,
    Group,
    Target,
    group_id,
    is_message,
    subject_id,
    subject_name,
)
from stackshiftd.core.state.state import Run, State

BACKOFF_MS: Final = 5_000
MOST_BACKOFF_MS: Final = 900_000
"""Between tries of a delivery: 20 of them take three hours."""
TRY_MS: Final = 120_000
"""How long one try may take, the picture included."""
MOST_SPAN_MS: Final = 6 * 3_600_000
"""The longest that a group which goes on and on is held."""


class Alert(NamedTuple):
    """Something that may be worth telling: which kind, about which job, queue and run; what makes
    it the `same` as another; and what the message says of it besides."""

    kind: str
    job: str = ""
    queue: str = ""
    run: Run | None = None
    same: str = ""
    error: r.Error | None = None
    detail: dict[str, Any] = {}  # noqa: RUF012  # It is never changed.


# --- What happens --------------------------------------------------------------------------


def of_end(
    state: State, run: Run, status: str, error: r.Error | None, now_us: int
) -> tuple[tuple[r.JobRecovered, ...], tuple[r.AnyRecord, ...]]:
    """What is recorded with the end of a run: that its job has recovered, and what is told. A
    failure of a run that another one has called and waits for is told by how that one ends."""
    if is_message(run.job):
        return (), ()
    job = subject_name(run.job, run.labels)
    if status == "failed" and not _is_called(state, run):
        same = same_error(error) if error is not None else ""
        return (), told(state, Alert(FAILED, job, run.queue, run, same, error), now_us)
    schedules = ("", run.schedule) if run.schedule else ("",)
    recovered = tuple(
        r.JobRecovered(job, run.id, trouble.alert, rfc3339(trouble.since_us), schedule)
        for schedule in schedules
        if (trouble := state.alerts.troubles.get(subject_id(job, schedule))) is not None
    )
    if status != "completed" or not recovered:
        return (), ()
    longest = min(recovered, key=lambda each: each.since)  # One message, whatever it was.
    detail = {"after": longest.alert, "since": longest.since}
    alert = Alert(RECOVERED, job, run.queue, run, detail=detail | _named(longest.schedule))
    return recovered, told(state, alert, now_us)


def _named(schedule: str) -> dict[str, str]:
    return {"schedule": schedule} if schedule else {}


def _is_called(state: State, run: Run) -> bool:
    """Does the run that started this one wait for it?"""
    waiting = state.awaited.get(run.chain or run.id, ())
    return run.parent is not None and any(
        waiter == run.parent and bool(step) for waiter, step in waiting
    )


def late(state: State, run: Run, now_us: int) -> Decision:
    """Note that a run takes longer than its job says; it goes on."""
    record = r.RunLate(run.id, run.max_runtime_ms)
    detail = {"started_at": rfc3339(run.begun_us), "max_runtime_ms": run.max_runtime_ms}
    job = subject_name(run.job, run.labels)
    alert = Alert(LATE, job, run.queue, run, "runtime", detail=detail)
    return Decision((record, *told(state, alert, now_us)))


def cut_off(state: State, interrupted: int, last_us: int, now_us: int) -> tuple[r.AnyRecord, ...]:
    """What is told if the last daemon did not stop in good order: `last_us` is the time of its last
    record, and `interrupted` runs were executing."""
    if not state.alerts.was_cut_off:
        return ()
    detail = {
        "reason": "crashed",
        "last_at": rfc3339(last_us),
        "back_at": rfc3339(now_us),
        "interrupted": interrupted,
    }
    return told(state, Alert(DAEMON_STOPPED, detail=detail), now_us)


def stopping(state: State, _command: c.NoteStopping, now_us: int) -> Decision:
    """Tell that the daemon stops because it was asked to."""
    detail = {"reason": "asked", "last_at": rfc3339(now_us)}
    return Decision(told(state, Alert(DAEMON_STOPPED, detail=detail), now_us))


# --- Telling -------------------------------------------------------------------------------


def told(state: State, alert: Alert, now_us: int) -> tuple[r.AnyRecord, ...]:
    """The records by which everybody who wants to know of the alert is told, now or later."""
    return tuple(
        record
        for name in sorted(state.alerts.targets)
        for record in _to(state, state.alerts.targets[name], alert, now_us)
    )


def _to(state: State, target: Target, alert: Alert, now_us: int) -> Iterator[r.AnyRecord]:
    if not target.wants(alert.kind, alert.job, alert.queue):
        return
    key = _group_key(alert)
    subject = alert.run.id if alert.run is not None else ""
    open_group = state.alerts.groups.get(group_id(target.name, key))
    if open_group is not None and alert.kind != RECOVERED:
        until = rfc3339(open_group.until_us)
        yield r.AlertHeld(target.name, key, alert.kind, until, alert.job, subject)
        return
    if target.is_full(now_us):
        everything = state.alerts.groups.get(group_id(target.name, OVERFLOW))
        until = rfc3339(target.until_us if everything is None else everything.until_us)
        yield r.AlertHeld(target.name, OVERFLOW, alert.kind, until, alert.job, subject)
        return
    message = derived_id(f"{target.name} {key} {state.seq}", now_us)
    until_us = now_us + target.terms.quiet_ms * 1000
    yield r.AlertTold(
        target.name,
        key,
        alert.kind,
        message,
        alert.job,
        subject,
        until=None if alert.kind == RECOVERED or until_us <= now_us else rfc3339(until_us),
    )
    held = _held_about(state, target.name, alert.job) if alert.kind == RECOVERED else 0
    payload = {
        "notify": target.name,
        "alert": alert.kind,
        "job": alert.job,
        "queue": alert.queue,
        "run": subject or None,
        "count": 1,
        "error": shown_error(alert.error),
        "at": rfc3339(now_us),
        "detail": {**alert.detail, **({"held": held} if held else {})},
    }
    yield _message(target, message, payload, alert.run)


def _held_about(state: State, target: str, job: str) -> int:
    """How many alerts about a job are held and told with its recovery."""
    groups = state.alerts.groups.values()
    mine = (group for group in groups if group.target == target and group.key != OVERFLOW)
    return sum(group.count for group in mine if group.job == job)


def _group_key(alert: Alert) -> str:
    """What is the same: 12 hexadecimal digits."""
    text = "\0".join((alert.kind, alert.job, alert.same))
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _message(
    target: Target, message: str, payload: dict[str, Any], run: Run | None
) -> r.RunCreated:
    """The run that delivers a message."""
    return r.RunCreated(
        run=message,
        job=NOTIFY_JOB,
        queue=NOTIFY_QUEUE,
        payload=Raw(json.dumps(payload, separators=(",", ":")).encode("ascii")),
        retry=r.RetryTerms(target.terms.max_attempts, BACKOFF_MS, 2.0, MOST_BACKOFF_MS),
        timeout_ms=TRY_MS,
        labels={NAME_LABEL: f"notify {target.name}"[:128], NOTIFY_LABEL: target.name},
        parent=run.id if run is not None else None,
    )


# --- Groups whose time is over -------------------------------------------------------------


def group_is_over(state: State, key: str, now_us: int) -> Decision:
    """Tell what a group holds, unless its target has been told as much as it is to be; if that is
    nothing, the group is closed."""
    group = state.alerts.groups.get(key)
    if group is None:
        return NOTHING
    if not group.count:
        return Decision((r.AlertClosed(group.target, group.key),))
    target = state.alerts.targets[group.target]
    if target.is_full(now_us):
        until = rfc3339(target.until_us)
        return Decision((r.AlertPostponed(target.name, group.key, until),))
    run = state.runs.get(group.subject)
    message = derived_id(f"{target.name} {group.key} {state.seq}", now_us)
    span_us = min(2 * group.span_us, max(MOST_SPAN_MS * 1000, group.span_us))
    closes = group.key == OVERFLOW
    record = r.AlertTold(
        target.name,
        group.key,
        group.alert,
        message,
        group.job,
        group.subject,
        group.count,
        None if closes else rfc3339(now_us + span_us),
    )
    payload = {
        "notify": target.name,
        "alert": group.alert,
        "job": group.job,
        "queue": run.queue if run is not None else "",
        "run": group.subject or None,
        "count": group.count,
        "error": shown_error(run.error) if run is not None else None,
        "at": rfc3339(group.last_us),
        "detail": _held_detail(group),
    }
    return Decision((record, _message(target, message, payload, run)))


def _held_detail(group: Group) -> dict[str, Any]:
    detail: dict[str, Any] = {"since": rfc3339(group.first_us)}
    if group.named:
        detail["named"] = {name[:MOST_TEXT]: n for name, n in sorted(group.named.items())}
    return detail


# --- Whom to tell --------------------------------------------------------------------------


def define(state: State, command: c.DefineNotify, _now_us: int) -> Decision:
    """Record the targets that are new, have changed, or are no longer in the file."""
    records: list[r.AnyRecord] = []
    for name, terms in sorted(command.notify.items()):
        known = state.alerts.targets.get(name)
        if known is None or known.terms != terms:
            records.append(r.NotifyDefined(name, terms))
    records.extend(
        r.NotifyRetired(name) for name in sorted(state.alerts.targets.keys() - command.notify)
    )
    return Decision(tuple(records))
