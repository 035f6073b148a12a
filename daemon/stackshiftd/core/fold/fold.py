"""`fold(state, entry)`: the one way in which state changes, live and at replay alike.

A fold never decides and never fails on a record that `decide` made: an assertion here is a bug of
ours or a journal that is not ours. Statuses move by `moves`; what else a record changes is in the
small function of its kind.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Final

from msgspec import Raw

from stackshift_jobs.values.durations import from_rfc3339
from stackshiftd.core import records as r
from stackshiftd.core.fold import entries, events, locks, schedules
from stackshiftd.core.fold.recorded import keep, note, size
from stackshiftd.core.fold.transitions import move, wake
from stackshiftd.core.state.events import event_json
from stackshiftd.core.state.state import (
    PENDING,
    SPILL_BYTES,
    Call,
    CallKind,
    KeyEntry,
    Phase,
    Run,
    State,
    Status,
    WaitTerms,
)

S = Status


def fold(state: State, entry: r.Entry) -> None:
    """Apply one entry. Sequence numbers have no gap and time does not run backwards."""
    assert entry.seq == state.seq + 1, f"gap: {state.seq} then {entry.seq}"
    assert entry.at_us >= state.now_us, f"time runs backwards at {entry.seq}"
    state.seq = entry.seq
    state.now_us = entry.at_us
    if state.throttled:
        state.settle_throttled()
    record = entry.record
    _BY_TYPE[type(record)](state, entry, record)
    if state.timers:
        state.settle_timers()
    if state.expiries:
        state.settle_expiries()


def _release(state: State, run: Run, at_us: int) -> None:
    """No handler of the run executes any more."""
    assert run.token, f"{run.id}: nothing executes"
    run.spent_us += at_us - run.since_us
    del state.executions[run.worker][run.id]
    run.token = 0
    run.worker = ""
    state.queues[run.queue].release(run.concurrency_key)
    state.settle_queue(run.queue)


def _drop_finished(state: State, run: Run) -> None:
    """A finished run leaves memory once its handler has stopped, unless it lies in dead letter."""
    if run.finished and not run.token and run.status is not S.FAILED:
        del state.runs[run.id]


# --- The journal's own ---------------------------------------------------------------------


def _opened(state: State, entry: r.Entry, record: r.JournalOpened) -> None:
    state.epoch = record.epoch
    locks.forget_clients(state)


def _nothing(state: State, entry: r.Entry, record: Any) -> None:
    """Told for people; the state does not change."""


# --- Runs ----------------------------------------------------------------------------------


def _created(state: State, entry: r.Entry, record: r.RunCreated) -> None:
    due_us = from_rfc3339(record.scheduled_at) if record.scheduled_at else 0
    waits = due_us > entry.at_us
    run = Run(
        id=record.run,
        job=record.job,
        queue=record.queue,
        payload=keep(state, record.payload, entry.seq),
        retry=record.retry,
        limits=record.limits,
        timeout_ms=record.timeout_ms,
        priority=record.priority,
        concurrency_key=record.concurrency_key,
        labels=record.labels,
        key=record.key,
        parent=record.parent,
        parent_step=record.parent_step,
        forked_from=record.forked_from,
        cancel_with_parent=record.cancel_with_parent,
        created_seq=entry.seq,
        created_us=entry.at_us,
        scheduled_us=due_us,
        place_us=due_us if waits else entry.at_us,
        status=S.SCHEDULED if waits else S.QUEUED,
        calls={},
    )
    if record.restored:
        run.calls = _without(rebuild(record.restored).calls, record.forgotten)
    state.runs[run.id] = run
    if waits:
        state.queue(run.queue)
        state.set_timer(due_us, run.id)
    else:
        state.make_ready(run)
    _adopt(state, run)
    if record.key is not None:
        _take_key(state, entry, record, record.key)


def _adopt(state: State, run: Run) -> None:
    """While it is unfinished, the run is cancelled with the one that started it."""
    parent = state.runs.get(run.parent or "")
    if parent is not None and run.cancel_with_parent:
        parent.children.append(run.id)


def _disown(state: State, run: Run) -> None:
    """A finished run is nobody's to cancel."""
    parent = state.runs.get(run.parent or "")
    if parent is not None and run.cancel_with_parent:
        parent.children.remove(run.id)


def _take_key(state: State, entry: r.Entry, record: r.RunCreated, key: str) -> None:
    payload = bytes(record.payload)
    state.keys[key] = KeyEntry(
        run=record.run,
        job=record.job,
        digest=record.payload_digest,
        payload=payload if len(payload) <= SPILL_BYTES else b"",
        expires_us=entry.at_us + record.key_ttl_ms * 1000,
    )
    heappush(state.key_expiry, (state.keys[key].expires_us, key))
    # Two looks for one new key: the heap shrinks while there is anything to forget. When a key is
    # forgotten does not show: one past its time is neither found nor part of the state's hash.
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
    """A key whose time has passed is gone, whether it was forgotten yet or not: its run, sent on,
    does not take it back."""
    entry = state.keys.get(run.key or "")
    if entry is not None and entry.run == run.id and not state.key_lives(entry, at_us):
        del state.keys[run.key or ""]


def _queued(state: State, entry: r.Entry, record: r.RunQueued) -> None:
    run = state.runs[record.run]
    if run.status is S.RETRYING and run.next_is_new:
        run.place_us = run.retry_us
    move(state, run, "run.queued")


def _held(state: State, entry: r.Entry, record: r.RunHeld) -> None:
    run = state.runs[record.run]
    move(state, run, "run.held")
    state.held.setdefault(run.job, {})[run.id] = None


def _completed(state: State, entry: r.Entry, record: r.RunCompleted) -> None:
    run = state.runs[record.run]
    run.result = keep(state, record.result, entry.seq)
    run.error = None
    _release(state, run, entry.at_us)
    _finish(state, run, entry, "run.completed")


def _failed(state: State, entry: r.Entry, record: r.RunFailed) -> None:
    run = state.runs[record.run]
    run.error = record.error
    if record.step is not None:
        run.calls.pop(record.step, None)
        run.failed_step = record.step
    state.dead += 1
    _finish(state, run, entry, "run.failed")


def _cancelled(state: State, entry: r.Entry, record: r.RunCancelled) -> None:
    _finish(state, state.runs[record.run], entry, "run.cancelled")


def _finish(state: State, run: Run, entry: r.Entry, kind: str) -> None:
    run.finished_us = entry.at_us
    state.finished += 1
    move(state, run, kind)
    state.awaited.pop(run.id, None)
    _forget_waits(state, run)
    _disown(state, run)
    _drop_finished(state, run)


def _forget_waits(state: State, run: Run) -> None:
    """A finished run waits for nothing any more."""
    for name, step in run.calls.items():
        if step.phase is Phase.WAITING:
            _forget_wait(state, run, name, step)


def _forget_wait(state: State, run: Run, name: str, step: Call) -> None:
    """Take a wait out of the index of what it waits for."""
    if step.kind is CallKind.EVENT and step.wait is not None:
        state.events.hush(step.wait.addresses, run.id, name)
    elif step.kind is CallKind.LOCK and step.wait is not None:
        locks.leave_line(state, run, step.wait.lock)
    elif step.kind is CallKind.CHILD:
        waiters = state.awaited.get(step.child or "", [])
        if (run.id, name) in waiters:
            waiters.remove((run.id, name))
            if not waiters:
                del state.awaited[step.child or ""]


def _retried(state: State, entry: r.Entry, record: r.RunRetried) -> None:
    run = state.runs.get(record.run)
    if run is not None:
        state.dead -= run.status is S.FAILED
    else:
        run = state.runs[record.run] = rebuild(record.restored)
        # Lists go through the runs by creation: one that comes back takes its old place.
        state.runs = dict(sorted(state.runs.items(), key=lambda item: item[1].created_seq))
        run.children = [
            child.id
            for child in state.runs.values()
            if child.parent == run.id and child.cancel_with_parent and not child.finished
        ]
        state.queue(run.queue)
    _adopt(state, run)
    _lapse_key(state, run, entry.at_us)
    run.calls = _without(run.calls, record.forgotten)
    for name, value in record.replaced.items():
        run.calls[name] = Call(
            CallKind.RUN, Phase.COMPLETED, entry.seq, keep(state, value, entry.seq), tried=1
        )
    run.attempts_before = run.attempt
    run.next_is_new = True
    run.finished_us = run.spent_us = run.deaths = 0
    run.error = run.result = None
    run.bytes_recorded = sum(
        size(step.body)
        for step in run.calls.values()
        if step.kind in (CallKind.RUN, CallKind.VALUE)
    )
    run.place_us = entry.at_us
    move(state, run, "run.retried")
    # A sleep under way when the run ended goes on; a child under way was cancelled or is awaited
    # anew.
    for name, step in run.calls.items():
        if step.phase in PENDING:
            _await_step(state, run, name, step)


def _without(steps: dict[str, Call], forgotten: list[str]) -> dict[str, Call]:
    gone = frozenset(forgotten)
    return {name: step for name, step in steps.items() if name not in gone}


def _removed(state: State, entry: r.Entry, record: r.RunRemoved) -> None:
    run = state.runs.pop(record.run, None)
    if run is not None and run.status is S.FAILED:
        state.dead -= 1


def _discarded(state: State, entry: r.Entry, record: r.RunDiscarded) -> None:
    del state.runs[record.run]
    state.dead -= 1


# --- Attempts ------------------------------------------------------------------------------


def _dispatched(state: State, entry: r.Entry, record: r.AttemptStarted | r.AttemptResumed) -> None:
    run = state.runs[record.run]
    new = type(record) is r.AttemptStarted
    move(state, run, "attempt.started" if new else "attempt.resumed")
    state.queues[run.queue].take(run.concurrency_key, new, entry.seq, entry.at_us)
    state.settle_queue(run.queue)
    run.attempt = record.attempt
    run.token = entry.seq
    run.worker = record.worker
    state.executions.setdefault(run.worker, {})[run.id] = run.token
    run.code = record.code
    run.since_us = entry.at_us
    run.started_us = run.started_us or entry.at_us
    run.next_is_new = False
    run.progressed = False
    if new:
        run.spent_us = 0
        run.retry_us = 0
        # What a lock protected is entered again: so one that is gone is taken again.
        for name in [name for name, step in run.calls.items() if step.phase is Phase.GONE]:
            del run.calls[name]
        locks.renew(state, run, entry.seq)
    if run.timeout_ms:
        left_us = run.timeout_ms * 1000 - run.spent_us
        state.set_timer(entry.at_us + max(left_us, 0), run.id, token=run.token)


def _suspended(state: State, entry: r.Entry, record: r.AttemptSuspended) -> None:
    run = state.runs[record.run]
    _release(state, run, entry.at_us)
    move(state, run, "attempt.suspended")
    run.deaths = 0


def _attempt_failed(state: State, entry: r.Entry, record: r.AttemptFailed) -> None:
    run = state.runs[record.run]
    if record.stopped:
        _release(state, run, entry.at_us)
    failed = run.calls.pop(record.step, None) if record.step is not None else None
    # What failed happens again; it may have been in the block of a lock that was left since.
    for name in locks.released_since(run, failed.seq) if failed is not None else ():
        del run.calls[name]
    run.failed_step = record.step
    run.error = record.error
    run.next_is_new = True
    run.deaths = 0
    run.retry_us = from_rfc3339(record.retry_at) if record.retry_at else 0
    move(state, run, "attempt.failed")
    if run.retry_us:
        state.set_timer(run.retry_us, run.id)


def _lost(state: State, entry: r.Entry, record: r.AttemptLost) -> None:
    run = state.runs[record.run]
    if not record.ours:
        run.deaths = 1 if run.progressed else run.deaths + 1
    locks.renew(state, run, entry.seq)
    _release(state, run, entry.at_us)
    move(state, run, "attempt.lost")


def _stopped(state: State, entry: r.Entry, record: r.AttemptStopped) -> None:
    run = state.runs[record.run]
    _release(state, run, entry.at_us)
    if run.status is S.QUEUED:
        state.make_ready(run)
    _drop_finished(state, run)


# --- Steps ---------------------------------------------------------------------------------


def _step_started(state: State, entry: r.Entry, record: r.StepStarted) -> None:
    run = state.runs[record.run]
    step = run.calls.get(record.step)
    if step is None:
        run.calls[record.step] = Call(CallKind.RUN, Phase.OPEN, entry.seq, tried=record.tried - 1)
    else:
        step.phase = Phase.OPEN


def _step_completed(state: State, entry: r.Entry, record: r.StepCompleted) -> None:
    run = state.runs[record.run]
    kept = keep(state, record.result, entry.seq)
    run.calls[record.step] = Call(
        CallKind.RUN,
        Phase.COMPLETED,
        entry.seq,
        kept,
        None,
        record.tried,
        0,
        None,
        "",
        record.input,
    )
    note(run, kept)


def _step_failed(state: State, entry: r.Entry, record: r.StepFailed) -> None:
    run = state.runs[record.run]
    step = Call(
        CallKind.RUN,
        Phase.RETRYING if record.retry_at else Phase.FAILED,
        entry.seq,
        error=record.error,
        tried=record.tried,
        due_us=from_rfc3339(record.retry_at) if record.retry_at else 0,
        input=record.input,
    )
    run.calls[record.step] = step
    if record.retry_at:
        _await_step(state, run, record.step, step)
    note(run, None)


def _value_recorded(state: State, entry: r.Entry, record: r.ValueRecorded) -> None:
    run = state.runs[record.run]
    kept = keep(state, record.value, entry.seq)
    run.calls[record.step] = Call(CallKind.VALUE, Phase.COMPLETED, entry.seq, kept)
    note(run, kept)


def _child_started(state: State, entry: r.Entry, record: r.ChildStarted) -> None:
    run = state.runs[record.run]
    run.calls[record.step] = Call(
        CallKind.START, Phase.COMPLETED, entry.seq, child=record.child, tried=1
    )
    note(run, None)


_WAITS: Final = {
    "sleep": CallKind.SLEEP,
    "child": CallKind.CHILD,
    "event": CallKind.EVENT,
    "lock": CallKind.LOCK,
}


def _wait_started(state: State, entry: r.Entry, record: r.WaitStarted) -> None:
    run = state.runs[record.run]
    step = Call(
        _WAITS[record.wait],
        Phase.WAITING,
        entry.seq,
        due_us=from_rfc3339(record.until) if record.until else 0,
        child=record.child,
    )
    if record.wait in ("event", "lock"):
        step.wait = WaitTerms(record.events, record.on_timeout, record.lock, record.ttl_ms)
    run.calls[record.step] = step
    _await_step(state, run, record.step, step)
    note(run, None)


def _await_step(state: State, run: Run, name: str, step: Call) -> None:
    """Index what a pending step waits for."""
    if step.due_us:
        state.set_timer(step.due_us, run.id, name)
    if step.kind is CallKind.CHILD and step.child:
        state.awaited.setdefault(step.child, []).append((run.id, name))
    elif step.kind is CallKind.EVENT and step.wait is not None:
        state.events.listen(step.wait.addresses, run.id, name)
    elif step.kind is CallKind.LOCK and step.wait is not None:
        locks.join_line(state, run, name)


def _wait_ended(state: State, entry: r.Entry, record: r.WaitEnded) -> None:
    run = state.runs[record.run]
    step = run.calls[record.step]
    # A run that has finished told its waiters and is out of the index; where it had done so before
    # the wait began, or is not part of a snapshot any more, this wait still stands there.
    _forget_wait(state, run, record.step, step)
    step.seq = entry.seq
    if step.phase is Phase.RETRYING:
        step.phase = Phase.OPEN
    elif step.kind is CallKind.LOCK:
        # It was refused: one that is given ends its wait with `lock.acquired`.
        step.phase = Phase.FAILED
        step.body = keep(state, record.result, entry.seq)
    else:
        step.phase = Phase.COMPLETED
        body = Raw(event_json(record)) if step.kind is CallKind.EVENT else record.result
        step.body = keep(state, body, entry.seq)
        step.child_status = record.status
        step.error = record.error
        if record.event:
            events.consumed(state, run.id, record.event)
    wake(state, run)


def _call_refused(state: State, entry: r.Entry, record: r.CallRefused) -> None:
    run = state.runs[record.run]
    kept = keep(state, record.error, entry.seq)
    run.calls[record.step] = Call(CallKind.REFUSED, Phase.FAILED, entry.seq, kept)
    note(run, kept)


# --- Queues --------------------------------------------------------------------------------


def _queue_changed(state: State, entry: r.Entry, record: r.QueueChanged) -> None:
    state.limit_queue(record.queue, record.by, record.terms)


_BY_TYPE: Final[dict[type[r.Record], Callable[[State, r.Entry, Any], None]]] = {
    r.JournalOpened: _opened,
    r.JournalRecovered: _nothing,
    r.JournalWatermark: _nothing,
    r.JournalClosed: _nothing,
    r.SnapshotTaken: _nothing,
    r.RunCreated: _created,
    r.RunQueued: _queued,
    r.RunHeld: _held,
    r.RunCompleted: _completed,
    r.RunFailed: _failed,
    r.RunCancelled: _cancelled,
    r.RunRetried: _retried,
    r.RunRemoved: _removed,
    r.RunDiscarded: _discarded,
    r.AttemptStarted: _dispatched,
    r.AttemptResumed: _dispatched,
    r.AttemptSuspended: _suspended,
    r.AttemptFailed: _attempt_failed,
    r.AttemptLost: _lost,
    r.AttemptStopped: _stopped,
    r.StepStarted: _step_started,
    r.StepCompleted: _step_completed,
    r.StepFailed: _step_failed,
    r.ValueRecorded: _value_recorded,
    r.ChildStarted: _child_started,
    r.WaitStarted: _wait_started,
    r.WaitEnded: _wait_ended,
    r.CallRefused: _call_refused,
    r.ProgressReported: _nothing,
    r.QueueChanged: _queue_changed,
    **entries.BY_TYPE,
    **locks.BY_TYPE,
    **events.BY_TYPE,
    **schedules.BY_TYPE,
}


# --- Rebuilding one run --------------------------------------------------------------------


def rebuild(lines: list[Raw]) -> Run:
    """The finished run that its own records tell, for one that has left memory.

    `lines` are the entries of one run as `records.entry_json` writes them.
    """
    # Nothing is spilled: the records may be of another run (a fork), whose places are not this
    # one's.
    state = State(spill_bytes=sys.maxsize)
    run: Run | None = None
    for line in lines:
        entry = r.entry_from_json(line)
        state.seq = entry.seq - 1
        if run is not None:
            state.runs[run.id] = run  # It left memory each time that it finished.
        fold(state, entry)
        run = run or state.runs[entry.record.run]  # type: ignore[union-attr,index]
    assert run is not None, "a run's records begin with run.created"
    return run
