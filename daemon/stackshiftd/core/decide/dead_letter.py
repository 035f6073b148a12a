"""The dead letter: runs that failed for good and await a person, who sends them on or discards
them.

A run lies there from `run.failed` until `run.retried`, `run.discarded` or `run.removed`, and is in
memory all that time: nothing but its status says so, and nothing else has to be kept true.
"""

from __future__ import annotations

from stackshift_jobs.errors import Conflict
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.effects import Decision
from stackshiftd.core.state.state import Run, State, Status


def is_dead(state: State, run: Run) -> bool:
    """Does `run`, which may have left memory, lie in the dead letter?"""
    return run.status is Status.FAILED and state.runs.get(run.id) is run


def not_dead(run_id: str, status: str) -> Conflict:
    """What is answered to who asks for a run in the dead letter that is `status` and not there."""
    if status == Status.FAILED:
        return Conflict(
            f"{run_id} was discarded; it is not in the dead letter any more",
            hint=f"stackshift runs retry {run_id} sends it on all the same",
            owner=run_id,
        )
    return Conflict(
        f"{run_id} is {status}; it is not in the dead letter",
        hint="stackshift dead list",
        owner=run_id,
    )


def discard(state: State, command: c.DiscardRun, _now_us: int) -> Decision:
    """Take a run out of the dead letter, and out of memory. Raises `Conflict` for one that is not
    there, or whose handler, out of time, still executes: the record of its stop is yet to come."""
    run = state.runs.get(command.run)
    if run is None or run.status is not Status.FAILED:
        raise not_dead(command.run, run.status if run is not None else "finished")
    if run.token:
        raise Conflict(
            f"the handler of {run.id} has not stopped yet; only then can the run be discarded",
            hint="it is given [workers] grace to do so: try again",
            owner=run.id,
        )
    return Decision((r.RunDiscarded(run.id),))
