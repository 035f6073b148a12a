"""The core path, measured: durable steps a second, latencies, memory, and the whole command.

    python benchmarks/core.py [--rounds 9] [--quick]

Each round runs StackShift and the floor (`floor.py`, the least program that does the same work) in
turn, so that what the machine does meanwhile hits both alike. Figures are medians over the rounds;
compare ratios, not hours.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from floor_client import Floor
from load import Client, Project, blocking_latencies, many, running

IN_FLIGHT = 64


Measures = dict[str, float]


class Ours:
    """StackShift, up and warm."""

    def __init__(self, project: Project) -> None:
        self._project = project

    async def open(self) -> Ours:
        self._client = await Client().open(self._project.socket)
        await many(self._client, "five", 300, IN_FLIGHT)
        await many(self._client, "five_sync", 200, IN_FLIGHT)
        return self

    async def round(self, runs: int, singles: int) -> Measures:
        client = self._client
        made = {
            "async steps/s": 5 * runs / await many(client, "five", runs, IN_FLIGHT),
            "sync steps/s": 5 * (runs // 2) / await many(client, "five_sync", runs // 2, IN_FLIGHT),
        }
        steps: list[float] = []
        for i in range(singles):
            steps += await client.run("five_timed", i)
        made["one step after another, ms"] = _ms(steps)
        took = await asyncio.to_thread(blocking_latencies, self._project.socket, "noop", singles)
        made["start to result, ms"] = _ms(took)
        return made


class Least:
    """The floor, up and warm: one with a worker of coroutines, one with threads."""

    def __init__(self, scratch: Path) -> None:
        self._floors = {kind: Floor(kind, scratch, IN_FLIGHT) for kind in ("async", "threads")}

    async def open(self) -> Least:
        for each, runs in zip(self._floors.values(), (300, 200), strict=True):
            await each.open()
            await each.many("five", runs, IN_FLIGHT)
        return self

    async def round(self, runs: int, singles: int) -> Measures:
        coroutines, threads = self._floors.values()
        made = {
            "async steps/s": 5 * runs / await coroutines.many("five", runs, IN_FLIGHT),
            "sync steps/s": 5 * (runs // 2) / await threads.many("five", runs // 2, IN_FLIGHT),
        }
        steps: list[float] = []
        for i in range(singles):
            steps += await coroutines.run("five_timed", i)
        made["one step after another, ms"] = _ms(steps)
        made["start to result, ms"] = _ms(await coroutines.latencies("noop", singles))
        return made

    def close(self) -> None:
        for each in self._floors.values():
            each.close()


async def compare(
    project: Project, least: Least, rounds: int, runs: int, singles: int
) -> tuple[list[Measures], list[Measures]]:
    """Rounds of both in turn, each a second or two, so that what the machine does meanwhile hits
    both alike."""
    mine, theirs = await Ours(project).open(), await least.open()
    made: tuple[list[Measures], list[Measures]] = ([], [])
    for _ in range(rounds):
        made[0].append(await mine.round(runs, singles))
        made[1].append(await theirs.round(runs, singles))
    return made


def memory(quick: bool) -> dict[str, float]:
    """Megabytes (proportional set) of daemon and worker after so many finished runs."""
    made: dict[str, float] = {}
    first, second = (2_000, 10_000) if quick else (10_000, 100_000)
    with running(Project()) as project:

        async def load(total: int) -> None:
            client = await Client().open(project.socket)
            await many(client, "noop", total, IN_FLIGHT)

        _run(load(first))
        made[f"MB after {first:,} runs"] = project.memory_mb()
        _run(load(second - first))
        made[f"MB after {second:,} runs"] = project.memory_mb()
    return made


def whole_command(rounds: int) -> dict[str, float]:
    """Milliseconds of `stackshift start` as a process, and of the emptiest Python program."""
    command = [sys.executable, "-m", "stackshift_cli", "start", "noop", "-p", "1"]
    empty = [sys.executable, "-c", "pass"]
    took: dict[str, list[float]] = {"start": [], "pass": []}
    with running(Project()) as project:
        environment = os.environ | {"STACKSHIFT_PROJECT": str(project.root)}
        for _ in range(rounds):
            for name, argv in (("start", command), ("pass", empty)):
                began = time.perf_counter()
                subprocess.run(argv, env=environment, check=True, stdout=subprocess.DEVNULL)
                took[name].append(time.perf_counter() - began)
    start, nothing = _ms(took["start"]), _ms(took["pass"])
    return {
        "stackshift start, ms": start,
        "python -c pass, ms": nothing,
        "ratio": start / nothing,
    }


def _run(work: Any) -> Any:
    import uvloop

    return uvloop.run(work)


def _ms(seconds: list[float]) -> float:
    return statistics.median(seconds) * 1000


def main() -> None:
    """Run it all and print a table, then the same as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true")
    chosen = parser.parse_args()
    runs, singles = (300, 30) if chosen.quick else (1000, 100)
    with tempfile.TemporaryDirectory() as scratch, running(Project()) as project:
        least = Least(Path(scratch))
        try:
            ours, theirs = _run(compare(project, least, chosen.rounds, runs, singles))
        finally:
            least.close()
    print(f"{'':28} {'ours':>10} {'floor':>10} {'ratio':>6}")
    figures: dict[str, Any] = {}
    for name in ours[0]:
        mine = statistics.median(each[name] for each in ours)
        other = statistics.median(each[name] for each in theirs)
        ratio = statistics.median(a[name] / b[name] for a, b in zip(ours, theirs, strict=True))
        print(f"{name:28} {mine:10,.2f} {other:10,.2f} {ratio:6.2f}")
        figures[name] = {"ours": mine, "floor": other, "ratio": ratio}
    for group in (memory(chosen.quick), whole_command(10 if chosen.quick else 30)):
        for name, value in group.items():
            print(f"{name:28} {value:10,.2f}")
        figures |= group
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
