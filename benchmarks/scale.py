"""What does a run, a list or a write cost beside 10^3, 10^4 … others?

    python benchmarks/scale.py [--most 100000] [--kinds finished,keys,…] [--times 200]
                               [--svg DIR] [--json FILE]

For each kind of thing that can be many (finished runs, finished runs with an idempotency key,
queued runs, waiting runs, state entries) a daemon of its own is filled, ten times as much each
time. At each size the same requests are made one after another; then runs of five steps, 64 at a
time. A figure that depends on the size bends its curve upwards. Whether the daemon has as many as
it should is checked at each size, by a count.

With `--most 100000`, all kinds take about ten minutes on two processors; with 1000000, more than
an hour, 4 GB of memory (for what is queued or waiting) and 10 GB of disk. The figures are those of
one machine at one time: compare the columns of a row, on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop
from curves import drawing, table
from load import Client, Project, many, running

LEAST = 1000
PAGE = 500
AHEAD = 5000
"""So many runs that are to finish are started before those that were."""
IN_FLIGHT = 64
RUNS = 1500
"""Of five steps, at each size."""
ASIDE = "aside"
"""The queue of the runs that stay queued, which is paused: those that are measured go by."""
Figures = dict[str, list[float]]


class Filled:
    """A daemon with many of something, and what was measured beside so many."""

    def __init__(self, project: Project, times: int) -> None:
        self._project = project
        self._times = times
        self.size = 0
        self.measured = 0
        """Runs that were started to be measured; they finish."""

    async def open(self) -> Filled:
        self._client = await Client().open(self._project.socket)
        self._processes = len(self._project.cpu_seconds())
        return self

    async def ask(self, method: str, **params: Any) -> Any:
        return await self._client.ask(method, json.dumps(params))

    async def count(self, *statuses: str) -> int:
        told = await self.ask("run.count", status=list(statuses))
        return int(told["count"])

    async def _start(self, size: int, run: Callable[[int], dict[str, Any]], ahead: int) -> None:
        """Start runs until there are `size`, with at most so many on their way."""
        while self.size < size:
            page = range(self.size, min(self.size + PAGE, size))
            told = await self.ask("run.start_many", runs=[labelled(run(i), i) for i in page])
            assert all("id" in each for each in told["results"]), told
            self.size = page.stop
            while await self.count("queued", "running") > ahead:
                await asyncio.sleep(0.02)

    # --- What there can be many of ---------------------------------------------------------

    async def finished(self, size: int) -> None:
        await self._start(size, lambda i: {"job": "noop", "payload": i}, AHEAD)
        await self._all_are("completed")

    async def keys(self, size: int) -> None:
        def run(i: int) -> dict[str, Any]:
            return {"job": "noop", "payload": i, "idempotency_key": f"order:{i}"}

        await self._start(size, run, AHEAD)
        await self._all_are("completed")

    async def queued(self, size: int) -> None:
        def run(i: int) -> dict[str, Any]:
            return {"job": "noop", "payload": i, "queue": ASIDE}

        await self._start(size, run, size)
        assert await self.count("queued") == size

    async def waiting(self, size: int) -> None:
        def run(i: int) -> dict[str, Any]:
            return {"job": "waits", "payload": {"key": f"order:{i}"}}

        await self._start(size, run, AHEAD)
        while await self.count("waiting") < size:
            await asyncio.sleep(0.05)

    async def entries(self, size: int) -> None:
        while self.size < size:
            page = range(self.size, min(self.size + PAGE, size))
            writes = (self.ask("state.set", key=f"customer:{i}", value=i) for i in page)
            await asyncio.gather(*writes)
            self.size = page.stop
        told = await self.ask("journal.stats")
        assert told["state_entries"] - bool(self.measured) == size, told["state_entries"]

    async def _all_are(self, status: str) -> None:
        while await self.count(status) < self.size + self.measured:
            await asyncio.sleep(0.05)

    # --- Figures ---------------------------------------------------------------------------

    async def measure(self) -> dict[str, float]:
        """Medians in ms, memory in MB, and what a run of five steps takes."""
        took: Figures = {}
        for number in range(self._times + 1):
            await self._requests(took if number else {}, number)
        figures = {name: statistics.median(found) * 1000 for name, found in took.items()}
        before = sum(self._project.cpu_seconds()[:1])
        seconds = await many(self._client, "five", RUNS, IN_FLIGHT)
        self.measured += RUNS
        cpu = sum(self._project.cpu_seconds()[:1]) - before
        figures["a run of five steps, 64 in flight, ms"] = seconds / RUNS * 1000
        figures["… of the daemon's processor, ms"] = cpu / RUNS * 1000
        while len(self._project.cpu_seconds()) > self._processes:
            await asyncio.sleep(0.05)  # A snapshot is written, by a process that ends.
        figures["memory, MB"] = self._project.memory_mb()
        return figures

    async def _requests(self, took: Figures, number: int) -> None:
        async def timed(measure: str, method: str, **params: Any) -> Any:
            began = time.perf_counter()
            told = await self.ask(method, **params)
            took.setdefault(measure, []).append(time.perf_counter() - began)
            return told

        began = time.perf_counter()
        run = await timed("start", "run.start", job="noop", payload=number)
        await self.ask("run.wait", run=run["id"])
        took.setdefault("start to result", []).append(time.perf_counter() - began)
        self.measured += 1
        await timed("list 50", "run.list", limit=50)
        await timed("list 50 by job", "run.list", limit=50, job="noop")
        await timed("list 50 by status", "run.list", limit=50, status="failed")
        await timed("list 50 by label", "run.list", limit=50, labels={"customer": "7"})
        await timed("list 50 by job, label and status", "run.list", **SEVERAL)
        await timed("count by status", "run.count", by="status")
        await timed("state set", "state.set", key="count", value=number)
        await timed("state list 50", "state.list", prefix="customer:", limit=50)
        await timed("event send", "event.send", name="sent", ttl_ms=0)


KINDS = {
    "finished": Filled.finished,
    "keys": Filled.keys,
    "queued": Filled.queued,
    "waiting": Filled.waiting,
    "entries": Filled.entries,
}
SEVERAL = {"limit": 50, "job": "noop", "labels": {"env": "shop"}, "status": "cancelled"}


def labelled(run: dict[str, Any], number: int) -> dict[str, Any]:
    """Every tenth run has labels: one that a thousandth of all runs have, and one that a tenth
    has."""
    if number % 10:
        return run
    return run | {"labels": {"env": "shop", "customer": str(number // 10 % 100)}}


async def curves(project: Project, kind: str, sizes: list[int], times: int) -> Figures:
    """Of each measure its figures at all sizes."""
    found: Figures = {}
    filled = await Filled(project, times).open()
    for size in sizes:
        await KINDS[kind](filled, size)
        for name, figure in (await filled.measure()).items():
            found.setdefault(name, []).append(figure)
        print(f"{kind}: {size:,} measured", flush=True)
    return found


def decades(most: int) -> list[int]:
    """1,000, 10,000 … up to `most`."""
    sizes = [LEAST]
    while sizes[-1] * 10 <= most:
        sizes.append(sizes[-1] * 10)
    return sizes


def main() -> None:
    """Run it; print a table for each kind, and write drawings and JSON where that is wanted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=100_000)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    kinds = chosen.kinds.split(",")
    if unknown := set(kinds) - KINDS.keys():
        parser.error(f"unknown kind: {', '.join(sorted(unknown))}")
    sizes = decades(chosen.most)
    found: dict[str, Figures] = {}
    for kind in kinds:
        project = Project()
        with (project.root / "stackshift.toml").open("a") as settings:
            settings.write(f"[queues.{ASIDE}]\npaused = true\n")
        try:
            with running(project):
                found[kind] = uvloop.run(curves(project, kind, sizes, chosen.times))
        finally:
            project.remove()
        print(f"\n{kind}; ms in the median unless named otherwise\n")
        print(table(sizes, found[kind]), flush=True)
        if chosen.svg is not None:
            chosen.svg.mkdir(parents=True, exist_ok=True)
            (chosen.svg / f"scale-{kind}.svg").write_text(
                drawing(f"{kind}: ms, memory in MB", sizes, found[kind])
            )
    if chosen.json is not None:
        chosen.json.write_text(json.dumps({"sizes": sizes, "figures": found}, indent=1))


if __name__ == "__main__":
    main()
