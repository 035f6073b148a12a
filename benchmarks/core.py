"""The core path, measured: durable steps a second, latencies, memory, and the whole command.

    python benchmarks/core.py [--rounds 3] [--prototype DIR] [--quick]

With `--prototype DIR` (a directory that holds `p3/proto.py`, the least program that does the same work: one
socket, group commit, no features) each round runs ours and it in turn, so that what the machine does
meanwhile hits both alike. Figures are medians over the rounds; compare ratios, not hours.
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
from pathlib import Path
from typing import Any

from load import Client, Project, blocking_latencies, many, running

IN_FLIGHT = 64


def ours(runs: int, singles: int) -> dict[str, float]:
    """One round of StackShift."""
    with running(Project()) as project:
        made = _run(_ours(project, runs, singles))
        made["start to result, ms"] = _ms(blocking_latencies(project.socket, "noop", singles))
    return made


async def _ours(project: Project, runs: int, singles: int) -> dict[str, float]:
    client = await Client().open(project.socket)
    await many(client, "five", runs // 10, IN_FLIGHT)
    await many(client, "five_sync", runs // 20, IN_FLIGHT)
    made = {
        "async steps/s": 5 * runs / await many(client, "five", runs, IN_FLIGHT),
        "sync steps/s": 5 * (runs // 2) / await many(client, "five_sync", runs // 2, IN_FLIGHT),
    }
    steps: list[float] = []
    for i in range(singles):
        steps += await client.run("five_timed", i)
    made["one step after another, ms"] = _ms(steps)
    return made


def prototype(folder: Path, runs: int, singles: int) -> dict[str, float]:
    """One round of the prototype: the same work, the same clients' way of asking."""
    made: dict[str, float] = {}
    for kind in ("async", "threads"):
        with tempfile.TemporaryDirectory() as scratch:
            sock, log = f"{scratch}/d.sock", f"{scratch}/log.jsonl"
            program = [sys.executable, str(folder / "p3" / "proto.py")]
            daemon = _started([*program, "daemon", sock, log, "thread"])
            worker = _started([*program, "worker", sock, kind, str(IN_FLIGHT)])
            try:
                made |= _run(_prototype(folder, sock, kind, runs, singles))
            finally:
                daemon.kill()
                worker.kill()
                daemon.wait()
                worker.wait()
    return made


async def _prototype(
    folder: Path, sock: str, kind: str, runs: int, singles: int
) -> dict[str, float]:
    proto = _prototype_module(folder)
    loop = asyncio.get_running_loop()
    results: dict[int, asyncio.Future[Any]] = {}
    count = 0

    def heard(_: Any, message: Any) -> None:
        if message.m == "res":
            results.pop(message.id).set_result(message.r)

    _, lines = await loop.create_unix_connection(lambda: proto.Lines(heard), sock)

    async def run(job: str, argument: int) -> Any:
        nonlocal count
        count += 1
        future = results[count] = loop.create_future()
        lines.send(proto.Msg("start", count, job=job, arg=argument))
        return await future

    async def all_of(total: int) -> float:
        left = iter(range(total))

        async def lane() -> None:
            for i in left:
                await run("five", i)

        began = time.perf_counter()
        await asyncio.gather(*(lane() for _ in range(IN_FLIGHT)))
        return time.perf_counter() - began

    if kind == "threads":
        await all_of(runs // 20)
        return {"sync steps/s": 5 * (runs // 2) / await all_of(runs // 2)}
    await all_of(runs // 10)
    made = {"async steps/s": 5 * runs / await all_of(runs)}
    steps: list[float] = []
    for i in range(singles):
        steps += await run("five_t", i)
    made["one step after another, ms"] = _ms(steps)
    took: list[float] = []
    for i in range(singles):
        began = time.perf_counter()
        await run("noop", i)
        took.append(time.perf_counter() - began)
    made["start to result, ms"] = _ms(took)
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
        "stackshift start, ms": start, "python -c pass, ms": nothing, "ratio": start / nothing,
    }  # fmt: skip


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
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prototype", type=Path)
    parser.add_argument("--quick", action="store_true")
    chosen = parser.parse_args()
    runs, singles = (600, 60) if chosen.quick else (4000, 300)
    rounds: dict[str, list[dict[str, float]]] = {"ours": [], "prototype": []}
    for _ in range(chosen.rounds):
        rounds["ours"].append(ours(runs, singles))
        if chosen.prototype is not None:
            rounds["prototype"].append(prototype(chosen.prototype, runs, singles))
    print(f"{'':28} {'ours':>10} {'prototype':>10} {'ratio':>6}")
    figures: dict[str, Any] = {}
    for name in rounds["ours"][0]:
        mine = statistics.median(each[name] for each in rounds["ours"])
        theirs = [each[name] for each in rounds["prototype"]]
        other = statistics.median(theirs) if theirs else float("nan")
        ratio = statistics.median(
            a[name] / b[name] for a, b in zip(rounds["ours"], rounds["prototype"], strict=False)
        ) if theirs else float("nan")  # fmt: skip
        print(f"{name:28} {mine:10,.2f} {other:10,.2f} {ratio:6.2f}")
        figures[name] = {"ours": mine, "prototype": other, "ratio": ratio}
    for group in (memory(chosen.quick), whole_command(10 if chosen.quick else 30)):
        for name, value in group.items():
            print(f"{name:28} {value:10,.2f}")
        figures |= group
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
