"""Decisions about runs that begin after others (`after`): what follows once those have ended.

The end of a run and the note of it for each run behind it (`run.preceded`) are one append. What
follows from the last of them, or from the first that failed, is an append of its own, by a timer
that is due at once: so a long line of runs never ends in one append.
"""

from __future__ import annotations

from typing import Final

from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.decide.ends import End, finish
from stackshiftd.core.effects import Decision
from stackshiftd.core.state.state import Run, State


def preceded(command: c.StartRun) -> tuple[r.RunPreceded, ...]:
    """The notes of those runs that have ended before the start."""
    return tuple(r.RunPreceded(command.run, run, ended) for run, ended in command.after if ended)


def proceed(state: State, run: Run, now_us: int) -> Decision:
    """Queue a run whose predecessors have ended, or fail it with the one that failed."""
    predecessor = run.failed_predecessor
    if predecessor is None:
        return Decision((r.RunQueued(run.id, "after"),))
    error = r.Error(
        "PredecessorFailed",
        f"{predecessor.after}, after which it was to run, {_ENDED[predecessor.status]}",
        retryable=False,
    )
    failed = r.RunFailed(run.id, run.attempt, error, "after")
    return finish(state, run, (failed,), End("failed", error=error), now_us)


_ENDED: Final = {"failed": "has failed", "cancelled": "was cancelled"}
