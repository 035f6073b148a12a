"""`decide(state, command, now_us)`: the records and effects that follow from a command.

Pure: it reads the state, the command and the time `now_us`, and nothing else; it changes nothing.
It returns records and effects, or raises the error for whoever gave the command; only the `fold` of
its records changes anything. The table below wraps each function in the guard that checks who gave
the command (`guards`), so that nothing at all follows from the commands of an execution that is not
the current one (guarantee: late results).
"""

from __future__ import annotations

from typing import Final

from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.decide import (
    cancels,
    clock,
    dead_letter,
    ends,
    entries,
    events,
    labels,
    locks,
    moves,
    queues,
    rerun,
    runs,
    schedule_terms,
    schedules,
    steps,
    timers,
    waits,
    withdrawal,
)
from stackshiftd.core.decide.guards import (
    Decide,
    of_asker,
    of_call,
    of_execution,
    of_handler,
    of_reader,
    of_step,
    of_worker,
)
from stackshiftd.core.decide.monitoring import alerts, expectations
from stackshiftd.core.effects import Decision
from stackshiftd.core.state.state import State


def decide(state: State, command: c.AnyCommand, now_us: int) -> Decision:
    """The records and effects that follow from `command` at daemon time `now_us` (µs since 1970,
    not before `state.now_us`). Raises a `StackshiftError` to refuse a client's request."""
    return _BY_TYPE[type(command)](state, command, now_us)


def _note_snapshot(_state: State, command: c.NoteSnapshot, _now_us: int) -> Decision:
    return Decision((r.SnapshotTaken(command.upto_seq, command.state_hash),))


def _note_recovery(_state: State, command: c.NoteRecovery, _now_us: int) -> Decision:
    return Decision(
        (r.JournalRecovered(command.kept_seq, command.dropped_bytes, command.quarantine),)
    )


def _note_watermark(_state: State, _command: c.NoteWatermark, _now_us: int) -> Decision:
    return Decision((r.JournalWatermark(),))


def _close(_state: State, _command: c.Close, _now_us: int) -> Decision:
    return Decision((r.JournalClosed(),))


_BY_TYPE: Final[dict[type[c.Command], Decide]] = {
    c.StartRun: runs.start,
    c.CancelRun: cancels.cancel_run,
    c.MoveRun: moves.move,
    c.RetryRun: rerun.retry,
    c.ForkRun: rerun.fork,
    c.RemoveRun: runs.remove,
    c.DiscardRun: dead_letter.discard,
    c.ChangeQueue: queues.change,
    c.AddSchedule: schedule_terms.add,
    c.RemoveSchedule: schedule_terms.remove,
    c.PauseSchedule: schedules.pause,
    c.ResumeSchedule: schedules.resume,
    **of_reader({c.ReadState: entries.read, c.ListState: entries.page}),
    **of_asker(
        {
            c.SetState: entries.set_value,
            c.IncrementState: entries.increment,
            c.DeleteState: entries.delete,
            c.AcquireLock: locks.acquire,
            c.ExtendLock: locks.extend,
            c.ReleaseLock: locks.release,
            c.SendEvent: events.send,
            c.LabelRun: labels.label,
        }
    ),
    c.WithdrawLock: locks.withdraw,
    **of_call(
        {
            c.BeginSleep: waits.begin_sleep,
            c.StartChild: waits.start_child,
            c.AwaitEvent: events.await_event,
            c.CheckLock: locks.check,
        }
    ),
    **of_step(
        {
            c.CompleteStep: steps.complete_step,
            c.FailStep: steps.fail_step,
            c.CheckpointStep: steps.checkpoint_step,
        }
    ),
    **of_execution(
        {
            c.OpenStep: steps.open_step,
            c.RecordValue: steps.record_value,
            c.RefuseCall: steps.refuse_call,
            c.ReportProgress: steps.report_progress,
            c.AwaitRun: waits.await_run,
            c.WithdrawCall: withdrawal.withdraw,
            c.RaiseCancel: cancels.raise_cancel,
            c.Suspend: waits.suspend,
        }
    ),
    **of_handler(
        {
            c.CompleteRun: ends.complete,
            c.ContinueRun: ends.continue_as,
            c.FailAttempt: ends.fail,
            c.FinishCancel: cancels.finish_cancel,
            c.FinishUndo: ends.finish_undo,
        }
    ),
    **of_worker({c.ConfirmStop: ends.confirm_stop, c.LoseExecution: ends.lose}),
    c.Claimed: ends.claimed,
    c.Assign: runs.assign,
    c.Tick: timers.tick,
    c.FireSchedule: schedules.fire,
    c.DefineJobs: runs.define_jobs,
    c.DefineQueues: queues.define,
    c.DefineNotify: alerts.define,
    c.DefineExpectations: expectations.define,
    c.NoteStopping: alerts.stopping,
    c.DefineSchedules: schedule_terms.define,
    c.NoteBoot: schedule_terms.note_boot,
    c.SetClockBack: clock.set_back,
    c.NoteSnapshot: _note_snapshot,
    c.NoteRecovery: _note_recovery,
    c.NoteWatermark: _note_watermark,
    c.Close: _close,
}
