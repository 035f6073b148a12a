"""How executions and runs end: completed, failed, lost, stopped, cancelled.

A run's end and the word of it to all that wait for it are one append: nothing can come between.
"""

from __future__ import annotations

from collections.abc import Iterator

from stackshift_jobs.durations import rfc3339
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.effects import (
    NOTHING,
    Cancelled,
    Decision,
    Effect,
    Finished,
    Resolve,
    Stop,
)
from stackshiftd.core.retry import delay_ms
from stackshiftd.core.state import Run, State, Status


def current(state: State, run_id: str, token: int) -> Run | None:
    """The run, if the execution `token` is its current one and it may still say something."""
    run = state.runs.get(run_id)
    if run is None or run.token != token or run.status is not Status.RUNNING:
        return None
    return run


def end_wait(state: State, run: Run, record: r.WaitEnded) -> Decision:
    """The records and effects of a wait's end, whether the handler is in memory or not."""
    if run.token and run.status is Status.RUNNING:
        return Decision((record,), (Resolve(run.id, run.token, record.step),))
    return Decision((record,))


def decide_complete(state: State, command: c.CompleteRun, now_us: int) -> Decision:
    """The handler has returned."""
    run = current(state, command.run, command.token)
    if run is None:
        return decide_stopped(state, c.ConfirmStop(command.run, command.token), now_us)
    record = r.RunCompleted(run.id, run.attempt, command.result)
    finished = Finished(run.id, "completed", command.result, None)
    return _finish(state, run, (record,), finished)


def decide_fail(state: State, command: c.FailAttempt, now_us: int) -> Decision:
    """The handler has raised."""
    run = current(state, command.run, command.token)
    if run is None:
        return decide_stopped(state, c.ConfirmStop(command.run, command.token), now_us)
    return attempt_failed(
        state, run, command.error, now_us, retryable=command.retryable,
        retry_after_ms=command.retry_after_ms, step=command.step,
    )  # fmt: skip


def attempt_failed(
    state: State,
    run: Run,
    error: r.Error,
    now_us: int,
    *,
    retryable: bool = True,
    retry_after_ms: int | None = None,
    step: str | None = None,
    stopped: bool = True,
) -> Decision:
    """The attempt is over; another comes, or the run has failed for good."""
    used = run.attempts_used
    if retryable and used < run.retry.max_attempts:
        wait_ms = retry_after_ms
        if wait_ms is None:
            wait_ms = delay_ms(run.retry, used, run.id)
        retry_at = rfc3339(now_us + wait_ms * 1000)
        return Decision((r.AttemptFailed(run.id, run.attempt, error, step, retry_at, stopped),))
    records = (
        r.AttemptFailed(run.id, run.attempt, error, step, None, stopped),
        r.RunFailed(run.id, run.attempt, error, "attempts" if retryable else "non_retryable"),
    )
    return _finish(state, run, records, Finished(run.id, "failed", r.NULL, error))


def _finish(
    state: State, run: Run, records: tuple[r.AnyRecord, ...], finished: Finished
) -> Decision:
    """`records` end the run: whoever waits for it learns of it in the same append."""
    effects: list[Effect] = [finished]
    added: list[r.AnyRecord] = []
    for waiter_id, step in state.awaited.get(run.id, ()):
        ended = r.WaitEnded(waiter_id, step, finished.status, finished.result, finished.error)
        told = end_wait(state, state.runs[waiter_id], ended)
        added.extend(told.records)
        effects.extend(told.effects)
    return Decision((*records, *added), tuple(effects))


def decide_stopped(state: State, command: c.ConfirmStop, now_us: int) -> Decision:
    """The handler of an attempt that was over has left; its slot is free."""
    run = state.runs.get(command.run)
    if run is None or not run.token or run.token != command.token:
        return NOTHING
    if run.status is Status.RUNNING:
        return NOTHING
    return Decision((r.AttemptStopped(run.id, run.attempt),))


def decide_lost(state: State, command: c.LoseExecution, now_us: int) -> Decision:
    """The worker of an execution is gone."""
    run = state.runs.get(command.run)
    if run is None or not run.token or run.token != command.token:
        return NOTHING
    return _lost(state, run, command.reason, command.ours)


def _lost(state: State, run: Run, reason: str, ours: bool) -> Decision:
    if run.status is not Status.RUNNING:
        return Decision((r.AttemptStopped(run.id, run.attempt),))
    lost = r.AttemptLost(run.id, run.attempt, reason, ours)
    if ours or not run.suspect or run.progressed:
        return Decision((lost,))
    error = r.Error(
        "WorkerDied",
        f"{run.deaths + 1} workers died under this run without anything new recorded, "
        f"the last with nothing else in it: {reason}",
    )
    records = (lost, r.RunFailed(run.id, run.attempt, error, "poisonous"))
    return _finish(state, run, records, Finished(run.id, "failed", r.NULL, error))


def decide_claimed(state: State, command: c.Claimed, now_us: int) -> Decision:
    """No worker outlives its daemon: all that executed goes on under new tokens."""
    records: list[r.AnyRecord] = []
    for run in state.runs.values():
        if run.token:
            records.extend(_lost(state, run, "the daemon went away", True).records)
    return Decision(tuple(records))


def decide_cancel(state: State, command: c.CancelRun, now_us: int) -> Decision:
    """Final from here on, for the run and for those that it called."""
    run = state.runs.get(command.run)
    if run is None or run.finished:
        return Decision(reply=Cancelled(command.run, False))
    records: list[r.AnyRecord] = []
    effects: list[Effect] = []
    reason = "requested"
    gone = {found.id for found in _with_children(state, run)}
    for each in _with_children(state, run):
        finished = Finished(each.id, "cancelled", r.NULL, None)
        ended = _finish(state, each, (r.RunCancelled(each.id, reason),), finished)
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
    return Decision(tuple(records), tuple(effects), Cancelled(run.id, True))


def _with_children(state: State, run: Run) -> Iterator[Run]:
    """The run, and below it all unfinished runs that are cancelled with it."""
    left = [run]
    while left:
        run = left.pop()
        yield run
        found = (state.runs.get(child) for child in run.children)
        left.extend(child for child in found if child is not None and not child.finished)
