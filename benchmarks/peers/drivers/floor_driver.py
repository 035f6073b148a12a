"""The floor, with handlers of one kind: `floor_driver.py async|threads`."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import uvloop
from driver import Peer, serve

sys.path.insert(0, str(Path(__file__).parents[2]))
from floor_client import Floor

SLOTS = 64


class Least(Peer):
    """The least program that does the same work."""

    version = "benchmarks/floor.py"
    durability = "fdatasync before each acknowledgment"

    def __init__(self, kind: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="floor-"))
        self._floor = Floor(kind, self._folder, SLOTS)
        self.steps = lambda runs, in_flight: self._many("five", runs, in_flight)
        self.jobs = lambda runs, in_flight: self._many("noop", runs, in_flight)
        self.result = lambda runs: list(self._ask(lambda: self._floor.latencies("noop", runs)))
        if kind == "async":
            self.step = self._step

    def _ask(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        async def asked() -> Any:
            await self._floor.open()
            return await work()

        return uvloop.run(asked())

    def _many(self, job: str, runs: int, in_flight: int) -> float:
        return float(self._ask(lambda: self._floor.many(job, runs, in_flight)))

    def _step(self, runs: int) -> list[float]:
        async def timed() -> list[float]:
            took: list[float] = []
            for number in range(runs):
                took += await self._floor.run("five_timed", number)
            return took

        return list(self._ask(timed))

    def pids(self) -> list[int]:
        return self._floor.pids

    def close(self) -> None:
        self._floor.close()
        shutil.rmtree(self._folder, ignore_errors=True)


if __name__ == "__main__":
    serve(lambda: Least(sys.argv[1]))
