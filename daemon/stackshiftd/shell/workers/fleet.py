"""What `why` has to know of the workers: how many could take a run, and what they are doing."""

from __future__ import annotations

from collections import ChainMap

from stackshiftd.core.why import Fleet
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.workers.pool import Pool


def fleet(engine: Engine, pool: Pool, queue: str) -> Fleet:
    """The usable workers of one queue, or (`queue` "") the shared ones."""
    all_links = pool.links.values()
    members = [link for link in all_links if link.queue == queue and not link.spare]
    links = [link for link in members if link.usable]
    executions = engine.state.executions
    executing = sum(len(executions.get(link.id, ())) for link in links)
    silent = frozenset(link.id for link in members if link.status == "silent")
    no_room = engine.room.reason() if engine.room.read_only else ""
    slots = sum(link.slots for link in links)
    unreachable = "" if links else pool.unreachable(queue)
    beats = ChainMap(*(link.beats for link in all_links if link.beats))
    return Fleet(len(links), slots, executing, silent, no_room, unreachable, beats)
