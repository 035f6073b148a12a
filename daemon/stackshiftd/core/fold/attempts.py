"""The fold of `attempt.*`: which worker executes a run, and what is free when it stops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from stackshift_jobs.values.durations import from_rfc3339
from stackshiftd.core import records as r
from stackshiftd.core.fold import locks
from stackshiftd.core.fold.transitions import move
from stackshiftd.core.state.state import CLEARED_US, Phase, Run, State, Status


def _dispatched(state: State, entry: r.Entry, record: r.AttemptStarted | r.AttemptResumed) -> None:
    run = state.runs[record.run]
    new = type(record) is r.AttemptStarted
    # Before the move, which takes it out of the line and settles the queue.
    state.queues[run.queue].take(run.concurrency_key, new, entry.seq, entry.at_us)
    move(state, run, "attempt.started" if new else "attempt.resumed")
    run.attempt = record.attempt
    run.token = entry.seq
    run.worker = record.worker
    state.executions.setdefault(run.worker, {})[run.id] = run.token
    run.code = record.code
    run.since_us = entry.at_us
    run.started_us = run.started_us or entry.at_us
    run.begun_us = run.begun_us or entry.at_us
    run.next_is_new = False
    run.expires_us = 0
    run.progressed = False
    if new:
        run.attempt_us = entry.at_us
        run.spent_us = 0
        run.retry_us = 0
        if run.calls:
            # The blocks of lost locks are entered again, so those locks are acquired again.
            for name in [name for name, step in run.calls.items() if step.phase is Phase.GONE]:
                del run.calls[name]
        if run.locks:
            locks.renew(state, run, entry.seq)
    state.expect_end(run)
    if run.timeout_ms:
        left_us = run.timeout_ms * 1000 - run.spent_us
        state.set_timer(entry.at_us + max(left_us, 0), run.id, token=run.token)


def _suspended(state: State, entry: r.Entry, record: r.AttemptSuspended) -> None:
    run = state.runs[record.run]
    free_slot(state, run, entry.at_us)
    move(state, run, "attempt.suspended")
    run.deaths = 0


def _failed(state: State, entry: r.Entry, record: r.AttemptFailed) -> None:
    run = state.runs[record.run]
    if record.stopped:
        free_slot(state, run, entry.at_us)
    names = (*((record.step,) if record.step is not None else ()), *record.more_steps)
    forget_failed(run, names)
    run.error = record.error
    run.attempts_before += not record.counts
    run.next_is_new = True
    run.deaths = 0
    run.retry_us = from_rfc3339(record.retry_at) if record.retry_at else 0
    move(state, run, "attempt.failed")
    if run.retry_us:
        state.set_timer(run.retry_us, run.id)


def forget_failed(run: Run, steps: Sequence[str]) -> None:
    """Forget the steps whose failure the handler did not catch: they are run again, and may have
    been in the block of a lock that was left since."""
    failed = [call for name in steps if (call := run.calls.pop(name, None)) is not None]
    if failed:
        for name in locks.released_since(run, min(call.seq for call in failed)):
            del run.calls[name]
    run.failed_step = steps[0] if steps else None


def _lost(state: State, entry: r.Entry, record: r.AttemptLost) -> None:
    run = state.runs[record.run]
    cleared = run.progressed or entry.at_us - run.since_us >= CLEARED_US
    if not record.ours:
        run.deaths = 1 if run.progressed else run.deaths + 1
    elif run.suspect and cleared:
        run.deaths = 0
    locks.renew(state, run, entry.seq)
    free_slot(state, run, entry.at_us)
    move(state, run, "attempt.lost")


def _stopped(state: State, entry: r.Entry, record: r.AttemptStopped) -> None:
    run = state.runs[record.run]
    free_slot(state, run, entry.at_us)
    if run.status is Status.QUEUED:
        state.make_ready(run)
    drop_finished(state, run)


def free_slot(state: State, run: Run, at_us: int) -> None:
    """Free the slot of a run whose handler no longer executes."""
    assert run.token, f"{run.id}: nothing executes"
    run.spent_us += max(0, at_us - run.since_us)  # Time may have been set back.
    del state.executions[run.worker][run.id]
    run.token = 0
    run.worker = ""
    for step, tries in run.tries.items():
        if tries.going:
            tries.unsure_seq = run.unsure_since(step)
            tries.ended += 1
            tries.going = False
    state.queues[run.queue].release(run.concurrency_key)
    state.settle_queue(run.queue)


def drop_finished(state: State, run: Run) -> None:
    """Once the handler of a finished run has stopped, end its turn, and remove it from memory
    unless it is in the dead letter."""
    if run.finished and not run.token:
        state.end_unique(run)
        if run.status is not Status.FAILED:
            state.leave(run.id)


BY_TYPE: Final[dict[type[r.Record], Callable[[State, r.Entry, Any], None]]] = {
    r.AttemptStarted: _dispatched,
    r.AttemptResumed: _dispatched,
    r.AttemptSuspended: _suspended,
    r.AttemptFailed: _failed,
    r.AttemptLost: _lost,
    r.AttemptStopped: _stopped,
}
