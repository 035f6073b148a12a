"""The methods that start runs, on an engine with a journal in memory and without workers."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from msgspec import Raw

from stackshift_jobs.project.config import load_config
from stackshift_jobs.values.strict_json import difference, loads
from stackshiftd.history.index import Rebuilding
from stackshiftd.journal.interface import Epoch, Full, Group, Owner, Place
from stackshiftd.journal.memory import MemoryJournal
from stackshiftd.shell.catalog import Catalog
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.methods.start import StartMany, Starts
from stackshiftd.shell.work import to_end
from stackshiftd.worker.frames import JobFacts


def _difference(old: bytes, new: bytes) -> list[str]:
    return difference(loads(old), loads(new))


class CountingJournal(MemoryJournal):
    """Keeps the groups of each append; refuses one if it `is_full`. After `hold`, an append waits
    for `release`."""

    def __init__(self) -> None:
        super().__init__()
        self.appends: list[Sequence[Group]] = []
        self.is_full = False
        self._may_go = asyncio.Event()
        self._may_go.set()

    @property
    def is_waiting(self) -> bool:
        """Does an append wait?"""
        return not self._may_go.is_set()

    def hold(self) -> None:
        """Let the next append wait."""
        self._may_go.clear()

    def release(self) -> None:
        """Let it go on."""
        self._may_go.set()

    async def append(
        self, epoch: Epoch, expected_seq: int, groups: Sequence[Group]
    ) -> Sequence[Place]:
        """Append them, or raise `Full`."""
        await self._may_go.wait()
        if self.is_full:
            raise Full("no space for the journal", hint="")
        self.appends.append(groups)
        return await super().append(epoch, expected_seq, groups)


class LateLookup:
    """Finds no run before it has been waited for `late` times, and then the ids as they are."""

    def __init__(self) -> None:
        self.late = 0

    def predecessors(self, names: Sequence[str]) -> list[tuple[str, str]]:
        """See `Lookup.predecessors`. Raises `Rebuilding`."""
        if self.late:
            raise Rebuilding("being rebuilt")
        return [(name, "") for name in names]

    def when_whole(self, again: Callable[[], None]) -> None:
        """Be waited for."""
        self.late -= 1
        again()


class Batches:
    """Starts batches of runs of the job `work`, and one with a unique key, `alone`."""

    def __init__(self, root: Path) -> None:
        (root / "stackshift.toml").write_text("")
        self.journal = CountingJournal()
        self.engine = Engine(self.journal)
        self.engine.attach(cast(Any, self))
        catalog = Catalog(load_config(root, {}))
        catalog.learn(
            [
                JobFacts("work", "jobs.work", "default", "code1"),
                JobFacts("alone", "jobs.work", "default", "code1", unique="{k}"),
            ],
            [],
        )
        view = SimpleNamespace(
            status=self._status, redaction=SimpleNamespace(difference=_difference)
        )
        self.lookup = LateLookup()
        self._starts = Starts(
            self.engine, catalog, cast(Any, self.lookup), cast(Any, view), lambda _: []
        )

    async def open(self) -> Batches:
        """Become the journal's writer."""
        await self.engine.replay(0)
        await self.engine.claim(Owner(1, "test"))
        await self.engine.drained()
        self.journal.appends.clear()
        return self

    def _status(self, run: str) -> str | None:
        found = self.engine.state.runs.get(run)
        return found.status.value if found is not None else None

    async def start(self, runs: Sequence[bytes]) -> list[dict[str, Any]]:
        """What `run.start_many` with these runs (JSON) is answered, once everything is durable or
        refused."""
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        params = StartMany([Raw(run) for run in runs])
        await to_end(self._starts.start_many(params, answered.set_result))
        if self.journal.is_waiting:
            assert not answered.done(), "nobody is told before it is durable"
            self.journal.release()
        async with asyncio.timeout(10):
            return cast(list[dict[str, Any]], (await answered)["results"])

    # --- The engine's sink -----------------------------------------------------------------

    def fill_slots(self, _now_us: int) -> None:
        """There is no worker."""

    def timers_moved(self) -> None:
        """There is no alarm."""

    def published(self, _entries: Any) -> None:
        """Nobody follows."""

    def finished(self, run: Any, row: Any) -> None:
        """There is no history."""

    def lengthened(self, run: str, places: array[int]) -> None:
        """There is no history."""

    def failed(self, error: BaseException) -> None:
        """Fail the test."""
        raise error
