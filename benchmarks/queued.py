"""Does a long queue make anything slow? The same requests with 100 and with 100,000 runs queued.

    python benchmarks/queued.py [--few 100] [--many 100000] [--times 200]

One worker whose slots are all held, and so many runs behind them. Each request is made on its own,
one after another, and with both projects in turn, so that what the machine does meanwhile hits both
alike. The figure that matters is the ratio: near 1, whatever the length of the queue.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import uvloop
from load import Client, Project, running

PAGE = 500
SLOTS = 4
Measures = dict[str, list[float]]


class Filled:
    """A daemon with `queued` runs behind those that hold its slots."""

    def __init__(self, project: Project, queued: int) -> None:
        self._project = project
        self._queued = queued
        self._ids: list[str] = []
        self.measures: Measures = {}

    async def open(self) -> Filled:
        self._client = await Client().open(self._project.socket)
        left = self._queued + SLOTS
        while left:
            page = [{"job": "block", "payload": i} for i in range(min(left, PAGE))]
            told = await self._client.ask("run.start_many", json.dumps({"runs": page}))
            self._ids += [each["id"] for each in told["results"]]
            left -= len(page)
        return self

    async def measure(self, name: str, method: str, params: dict[str, Any]) -> None:
        """Make a request and note how long its answer took; one that the daemon does not know is
        left out."""
        began = time.perf_counter()
        try:
            await self._client.ask(method, json.dumps(params))
        except LookupError:
            return
        self.measures.setdefault(name, []).append(time.perf_counter() - began)

    async def round(self, number: int) -> None:
        """Each request once."""
        middle = self._ids[len(self._ids) // 2]
        await self.measure("start one more", "run.start", {"job": "block", "payload": number})
        await self.measure("list 50", "run.list", {"limit": 50})
        await self.measure("list 50 running", "run.list", {"limit": 50, "status": "running"})
        await self.measure("get", "run.get", {"run": middle})
        await self.measure("why, in the middle", "run.why", {"run": middle})
        await self.measure("why, the last", "run.why", {"run": "@last"})
        await self.measure("status", "daemon.status", {})
        await self.measure("cancel", "run.cancel", {"run": self._ids[-1 - number]})
        await self.measure("pause", "queue.pause", {"queue": "default"})
        await self.measure("resume", "queue.resume", {"queue": "default"})


async def compare(few: Filled, many: Filled, times: int) -> None:
    """Rounds of both in turn."""
    for filled in (few, many):
        await filled.open()
        await filled.round(0)
        filled.measures.clear()
    for number in range(1, times + 1):
        await few.round(number)
        await many.round(number)


def main() -> None:
    """Run it and print a table, then the same as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--few", type=int, default=100)
    parser.add_argument("--many", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=200)
    chosen = parser.parse_args()
    with running(Project(1, SLOTS)) as short, running(Project(1, SLOTS)) as long:
        few, many = Filled(short, max(chosen.few, chosen.times + 1)), Filled(long, chosen.many)
        uvloop.run(compare(few, many, chosen.times))
    print(f"{'milliseconds, median':24} {chosen.few:>10,} {chosen.many:>10,} {'ratio':>6}")
    figures: dict[str, Any] = {}
    for name, took in few.measures.items():
        a, b = (statistics.median(each) * 1000 for each in (took, many.measures[name]))
        print(f"{name:24} {a:10.3f} {b:10.3f} {b / a:6.2f}")
        figures[name] = {"few": a, "many": b, "ratio": b / a}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
