"""The statuses of runs and the records that change them, as a table."""

from __future__ import annotations

from typing import Final

from stackshiftd.core.state.state import Run, State, Status

S = Status

MOVES: Final[dict[tuple[Status, str], Status]] = {
    (S.SCHEDULED, "run.queued"): S.QUEUED,
    (S.SCHEDULED, "run.failed"): S.FAILED,
    (S.SCHEDULED, "run.cancelled"): S.CANCELLED,
    (S.QUEUED, "attempt.started"): S.RUNNING,
    (S.QUEUED, "attempt.resumed"): S.RUNNING,
    (S.QUEUED, "run.moved"): S.SCHEDULED,
    (S.QUEUED, "run.held"): S.WAITING,
    (S.QUEUED, "run.cancelled"): S.CANCELLED,
    (S.QUEUED, "run.failed"): S.FAILED,
    (S.RUNNING, "attempt.suspended"): S.WAITING,
    (S.RUNNING, "attempt.lost"): S.QUEUED,
    (S.RUNNING, "attempt.failed"): S.RETRYING,
    (S.RUNNING, "run.completed"): S.COMPLETED,
    (S.RUNNING, "run.cancelled"): S.CANCELLED,
    (S.WAITING, "run.queued"): S.QUEUED,
    (S.WAITING, "run.failed"): S.FAILED,
    (S.WAITING, "run.cancelled"): S.CANCELLED,
    (S.RUNNING, "run.failed"): S.FAILED,
    (S.RUNNING, "undo.started"): S.QUEUED,
    (S.QUEUED, "undo.started"): S.QUEUED,
    (S.WAITING, "undo.started"): S.QUEUED,
    (S.RETRYING, "undo.started"): S.QUEUED,
    (S.RETRYING, "run.queued"): S.QUEUED,
    (S.RETRYING, "run.failed"): S.FAILED,
    (S.RETRYING, "run.cancelled"): S.CANCELLED,
    (S.FAILED, "run.retried"): S.QUEUED,
    (S.CANCELLED, "run.retried"): S.QUEUED,
    (S.COMPLETED, "run.retried"): S.QUEUED,
}
"""(status, kind of record) → new status; every other pair is impossible."""


def move(state: State, run: Run, kind: str) -> None:
    """Change the run's status by the table, and keep the indexes of runs correct."""
    target = MOVES.get((run.status, kind))
    assert target is not None, f"{run.id}: {kind} while {run.status}"
    was_ready = run.status is S.QUEUED and not run.token
    if run.status is S.WAITING and run.job in state.held:
        state.held[run.job].pop(run.id, None)
        if not state.held[run.job]:
            del state.held[run.job]
    if run.id not in state.index.fresh:
        state.index.change(run)
    run.status = target
    if was_ready:
        state.unready(run)
    if target is S.QUEUED and not run.token:
        state.make_ready(run)


def wake(state: State, run: Run) -> None:
    """Note that a wait of `run` has ended: a suspended run is queued to resume."""
    run.progressed = True
    if run.status is S.WAITING:
        move(state, run, "run.queued")
