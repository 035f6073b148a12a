"""Bodies that are not in memory are found without reading the same records repeatedly."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any, cast

from msgspec import Raw

from stackshiftd.core import records as r
from stackshiftd.core.effects import Dispatch
from stackshiftd.core.fold.fold import fold
from stackshiftd.core.records import Entry
from stackshiftd.core.state.state import SPILL_BYTES, Spilled, State
from stackshiftd.shell.views.bodies import Bodies
from stackshiftd.shell.workers.dispatcher import Dispatcher
from stackshiftd.shell.workers.watch import Watch
from stackshiftd.worker.frames import Recall

STEPS = 40
LARGE = Raw(json.dumps("x" * SPILL_BYTES).encode())


def test_records_of_a_run_are_read_once_when_it_is_handed_out() -> None:
    """A run's records are read once, however many of its steps have large results: reading them for
    each of thousands would block the daemon for minutes."""
    state, written = State(), list[Entry]()

    def add(record: r.AnyRecord) -> None:
        written.append(Entry(state.seq + 1, 1, record))
        fold(state, written[-1])

    add(r.RunCreated("run_1", "job", "default", LARGE))
    add(r.AttemptStarted("run_1", 1, "w1", "code"))
    for n in range(STEPS):
        add(r.StepCompleted("run_1", 1, f"s{n}", LARGE, 1, 1))
    run = state.runs["run_1"]
    assert all(isinstance(step.body, Spilled) for step in run.calls.values())

    read = list[str]()
    posted = list[Any]()

    def entries(run_id: str) -> list[Entry]:
        read.append(run_id)
        return written

    async def dispatch() -> None:
        engine = SimpleNamespace(state=state, durable_seq=state.seq)
        made = Dispatcher(*cast(Any, (engine, None, None, Bodies(entries), None, None, None)))
        link = SimpleNamespace(gone=False, executed=0, watch=Watch(), post=posted.append)
        made.pool = cast(Any, SimpleNamespace(links={"w1": link}))
        made.dispatch(Dispatch("run_1", run.token, "w1"))

    asyncio.run(dispatch())
    assert [each.body for each in posted if isinstance(each, Recall)] == [LARGE] * STEPS
    assert posted[-1].payload == LARGE
    assert read == ["run_1"]
