"""StackShift, with handlers of one kind: `ours.py async|sync`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import uvloop
from driver import Peer, serve

sys.path.insert(0, str(Path(__file__).parents[2]))
from load import Client, Project, blocking_latencies, many

from stackshift_jobs.version import __version__


class Ours(Peer):
    """A project of its own with a daemon and one worker."""

    version = __version__
    durability = "fdatasync before each acknowledgment"

    def __init__(self, kind: str) -> None:
        self._project = Project()
        self._project.start()
        self._five = "five" if kind == "async" else "five_sync"
        self.steps = lambda runs, in_flight: self._many(self._five, runs, in_flight)
        self.jobs = lambda runs, in_flight: self._many("noop", runs, in_flight)
        self.result = lambda runs: blocking_latencies(self._project.socket, "noop", runs)
        if kind == "async":
            self.step = self._step

    def _ask(self, work: Callable[[Client], Coroutine[Any, Any, Any]]) -> Any:
        async def asked() -> Any:
            return await work(await Client().open(self._project.socket))

        return uvloop.run(asked())

    def _many(self, job: str, runs: int, in_flight: int) -> float:
        return float(self._ask(lambda client: many(client, job, runs, in_flight)))

    def _step(self, runs: int) -> list[float]:
        async def timed(client: Client) -> list[float]:
            took: list[float] = []
            for number in range(runs):
                took += await client.run("five_timed", number)
            return took

        return list(self._ask(timed))

    def pids(self) -> list[int]:
        assert self._project.daemon is not None
        return [self._project.daemon.pid]

    def close(self) -> None:
        self._project.stop()


if __name__ == "__main__":
    serve(lambda: Ours(sys.argv[1]))
