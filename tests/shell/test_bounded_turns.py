"""Large amounts of work are done in several turns of the loop, and each turn ends."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.decide.decide import decide
from stackshiftd.core.fold.fold import fold
from stackshiftd.core.state.state import State
from stackshiftd.shell.methods import queues
from stackshiftd.shell.methods.queues import PurgeQueue, Queues
from stackshiftd.shell.methods.waiters import Waiters
from stackshiftd.shell.workers import dispatcher
from stackshiftd.shell.workers.dispatcher import Dispatcher


class FakeEngine:
    """State and clock of an engine; all is durable at once. With `deaf`, it ignores commands."""

    def __init__(self) -> None:
        self.state = State()
        self.deaf = False
        self.submitted = 0
        self.poked = 0

    def now_us(self) -> int:
        """A fixed time."""
        return 1_795_000_000_000_000

    def submit(self, command: Any, reply: Any = None, _source: Any = None) -> None:
        """Count the command; unless `deaf`, decide and fold it, and reply."""
        self.submitted += 1
        if self.deaf:
            return
        decision = decide(self.state, command, self.now_us())
        for record in decision.records:
            fold(self.state, r.Entry(self.state.seq + 1, self.now_us(), record))
        if reply is not None:
            reply(decision.reply)

    def when_durable(self, reply: Any, answer: Any) -> None:
        """Answer at once."""
        reply(answer)

    def poke(self) -> None:
        """Count it."""
        self.poked += 1

    def start(self, count: int) -> None:
        """Start runs of a job that no worker has."""
        for n in range(count):
            self.submit(c.StartRun(f"run_{n:06d}", "gone", "media", b"{}"))
        self.submitted = 0


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """An engine, with small bounds on the work of a turn."""
    monkeypatch.setattr(dispatcher, "MAX_ASSIGNS", 20)
    monkeypatch.setattr(queues, "SLICE", 1)
    return FakeEngine()


def fill_slots(engine: FakeEngine) -> None:
    """Fill slots as the dispatcher does, with one worker that has none of the jobs."""

    async def fill() -> None:
        made = Dispatcher(
            *cast(Any, (engine, SimpleNamespace(runnable={}), None, None, None, None, None))
        )
        link = SimpleNamespace(id="w1", usable=True, spare=False, queue="", slots=4)
        made.pool = cast(Any, SimpleNamespace(links={"w1": link}))
        made.fill_slots(engine.now_us())

    asyncio.run(fill())


def test_runs_of_a_missing_job_are_held_in_turns(engine: FakeEngine) -> None:
    """Very many runs of a missing job are held a few per turn, so that others are not blocked; as
    long as there may be more of them, there is another look."""
    engine.start(50)
    for held, poked in ((20, 1), (40, 2), (50, 2), (50, 2)):
        fill_slots(engine)
        assert len(engine.state.held["gone"]) == held
        assert engine.poked == poked


def test_filling_slots_ends_where_nothing_comes_of_it(engine: FakeEngine) -> None:
    """Filling slots ends even if the engine ignores commands and the run stays ready."""
    engine.start(1)
    engine.deaf = True
    fill_slots(engine)
    assert engine.submitted == 20
    assert engine.poked == 0  # or it would go on for ever


def test_purge_ends_where_others_were_quicker(engine: FakeEngine) -> None:
    """A purge answers even if its runs were cancelled or assigned between two of its turns."""
    engine.start(2000)
    answers: list[Any] = []

    class Overtaken(FakeEngine):
        def submit(self, command: Any, reply: Any = None, source: Any = None) -> None:
            super().submit(command, reply, source)
            for run in list(self.state.runs):
                super().submit(c.CancelRun(run))

    overtaken = Overtaken()
    overtaken.state = engine.state

    async def purge() -> None:
        config = SimpleNamespace(queues={})
        made = Queues(*cast(Any, (overtaken, SimpleNamespace(jobs={}), config, Waiters())))
        made.purge(PurgeQueue("media"), answers.append)

    asyncio.run(purge())
    assert answers == [{"queue": "media", "cancelled": 1, "dry_run": False}]
    assert not engine.state.runs
