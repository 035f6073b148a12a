"""A worker learns nothing that a power cut could still undo."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from msgspec import Raw

from stackshift_jobs.project.config import load_config
from stackshiftd.core import commands as c
from stackshiftd.core.effects import Dispatch, Effect, Resolve
from stackshiftd.core.records import AttemptResumed, Entry
from stackshiftd.journal.interface import Epoch, Group, Owner, Place
from stackshiftd.journal.memory import MemoryJournal
from stackshiftd.shell.catalog import Catalog
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.views.bodies import Bodies
from stackshiftd.shell.workers.dispatcher import Dispatcher
from stackshiftd.shell.workers.watch import Watch
from stackshiftd.worker.frames import Execute, Recall

CODES = {"parent": "1", "child": "1"}


class SlowJournal(MemoryJournal):
    """A journal whose appends wait for `go` while `slow` is set; `appended` are their records."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = False
        self.go = asyncio.Event()
        self.appended: list[Any] = []

    async def append(
        self, epoch: Epoch, expected_seq: int, groups: Sequence[Group]
    ) -> Sequence[Place]:
        if self.slow:
            self.go.clear()
            await self.go.wait()
        places = await super().append(epoch, expected_seq, groups)
        self.appended += [entry.record for group in groups for entry in group]
        return places


class Shell:
    """Gives a free slot away when told to, and dispatches as the daemon does."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.dispatcher: Dispatcher
        self.failure: BaseException | None = None

    def perform(self, effect: Effect, _source: Any, _at_us: int) -> None:
        if isinstance(effect, Dispatch):
            self.dispatcher.dispatch(effect)
        elif isinstance(effect, Resolve):
            self.dispatcher.resolve(effect)

    def failed(self, error: BaseException) -> None:
        self.failure = error

    def fill_slots(self, now_us: int) -> None: ...

    def published(self, entries: list[Entry]) -> None: ...

    def finished(self, run: Any, row: Any) -> None: ...

    def lengthened(self, run: str, places: Any) -> None: ...

    def removed(self, run: str) -> None: ...

    def timers_moved(self) -> None: ...


async def turns() -> None:
    """Let all that is ready happen."""
    for _ in range(20):
        await asyncio.sleep(0)


async def story(root: Path) -> None:
    journal = SlowJournal()
    engine = Engine(journal, lambda: 1_795_000_000_000_000)
    shell = Shell(engine)
    engine.attach(shell)
    posted: list[Any] = []
    link = SimpleNamespace(gone=False, executed=0, watch=Watch(), post=posted.append)
    config = load_config(root)
    lookup: Any = None
    asks: Any = None
    shell.dispatcher = Dispatcher(
        engine, Catalog(config), config, Bodies(lambda _: []), lookup, asks, asks
    )
    shell.dispatcher.pool = SimpleNamespace(links={"w1": link})  # type: ignore[assignment]
    await engine.replay(0)
    await engine.claim(Owner(1, "test"))
    await turns()

    def token(run: str) -> int:
        return engine.state.runs[run].token

    child = c.StartRun("c", "child", "default", b"{}")
    engine.submit(c.StartRun("p", "parent", "default", b"{}"))
    engine.submit(c.Assign("w1", CODES))
    engine.submit(c.StartChild("p", token("p"), 0, "call", child, wait=True))
    engine.submit(c.BeginSleep("p", token("p"), 0, "nap", delay_ms=0))
    engine.submit(c.Suspend("p", token("p"), ["call", "nap"]))
    engine.submit(c.Assign("w1", CODES))
    assert token("c")
    engine.submit(c.Tick())
    await turns()
    posted.clear()

    journal.slow = True
    engine.submit(c.Assign("w1", CODES))  # the parent goes on: its sleep is over
    await turns()
    engine.submit(c.CompleteRun("c", token("c"), Raw(b'"result"')))
    journal.go.set()
    await turns()
    assert any(type(record) is AttemptResumed for record in journal.appended)
    assert posted == [], "the child's result is not durable yet"
    journal.go.set()
    await turns()
    assert shell.failure is None
    recalled = {frame.step: frame for frame in posted if isinstance(frame, Recall)}
    assert bytes(recalled["call"].body) == b'"result"'
    assert sum(isinstance(frame, Execute) for frame in posted) == 1


def test_a_handler_that_goes_on_sees_no_result_that_is_not_durable(tmp_path: Path) -> None:
    """A child that completes while its parent's resumption is on its way to the disk: the parent's
    handler is called once the child's result is on the disk too."""
    (tmp_path / "stackshift.toml").touch()
    asyncio.run(story(tmp_path))
