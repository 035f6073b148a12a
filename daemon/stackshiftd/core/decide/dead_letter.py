"""The dead letter: runs that failed for good and wait for a person to retry or discard them.

A run is in the dead letter from `run.failed` until `run.retried`, `run.discarded` or `run.removed`,
and in memory all that time. Its status is the only sign of it, so nothing else can disagree.
"""

from __future__ import annotations

from stackshift_jobs.errors import Conflict
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.effects import Decision
from stackshiftd.core.state.state import Run, State, Status


def is_dead(state: State, run: Run) -> bool:
    """Is `run`, which may have left memory, in the dead letter?"""
    return run.status is Status.FAILED and state.runs.get(run.id) is run


def not_dead(run_id: str, status: str) -> Conflict:
    """The error for a run that should be in the dead letter, but is `status` and not in it."""
    if status == Status.FAILED:
        return Conflict(
            f"{run_id} was discarded and is no longer in the dead letter",
            hint=f"to retry it anyway: stackshift runs retry {run_id}",
            owner=run_id,
        )
    return Conflict(
        f"{run_id} is {status}; it is not in the dead letter",
        hint="stackshift dead list",
        owner=run_id,
    )


def discard(state: State, command: c.DiscardRun, _now_us: int) -> Decision:
    """Take a run out of the dead letter, and out of memory. Raises `Conflict` if it is not in the
    dead letter, or if its handler, which ran out of time, has not stopped yet."""
    run = state.runs.get(command.run)
    if run is None or run.status is not Status.FAILED:
        raise not_dead(command.run, run.status if run is not None else "finished")
    if run.token:
        raise Conflict(
            f"the handler of {run.id} has not stopped yet; the run can be discarded once it has",
            hint="try again: it is ended after [workers] grace at the latest",
            owner=run.id,
        )
    return Decision((r.RunDiscarded(run.id),))
