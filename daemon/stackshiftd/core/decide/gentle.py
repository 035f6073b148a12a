"""Which handlers are to be told that their run is cancelled gently, and when.

Children first: a run is told once the runs that have to end before it have. Then a suspended one is
queued, so that its handler can be told, and one that executes asks by itself when it is at rest.
"""

from __future__ import annotations

from collections.abc import Iterable

from stackshiftd.core import records as r
from stackshiftd.core.state.state import Run, State, Status


def unfinished(state: State, runs: Iterable[str], gone: frozenset[str] = frozenset()) -> list[str]:
    """Those of the runs that have not ended, apart from those that end in this append (`gone`)."""
    found = ((run, state.runs.get(run)) for run in runs if run not in gone)
    return [name for name, run in found if run is not None and not run.finished]


def is_untold(run: Run) -> bool:
    """Is the run to be cancelled gently, and has its handler not been told?"""
    untold = run.cancelling is not None and not run.cancelling.raised_seq
    return untold and run.undoing is None and not run.finished


def may_be_told(state: State, run: Run, gone: frozenset[str] = frozenset()) -> bool:
    """Is the handler of the run the next to be told?"""
    return (
        run.cancelling is not None
        and is_untold(run)
        and not unfinished(state, run.cancelling.first, gone)
    )


def queued(state: State, run: Run) -> tuple[r.RunQueued, ...]:
    """The record by which a run that is not executing is queued so that its handler can be told;
    nothing if it is queued already, or has no worker."""
    is_held = run.id in state.held.get(run.job, ())
    rests = run.status in (Status.WAITING, Status.RETRYING) and not is_held
    return (r.RunQueued(run.id, "cancel"),) if rests else ()


def parents_told(
    state: State, ended: Iterable[Run], gone: frozenset[str], awake: frozenset[str]
) -> tuple[r.RunQueued, ...]:
    """The records by which the parents of the runs that end are queued, if these were the last to
    end before them. The runs `awake` are queued in this append by something else."""
    parents = {run.parent for run in ended if run.parent is not None} - gone - awake
    records: list[r.RunQueued] = []
    for name in sorted(parents):
        parent = state.runs.get(name)
        if parent is not None and may_be_told(state, parent, gone):
            records.extend(queued(state, parent))
    return tuple(records)
