"""Does anything grow? Starts at a steady rate for a while, with kills, retention and compaction.

    python benchmarks/soak.py [--minutes 20] [--rate 50]

In the first half the daemon is killed once a minute, in the second it lives on, so that what grows
in one process shows; a worker is killed every 15 seconds throughout. Finished runs are kept for a
minute. Prints a line every half minute, and exits with 1 if in the second half memory, descriptors
or a part of the data directory has grown by more than a tenth, or if a run was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import uvloop
from load import Client, Project

CONFIG = """\
[workers]
processes = 2
slots = 64
inherit_env = ["PYTHONPATH"]
[journal]
segment_size = "4MiB"
retention = "1m"
"""
JOBS = """
import asyncio
import stackshift_jobs as stackshift
from stackshift_jobs import AsyncJobContext, Retry

async def give(i):
    print("step", i)
    return "x" * 200

@stackshift.job("soak", retry=Retry(max_attempts=20, backoff="100ms"))
async def soak(ctx: AsyncJobContext):
    for i in range(3):
        await ctx.step.run(f"s{i}", give, i)
    await ctx.state.increment("all")
    if ctx.payload % 10 == 0:
        await asyncio.sleep(5)
    return ctx.payload
"""
SAMPLE_SECONDS = 30
WORKER_SECONDS = 15
DAEMON_SECONDS = 60
ALLOWED = 1.1
Sample = dict[str, float]


class Soak:
    """A daemon under a steady load."""

    def __init__(self, minutes: float, rate: float) -> None:
        self._project = Project()
        (self._project.root / "stackshift.toml").write_text(CONFIG)
        (self._project.root / "jobs" / "soak.py").write_text(JOBS)
        self._seconds = minutes * 60
        self._rate = rate
        self._client: Client | None = None
        self._acknowledged: dict[str, float] = {}
        self._began = 0.0
        self.samples: list[tuple[float, Sample]] = []
        """What was measured, and after how many seconds."""

    async def run(self) -> list[str]:
        """Do it; what has gone wrong, in words."""
        self._project.start()
        await self._connect()
        self._began = time.monotonic()
        helpers = [asyncio.ensure_future(each()) for each in (self._kill, self._sample)]
        try:
            await self._start_runs()
        finally:
            for helper in helpers:
                helper.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*helpers)
        wrong = [*self._grown(), *await self._lost()]
        self._project.stop()
        return wrong

    @property
    def _age(self) -> float:
        return time.monotonic() - self._began

    async def _connect(self) -> None:
        self._client = await Client().open(self._project.socket)

    async def _ask(self, method: str, **params: Any) -> Any:
        assert self._client is not None
        return await asyncio.wait_for(self._client.ask(method, json.dumps(params)), 10)

    async def _start_runs(self) -> None:
        """One start after another at the given rate; what is not answered is started again."""
        number = 0
        while self._age < self._seconds:
            key = {"idempotency_key": f"soak:{number}", "idempotency_ttl_ms": 60_000}
            with suppress(TimeoutError, OSError):
                told = await self._ask("run.start", job="soak", payload=number, **key)
                self._acknowledged[told["id"]] = self._age
                number += 1
            await asyncio.sleep(max(0.0, number / self._rate - self._age))

    async def _kill(self) -> None:
        """Kill workers, and in the first half the daemon."""
        killed = 0.0
        while True:
            await asyncio.sleep(WORKER_SECONDS)
            daemon = self._project.daemon
            assert daemon is not None
            if self._age < self._seconds / 2 and self._age - killed > DAEMON_SECONDS:
                killed = self._age
                daemon.kill()
                daemon.wait()
                await asyncio.to_thread(self._project.start)
                await self._connect()
            elif workers := self._workers():
                with suppress(ProcessLookupError):
                    os.kill(workers[-1].pid, signal.SIGKILL)

    def _workers(self) -> list[psutil.Process]:
        assert self._project.daemon is not None
        children = psutil.Process(self._project.daemon.pid).children(recursive=True)
        return [each for each in children if "stackshiftd.worker" in " ".join(each.cmdline())]

    async def _sample(self) -> None:
        while True:
            await asyncio.sleep(SAMPLE_SECONDS - self._age % SAMPLE_SECONDS)
            with suppress(psutil.Error):
                sample = self._measured()
                self.samples.append((self._age, sample))
                told = "  ".join(f"{name} {value:,.1f}" for name, value in sample.items())
                print(f"{self._age:6.0f} s  {len(self._acknowledged):7,} runs  {told}", flush=True)

    def _measured(self) -> Sample:
        assert self._project.daemon is not None
        daemon = psutil.Process(self._project.daemon.pid)
        data = self._project.root / ".stackshift"
        sample = {
            "daemon MB": daemon.memory_full_info().uss / 1e6,
            "daemon fds": float(daemon.num_fds()),
        }
        for each in sorted(data.iterdir()):
            if each.is_dir() or each.suffix in (".log", ".db"):
                sample[f"{each.name} MB"] = _bytes(each) / 1e6
        return sample

    def _grown(self) -> list[str]:
        """What is larger in the last quarter than in the one before, beyond the noise."""
        parts = (self._seconds / 2, self._seconds * 3 / 4, self._seconds + SAMPLE_SECONDS)
        earlier, later = (
            [sample for age, sample in self.samples if low + SAMPLE_SECONDS < age <= high]
            for low, high in pairwise(parts)
        )
        wrong = []
        for name in later[-1]:
            before, after = (
                statistics.median(sample.get(name, 0.0) for sample in part)
                for part in (earlier, later)
            )
            verdict = "grows" if after > before * ALLOWED + 0.5 else "flat"
            print(f"{name:<20} {before:10,.1f} → {after:10,.1f}  {verdict}")
            if verdict == "grows":
                wrong.append(f"{name} grows: {before:.1f} → {after:.1f}")
        return wrong

    async def _lost(self) -> list[str]:
        """Acknowledged runs that do not exist, though young, or do not complete."""
        await self._connect()
        wrong = []
        for run, age in self._acknowledged.items():
            if self._seconds - age < 30:
                ended = await self._ask("run.wait", run=run, timeout_ms=9000)
                if ended.get("status") != "completed":
                    wrong.append(f"{run} is {ended.get('status')}")
        done = (await self._ask("state.get", key="all"))["value"]
        print(f"{len(self._acknowledged):,} acknowledged, {done:,} counted in the state")
        if done < len(self._acknowledged):
            wrong.append(f"{len(self._acknowledged) - done} runs were lost")
        return wrong


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    size = 0
    for each in files:
        with suppress(FileNotFoundError):
            size += each.stat().st_size
    return size


def main() -> int:
    """Run it and say what grew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--rate", type=float, default=50)
    given = parser.parse_args()
    if given.minutes < 4:
        parser.error("a quarter has to hold a sample: at least 4 minutes")
    wrong = uvloop.run(Soak(given.minutes, given.rate).run())
    for each in wrong:
        print(each)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
