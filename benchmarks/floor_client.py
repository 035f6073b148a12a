"""A client of the floor (`floor.py`), which starts its two processes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import floor


class Floor:
    """The floor with one worker, of coroutines (`kind` "async") or of "threads", whose socket and
    log are in `scratch`. It is ready when this returns; `open` connects to it."""

    def __init__(self, kind: str, scratch: Path, slots: int) -> None:
        self._socket = str(scratch / f"{kind}.sock")
        program = [sys.executable, floor.__file__]
        self._processes = [
            _started([*program, "daemon", self._socket, str(scratch / f"{kind}.jsonl")]),
            _started([*program, "worker", self._socket, kind, str(slots)]),
        ]
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._count = 0
        self._lines: floor.Lines

    @property
    def pids(self) -> list[int]:
        """Of both processes."""
        return [process.pid for process in self._processes]

    async def open(self) -> None:
        """Connect, on the running loop."""
        loop = asyncio.get_running_loop()
        _, self._lines = await loop.create_unix_connection(
            lambda: floor.Lines(self._heard), self._socket
        )

    def _heard(self, _: floor.Lines, message: floor.Message) -> None:
        if message.kind == "result":
            self._waiting.pop(message.number).set_result(message.value)

    async def run(self, job: str, value: int) -> Any:
        """Start a run and wait for its result."""
        self._count += 1
        future = self._waiting[self._count] = asyncio.get_running_loop().create_future()
        self._lines.send(floor.Message("start", self._count, job=job, value=value))
        return await future

    async def many(self, job: str, runs: int, in_flight: int) -> float:
        """Seconds that `runs` runs took, `in_flight` at a time."""
        left = iter(range(runs))

        async def lane() -> None:
            for number in left:
                await self.run(job, number)

        began = time.perf_counter()
        await asyncio.gather(*(lane() for _ in range(in_flight)))
        return time.perf_counter() - began

    async def latencies(self, job: str, runs: int) -> list[float]:
        """Seconds from start to result, one run after another."""
        took = []
        for number in range(runs):
            began = time.perf_counter()
            await self.run(job, number)
            took.append(time.perf_counter() - began)
        return took

    def close(self) -> None:
        """Kill both processes."""
        for process in self._processes:
            process.kill()
            process.wait()


def _started(argv: list[str]) -> subprocess.Popen[str]:
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process
