"""The core path, measured: durable steps a second, latencies, memory, and the whole command.

    python benchmarks/core.py [--rounds 3] [--prototype DIR] [--quick]

With `--prototype DIR` (a directory that holds `p3/proto.py`, the least program that does the same
work: one socket, group commit, no features) each round runs ours and it in turn, so that what the
machine does meanwhile hits both alike. Figures are medians over the rounds; compare ratios, not
hours.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

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


class Prototype:
    """The prototype, up and warm: a daemon with one worker of coroutines, one with threads."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        self._proto = _prototype_module(folder)
        self._results: dict[tuple[str, int], asyncio.Future[Any]] = {}
        self._lines: dict[str, Any] = {}
        self._count = 0
        self._processes: list[subprocess.Popen[str]] = []
        self._sockets: dict[str, str] = {}
        program = [sys.executable, str(folder / "p3" / "proto.py")]
        for kind in ("async", "threads"):
            sock = self._sockets[kind] = str(scratch / f"{kind}.sock")
            log = str(scratch / f"{kind}.jsonl")
            self._processes.append(_started([*program, "daemon", sock, log, "thread"]))
            self._processes.append(_started([*program, "worker", sock, kind, str(IN_FLIGHT)]))

    async def open(self) -> Prototype:
        loop = asyncio.get_running_loop()
        for kind, sock in self._sockets.items():

            def heard(_: Any, message: Any, kind: str = kind) -> None:
                if message.m == "res":
                    self._results.pop((kind, message.id)).set_result(message.r)

            _, self._lines[kind] = await loop.create_unix_connection(
                partial(self._proto.Lines, heard), sock
            )
        await self._many("async", 300)
        await self._many("threads", 200)
        return self

    async def round(self, runs: int, singles: int) -> Measures:
        made = {
            "async steps/s": 5 * runs / await self._many("async", runs),
            "sync steps/s": 5 * (runs // 2) / await self._many("threads", runs // 2),
        }
        steps: list[float] = []
        for i in range(singles):
            steps += await self._run("async", "five_t", i)
        made["one step after another, ms"] = _ms(steps)
        took: list[float] = []
        for i in range(singles):
            began = time.perf_counter()
            await self._run("async", "noop", i)
            took.append(time.perf_counter() - began)
        made["start to result, ms"] = _ms(took)
        return made

    async def _run(self, kind: str, job: str, argument: int) -> Any:
        self._count += 1
        key = (kind, self._count)
        future = self._results[key] = asyncio.get_running_loop().create_future()
        self._lines[kind].send(self._proto.Msg("start", self._count, job=job, arg=argument))
        return await future

    async def _many(self, kind: str, total: int) -> float:
        left = iter(range(total))

        async def lane() -> None:
            for i in left:
                await self._run(kind, "five", i)

        began = time.perf_counter()
        await asyncio.gather(*(lane() for _ in range(IN_FLIGHT)))
        return time.perf_counter() - began

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


async def compare(
    project: Project, prototype: Prototype | None, rounds: int, runs: int, singles: int
) -> tuple[list[Measures], list[Measures]]:
    """Rounds of both in turn, each a second or two, so that what the machine does meanwhile hits
    both alike."""
    mine, theirs = await Ours(project).open(), await prototype.open() if prototype else None
    made: tuple[list[Measures], list[Measures]] = ([], [])
    for _ in range(rounds):
        made[0].append(await mine.round(runs, singles))
        if theirs is not None:
            made[1].append(await theirs.round(runs, singles))
    return made


def _prototype_module(folder: Path) -> Any:
    sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location("proto", folder / "p3" / "proto.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def _started(argv: list[str]) -> subprocess.Popen[str]:
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def _run(work: Any) -> Any:
    import uvloop

    return uvloop.run(work)


def _ms(seconds: list[float]) -> float:
    return statistics.median(seconds) * 1000


def main() -> None:
    """Run it all and print a table, then the same as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--prototype", type=Path)
    parser.add_argument("--quick", action="store_true")
    chosen = parser.parse_args()
    runs, singles = (300, 30) if chosen.quick else (1000, 100)
    with tempfile.TemporaryDirectory() as scratch, running(Project()) as project:
        prototype = None
        if chosen.prototype is not None:
            prototype = Prototype(chosen.prototype, Path(scratch))
        try:
            ours, theirs = _run(compare(project, prototype, chosen.rounds, runs, singles))
        finally:
            if prototype is not None:
                prototype.close()
    print(f"{'':28} {'ours':>10} {'prototype':>10} {'ratio':>6}")
    figures: dict[str, Any] = {}
    for name in ours[0]:
        mine = statistics.median(each[name] for each in ours)
        other = statistics.median(each[name] for each in theirs) if theirs else float("nan")
        ratio = (
            statistics.median(a[name] / b[name] for a, b in zip(ours, theirs, strict=True))
            if theirs
            else float("nan")
        )
        print(f"{name:28} {mine:10,.2f} {other:10,.2f} {ratio:6.2f}")
        figures[name] = {"ours": mine, "prototype": other, "ratio": ratio}
    for group in (memory(chosen.quick), whole_command(10 if chosen.quick else 30)):
        for name, value in group.items():
            print(f"{name:28} {value:10,.2f}")
        figures |= group
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
