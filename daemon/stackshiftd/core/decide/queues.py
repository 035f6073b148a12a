"""Changing queues: what the file, the job modules and a person say of them."""

from __future__ import annotations

import msgspec

from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.effects import Changed, Decision
from stackshiftd.core.state.queues import UNSAID
from stackshiftd.core.state.state import State


def define(state: State, command: c.DefineQueues, now_us: int) -> Decision:
    """A record for each queue that is not said to be so yet; what is said no more is withdrawn."""
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


def change(state: State, command: c.ChangeQueue, now_us: int) -> Decision:
    """What a person says is put over what was said before."""
    queue = state.queues.get(command.queue)
    before = queue.said.get("person", UNSAID) if queue is not None else UNSAID
    kept = r.QueueTerms(paused=before.paused) if command.reset else before
    given = {
        name: value
        for name in command.terms.__struct_fields__
        if (value := getattr(command.terms, name)) is not None
    }
    if command.terms.rate is None:
        given.pop("rate_per_ms")
    terms = msgspec.structs.replace(kept, **given)
    reply = Changed(command.queue, terms != before)
    if not reply.changed:
        return Decision(reply=reply)
    return Decision((r.QueueChanged(command.queue, "person", terms),), (), reply)
