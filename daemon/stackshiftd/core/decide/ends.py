"""How executions and runs end: completed, failed, lost, stopped, cancelled.

The end of a run, the ends of all waits for it, and the release of its locks are one append: nothing
can come between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
from msgspec import Raw

from stackshift_jobs.errors import error_text
from stackshift_jobs.values.durations import rfc3339
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.decide.backoff import admits, next_try_us
from stackshiftd.core.decide.follow_ups import follow_up
from stackshiftd.core.decide.gentle import is_untold, may_be_told, parents_told
from stackshiftd.core.decide.lock_release import LockRelease, holds
from stackshiftd.core.decide.monitoring.alerts import cut_off, of_end
from stackshiftd.core.effects import (
    NOTHING,
    Decision,
    Effect,
    Resolve,
    Stop,
)
from stackshiftd.core.state.state import CLEARED_US, MOST_DEATHS, Run, State, Status


class End(NamedTuple):
    """How a run ended, for the runs that wait for it."""

    status: str
    result: Raw = r.NULL
    error: r.Error | None = None


_OF_WAITERS = (r.WaitEnded, r.CallWithdrawn, r.RunPreceded)


def end_wait(run: Run, record: r.WaitEnded) -> Decision:
    """End a wait of `run`; if its handler is in memory, it is told the outcome."""
    if run.token and run.status is Status.RUNNING:
        return Decision((record,), (Resolve(run.id, run.token, record.step),))
    return Decision((record,))


def complete(state: State, run: Run, command: c.CompleteRun, now_us: int) -> Decision:
    """Complete the run: its handler has returned."""
    record = r.RunCompleted(run.id, run.attempt, command.result)
    return finish(state, run, (record,), End("completed", command.result), now_us)


def continue_as(state: State, run: Run, command: c.ContinueRun, now_us: int) -> Decision:
    """Complete the run, and create the one as which it continues. Who waits for it goes on waiting,
    and its parent, if it is cancelled, takes the new run with it. An idempotency key stays with the
    run that began the chain, and a unique key goes on to the new run, before all that wait for
    it. So do a deadline and its follow-ups. A run that is to be cancelled gently does not
    continue."""
    if run.cancelling is not None:
        return cancel_told(state, run, now_us)
    orphans = _orphans(state, run, frozenset())
    left = frozenset(each.id for orphan in orphans for each in with_children(state, orphan))
    release = LockRelease(state, now_us, left)
    release.release_all(run)
    start = command.start
    completed = r.RunCompleted(run.id, run.attempt, r.NULL, start.run)
    created = r.RunCreated(
        run=start.run,
        job=start.job,
        queue=start.queue,
        payload=Raw(start.payload),
        retry=start.retry,
        limits=start.limits,
        timeout_ms=start.timeout_ms,
        priority=start.priority,
        concurrency_key=start.concurrency_key,
        unique=run.unique,
        labels=start.labels,
        parent=run.parent,
        parent_step=run.parent_step,
        cancel_with_parent=run.cancel_with_parent,
        ends_with_parent=run.ends_with_parent,
        deadline_at=rfc3339(run.deadline_us) if run.deadline_us else None,
        continues=run.id,
        chain=run.chain or run.id,
        on_failure=run.on_failure,
        on_success=run.on_success,
        max_runtime_ms=run.max_runtime_ms,
        schedule=run.schedule,
    )
    records = (*release.records, created, completed)
    cancelled = _cancel_orphans(state, run, orphans, now_us, len(records))
    return Decision((*records, *cancelled.records), (*release.effects, *cancelled.effects))


def fail(state: State, run: Run, command: c.FailAttempt, now_us: int) -> Decision:
    """End the attempt: its handler has raised. A step that has failed for good keeps its attempt
    from being retried, if it says so."""
    verdict = command.verdict
    steps = [*([command.step] if command.step is not None else []), *command.more_steps]
    if verdict.cancels:
        return _cancel_own(state, run, command.error.message, steps, now_us)
    failed = map(run.calls.get, steps)
    if any(call is not None and call.error and not call.error.retryable for call in failed):
        verdict = msgspec.structs.replace(verdict, retryable=False)
    return attempt_failed(
        state,
        run,
        command.error,
        now_us,
        verdict=verdict,
        step=command.step,
        more_steps=command.more_steps,
    )


def attempt_failed(
    state: State,
    run: Run,
    error: r.Error,
    now_us: int,
    *,
    verdict: c.Verdict = c.Verdict(),  # noqa: B008  # It cannot change.
    step: str | None = None,
    more_steps: Sequence[str] = (),
    stopped: bool = True,
) -> Decision:
    """End an attempt that failed: another one is scheduled, or the run fails for good. `stopped` is
    false while its handler still executes."""
    if run.undoing is not None:
        return _undo_failed(state, run, error, step, stopped, now_us)
    retry_us = next_try_us(run.retry, run.attempts_used, verdict, run.id, now_us)
    failed = r.AttemptFailed(
        run.id,
        run.attempt,
        error,
        step,
        rfc3339(retry_us) if retry_us is not None else None,
        stopped,
        list(more_steps),
        verdict.counts,
    )
    if retry_us is not None and may_be_told(state, run):
        return Decision((failed, r.RunQueued(run.id, "cancel")))  # It is not kept waiting.
    if retry_us is not None:
        return Decision((failed,))
    is_used_up = verdict.retryable and admits(run.retry, verdict.kinds)
    reason = "attempts" if is_used_up else "non_retryable"
    records = (failed, r.RunFailed(run.id, run.attempt, error, reason))
    return finish(state, run, records, End("failed", error=error), now_us, stopped=stopped)


def over_limit(state: State, run: Run, step: str, size: int, now_us: int) -> Decision | None:
    """Fail the run for good if recording `size` more bytes under `step` would exceed its limits;
    None if it would not. Trying again would not help."""
    if run.undoing is not None:
        return None  # What is done has to be undone.
    if step not in run.calls and len(run.calls) >= run.limits.steps:
        excess = f"the run has recorded {len(run.calls)} calls, the limit is {run.limits.steps}"
    elif run.bytes_recorded + size > run.limits.bytes:
        excess = f"the run's results exceed {run.limits.bytes} bytes"
    else:
        return None
    error = r.Error(
        "LimitExceeded", f"{excess}: split the work into several runs, or raise [limits]"
    )
    final = c.Verdict(retryable=False)
    failed = attempt_failed(state, run, error, now_us, verdict=final, stopped=False)
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
    also: tuple[Run, ...] = (),
    untold: frozenset[str] = frozenset(),
) -> Decision:
    """End the run by `records`. In the same append all waits for it end, the children that are to
    end with it are cancelled, and `also` these, and its locks are released if its handler has
    `stopped` (otherwise they are released when it has). `gone` are the runs that end with it;
    `before` is the number of records that precede these in the append, and `untold` are runs that
    begin to be cancelled gently in it. Its follow-up and what is told of it come last."""
    if begins_undo(run, records[-1]):
        return _undo_first(state, run, records, now_us, stopped, before, also)
    following = follow_up(state, run, end.status, end.result, end.error, now_us)
    if following is not None:
        records = tuple(_linked(record, following.run) for record in records)
    orphans = [*_orphans(state, run, gone), *also]
    recovered, of_end_told = of_end(state, run, end.status, end.error, now_us)
    # Before the end: what comes after that is no longer part of the run's timeline.
    records = (*recovered, *records)
    effects: list[Effect] = []
    if stopped and run.locks:
        left = {each.id for orphan in orphans for each in with_children(state, orphan)}
        release = LockRelease(state, now_us, gone | left)
        release.release_all(run, before)
        records = (*release.records, *records)
        effects += release.effects
    added: list[r.AnyRecord] = []
    for waiter_id, step in state.awaited.get(run.chain or run.id, ()):
        if not step:
            added.append(r.RunPreceded(waiter_id, run.chain or run.id, end.status))
            continue
        waiter = state.runs[waiter_id]
        if end.status != "completed" and (waiter_id in untold or is_untold(waiter)):
            # Its handler is told at this wait that it is cancelled itself.
            added.append(r.CallWithdrawn(waiter_id, waiter.attempt, step))
            continue
        ended = r.WaitEnded(waiter_id, step, end.status, end.result, end.error)
        wait_end = end_wait(waiter, ended)
        added.extend(wait_end.records)
        effects.extend(wait_end.effects)
    ending = (*records, *added)
    if orphans:
        cancelled = _cancel_orphans(state, run, orphans, now_us, before + len(ending))
        ending = (*ending, *cancelled.records)
        effects += cancelled.effects
    created = () if following is None else (following,)
    told: tuple[r.RunQueued, ...] = ()
    if run.parent is not None and not gone:  # Of runs that end together, `_cancel` tells it.
        told = parents_told(state, (run,), frozenset((run.id,)), woken(ending))
    return Decision((*ending, *told, *created, *of_end_told), tuple(effects))


_UNDONE_FAILURES: Final = ("attempts", "non_retryable", "deadline", "wait")
_UNDONE_CANCELS: Final = ("gently", "grace", "handler", "timeout")


def begins_undo(run: Run, record: r.AnyRecord) -> bool:
    """Is what the run has done to be undone before it ends by `record`?"""
    if isinstance(record, r.RunFailed):
        undone = record.reason in _UNDONE_FAILURES
    else:
        undone = isinstance(record, r.RunCancelled) and record.reason in _UNDONE_CANCELS
    return undone and run.undoing is None and bool(run.still_done)


def _undo_first(
    state: State,
    run: Run,
    records: tuple[r.AnyRecord, ...],
    now_us: int,
    stopped: bool,
    before: int,
    also: tuple[Run, ...],
) -> Decision:
    """Let the run undo what it has done before it ends as the last of `records` says. Runs that a
    call of its handler waited for (`also`) are cancelled now."""
    *earlier, end = records
    if isinstance(end, r.RunFailed):
        steps = [end.step] if end.step is not None else []
        begun = r.UndoStarted(
            run.id, run.attempt, "failed", end.reason, end.error, "", steps, stopped
        )
    else:
        assert isinstance(end, r.RunCancelled)
        begun = r.UndoStarted(
            run.id, run.attempt, "cancelled", end.reason, None, end.message, end.steps, stopped
        )
    whole = (*earlier, begun)
    if not also or begun.status != "failed":
        return Decision(whole)
    cancelled = cancel_called(state, run, begun.steps[0], now_us, before + len(whole))
    return Decision((*whole, *cancelled.records), cancelled.effects)


def finish_undo(state: State, run: Run, _command: c.FinishUndo, now_us: int) -> Decision:
    """End a run whose steps are undone, as it would have ended before."""
    undoing = run.undoing
    if undoing is None:
        return NOTHING
    if undoing.status == "cancelled":
        over = r.RunCancelled(run.id, undoing.reason, undoing.message)
        return finish(state, run, (over,), End("cancelled"), now_us)
    error = undoing.error or r.Error("Error", "")
    failed = r.RunFailed(run.id, run.attempt, error, undoing.reason)
    return finish(state, run, (failed,), End("failed", error=error), now_us)


def _undo_failed(
    state: State, run: Run, error: r.Error, step: str | None, stopped: bool, now_us: int
) -> Decision:
    """Fail a run for good because an undo has failed: it says what is still done."""
    undoing = run.undoing
    assert undoing is not None
    first = undoing.error
    why = f": {error_text(first.type, first.message)}" if first is not None else ""
    what = f"{step}: " if step is not None else ""
    done = [f"{name} (perhaps)" if name in run.tries else name for name in run.still_done]
    text = (
        f"{what}{error_text(error.type, error.message)}; still done: {', '.join(done)} "
        f"(the run was {undoing.status} before that{why})"
    )
    told = msgspec.structs.replace(error, type="UndoFailed", message=text, retryable=False)
    failed = r.AttemptFailed(run.id, run.attempt, error, step, None, stopped)
    records = (failed, r.RunFailed(run.id, run.attempt, told, "undo"))
    return finish(state, run, records, End("failed", error=told), now_us, stopped=stopped)


def woken(records: Iterable[r.AnyRecord]) -> frozenset[str]:
    """The runs that these records queue, if they were suspended."""
    queueing = r.WaitEnded | r.RunQueued | r.UndoStarted
    return frozenset(each.run for each in records if isinstance(each, queueing))


def _linked(record: r.AnyRecord, follow_up: str) -> r.AnyRecord:
    """The record, which names the follow-up if it is the end of a run."""
    if isinstance(record, r.RunCompleted | r.RunFailed):
        return msgspec.structs.replace(record, follow_up=follow_up)
    return record


def _orphans(state: State, run: Run, gone: frozenset[str]) -> list[Run]:
    """The children that are to end with the run, and do not end with it anyway (`gone`)."""
    if not run.children:
        return []
    children = map(state.runs.get, run.children)
    return [
        child
        for child in children
        if child is not None
        and child.ends_with_parent
        and not child.finished
        and child.id not in gone
    ]


def _cancel_orphans(
    state: State, run: Run, orphans: Sequence[Run], now_us: int, before: int
) -> Decision:
    """Cancel children because their parent has ended; it waits for none of them any more."""
    ends = {orphan.id: r.RunCancelled(orphan.id, "parent_ended") for orphan in orphans}
    return _cancel(state, ends, now_us, before, frozenset({run.id}))


def confirm_stop(state: State, run: Run, _command: c.ConfirmStop, now_us: int) -> Decision:
    """Free the slot of an attempt that was over, now that its handler has stopped."""
    if run.status is Status.RUNNING:
        return NOTHING
    return _stopped(state, run, now_us)


def _stopped(state: State, run: Run, now_us: int, before: int = 0) -> Decision:
    """Note that the handler of a run has stopped, and release its locks: only now does nothing
    execute for it any more. If a person has retried the run meanwhile, it acquires them again."""
    release = LockRelease(state, now_us)
    for key in run.locks:
        if run.finished or not holds(state, run, key):
            release.release_of(run, key, "run", before)
    stopped = r.AttemptStopped(run.id, run.attempt)
    return Decision((*release.records, stopped), tuple(release.effects))


def lose(state: State, run: Run, command: c.LoseExecution, now_us: int) -> Decision:
    """Give up an execution whose worker is gone."""
    return _lost(state, run, command.reason, command.ours, now_us)


def _lost(
    state: State, run: Run, reason: str, ours: bool, now_us: int, before: int = 0
) -> Decision:
    if run.status is not Status.RUNNING:
        return _stopped(state, run, now_us, before)
    lost = r.AttemptLost(run.id, run.attempt, reason, ours)
    cleared = now_us - run.since_us >= CLEARED_US and run.deaths + 1 < MOST_DEATHS
    if ours or not run.suspect or run.progressed or cleared:
        return Decision((lost,))
    error = r.Error(
        "WorkerDied",
        f"{run.deaths + 1} workers in a row died while executing this run and recorded nothing "
        f"new; the last one was executing nothing else: {reason}",
    )
    records = (lost, r.RunFailed(run.id, run.attempt, error, "poisonous"))
    return finish(state, run, records, End("failed", error=error), now_us)


def claimed(state: State, command: c.Claimed, now_us: int) -> Decision:
    """Give up all executions: no worker outlives its daemon, so their runs resume under new
    tokens."""
    records: list[r.AnyRecord] = []
    executing = [run for run in state.runs.values() if run.token]
    for run in executing:
        loss = _lost(state, run, "the daemon went away", True, now_us, len(records))
        records.extend(loss.records)
    return Decision((*records, *cut_off(state, len(executing), command.last_us, now_us)))


def cancel(
    state: State,
    runs: Sequence[Run],
    reason: str,
    now_us: int,
    before: int = 0,
    *,
    by: str = "",
    untold: frozenset[str] = frozenset(),
) -> Decision:
    """Cancel unfinished runs, and those that they called. `before` is the number of records that
    precede these in the append; `by` is the run that replaces them; `untold` are runs that begin to
    be cancelled gently in this append."""
    ends = {run.id: r.RunCancelled(run.id, reason, by=by) for run in runs}
    return _cancel(state, ends, now_us, before, untold=untold)


def cancel_told(state: State, run: Run, now_us: int) -> Decision:
    """Cancel a run that was cancelled gently: its handler has ended."""
    return _cancel(state, {run.id: r.RunCancelled(run.id, "gently")}, now_us)


def _cancel_own(state: State, run: Run, message: str, steps: list[str], now_us: int) -> Decision:
    """Cancel the run, and those that it called: its handler has raised `CancelRun`, in one of
    `steps` if there are any, and so has stopped."""
    return _cancel(state, {run.id: r.RunCancelled(run.id, "handler", message, steps)}, now_us)


def _cancel(
    state: State,
    ends: Mapping[str, r.RunCancelled],
    now_us: int,
    before: int = 0,
    over: frozenset[str] = frozenset(),
    untold: frozenset[str] = frozenset(),
) -> Decision:
    """Cancel the runs that `ends` names by its records, and those that they called with them. The
    runs `over` have ended earlier in the same append, and `untold` begin to be cancelled gently."""
    records: list[r.AnyRecord] = []
    effects: list[Effect] = []
    roots = (state.runs[run] for run in ends)
    cancelled = {ending.id: ending for root in roots for ending in with_children(state, root)}
    # Those that undo what they have done have not ended yet.
    left = {name for name, each in cancelled.items() if begins_undo(each, _end_of(ends, name))}
    gone = over | (cancelled.keys() - left)
    for ending in cancelled.values():
        record = _end_of(ends, ending.id)
        executes = bool(ending.token) and record.reason not in ("handler", "gently")
        ended = finish(
            state,
            ending,
            (record,),
            End("cancelled"),
            now_us,
            stopped=not executes,
            gone=gone,
            before=before + len(records),
            untold=untold,
        )
        # The wait of a parent that is cancelled in this same append needs no end of its own.
        records.extend(
            record
            for record in ended.records
            if not (isinstance(record, _OF_WAITERS) and record.run in gone)
        )
        effects.extend(
            effect
            for effect in ended.effects
            if not (isinstance(effect, Resolve) and effect.run in gone)
        )
        if executes:
            effects.append(Stop(ending.id, ending.token, "cancelled"))
    ended_now = [each for name, each in cancelled.items() if name not in left]
    told = parents_told(state, ended_now, gone | untold, woken(records))
    return Decision((*records, *told), tuple(effects))


def _end_of(ends: Mapping[str, r.RunCancelled], run: str) -> r.RunCancelled:
    return ends.get(run) or r.RunCancelled(run, "parent")


def called(state: State, run: Run, step: str) -> tuple[Run, ...]:
    """The run that the call `step` has started and waits for; none if that has finished, or if it
    waits for a run that it has not started."""
    child = state.latest(run.calls[step].awaited)
    if child is None or child.finished or (child.parent, child.parent_step) != (run.id, step):
        return ()
    return (child,)


def cancel_called(state: State, run: Run, step: str, now_us: int, before: int) -> Decision:
    """Cancel the run that the call `step` has started and waited for, if it is unfinished: the call
    waits for it no more."""
    cancelled = cancel(state, called(state, run, step), "given_up", now_us, before)

    def is_own(what: object) -> bool:
        ends = isinstance(what, r.WaitEnded | Resolve)
        return ends and (what.run, what.step) == (run.id, step)  # type: ignore[attr-defined]

    return Decision(
        tuple(record for record in cancelled.records if not is_own(record)),
        tuple(effect for effect in cancelled.effects if not is_own(effect)),
    )


def fail_wait(
    state: State, run: Run, step: str, ended: r.WaitEnded, text: str, now_us: int
) -> Decision:
    """Fail the run for good because its wait `step` has timed out, by the record `ended`. A run
    that the call has started is cancelled."""
    error = r.Error("TimeoutError", text, retryable=False)
    records: list[r.AnyRecord] = [ended]
    effects: tuple[Effect, ...] = ()
    executes = bool(run.token) and run.status is Status.RUNNING
    if executes:
        records.append(r.AttemptFailed(run.id, run.attempt, error, step, None, False))
        effects = (Stop(run.id, run.token, "timeout"),)
    records.append(r.RunFailed(run.id, run.attempt, error, "wait", step))
    failed = finish(
        state,
        run,
        tuple(records),
        End("failed", error=error),
        now_us,
        stopped=not run.token,
        also=called(state, run, step),
    )
    return Decision(failed.records, (*failed.effects, *effects))


def with_children(state: State, run: Run) -> Iterator[Run]:
    """The run, followed by all unfinished runs below it that are cancelled with it."""
    left = [run]
    while left:
        run = left.pop()
        yield run
        children = map(state.runs.get, run.children)
        left.extend(child for child in children if child is not None and not child.finished)
