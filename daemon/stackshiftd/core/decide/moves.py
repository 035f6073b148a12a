"""Moving a run that is not executing: to another time, to another queue, to another priority.

A run that is due by the time of its move is queued in the same append. Its ttl and its deadline
move with its time if it has not begun; the deadline of a child stays within its parent's.
"""

from __future__ import annotations

from typing import Final

from stackshift_jobs.errors import Conflict, NotFound
from stackshift_jobs.values.durations import rfc3339
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.effects import Changed, Decision
from stackshiftd.core.state.state import PENDING, Phase, Run, State, Status

_MOVED: Final = (Status.SCHEDULED, Status.QUEUED, Status.RETRYING)


def move(state: State, command: c.MoveRun, now_us: int) -> Decision:
    """Move a run. Raises `NotFound` if there is no such run in memory, and `Conflict` if it is not
    scheduled, queued or retrying, or cannot be moved so."""
    run = state.runs.get(command.run)
    if run is None:
        raise NotFound(f"there is no unfinished run {command.run}", hint="stackshift runs list")
    _check(run, command, now_us)
    due_us = max(command.due_us, now_us) if command.due_us else 0
    later = due_us > now_us
    # A run that is queued is due already.
    is_moved = later or bool(due_us and run.status is not Status.QUEUED)
    expires_us, deadline_us = _limits(state, run, due_us) if is_moved else (0, 0)
    moved = r.RunMoved(
        run.id,
        rfc3339(due_us) if is_moved else None,
        command.priority if command.priority != run.priority else None,
        command.queue if command.queue != run.queue else None,
        rfc3339(expires_us) if expires_us else None,
        rfc3339(deadline_us) if deadline_us else None,
    )
    if moved == r.RunMoved(run.id):
        return Decision(reply=Changed(run.id, False))
    reply = Changed(run.id, True)
    if is_moved and not later and run.status is not Status.WAITING:
        return Decision((moved, r.RunQueued(run.id, "moved")), (), reply)
    return Decision((moved,), (), reply)


def _check(run: Run, command: c.MoveRun, now_us: int) -> None:
    if run.status not in _MOVED and not backs_off(run):
        raise Conflict(
            f"{run.id} is {run.status.value}; only a scheduled, queued or retrying run can be "
            "moved",
            hint=f"stackshift runs why {run.id}",
            owner=run.id,
        )
    if run.token and command.queue not in (None, run.queue):
        raise Conflict(
            f"the last attempt of {run.id} has not stopped yet, and holds a slot of its queue",
            hint="try again when it has",
            owner=run.id,
        )
    if run.status is Status.QUEUED and run.attempt and command.due_us > now_us:
        raise Conflict(
            f"attempt {run.attempt} of {run.id} is queued already, and cannot be put off",
            hint="only its --priority and --queue can be changed",
            owner=run.id,
        )


def backs_off(run: Run) -> bool:
    """Is the run suspended, with nothing but steps that are tried again later?"""
    pending = [call.phase for call in run.calls.values() if call.phase in PENDING]
    return (
        run.status is Status.WAITING
        and bool(pending)
        and all(phase is Phase.RETRYING for phase in pending)
    )


def _limits(state: State, run: Run, due_us: int) -> tuple[int, int]:
    """The new times by which a run that has not begun has to begin and to end; 0 for none, and for
    a run that has begun, whose times stay."""
    if run.attempt:
        return 0, 0
    shift_us = due_us - run.place_us
    deadline_us = run.deadline_us + shift_us if run.deadline_us else 0
    parent = state.runs.get(run.parent or "")
    if deadline_us and run.cancel_with_parent and parent is not None and parent.deadline_us:
        deadline_us = min(deadline_us, parent.deadline_us)
    return run.expires_us + shift_us if run.expires_us else 0, deadline_us
