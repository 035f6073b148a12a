"""The fold of `run.*`: how runs begin, become ready, end, leave memory and are retried.

A record that includes earlier records of a run (`run.retried`, a fork's `run.created`) is folded
together with the run rebuilt from them. `fold.fold` does the rebuilding, since that takes the whole
fold and not only this part of it.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Final, TypeVar

from stackshift_jobs.values.durations import from_rfc3339
from stackshiftd.core import records as r
from stackshiftd.core.fold import alerts
from stackshiftd.core.fold.attempts import drop_finished, forget_failed, free_slot
from stackshiftd.core.fold.calls import await_call, forget_waits, withdraw_takers
from stackshiftd.core.fold.recorded import keep, remember, size
from stackshiftd.core.fold.transitions import move
from stackshiftd.core.state.alerts import is_message
from stackshiftd.core.state.state import (
    AFTER,
    GRACE,
    PENDING,
    SPILL_BYTES,
    Call,
    CallKind,
    Cancelling,
    KeyEntry,
    Phase,
    Run,
    State,
    Status,
    Tries,
    Undoing,
)

T = TypeVar("T")


def created(state: State, entry: r.Entry, record: r.RunCreated, source: Run | None) -> None:
    """Create a run; a fork of `source` inherits its recorded calls except the forgotten ones."""
    run = _new(state, entry, record)
    if source is not None:
        _inherit(run, source, record)
        if any(name not in record.forgotten for name in source.calls):
            # What it reuses was decided by these.
            run.first_labels = source.first_labels
    state.enter(run)
    if run.unique and run.continues is not None:
        state.unique.follow(run.unique, run.id, run.continues)
    if run.status is Status.QUEUED:
        state.make_ready(run)
    else:
        state.queue(run.queue)
        if run.unique:
            state.unique.schedule(run.unique, run.id)
    if run.scheduled_us > entry.at_us:
        state.set_timer(run.scheduled_us, run.id)
    for predecessor in run.after:
        state.awaited.setdefault(predecessor, []).append((run.id, ""))
    if run.expires_us or run.deadline_us:
        state.limit_run(run)
    if run.parent is not None:
        _adopt(state, run)
    if run.chain is not None:
        state.chains[run.chain] = run.id
    if record.key is not None:
        _keep_key(state, entry, record, record.key)


def _new(state: State, entry: r.Entry, record: r.RunCreated) -> Run:
    due_us = from_rfc3339(record.scheduled_at) if record.scheduled_at else 0
    waits = due_us > entry.at_us
    # By place, and the rest only where the record says it: names would take a third of this fold.
    run = Run(
        record.run,
        record.job,
        record.queue,
        keep(state, record.payload, entry.seq),
        record.retry,
        record.limits,
        record.timeout_ms,
        record.priority,
        record.concurrency_key,
        record.unique,
        record.labels,
        record.key,
        record.parent,
        record.parent_step,
        record.forked_from,
        record.cancel_with_parent,
        entry.seq,
        entry.at_us,
        due_us,
        due_us if waits else entry.at_us,
        _first_status(waits, record),
        {},
    )
    run.ends_with_parent = record.ends_with_parent
    run.continues = record.continues
    run.chain = record.chain
    run.even_if_failed = record.even_if_failed
    run.on_failure = record.on_failure
    run.on_success = record.on_success
    run.max_runtime_ms = record.max_runtime_ms
    run.schedule = record.schedule
    if record.after:
        run.after = list(record.after)
    if record.expires_at:
        run.expires_us = from_rfc3339(record.expires_at)
    if record.deadline_at:
        run.deadline_us = from_rfc3339(record.deadline_at)
        run.deadline_span_us = run.deadline_us - run.place_us
    return run


def _inherit(run: Run, source: Run, record: r.RunCreated) -> None:
    """Give a fork what its source has recorded. What that has done is not the fork's to undo."""
    run.calls = _without(source.calls, record.forgotten)
    for call in run.calls.values():
        call.undo = False
    run.tries = _without(source.tries, record.afresh)
    for tries in run.tries.values():
        tries.unsure_seq = 0


def _first_status(waits: bool, record: r.RunCreated) -> Status:
    if record.after:
        return Status.WAITING
    return Status.SCHEDULED if waits else Status.QUEUED


def _preceded(state: State, entry: r.Entry, record: r.RunPreceded) -> None:
    run = state.runs[record.run]
    _forget_predecessor(state, run, record.after)
    failed = record.status != "completed" and not run.even_if_failed
    if failed and run.failed_predecessor is None:
        run.failed_predecessor = record
    if not run.preceded_us and (failed or not run.after):
        run.preceded_us = entry.at_us
        state.set_timer(entry.at_us, run.id, limit=AFTER)


def _forget_predecessor(state: State, run: Run, predecessor: str) -> None:
    run.after.remove(predecessor)
    behind = state.awaited.get(predecessor, [])
    if (run.id, "") in behind:
        behind.remove((run.id, ""))
        if not behind:
            del state.awaited[predecessor]


def _attached(state: State, entry: r.Entry, record: r.RunAttached) -> None:
    _keep_key(state, entry, record, record.key)


def _adopt(state: State, run: Run) -> None:
    """Have an unfinished run cancelled together with its parent, if it is to be."""
    parent = state.runs.get(run.parent or "")
    if parent is not None and run.cancel_with_parent:
        parent.children.append(run.id)


def _disown(state: State, run: Run) -> None:
    """Undo `_adopt` for a finished run."""
    parent = state.runs.get(run.parent or "")
    if parent is not None and run.cancel_with_parent:
        parent.children.remove(run.id)


def _keep_key(state: State, entry: r.Entry, record: r.RunCreated | r.RunAttached, key: str) -> None:
    payload = bytes(record.payload)
    state.keys[key] = KeyEntry(
        run=record.run,
        job=record.job,
        digest=record.payload_digest,
        payload=payload if len(payload) <= SPILL_BYTES else b"",
        expires_us=entry.at_us + record.key_ttl_ms * 1000,
    )
    heappush(state.key_expiry, (state.keys[key].expires_us, key))
    # Up to two removals for one new key: the heap shrinks as long as any key is due. The moment of
    # removal is not observable: a key past its time is neither found nor part of the state's hash.
    for _ in range(2):
        if not state.key_expiry or state.key_expiry[0][0] > entry.at_us:
            break
        _, old = heappop(state.key_expiry)
        kept = state.keys.get(old)
        if kept is not None and kept.expires_us <= entry.at_us:
            if state.key_lives(kept, entry.at_us):
                heappush(state.key_expiry, (entry.at_us + 3_600_000_000, old))
            else:
                del state.keys[old]


def _lapse_key(state: State, run: Run, at_us: int) -> None:
    """Forget the key of a run that is retried after the key's time has passed: the retry does not
    make it valid again."""
    entry = state.keys.get(run.key or "")
    if entry is not None and entry.run == run.id and not state.key_lives(entry, at_us):
        del state.keys[run.key or ""]


def _queued(state: State, _entry: r.Entry, record: r.RunQueued) -> None:
    run = state.runs[record.run]
    if run.status is Status.RETRYING and run.next_is_new:
        run.place_us = run.retry_us
    run.preceded_us = 0  # What it was to begin after is behind it, also when it waits again.
    move(state, run, "run.queued")


def _moved(state: State, _entry: r.Entry, record: r.RunMoved) -> None:
    run = state.runs[record.run]
    if record.due_at is not None:
        _set_due(state, run, from_rfc3339(record.due_at))
    if record.priority is not None or record.queue is not None:
        priority = run.priority if record.priority is None else record.priority
        state.relocate(run, record.queue or run.queue, priority)
    if record.expires_at is not None:
        run.expires_us = from_rfc3339(record.expires_at)
    if record.deadline_at is not None:
        run.deadline_us = from_rfc3339(record.deadline_at)
    state.limit_run(run)


def _set_due(state: State, run: Run, due_us: int) -> None:
    """Let the run be due at `due_us`: for the first time, or for its next attempt, or the steps
    that it waits to try again."""
    if run.status is Status.RETRYING:
        run.retry_us = due_us
        state.set_timer(due_us, run.id)
    elif run.status is Status.WAITING:
        for name, call in run.calls.items():
            if call.phase is Phase.RETRYING:
                call.due_us = due_us
                state.set_call_timer(run.id, name, call)
    else:
        if run.status is Status.QUEUED:
            move(state, run, "run.moved")
            state.postpone_unique(run)
        run.scheduled_us = run.place_us = due_us
        state.set_timer(due_us, run.id)


def _labelled(state: State, entry: r.Entry, record: r.RunLabelled) -> None:
    run = state.runs[record.run]
    if run.first_labels is None:
        run.first_labels = run.labels
    state.index.change(run)
    run.labels = run.labels | record.labels
    remember(state, record.run, record.step, entry, b"null")


def _held(state: State, _entry: r.Entry, record: r.RunHeld) -> None:
    run = state.runs[record.run]
    move(state, run, "run.held")
    state.held.setdefault(run.job, {})[run.id] = None


def _completed(state: State, entry: r.Entry, record: r.RunCompleted) -> None:
    run = state.runs[record.run]
    run.result = keep(state, record.result, entry.seq)
    run.error = None
    run.continued_as = record.continued_as
    run.follow_up = record.follow_up
    free_slot(state, run, entry.at_us)
    if run.continued_as is None:
        alerts.succeeded(state, run, entry.at_us)
    _finish(state, run, entry, "run.completed")


def _failed(state: State, entry: r.Entry, record: r.RunFailed) -> None:
    run = state.runs[record.run]
    run.error = record.error
    run.follow_up = record.follow_up
    if run.undoing is not None and run.status is Status.RUNNING:
        free_slot(state, run, entry.at_us)
    if record.step is not None:
        run.calls.pop(record.step, None)
        run.failed_step = record.step
    _count_dead(state, run, 1)
    alerts.failed(state, run, entry.at_us)
    _finish(state, run, entry, "run.failed")


def _cancelled(state: State, entry: r.Entry, record: r.RunCancelled) -> None:
    run = state.runs[record.run]
    run.cancelled = record
    undone = run.undoing is not None and run.undoing.reason == record.reason
    if undone or record.reason in ("handler", "gently"):
        free_slot(state, run, entry.at_us)
    if record.steps:
        forget_failed(run, record.steps)
    _finish(state, run, entry, "run.cancelled")


def _cancel_requested(state: State, entry: r.Entry, record: r.CancelRequested) -> None:
    run = state.runs[record.run]
    grace_us = from_rfc3339(record.grace_at)
    if run.cancelling is None:
        run.cancelling = Cancelling(record.reason, entry.at_us, grace_us, record.first)
    else:
        run.cancelling.grace_us = grace_us
    state.set_timer(grace_us, run.id, limit=GRACE)


def _cancel_raised(state: State, entry: r.Entry, record: r.CancelRaised) -> None:
    run = state.runs[record.run]
    assert run.cancelling is not None, f"{run.id} is not to be cancelled"
    run.cancelling.raised_seq, run.cancelling.raised_us = entry.seq, entry.at_us
    run.cancelling.raised_at = record.step
    run.progressed = True


def _undo_started(state: State, entry: r.Entry, record: r.UndoStarted) -> None:
    run = state.runs[record.run]
    run.undoing = Undoing(record.status, record.reason, record.error, record.message)
    if run.token and record.stopped and run.status is Status.RUNNING:
        free_slot(state, run, entry.at_us)
    if record.steps:
        forget_failed(run, record.steps)
    withdraw_takers(state, run)
    run.next_is_new = False
    run.spent_us = run.deaths = run.deadline_us = run.retry_us = 0
    move(state, run, "undo.started")


def _finish(state: State, run: Run, entry: r.Entry, kind: str) -> None:
    run.finished_us = entry.at_us
    state.finished += 1
    move(state, run, kind)
    if run.continued_as is None:
        state.awaited.pop(run.chain or run.id, None)
        state.chains.pop(run.chain or run.id, None)
    forget_waits(state, run)
    for predecessor in list(run.after):
        _forget_predecessor(state, run, predecessor)
    _disown(state, run)
    drop_finished(state, run)


def retried(state: State, entry: r.Entry, record: r.RunRetried, rebuilt: Run | None) -> None:
    """Queue a finished run again with what it recorded; `rebuilt` is the run if it had left
    memory."""
    run = state.runs.get(record.run)
    if run is not None:
        _count_dead(state, run, -(run.status is Status.FAILED))
    else:
        assert rebuilt is not None, f"{record.run} is retried without its records"
        run = rebuilt
        state.enter(run)
        run.children = [
            child.id
            for child in state.runs.values()
            if child.parent == run.id and child.cancel_with_parent and not child.finished
        ]
        state.queue(run.queue)
    state.retried[run.id] = None
    _adopt(state, run)
    if run.chain is not None:
        state.chains[run.chain] = run.id
    _lapse_key(state, run, entry.at_us)
    run.calls = _without(run.calls, record.forgotten)
    unsure = {name: tries.unsure_seq for name, tries in run.tries.items() if tries.unsure_seq}
    run.tries = _without(run.tries, record.afresh)
    for name, seq in unsure.items():
        run.tries.setdefault(name, Tries()).unsure_seq = seq
    for name, value in record.replaced.items():
        kept = keep(state, value, entry.seq)
        before = run.calls.get(name)
        # It keeps its place among the outcomes, by which races are decided.
        seq, at_us = (before.seq, before.at_us) if before is not None else (entry.seq, entry.at_us)
        run.calls[name] = Call(CallKind.RUN, Phase.COMPLETED, seq, kept, tried=1, at_us=at_us)
    run.attempts_before = run.attempt
    run.next_is_new = True
    run.progressed = False
    run.finished_us = run.spent_us = run.deaths = 0
    run.begun_us = run.late_us = 0
    run.error = run.result = None
    run.cancelled = run.failed_predecessor = run.follow_up = run.cancelling = None
    run.undoing = run.undoing if record.undoing else None
    run.after = []
    run.expires_us = run.preceded_us = 0
    run.deadline_us = entry.at_us + run.deadline_span_us if run.deadline_span_us else 0
    run.bytes_recorded = sum(
        size(step.body)
        for step in run.calls.values()
        if step.kind in (CallKind.RUN, CallKind.VALUE)
    )
    run.place_us = entry.at_us
    move(state, run, "run.retried")
    state.limit_run(run)
    # A sleep that was under way when the run ended continues. A child that was under way was
    # cancelled with the run, or is awaited again.
    for name, step in run.calls.items():
        if step.phase in PENDING:
            await_call(state, run, name, step)


def _without(steps: dict[str, T], forgotten: list[str]) -> dict[str, T]:
    gone = frozenset(forgotten)
    return {name: step for name, step in steps.items() if name not in gone}


def _removed(state: State, _entry: r.Entry, record: r.RunRemoved) -> None:
    run = state.runs.get(record.run)
    if run is None:
        return
    if run.status is Status.FAILED:
        _count_dead(state, run, -1)
    state.leave(run.id)


def _discarded(state: State, _entry: r.Entry, record: r.RunDiscarded) -> None:
    _count_dead(state, state.runs[record.run], -1)
    state.leave(record.run)


def _count_dead(state: State, run: Run, more: int) -> None:
    state.dead += more
    if is_message(run.job):
        state.undelivered += more


BY_TYPE: Final[dict[type[r.Record], Callable[[State, r.Entry, Any], None]]] = {
    r.RunPreceded: _preceded,
    r.RunAttached: _attached,
    r.RunQueued: _queued,
    r.RunMoved: _moved,
    r.RunHeld: _held,
    r.RunLabelled: _labelled,
    r.RunCompleted: _completed,
    r.RunFailed: _failed,
    r.RunCancelled: _cancelled,
    r.CancelRequested: _cancel_requested,
    r.CancelRaised: _cancel_raised,
    r.UndoStarted: _undo_started,
    r.RunRemoved: _removed,
    r.RunDiscarded: _discarded,
}
