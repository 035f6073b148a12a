"""Does much state, do many kept events make anything slow? The same requests beside 100 and beside
100,000 of each; and what a handler's write costs beside a step.

    python benchmarks/stored.py [--few 100] [--many 100000] [--times 200]

Each request is made on its own, one after another, and with both projects in turn, so that what the
machine does meanwhile hits both alike. The figure that matters is the ratio: near 1, whatever is
stored. The rates after it are those of one project alone, measured one after another.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from typing import Any

import uvloop
from load import Client, Project, running

PAGE = 500
RUNS = 64
CALLS = 200
Measures = dict[str, list[float]]


class Filled:
    """A daemon that keeps `stored` state entries and as many events."""

    def __init__(self, project: Project, stored: int) -> None:
        self._project = project
        self._stored = stored
        self.measures: Measures = {}

    async def open(self) -> Filled:
        self._client = await Client().open(self._project.socket)
        for first in range(0, self._stored, PAGE):
            last = min(first + PAGE, self._stored)
            await asyncio.gather(*(self._fill(number) for number in range(first, last)))
        return self

    async def _fill(self, number: int) -> None:
        await self.ask("state.set", {"key": f"customer:{number}", "value": {"visits": number}})
        await self.ask("event.send", {"name": "paid", "correlation_key": f"order:{number}"})

    async def ask(self, method: str, params: dict[str, Any]) -> Any:
        return await self._client.ask(method, json.dumps(params))

    async def measure(self, name: str, method: str, params: dict[str, Any]) -> Any:
        """Make a request and note how long its answer took; its result."""
        began = time.perf_counter()
        told = await self.ask(method, params)
        self.measures.setdefault(name, []).append(time.perf_counter() - began)
        return told

    async def round(self, number: int) -> None:
        """Each request once."""
        middle = f"customer:{self._stored // 2}"
        await self.measure("state get", "state.get", {"key": middle})
        await self.measure("state set", "state.set", {"key": middle, "value": number})
        await self.measure("state increment", "state.increment", {"key": "count"})
        await self.measure("state list 50", "state.list", {"prefix": "customer:", "limit": 50})
        await self.measure("event send", "event.send", {"name": "sent", "ttl_ms": 3_600_000})
        await self.measure("event list 50", "event.list", {"limit": 50})
        asked = {"key": "deploy", "ttl_ms": 60_000, "asker": f"asker {number}"}
        lock = await self.measure("lock", "lock.acquire", asked)
        held = {"key": "deploy", "token": lock["token"]}
        await self.measure("unlock", "lock.release", held)
        run = await self.ask("run.start", {"job": "waits", "payload": {"key": f"resume {number}"}})
        while (await self.ask("run.get", {"run": run["id"]}))["status"] != "waiting":
            await asyncio.sleep(0.001)
        began = time.perf_counter()
        await self.ask("event.send", {"name": "go", "correlation_key": f"resume {number}"})
        await self.ask("run.wait", {"run": run["id"]})
        took = time.perf_counter() - began
        self.measures.setdefault("event to the run's end", []).append(took)

    async def rate(self, job: str) -> float:
        """Calls a second of `RUNS` handlers that make `CALLS` each."""
        began = time.perf_counter()
        payload = {"calls": CALLS}
        started = await asyncio.gather(
            *(self.ask("run.start", {"job": job, "payload": payload}) for _ in range(RUNS))
        )
        await asyncio.gather(*(self.ask("run.wait", {"run": run["id"]}) for run in started))
        return RUNS * CALLS / (time.perf_counter() - began)


async def compare(few: Filled, many: Filled, times: int) -> dict[str, float]:
    """Rounds of both in turn; then rates."""
    for filled in (few, many):
        await filled.open()
        await filled.round(0)
        filled.measures.clear()
    for number in range(1, times + 1):
        await few.round(number)
        await many.round(number)
    rates: dict[str, list[float]] = {"steps": [], "increments": []}
    for _ in range(3):
        for job, found in rates.items():
            found.append(await few.rate(job))
    return {name: statistics.median(found) for name, found in rates.items()}


def main() -> None:
    """Run it and print a table, then the same as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--few", type=int, default=100)
    parser.add_argument("--many", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=200)
    chosen = parser.parse_args()
    with running(Project()) as small, running(Project()) as large:
        few, many = Filled(small, chosen.few), Filled(large, chosen.many)
        rates = uvloop.run(compare(few, many, chosen.times))
    print(f"{'milliseconds, median':24} {chosen.few:>10,} {chosen.many:>10,} {'ratio':>6}")
    figures: dict[str, Any] = {}
    for name, took in few.measures.items():
        a, b = (statistics.median(each) * 1000 for each in (took, many.measures[name]))
        print(f"{name:24} {a:10.3f} {b:10.3f} {b / a:6.2f}")
        figures[name] = {"few": a, "many": b, "ratio": b / a}
    ratio = rates["increments"] / rates["steps"]
    print(f"{'steps a second':24} {rates['steps']:10,.0f}")
    print(f"{'increments a second':24} {rates['increments']:10,.0f} {'':10} {ratio:6.2f}")
    print(json.dumps(figures | {"rates": rates}))


if __name__ == "__main__":
    main()
