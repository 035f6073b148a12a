"""`decide(state, command, now)`: what follows from a command.

Pure: it reads the state and the command, knows the time as `now_us` and nothing else of the world,
and changes nothing. It returns records and effects, or raises the error that the asker gets;
`fold` of its records is what happens. Commands of an execution that is not the current one give
nothing at all: a late result changes nothing (promise 5).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from msgspec import Raw

from stackshift_jobs.errors import Conflict
from stackshift_jobs.values.durations import from_rfc3339, rfc3339
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.decide import entries, events, locks
from stackshiftd.core.decide.backoff import delay_ms
from stackshiftd.core.decide.dead_letter import decide_discard
from stackshiftd.core.decide.ends import (
    attempt_failed,
    current,
    decide_cancel,
    decide_claimed,
    decide_complete,
    decide_fail,
    decide_lost,
    decide_stopped,
    end_wait,
    over_limit,
)
from stackshiftd.core.decide.queues import decide_change_queue, decide_define_queues
from stackshiftd.core.decide.replies import refusal_json
from stackshiftd.core.decide.rerun import decide_fork, decide_retry
from stackshiftd.core.decide.schedules import (
    decide_define,
    decide_fire,
    decide_pause,
    decide_resume,
)
from stackshiftd.core.effects import (
    NOTHING,
    Acknowledge,
    Decision,
    Dispatch,
    Removed,
    Resolve,
    Started,
    Stop,
)
from stackshiftd.core.state.expiry import EVENT, LOCK
from stackshiftd.core.state.state import PENDING, CallKind, Phase, Run, State, Status


def decide(state: State, command: c.AnyCommand, now_us: int) -> Decision:
    """The records and effects that `command` leads to at daemon time `now_us` (µs since 1970, not
    before `state.now_us`). Raises `NotFound` or `Conflict` where a client asked in vain."""
    return _BY_TYPE[type(command)](state, command, now_us)


# --- Starting ------------------------------------------------------------------------------


def _start(state: State, command: c.StartRun, now_us: int) -> Decision:
    if command.key is not None and (owner := state.key_owner(command.key, now_us)) is not None:
        if owner.job == command.job and owner.digest == command.digest:
            return Decision(reply=Started(owner.run, True))
        raise Conflict(
            f"idempotency key {command.key!r} belongs to {owner.run} (job {owner.job}), "
            + ("started with another payload" if owner.job == command.job else "another job"),
            hint=f"stackshift runs show {owner.run}, or start with another key",
            owner=owner.run,
        )
    created = r.RunCreated(
        run=command.run,
        job=command.job,
        queue=command.queue,
        payload=Raw(command.payload),
        retry=command.retry,
        limits=command.limits,
        timeout_ms=command.timeout_ms,
        priority=command.priority,
        concurrency_key=command.concurrency_key,
        labels=command.labels,
        scheduled_at=rfc3339(command.due_us) if command.due_us else None,
        key=command.key,
        key_ttl_ms=command.key_ttl_ms,
        payload_digest=command.digest,
    )
    return Decision((created,), (), Started(command.run, False))


def _assign(state: State, command: c.Assign, now_us: int) -> Decision:
    run = state.next_suspect(now_us, command.pool) if command.alone else None
    if run is None:
        run = state.next_ready(now_us, command.pool)
    if run is None:
        return NOTHING
    code = command.codes.get(run.job)
    if code is None:
        return Decision((r.RunHeld(run.id),))
    record: r.AnyRecord
    if run.next_is_new:
        record = r.AttemptStarted(run.id, run.attempt + 1, command.worker, code)
    else:
        record = r.AttemptResumed(run.id, run.attempt, command.worker, code)
    return Decision((record,), (Dispatch(run.id, state.seq + 1, command.worker),))


def _define_jobs(state: State, command: c.DefineJobs, now_us: int) -> Decision:
    return Decision(
        tuple(
            r.RunQueued(run_id, "job")
            for job, held in state.held.items()
            if job in command.codes
            for run_id in held
        )
    )


# --- Steps ---------------------------------------------------------------------------------


def _is_settled(run: Run, name: str) -> bool:
    """Has the step its one recorded result? A timeout may be told just after it; it changes
    nothing (promise 4)."""
    step = run.calls.get(name)
    return step is not None and step.phase in (Phase.COMPLETED, Phase.FAILED)


def _complete_step(state: State, command: c.CompleteStep, now_us: int) -> Decision:
    run = current(state, command.run, command.token)
    if run is None:
        return NOTHING
    if _is_settled(run, command.step):
        return Decision((), (Acknowledge(command.call),))
    over = over_limit(state, run, command.step, len(bytes(command.result)), now_us)
    if over is not None:
        return over
    record = r.StepCompleted(
        run.id,
        run.attempt,
        command.step,
        command.result,
        command.duration_ms,
        command.tried,
        command.input,
    )
    return Decision((record,), (Acknowledge(command.call),))


def _fail_step(state: State, command: c.FailStep, now_us: int) -> Decision:
    run = current(state, command.run, command.token)
    if run is None:
        return NOTHING
    if _is_settled(run, command.step):
        return Decision((), (Acknowledge(command.call),))
    retry_at = None
    terms = command.retry
    if command.retryable and terms is not None and command.tried < terms.max_attempts:
        wait_ms = command.retry_after_ms
        if wait_ms is None:
            wait_ms = delay_ms(terms, command.tried, f"{run.id}/{command.step}")
        retry_at = rfc3339(now_us + wait_ms * 1000)
    record = r.StepFailed(
        run.id,
        run.attempt,
        command.step,
        command.error,
        command.duration_ms,
        command.tried,
        retry_at,
        command.input,
    )
    due_us = from_rfc3339(retry_at) if retry_at else 0
    return Decision((record,), (Acknowledge(command.call, due_us),))


def _open_step(state: State, command: c.OpenStep, now_us: int) -> Decision:
    run = current(state, command.run, command.token)
    if run is None:
        return NOTHING
    step = run.calls.get(command.step)
    # Its result may have overtaken the note that it runs.
    if step is not None and step.phase is not Phase.OPEN:
        return NOTHING
    return Decision((r.StepStarted(run.id, run.attempt, command.step, command.tried),))


def _record_value(state: State, command: c.RecordValue, now_us: int) -> Decision:
    run = current(state, command.run, command.token)
    if run is None:
        return NOTHING
    over = over_limit(state, run, command.step, len(bytes(command.value)), now_us)
    if over is not None:
        return over
    record = r.ValueRecorded(run.id, run.attempt, command.step, command.value)
    body = command.value if command.told else r.NULL
    return Decision((record,), (Acknowledge(command.call, body=body),))


def _report_progress(state: State, command: c.ReportProgress, now_us: int) -> Decision:
    run = current(state, command.run, command.token)
    if run is None:
        return NOTHING
    return Decision(
        (r.ProgressReported(run.id, run.attempt, command.done, command.total, command.message),)
    )


# --- Waiting -------------------------------------------------------------------------------


def _begin_sleep(state: State, command: c.BeginSleep, now_us: int) -> Decision:
    run = current(state, command.run, command.token)
    if run is None:
        return NOTHING
    over = over_limit(state, run, command.step, 0, now_us)
    if over is not None:
        return over
    until_us = command.until_us
    if until_us is None:
        until_us = now_us + (command.delay_ms or 0) * 1000
    # A time that has passed is due at once, through the same timer as all others.
    due_us = max(until_us, now_us)
    record = r.WaitStarted(run.id, run.attempt, command.step, "sleep", rfc3339(due_us))
    return Decision((record,), (Acknowledge(command.call, due_us),))


def _start_child(state: State, command: c.StartChild, now_us: int) -> Decision:
    run = current(state, command.run, command.token)
    if run is None:
        return NOTHING
    over = over_limit(state, run, command.step, 0, now_us)
    if over is not None:
        return over
    try:
        started = _start(state, command.start, now_us)
    except Conflict as conflict:
        error = refusal_json(conflict, final=True)
        refused = c.RefuseCall(command.run, command.token, command.call, command.step, error)
        return _refuse_call(state, refused, now_us)
    assert isinstance(started.reply, Started)
    child = started.reply.run
    records = tuple(_adopted(record, run, command) for record in started.records)
    effects = (Acknowledge(command.call, 0, child),)
    if not command.wait:
        told = r.ChildStarted(run.id, run.attempt, command.step, child, command.start.job)
        return Decision((*records, told), effects)
    waits = r.WaitStarted(run.id, run.attempt, command.step, "child", None, child)
    return Decision((*records, waits), effects)


def _refuse_call(state: State, command: c.RefuseCall, now_us: int) -> Decision:
    run = current(state, command.run, command.token)
    if run is None:
        return NOTHING
    acknowledge = Acknowledge(command.call, error=command.error)
    if not command.step:
        return Decision((), (acknowledge,))
    refused = r.CallRefused(run.id, run.attempt, command.step, command.error)
    return Decision((refused,), (acknowledge,))


def _adopted(record: r.AnyRecord, parent: Run, command: c.StartChild) -> r.AnyRecord:
    """The child's `run.created`, which names its parent."""
    assert isinstance(record, r.RunCreated)
    fields = {name: getattr(record, name) for name in record.__struct_fields__}
    fields |= {
        "parent": parent.id,
        "parent_step": command.step,
        "cancel_with_parent": command.wait or command.cancel_with_parent,
    }
    return r.RunCreated(**fields)


def _await_run(state: State, command: c.AwaitRun, now_us: int) -> Decision:
    run = current(state, command.run, command.token)
    if run is None:
        return NOTHING
    waits = r.WaitStarted(run.id, run.attempt, command.step, "child", None, command.child)
    acknowledge = Acknowledge(command.call)
    child = state.runs.get(command.child)
    if child is not None and not child.finished:
        return Decision((waits,), (acknowledge,))
    if child is not None:
        ended = r.WaitEnded(run.id, command.step, child.status, r.NULL, child.error)
    elif command.status:
        ended = r.WaitEnded(run.id, command.step, command.status, command.result, command.error)
    else:
        error = r.Error("NotFound", f"there is no run {command.child}")
        ended = r.WaitEnded(run.id, command.step, "failed", r.NULL, error)
    return Decision((waits, ended), (acknowledge, Resolve(run.id, command.token, command.step)))


def _suspend(state: State, command: c.Suspend, now_us: int) -> Decision:
    run = current(state, command.run, command.token)
    if run is None:
        return NOTHING
    suspended = r.AttemptSuspended(run.id, run.attempt)
    steps = run.calls
    if all(name in steps and steps[name].phase in PENDING for name in command.pending):
        return Decision((suspended,))
    # What it waits for came while it was on its way out: it goes on at once.
    return Decision((suspended, r.RunQueued(run.id, "wait")))


# --- Time ----------------------------------------------------------------------------------


def _tick(state: State, command: c.Tick, now_us: int) -> Decision:
    if state.expiries and state.expiries[0].due_us <= now_us:
        return _expire(state, command, now_us)
    if not state.timers or state.timers[0].due_us > now_us:
        return NOTHING
    timer = state.timers[0]
    run = state.runs[timer.run]
    if timer.step:
        return _wait_is_over(state, run, timer.step, now_us)
    if timer.token:
        error = r.Error("TimeoutError", f"the attempt ran longer than {run.timeout_ms} ms")
        failed = attempt_failed(state, run, error, now_us, stopped=False)
        return Decision(failed.records, (*failed.effects, Stop(run.id, timer.token, "timeout")))
    reason = "due" if run.status is Status.SCHEDULED else "retry"
    return Decision((r.RunQueued(run.id, reason),))


def _wait_is_over(state: State, run: Run, name: str, now_us: int) -> Decision:
    step = run.calls[name]
    if step.phase is Phase.WAITING and step.kind is CallKind.EVENT:
        return events.wait_is_over(state, run, name, now_us)
    if step.phase is Phase.WAITING and step.kind is CallKind.LOCK:
        return locks.wait_is_over(state, run, name, now_us)
    return end_wait(state, run, r.WaitEnded(run.id, name))


def _expire(state: State, command: c.Tick, now_us: int) -> Decision:
    expiry = state.expiries[0]
    if expiry.what == EVENT:
        return events.decide_expire(state, expiry.key)
    if expiry.what == LOCK:
        return locks.decide_expire(state, expiry.key, now_us)
    return entries.decide_expire(state, expiry.key, now_us, command.remember_ms)


# --- What a person asks --------------------------------------------------------------------


def _remove(state: State, command: c.RemoveRun, now_us: int) -> Decision:
    run = state.runs.get(command.run)
    if run is not None and not (run.finished and not run.token):
        raise Conflict(
            f"{run.id} is {run.status}; only a finished run can be removed",
            hint=f"stackshift runs cancel {run.id}",
            owner=run.id,
        )
    return Decision((r.RunRemoved(command.run),), (Removed(command.run),))


def _retry(state: State, command: c.RetryRun, now_us: int) -> Decision:
    return decide_retry(state, command)


def _discard(state: State, command: c.DiscardRun, now_us: int) -> Decision:
    return decide_discard(state, command)


def _fork(state: State, command: c.ForkRun, now_us: int) -> Decision:
    return decide_fork(state, command)


def _fire_schedule(state: State, command: c.FireSchedule, now_us: int) -> Decision:
    return decide_fire(state, command, now_us, _start)


# --- The journal's own ---------------------------------------------------------------------


def _note_snapshot(state: State, command: c.NoteSnapshot, now_us: int) -> Decision:
    return Decision((r.SnapshotTaken(command.upto_seq, command.state_hash),))


def _note_recovery(state: State, command: c.NoteRecovery, now_us: int) -> Decision:
    return Decision(
        (r.JournalRecovered(command.kept_seq, command.dropped_bytes, command.quarantine),)
    )


def _note_watermark(state: State, command: c.NoteWatermark, now_us: int) -> Decision:
    return Decision((r.JournalWatermark(),))


def _close(state: State, command: c.Close, now_us: int) -> Decision:
    return Decision((r.JournalClosed(),))


_BY_TYPE: Final[dict[type[c.Command], Callable[[State, Any, int], Decision]]] = {
    c.StartRun: _start,
    c.CancelRun: decide_cancel,
    c.RetryRun: _retry,
    c.ForkRun: _fork,
    c.RemoveRun: _remove,
    c.DiscardRun: _discard,
    c.Claimed: decide_claimed,
    c.Assign: _assign,
    c.DefineJobs: _define_jobs,
    c.DefineQueues: decide_define_queues,
    c.ChangeQueue: decide_change_queue,
    c.Tick: _tick,
    c.DefineSchedules: decide_define,
    c.FireSchedule: _fire_schedule,
    c.PauseSchedule: decide_pause,
    c.ResumeSchedule: decide_resume,
    c.LoseExecution: decide_lost,
    c.NoteSnapshot: _note_snapshot,
    c.NoteRecovery: _note_recovery,
    c.NoteWatermark: _note_watermark,
    c.Close: _close,
    c.CompleteStep: _complete_step,
    c.FailStep: _fail_step,
    c.OpenStep: _open_step,
    c.RecordValue: _record_value,
    c.BeginSleep: _begin_sleep,
    c.StartChild: _start_child,
    c.RefuseCall: _refuse_call,
    c.AwaitRun: _await_run,
    c.Suspend: _suspend,
    c.CompleteRun: decide_complete,
    c.FailAttempt: decide_fail,
    c.ConfirmStop: decide_stopped,
    c.ReportProgress: _report_progress,
    c.ReadState: entries.decide_read,
    c.ListState: entries.decide_list,
    c.SetState: entries.decide_set,
    c.IncrementState: entries.decide_increment,
    c.DeleteState: entries.decide_delete,
    c.AcquireLock: locks.decide_acquire,
    c.ExtendLock: locks.decide_extend,
    c.ReleaseLock: locks.decide_release,
    c.CheckLock: locks.decide_check,
    c.WithdrawLock: locks.decide_withdraw,
    c.SendEvent: events.decide_send,
    c.AwaitEvent: events.decide_await,
}
