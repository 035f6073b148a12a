"""Decisions about runs that are out of time: not begun within their ttl, or not ended by their
deadline.

Both are times on record, from when the run was due. A retry by a person gives a run no ttl, and its
deadline again.
"""

from __future__ import annotations

from stackshift_jobs.values.durations import rfc3339
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.decide.ends import End, cancel, finish
from stackshiftd.core.effects import Decision, Stop
from stackshiftd.core.state.state import Run, State, Status


def limited(record: r.RunCreated, command: c.StartRun, now_us: int) -> r.RunCreated:
    """The `run.created` with the times at which it expires and has to have ended."""
    due_us = max(command.due_us, now_us)
    fields = {name: getattr(record, name) for name in record.__struct_fields__}
    if command.ttl_ms:
        fields["expires_at"] = rfc3339(due_us + command.ttl_ms * 1000)
    if command.deadline_ms:
        fields["deadline_at"] = rfc3339(due_us + command.deadline_ms * 1000)
    return r.RunCreated(**fields)


def has_expired(run: Run, now_us: int) -> bool:
    """Is its time to begin over? What is due counts before it is on record."""
    return 0 < run.expires_us <= now_us


def expire(state: State, run: Run, now_us: int) -> Decision:
    """Cancel a run that has not begun in time."""
    return cancel(state, (run,), "expired", now_us)


def exceed(state: State, run: Run, now_us: int) -> Decision:
    """Fail a run that has not ended by its deadline; whatever executes for it is stopped."""
    error = r.Error(
        "DeadlineExceeded",
        f"the run had not ended by its deadline, {rfc3339(run.deadline_us)[:19]}Z",
        retryable=False,
    )
    records: tuple[r.AnyRecord, ...] = (r.RunFailed(run.id, run.attempt, error, "deadline"),)
    stops: tuple[Stop, ...] = ()
    if run.status is Status.RUNNING:
        failed = r.AttemptFailed(run.id, run.attempt, error, stopped=False)
        records = (failed, *records)
        stops = (Stop(run.id, run.token, "timeout"),)
    ended = finish(state, run, records, End("failed", error=error), now_us, stopped=not run.token)
    return Decision(ended.records, (*ended.effects, *stops))
