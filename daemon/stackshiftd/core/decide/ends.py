"""How executions and runs end: completed, failed, lost, stopped, cancelled.

A run's end, the word of it to all that wait for it, and the locks that it gives back are one
append: nothing can come between.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from msgspec import Raw

from stackshift_jobs.values.durations import rfc3339
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.decide.backoff import delay_ms
from stackshiftd.core.decide.lock_release import LockRelease, holds
from stackshiftd.core.effects import (
    NOTHING,
    Changed,
    Decision,
    Effect,
    Resolve,
    Stop,
)
from stackshiftd.core.state.state import Run, State, Status


class End(NamedTuple):
    """How a run ended, for all that wait for it."""

    status: str
    result: Raw = r.NULL
    error: r.Error | None = None


def end_wait(state: State, run: Run, record: r.WaitEnded) -> Decision:
    """The records and effects of a wait's end, whether the handler is in memory or not."""
    if run.token and run.status is Status.RUNNING:
        return Decision((record,), (Resolve(run.id, run.token, record.step),))
    return Decision((record,))


def complete(state: State, run: Run, command: c.CompleteRun, now_us: int) -> Decision:
    """The handler has returned."""
    record = r.RunCompleted(run.id, run.attempt, command.result)
    return finish(state, run, (record,), End("completed", command.result), now_us)


def fail(state: State, run: Run, command: c.FailAttempt, now_us: int) -> Decision:
    """The handler has raised."""
    return attempt_failed(
        state,
        run,
        command.error,
        now_us,
        retryable=command.retryable,
        retry_after_ms=command.retry_after_ms,
        step=command.step,
        more_steps=command.more_steps,
    )


def attempt_failed(
    state: State,
    run: Run,
    error: r.Error,
    now_us: int,
    *,
    retryable: bool = True,
    retry_after_ms: int | None = None,
    step: str | None = None,
    more_steps: Sequence[str] = (),
    stopped: bool = True,
) -> Decision:
    """The attempt is over; another comes, or the run has failed for good."""
    used = run.attempts_used
    if retryable and used < run.retry.max_attempts:
        wait_ms = retry_after_ms
        if wait_ms is None:
            wait_ms = delay_ms(run.retry, used, run.id)
        retry_at = rfc3339(now_us + wait_ms * 1000)
        failed = r.AttemptFailed(
            run.id, run.attempt, error, step, retry_at, stopped, list(more_steps)
        )
        return Decision((failed,))
    records = (
        r.AttemptFailed(run.id, run.attempt, error, step, None, stopped, list(more_steps)),
        r.RunFailed(run.id, run.attempt, error, "attempts" if retryable else "non_retryable"),
    )
    return finish(state, run, records, End("failed", error=error), now_us, stopped=stopped)


def over_limit(state: State, run: Run, step: str, size: int, now_us: int) -> Decision | None:
    """The failure of a run that would record more than it may; trying again would not help."""
    if step not in run.calls and len(run.calls) >= run.limits.steps:
        told = f"the run has recorded {len(run.calls)} calls, the limit is {run.limits.steps}"
    elif run.bytes_recorded + size > run.limits.bytes:
        told = f"the run's results are over {run.limits.bytes} bytes"
    else:
        return None
    error = r.Error(
        "LimitExceeded", f"{told}: split the work into runs of its own, or raise [limits]"
    )
    failed = attempt_failed(state, run, error, now_us, retryable=False, stopped=False)
    return Decision(failed.records, (*failed.effects, Stop(run.id, run.token, "limit")))


def finish(
    state: State,
    run: Run,
    records: tuple[r.AnyRecord, ...],
    end: End,
    now_us: int,
    *,
    stopped: bool = True,
    gone: frozenset[str] = frozenset(),
    before: int = 0,
) -> Decision:
    """`records` end the run: whoever waits for it learns of it in the same append, and its locks
    pass on (if its handler has `stopped`; else when it has). `gone` are the runs that end with it,
    `before` the records that stand before these."""
    release = LockRelease(state, now_us, gone)
    if stopped:
        release.release_all(run, before)
    records = (*release.records, *records)
    effects: list[Effect] = [*release.effects]
    added: list[r.AnyRecord] = []
    for waiter_id, step in state.awaited.get(run.id, ()):
        ended = r.WaitEnded(waiter_id, step, end.status, end.result, end.error)
        told = end_wait(state, state.runs[waiter_id], ended)
        added.extend(told.records)
        effects.extend(told.effects)
    return Decision((*records, *added), tuple(effects))


def confirm_stop(state: State, run: Run, _command: c.ConfirmStop, now_us: int) -> Decision:
    """The handler of an attempt that was over has left; its slot is free."""
    if run.status is Status.RUNNING:
        return NOTHING
    return _stopped(state, run, now_us)


def _stopped(state: State, run: Run, now_us: int, before: int = 0) -> Decision:
    """The locks of a run that has ended are given back only now that nothing executes for it; so
    are those of one that a person has sent on meanwhile: it takes them anew."""
    release = LockRelease(state, now_us)
    for key in run.locks:
        if run.finished or not holds(state, run, key):
            release.release(key, "run", before)
    stopped = r.AttemptStopped(run.id, run.attempt)
    return Decision((*release.records, stopped), tuple(release.effects))


def lose(state: State, run: Run, command: c.LoseExecution, now_us: int) -> Decision:
    """The worker of an execution is gone."""
    return _lost(state, run, command.reason, command.ours, now_us)


def _lost(
    state: State, run: Run, reason: str, ours: bool, now_us: int, before: int = 0
) -> Decision:
    if run.status is not Status.RUNNING:
        return _stopped(state, run, now_us, before)
    lost = r.AttemptLost(run.id, run.attempt, reason, ours)
    if ours or not run.suspect or run.progressed:
        return Decision((lost,))
    error = r.Error(
        "WorkerDied",
        f"{run.deaths + 1} workers died under this run without anything new recorded, "
        f"the last with nothing else in it: {reason}",
    )
    records = (lost, r.RunFailed(run.id, run.attempt, error, "poisonous"))
    return finish(state, run, records, End("failed", error=error), now_us)


def claimed(state: State, _command: c.Claimed, now_us: int) -> Decision:
    """No worker outlives its daemon: all that executed goes on under new tokens."""
    records: list[r.AnyRecord] = []
    for run in state.runs.values():
        if run.token:
            told = _lost(state, run, "the daemon went away", True, now_us, len(records))
            records.extend(told.records)
    return Decision(tuple(records))


def cancel_run(state: State, command: c.CancelRun, now_us: int) -> Decision:
    """Final from here on, for the run and for those that it called."""
    run = state.runs.get(command.run)
    if run is None or run.finished:
        return Decision(reply=Changed(command.run, False))
    made = cancel(state, run, "requested", now_us)
    return Decision(made.records, made.effects, Changed(run.id, True))


def cancel(state: State, run: Run, reason: str, now_us: int, before: int = 0) -> Decision:
    """Cancel an unfinished run, and those that it called. `before` records of the same append stand
    before these."""
    records: list[r.AnyRecord] = []
    effects: list[Effect] = []
    gone = frozenset(found.id for found in _with_children(state, run))
    for each in _with_children(state, run):
        ended = finish(
            state,
            each,
            (r.RunCancelled(each.id, reason),),
            End("cancelled"),
            now_us,
            stopped=not each.token,
            gone=gone,
            before=before + len(records),
        )
        # A parent that is cancelled in this same append needs no word of its child.
        records.extend(
            record
            for record in ended.records
            if not (isinstance(record, r.WaitEnded) and record.run in gone)
        )
        effects.extend(
            effect
            for effect in ended.effects
            if not (isinstance(effect, Resolve) and effect.run in gone)
        )
        if each.token:
            effects.append(Stop(each.id, each.token, "cancelled"))
        reason = "parent"
    return Decision(tuple(records), tuple(effects))


def _with_children(state: State, run: Run) -> Iterator[Run]:
    """The run, and below it all unfinished runs that are cancelled with it."""
    left = [run]
    while left:
        run = left.pop()
        yield run
        found = (state.runs.get(child) for child in run.children)
        left.extend(child for child in found if child is not None and not child.finished)
