"""Decisions about queues: the terms set by `stackshift.toml`, by job modules and by a person."""

from __future__ import annotations

import msgspec

from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.effects import Changed, Decision
from stackshiftd.core.state.queues import UNSAID
from stackshiftd.core.state.state import State


def define(state: State, command: c.DefineQueues, _now_us: int) -> Decision:
    """Set all terms of one layer. Records only what differs; queues that the layer no longer
    mentions lose its terms."""
    names = sorted(
        {name for name, queue in state.queues.items() if command.by in queue.said}
        | command.queues.keys()
    )
    said = {
        name: state.queues[name].said.get(command.by, UNSAID) if name in state.queues else UNSAID
        for name in names
    }
    return Decision(
        tuple(
            r.QueueChanged(name, command.by, command.queues.get(name, UNSAID))
            for name in names
            if command.queues.get(name, UNSAID) != said[name] or name not in state.queues
        )
    )


def change(state: State, command: c.ChangeQueue, _now_us: int) -> Decision:
    """Change some of the terms that a person has set for a queue; the others stay."""
    queue = state.queues.get(command.queue)
    before = queue.said.get("person", UNSAID) if queue is not None else UNSAID
    kept = r.QueueTerms(paused=before.paused) if command.reset else before
    changes = {
        name: value
        for name in command.terms.__struct_fields__
        if (value := getattr(command.terms, name)) is not None
    }
    if command.terms.rate is None:
        changes.pop("rate_per_ms")
    terms = msgspec.structs.replace(kept, **changes)
    reply = Changed(command.queue, terms != before)
    if not reply.changed:
        return Decision(reply=reply)
    return Decision((r.QueueChanged(command.queue, "person", terms),), (), reply)
