"""Decisions about unique keys: what follows if an unfinished run has the key of another start."""

from __future__ import annotations

from msgspec import Raw

from stackshift_jobs.errors import Conflict
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.decide.ends import with_children
from stackshiftd.core.effects import Decision, Started
from stackshiftd.core.state.state import Run, State


def check_free(state: State, key: str) -> None:
    """Raise `Conflict`, with the owner, if an unfinished run has the unique key `key`."""
    if key and (owners := state.unique_owners(key)):
        raise taken(key, owners[0])


def taken(key: str, owner: Run) -> Conflict:
    """The refusal of a start or a retry because `owner` has its unique key."""
    return Conflict(
        f"unique key {key!r} belongs to {owner.id} (job {owner.job}, {owner.status.value})",
        hint=f"wait for it: stackshift runs wait {owner.id}; "
        "or start with --on-duplicate attach, replace or queue",
        owner=owner.id,
        unique=key,
    )


def attach(command: c.StartRun, owner: Run) -> Decision:
    """Give the start the run that has its unique key. If the start has an idempotency key, that is
    on record, so that the key finds this run also once it has ended. Raises `Conflict` if it is a
    run of another job."""
    if owner.job != command.job:
        raise taken(command.unique, owner)
    reply = Started(owner.id, True, attached=True)
    if command.key is None:
        return Decision(reply=reply)
    attached = r.RunAttached(
        owner.id,
        owner.job,
        command.key,
        command.key_ttl_ms,
        Raw(command.payload),
        command.digest,
    )
    return Decision((attached,), (), reply)


def would_end_itself(state: State, run: Run, command: c.StartChild) -> Conflict | None:
    """The refusal of a handler's start that would cancel the very run that makes it, or wait for
    it for ever, because that run or one that called it has the unique key; None otherwise."""
    start = command.start
    cancels = start.on_duplicate == "replace"
    waits = start.on_duplicate in ("attach", "queue") and command.wait
    if not start.unique or not (cancels or waits):
        return None
    for owner in state.unique_owners(start.unique):
        if any(below.id == run.id for below in with_children(state, owner)):
            return taken(start.unique, owner)
    return None
