"""The fold of `step.*`, `wait.*` and the like: what a run remembers of its handler's calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from msgspec import Raw

from stackshift_jobs.values.durations import from_rfc3339
from stackshift_jobs.values.identities import undone_by
from stackshiftd.core import records as r
from stackshiftd.core.fold import events, locks
from stackshiftd.core.fold.recorded import keep, keep_noted, note
from stackshiftd.core.fold.transitions import wake
from stackshiftd.core.state.events import event_json
from stackshiftd.core.state.state import (
    Call,
    CallKind,
    Checkpoint,
    Phase,
    Run,
    State,
    Tries,
    WaitTerms,
)


def _step_started(state: State, entry: r.Entry, record: r.StepStarted) -> None:
    run = state.runs[record.run]
    step = run.calls.get(record.step)
    if step is None or step.phase is Phase.WITHDRAWN:
        step = Call(CallKind.RUN, Phase.OPEN, entry.seq, tried=record.tried - 1)
        run.calls[record.step] = step
    step.phase = Phase.OPEN
    step.program = record.program
    step.undo = step.undo or record.undo
    _tries(run, record.step).going = True


def _step_completed(state: State, entry: r.Entry, record: r.StepCompleted) -> None:
    run = state.runs[record.run]
    kept = keep_noted(state, run, record.result, entry.seq)
    run.calls[record.step] = call = Call(
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
        None,
        0,
        entry.at_us,
    )
    call.undo = record.undo
    if run.undoing is not None:
        step = undone_by(record.step)
        if undone := run.calls.get(step):
            undone.undone = True
        if tries := run.tries.get(step):
            tries.unsure_seq = 0
    if run.tries:
        run.tries.pop(record.step, None)


def _step_checkpointed(state: State, entry: r.Entry, record: r.StepCheckpointed) -> None:
    run = state.runs[record.run]
    kept = keep(state, record.value, entry.seq)
    _tries(run, record.step).checkpoint = Checkpoint(kept, entry.seq, entry.at_us)
    run.progressed = True


def _tries(run: Run, step: str) -> Tries:
    return run.tries.setdefault(step, Tries())


def _step_failed(state: State, entry: r.Entry, record: r.StepFailed) -> None:
    run = state.runs[record.run]
    before = run.calls.get(record.step)
    step = Call(
        CallKind.RUN,
        Phase.RETRYING if record.retry_at else Phase.FAILED,
        entry.seq,
        error=record.error,
        tried=record.tried,
        due_us=from_rfc3339(record.retry_at) if record.retry_at else 0,
        input=record.input,
        at_us=entry.at_us,
        snoozes=(before.snoozes if before is not None else 0) + (not record.counts),
    )
    run.calls[record.step] = step
    tries = _tries(run, record.step)
    tries.ended += 1
    tries.going = False
    if record.undo:
        tries.unsure_seq = entry.seq
    if record.retry_at:
        await_call(state, run, record.step, step)
    note(run, None)


def _value_recorded(state: State, entry: r.Entry, record: r.ValueRecorded) -> None:
    run = state.runs[record.run]
    kept = keep_noted(state, run, record.value, entry.seq)
    run.calls[record.step] = Call(
        CallKind.VALUE, Phase.COMPLETED, entry.seq, kept, at_us=entry.at_us
    )


def _child_started(state: State, entry: r.Entry, record: r.ChildStarted) -> None:
    run = state.runs[record.run]
    run.calls[record.step] = Call(
        CallKind.START,
        Phase.COMPLETED,
        entry.seq,
        child=record.child,
        tried=1,
        at_us=entry.at_us,
        job=record.job,
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
        job=record.job,
        chain=record.chain,
    )
    if record.wait in ("event", "lock") or record.on_timeout:
        step.wait = WaitTerms(
            record.events, record.on_timeout, record.lock, record.ttl_ms, record.holders
        )
    run.calls[record.step] = step
    await_call(state, run, record.step, step)
    note(run, None)


def _wait_ended(state: State, entry: r.Entry, record: r.WaitEnded) -> None:
    run = state.runs[record.run]
    step = run.calls[record.step]
    # A run that has finished ended its waits and left the index. If it finished before this wait
    # began, or is no longer part of the snapshot, this wait is still in the index.
    _forget_wait(state, run, record.step, step)
    step.seq, step.at_us = entry.seq, entry.at_us
    if step.phase is Phase.RETRYING:
        step.phase = Phase.OPEN
    elif step.kind is CallKind.LOCK:
        # It was refused: a wait that is granted the lock ends with `lock.acquired`.
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
    run.calls[record.step] = Call(
        CallKind.REFUSED, Phase.FAILED, entry.seq, kept, at_us=entry.at_us
    )
    note(run, kept)


def _call_withdrawn(state: State, entry: r.Entry, record: r.CallWithdrawn) -> None:
    run = state.runs[record.run]
    call = run.calls.get(record.step)
    if call is None:
        call = run.calls[record.step] = Call(CallKind.RUN, Phase.WITHDRAWN, entry.seq)
    elif call.phase is Phase.WAITING:
        _forget_wait(state, run, record.step, call)
    elif call.undo and call.phase is Phase.OPEN:
        _tries(run, record.step).unsure_seq = entry.seq
    call.phase = Phase.WITHDRAWN
    call.seq, call.at_us, call.due_us = entry.seq, entry.at_us, 0
    note(run, None)


def await_call(state: State, run: Run, name: str, step: Call) -> None:
    """Enter a pending call into the index of what it waits for."""
    if step.due_us:
        state.set_call_timer(run.id, name, step)
    if step.kind is CallKind.CHILD and step.child:
        state.awaited.setdefault(step.awaited, []).append((run.id, name))
    elif step.kind is CallKind.EVENT and step.wait is not None:
        state.events.listen(step.wait.addresses, run.id, name)
    elif step.kind is CallKind.LOCK and step.wait is not None:
        locks.join_line(state, run, name)


def withdraw_takers(state: State, run: Run) -> None:
    """Withdraw the waits of a run that would take something from others: events and locks."""
    for name, step in run.calls.items():
        if step.phase is Phase.WAITING and step.kind in (CallKind.EVENT, CallKind.LOCK):
            _forget_wait(state, run, name, step)
            step.phase, step.due_us = Phase.WITHDRAWN, 0


def forget_waits(state: State, run: Run) -> None:
    """Remove all waits of a finished run from the indexes."""
    for name, step in run.calls.items():
        if step.phase is Phase.WAITING:
            _forget_wait(state, run, name, step)


def _forget_wait(state: State, run: Run, name: str, step: Call) -> None:
    """Remove a wait from the index of what it waits for."""
    if step.kind is CallKind.EVENT and step.wait is not None:
        state.events.hush(step.wait.addresses, run.id, name)
    elif step.kind is CallKind.LOCK and step.wait is not None:
        locks.leave_line(state, run, step.wait.lock)
    elif step.kind is CallKind.CHILD:
        waiters = state.awaited.get(step.awaited, [])
        if (run.id, name) in waiters:
            waiters.remove((run.id, name))
            if not waiters:
                del state.awaited[step.awaited]


BY_TYPE: Final[dict[type[r.Record], Callable[[State, r.Entry, Any], None]]] = {
    r.StepStarted: _step_started,
    r.StepCompleted: _step_completed,
    r.StepFailed: _step_failed,
    r.StepCheckpointed: _step_checkpointed,
    r.ValueRecorded: _value_recorded,
    r.ChildStarted: _child_started,
    r.WaitStarted: _wait_started,
    r.WaitEnded: _wait_ended,
    r.CallRefused: _call_refused,
    r.CallWithdrawn: _call_withdrawn,
}
