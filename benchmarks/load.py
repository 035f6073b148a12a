"""Load on one daemon, and what it took: the half of `core.py` that knows StackShift."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil

decode = msgspec.json.decode
NO_MORE: Final[Mapping[str, str]] = {}

JOBS = """
import asyncio
import time
import stackshift_jobs as stackshift
from stackshift_jobs import AsyncJobContext, JobContext

async def give(i): return i
def give_now(i): return i

@stackshift.job
async def noop(ctx: AsyncJobContext):
    return ctx.payload

async def for_ever():
    await asyncio.Event().wait()

@stackshift.job
async def block(ctx: AsyncJobContext):
    await ctx.step.run("for_ever", for_ever)  # A wait of the handler's own would free its slot.

@stackshift.job
async def five(ctx: AsyncJobContext):
    for i in range(5):
        await ctx.step.run(f"s{i}", give, i)
    return ctx.payload

@stackshift.job
def five_sync(ctx: JobContext):
    for i in range(5):
        ctx.step.run(f"s{i}", give_now, i)
    return ctx.payload

@stackshift.job
async def waits(ctx: AsyncJobContext):
    await ctx.step.wait_for_event("go", correlation_key=ctx.payload["key"])

@stackshift.job
async def steps(ctx: AsyncJobContext):
    for i in range(ctx.payload["calls"]):
        await ctx.step.run(f"s{i}", give, i)

@stackshift.job
async def increments(ctx: AsyncJobContext):
    for i in range(ctx.payload["calls"]):
        await ctx.state.increment("all")

@stackshift.job
async def five_timed(ctx: AsyncJobContext):
    took = []
    for i in range(5):
        began = time.perf_counter()
        await ctx.step.run(f"s{i}", give, i)
        took.append(time.perf_counter() - began)
    return took
"""


class Project:
    """A throw-away project with a daemon of its own; its directory goes with it."""

    def __init__(self, processes: int = 1, slots: int = 64) -> None:
        self._place = tempfile.TemporaryDirectory(
            prefix="stackshift-bench-", ignore_cleanup_errors=True
        )
        self.root = Path(self._place.name)
        (self.root / "jobs").mkdir()
        (self.root / "jobs" / "work.py").write_text(JOBS)
        (self.root / "stackshift.toml").write_text(
            f"[workers]\nprocesses = {processes}\nslots = {slots}\n"
        )
        self.daemon: subprocess.Popen[bytes] | None = None

    def start(self, variables: Mapping[str, str] = NO_MORE) -> None:
        """Start the daemon, with these environment variables too; returns when it is ready."""
        read, write = os.pipe()
        self.daemon = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "stackshiftd",
                "run",
                "--project",
                str(self.root),
                "--ready-fd",
                str(write),
            ],
            pass_fds=(write,),
            env={**os.environ, **variables},
            stderr=(self.root / "daemon.log").open("a"),
        )
        os.close(write)
        with os.fdopen(read) as told:
            answer = json.loads(told.readline() or "{}")
        assert answer.get("ready"), (self.root / "daemon.log").read_text()

    def stop(self) -> None:
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGTERM)
        self.daemon.wait(30)

    def remove(self) -> None:
        """Remove its directory now, and not when nobody has the project any more."""
        self._place.cleanup()

    @property
    def socket(self) -> str:
        return str(json.loads((self.root / ".stackshift" / "daemon.json").read_text())["socket"])

    def memory_mb(self) -> float:
        """Proportional set size of daemon and workers, once no snapshot is being written, for which
        there is a process that ends."""
        assert self.daemon is not None
        daemon = psutil.Process(self.daemon.pid)
        while True:
            family = [daemon, *daemon.children(recursive=True)]
            if not any("compact" in each.cmdline() for each in family):
                return sum(each.memory_full_info().pss for each in family) / 1e6
            time.sleep(0.1)

    def cpu_seconds(self) -> list[float]:
        assert self.daemon is not None
        daemon = psutil.Process(self.daemon.pid)
        return [sum(each.cpu_times()[:2]) for each in [daemon, *daemon.children(recursive=True)]]


class Client(asyncio.Protocol):
    """The least that speaks the protocol, so that the daemon is measured and not a client."""

    def __init__(self) -> None:
        self.rest = b""
        self.count = 0
        self.waiting: dict[int, asyncio.Future[Any]] = {}
        self.out: list[bytes] = []

    async def open(self, path: str) -> Client:
        self.loop = asyncio.get_running_loop()
        self.transport, _ = await self.loop.create_unix_connection(lambda: self, path)
        return self

    def data_received(self, data: bytes) -> None:
        lines = (self.rest + data).split(b"\n")
        self.rest = lines.pop()
        for line in lines:
            answer = decode(line)
            future = self.waiting.pop(answer["id"])
            if "error" in answer:
                unknown = answer["error"]["code"] == -32601
                kind = LookupError if unknown else RuntimeError
                future.set_exception(kind(answer["error"]["message"]))
            else:
                future.set_result(answer["result"])

    def ask(self, method: str, params: str) -> asyncio.Future[Any]:
        self.count += 1
        future = self.waiting[self.count] = self.loop.create_future()
        if not self.out:
            self.loop.call_soon(self.flush)
        self.out.append(
            b'{"jsonrpc":"2.0","id":%d,"method":"%s","params":%s}\n'
            % (self.count, method.encode(), params.encode())
        )
        return future

    def connection_lost(self, _exc: Exception | None) -> None:
        """Whoever waits learns that there is no answer."""
        for future in self.waiting.values():
            if not future.done():
                future.set_exception(ConnectionResetError("the daemon is gone"))
        self.waiting.clear()

    def flush(self) -> None:
        out, self.out = self.out, []
        if self.transport.is_closing():
            self.connection_lost(None)
        else:
            self.transport.write(b"".join(out))

    async def run(self, job: str, payload: int | str) -> Any:
        """Start a run and wait for its result; a text is JSON."""
        started = await self.ask("run.start", f'{{"job":"{job}","payload":{payload}}}')
        ended = await self.ask("run.wait", f'{{"run":"{started["id"]}"}}')
        return ended["result"]


async def many(client: Client, job: str, runs: int, in_flight: int) -> float:
    """Seconds that `runs` runs took, `in_flight` at a time."""
    left = iter(range(runs))

    async def lane() -> None:
        for i in left:
            await client.run(job, i)

    began = time.perf_counter()
    await asyncio.gather(*(lane() for _ in range(in_flight)))
    return time.perf_counter() - began


def blocking_latencies(path: str, job: str, runs: int) -> list[float]:
    """Seconds from start to result, one run after another, as a script would do it."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    reader = sock.makefile("rb")
    took = []
    for i in range(runs):
        began = time.perf_counter()
        sock.sendall(
            b'{"jsonrpc":"2.0","id":1,"method":"run.start","params":{"job":"%s","payload":%d}}\n'
            % (job.encode(), i)
        )
        started = json.loads(reader.readline())["result"]["id"]
        sock.sendall(
            b'{"jsonrpc":"2.0","id":2,"method":"run.wait","params":{"run":"%s"}}\n'
            % started.encode()
        )
        reader.readline()
        took.append(time.perf_counter() - began)
    sock.close()
    return took


@contextmanager
def running(project: Project, variables: Mapping[str, str] = NO_MORE) -> Iterator[Project]:
    """The project with a daemon that has these environment variables too, which is stopped in the
    end."""
    project.start(variables)
    try:
        yield project
    finally:
        project.stop()
