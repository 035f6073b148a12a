"""Decisions about runs as a whole: starting, dispatching and removing them."""

from __future__ import annotations

from msgspec import Raw

from stackshift_jobs.errors import Conflict
from stackshift_jobs.values.durations import rfc3339
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.decide.deadlines import expire, has_expired, limited
from stackshiftd.core.decide.ends import cancel
from stackshiftd.core.decide.predecessors import preceded
from stackshiftd.core.decide.unique import attach, taken
from stackshiftd.core.effects import NOTHING, Decision, Dispatch, Started
from stackshiftd.core.state.state import State


def start(state: State, command: c.StartRun, now_us: int, before: int = 0) -> Decision:
    """Create a run, or reuse the one that owns the command's key. Raises `Conflict` if the owner
    has another job or payload.

    If an unfinished run has the unique key, the start is refused with `Conflict`, attached to that
    run, replaces it in the same append, or waits for its turn, as `on_duplicate` says. `before` is
    the number of records that precede these in the append.
    """
    if command.key is not None and (owner := state.key_owner(command.key, now_us)) is not None:
        if owner.job == command.job and owner.digest == command.digest:
            return Decision(reply=Started(owner.run, True))
        raise Conflict(
            f"idempotency key {command.key!r} belongs to {owner.run} (job {owner.job}), "
            + (
                "which was started with a different payload"
                if owner.job == command.job
                else "a different job"
            ),
            hint=f"stackshift runs show {owner.run}, or start with another key",
            owner=owner.run,
        )
    owners = (
        state.unique_owners(command.unique)
        if command.unique and command.on_duplicate != "queue"
        else []
    )
    if owners and command.on_duplicate == "attach":
        return attach(command, owners[0])
    if owners and command.on_duplicate != "replace":
        raise taken(command.unique, owners[0])
    # By place as far as that goes: names would take longer than all else here.
    created = r.RunCreated(
        command.run,
        command.job,
        command.queue,
        Raw(command.payload),
        command.retry,
        command.limits,
        command.timeout_ms,
        command.priority,
        command.concurrency_key,
        command.labels,
        rfc3339(command.due_us) if command.due_us else None,
        command.key,
        command.key_ttl_ms,
        command.digest,
        unique=command.unique,
        after=[run for run, _ in command.after] if command.after else [],
        even_if_failed=command.even_if_failed,
        on_failure=command.on_failure,
        on_success=command.on_success,
        max_runtime_ms=command.max_runtime_ms,
        schedule=command.schedule,
    )
    if command.ttl_ms or command.deadline_ms:
        created = limited(created, command, now_us)
    records: tuple[r.AnyRecord, ...] = (created,)
    if command.after:
        records += preceded(command)
    if not owners:
        return Decision(records, (), Started(command.run, False))
    replaced = cancel(state, owners, "replaced", now_us, before, by=command.run)
    reply = Started(command.run, False, replaced=tuple(owner.id for owner in owners))
    return Decision((*replaced.records, *records), replaced.effects, reply)


def assign(state: State, command: c.Assign, now_us: int) -> Decision:
    """Dispatch the next run to a worker, or hold it if the worker does not have its job; if its
    time to begin is over, cancel it instead."""
    run = state.next_suspect(now_us, command.pool) if command.alone else None
    if run is None:
        run = state.next_ready(now_us, command.pool)
    if run is None:
        return NOTHING
    if has_expired(run, now_us):
        return expire(state, run, now_us)
    code = command.codes.get(run.job)
    if code is None:
        return Decision((r.RunHeld(run.id),))
    record: r.AnyRecord
    if run.next_is_new:
        record = r.AttemptStarted(run.id, run.attempt + 1, command.worker, code)
    else:
        record = r.AttemptResumed(run.id, run.attempt, command.worker, code)
    return Decision((record,), (Dispatch(run.id, state.seq + 1, command.worker),))


def define_jobs(state: State, command: c.DefineJobs, _now_us: int) -> Decision:
    """Queue the held runs of jobs that workers have now."""
    return Decision(
        tuple(
            r.RunQueued(run_id, "job")
            for job, held in state.held.items()
            if job in command.codes
            for run_id in held
        )
    )


def remove(state: State, command: c.RemoveRun, _now_us: int) -> Decision:
    """Remove a finished run. Raises `Conflict` if it is unfinished or its handler still
    executes."""
    run = state.runs.get(command.run)
    if run is not None and not (run.finished and not run.token):
        raise Conflict(
            f"{run.id} is {run.status}; only a finished run can be removed",
            hint=f"stackshift runs cancel {run.id}",
            owner=run.id,
        )
    return Decision((r.RunRemoved(command.run),))
