"""The floor: the least program that does the work which `core.py` and `peers` measure.

    python benchmarks/floor.py daemon SOCKET LOG
    python benchmarks/floor.py worker SOCKET async|threads SLOTS

One process has the log and hands out runs, another executes them. A start, a step and an end are a
line each, appended to the log; lines that arrive while others are on their way to the disk share
the next sync (group commit), and nothing is acknowledged before its line is synced. After a crash
the log is read again, and runs that had not ended continue after their last recorded step.

That is all. There are no queues, retries, timeouts, waits, keys, schedules, histories or checks, a
run stays in memory for ever, and a line is trusted. So what StackShift takes more than this is what
all of these cost, and what the floor takes is about the least that Python and this disk allow.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import queue
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop


class Message(msgspec.Struct, omit_defaults=True, gc=False):
    """A line of the protocol and of the log; `kind` is `start`, `started`, `execute`, `step`,
    `recorded`, `end`, `result` or `worker`."""

    kind: str
    number: int = 0
    run: str = ""
    job: str = ""
    step: str = ""
    value: Any = None
    steps: dict[str, Any] | None = None
    at: float = 0.0


encode: Final = msgspec.json.Encoder().encode
decode: Final = msgspec.json.Decoder(Message).decode


class Lines(asyncio.Protocol):
    """A connection: a line each, and one write for all that a turn of the loop sends."""

    def __init__(
        self,
        heard: Callable[[Lines, Message], None],
        lost: Callable[[Lines], None] = lambda _: None,
    ) -> None:
        self._heard = heard
        self._lost = lost
        self._rest = b""
        self._gathered: list[bytes] = []
        self._transport: Any = None
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Take in the lines that are complete."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            self._heard(self, decode(line))

    def connection_lost(self, _exc: Exception | None) -> None:
        """Tell the owner."""
        self._lost(self)

    def send(self, message: Message) -> None:
        """Send a message."""
        if not self._gathered:
            self._loop.call_soon(self._flush)
        self._gathered.append(encode(message))

    def _flush(self) -> None:
        gathered, self._gathered = self._gathered, []
        gathered.append(b"")
        self._transport.write(b"\n".join(gathered))


class Log:
    """Appends lines, and calls back once they are on the disk."""

    def __init__(self, path: Path) -> None:
        self._loop = asyncio.get_running_loop()
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._lines: list[bytes] = []
        self._waiting: list[Callable[[], None]] = []
        self._batches: queue.SimpleQueue[tuple[bytes, list[Callable[[], None]]]] = (
            queue.SimpleQueue()
        )
        self._is_due = self._is_busy = False
        threading.Thread(target=self._commit, daemon=True).start()

    def append(self, message: Message, durable: Callable[[], None]) -> None:
        """Append a line, and call `durable` when it is."""
        message.at = time.time()
        self._lines.append(encode(message))
        self._waiting.append(durable)
        if not self._is_busy and not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        self._is_due = False
        if self._is_busy or not self._lines:
            return
        batch = b"\n".join([*self._lines, b""]), self._waiting
        self._lines, self._waiting = [], []
        self._is_busy = True
        self._batches.put(batch)

    def _commit(self) -> None:
        while True:
            data, waiting = self._batches.get()
            os.write(self._file, data)
            os.fdatasync(self._file)
            self._loop.call_soon_threadsafe(self._committed, waiting)

    def _committed(self, waiting: list[Callable[[], None]]) -> None:
        self._is_busy = False
        for durable in waiting:
            durable()
        self._begin()


class Run:
    """A run that was started; `client` waits for it by `number`."""

    __slots__ = ("client", "id", "is_over", "job", "number", "result", "steps", "value", "worker")

    def __init__(self, id: str, job: str, value: Any) -> None:
        self.id, self.job, self.value = id, job, value
        self.steps: dict[str, Any] = {}
        self.client: Lines | None = None
        self.number = 0
        self.worker: Lines | None = None
        self.is_over = False
        self.result: Any = None


class Daemon:
    """Hands out runs to workers and records what comes of them."""

    def __init__(self, log: Path) -> None:
        self._runs = {run.id: run for run in recovered(log)}
        self._log = Log(log)
        self._ready = deque(run for run in self._runs.values() if not run.is_over)
        self._free: dict[Lines, int] = {}
        self._numbers = itertools.count(len(self._runs))

    def heard(self, sender: Lines, message: Message) -> None:
        """Do what a client or a worker asks for."""
        match message.kind:
            case "step":
                self._step(sender, message)
            case "start":
                self._start(sender, message)
            case "end":
                self._end(sender, message)
            case "worker":
                self._free[sender] = message.number
                self._hand_out()

    def lost(self, sender: Lines) -> None:
        """Hand out again what a worker had."""
        if self._free.pop(sender, None) is not None:
            for run in self._runs.values():
                if run.worker is sender and not run.is_over:
                    run.worker = None
                    self._ready.append(run)
            self._hand_out()

    def _start(self, client: Lines, message: Message) -> None:
        run = Run(f"run_{next(self._numbers):08d}", message.job, message.value)
        run.client, run.number = client, message.number
        self._runs[run.id] = run

        def durable() -> None:
            client.send(Message("started", message.number, run.id))
            self._ready.append(run)
            self._hand_out()

        self._log.append(Message("start", run=run.id, job=run.job, value=run.value), durable)

    def _step(self, worker: Lines, message: Message) -> None:
        run = self._runs[message.run]

        def durable() -> None:
            run.steps[message.step] = message.value
            worker.send(Message("recorded", message.number))

        line = Message("step", run=run.id, step=message.step, value=message.value)
        self._log.append(line, durable)

    def _end(self, worker: Lines, message: Message) -> None:
        run = self._runs[message.run]

        def durable() -> None:
            run.is_over, run.result = True, message.value
            if run.client is not None:
                run.client.send(Message("result", run.number, run.id, value=run.result))

        self._log.append(Message("end", run=run.id, value=message.value), durable)
        self._free[worker] += 1
        self._hand_out()

    def _hand_out(self) -> None:
        while self._ready:
            worker = max(self._free, key=self._free.__getitem__, default=None)
            if worker is None or not self._free[worker]:
                return
            run = self._ready.popleft()
            run.worker = worker
            self._free[worker] -= 1
            steps = run.steps or None
            worker.send(Message("execute", run=run.id, job=run.job, value=run.value, steps=steps))


def recovered(log: Path) -> Iterator[Run]:
    """The runs in the log, up to a line that was cut off."""
    runs: dict[str, Run] = {}
    for line in log.read_bytes().splitlines() if log.exists() else ():
        try:
            message = decode(line)
        except msgspec.DecodeError:
            break
        if message.kind == "start":
            runs[message.run] = Run(message.run, message.job, message.value)
        elif message.kind == "step":
            runs[message.run].steps[message.step] = message.value
        else:
            runs[message.run].is_over, runs[message.run].result = True, message.value
    yield from runs.values()


# --- Workers -------------------------------------------------------------------------------


async def give(number: int) -> int:
    """The function of each step."""
    return number


class AsyncContext:
    """What a coroutine has of its run."""

    __slots__ = ("_run", "_steps", "_worker")

    def __init__(self, worker: AsyncWorker, message: Message) -> None:
        self._worker = worker
        self._run = message.run
        self._steps = message.steps

    async def step(self, name: str, fn: Callable[..., Any], *args: Any) -> Any:
        """Call `fn` unless its result is recorded, and record it."""
        if self._steps and name in self._steps:
            return self._steps[name]
        value = await fn(*args)
        await self._worker.recorded(Message("step", run=self._run, step=name, value=value))
        return value


async def noop(_: AsyncContext, number: int) -> int:
    """Return the payload."""
    return number


async def five(ctx: AsyncContext, number: int) -> int:
    """Five steps."""
    for each in range(5):
        await ctx.step(f"s{each}", give, each)
    return number


async def five_timed(ctx: AsyncContext, _: int) -> list[float]:
    """The seconds that each of five steps takes."""
    took = []
    for each in range(5):
        began = time.perf_counter()
        await ctx.step(f"s{each}", give, each)
        took.append(time.perf_counter() - began)
    return took


ASYNC_JOBS: Final[dict[str, Callable[[AsyncContext, Any], Coroutine[Any, Any, Any]]]] = {
    "noop": noop,
    "five": five,
    "five_timed": five_timed,
}


class AsyncWorker:
    """Executes each run in a task."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.lines: Lines

    def heard(self, _: Lines, message: Message) -> None:
        """Execute a run, or let a step go on."""
        if message.kind == "recorded":
            self._waiting.pop(message.number).set_result(None)
        else:
            task = self._loop.create_task(self._execute(message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def recorded(self, message: Message) -> None:
        """Send a step, and wait until it is durable."""
        message.number = next(self._numbers)
        waiting = self._waiting[message.number] = self._loop.create_future()
        self.lines.send(message)
        await waiting

    async def _execute(self, message: Message) -> None:
        value = await ASYNC_JOBS[message.job](AsyncContext(self, message), message.value)
        self.lines.send(Message("end", run=message.run, value=value))


def threads(path: str, slots: int) -> None:
    """Execute each run on a thread, each of which sends by itself."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    sending = threading.Lock()
    runs: queue.SimpleQueue[Message] = queue.SimpleQueue()
    gates: list[threading.Lock] = []

    def send(message: Message) -> None:
        with sending:
            sock.sendall(encode(message) + b"\n")

    def executes(number: int, gate: threading.Lock) -> None:
        while True:
            message = runs.get()
            done = message.steps or {}
            for each in range(5) if message.job == "five" else ():
                if f"s{each}" in done:
                    continue
                send(Message("step", number, message.run, step=f"s{each}", value=each))
                gate.acquire()
            send(Message("end", run=message.run, value=message.value))

    for number in range(slots):
        gate = threading.Lock()
        gate.acquire()
        gates.append(gate)
        threading.Thread(target=executes, args=(number, gate), daemon=True).start()
    send(Message("worker", slots))
    print("ready", flush=True)
    rest = b""
    while data := sock.recv(1 << 16):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            message = decode(line)
            if message.kind == "recorded":
                gates[message.number].release()
            else:
                runs.put(message)


async def serve(path: str, log: Path) -> None:
    """Run the daemon until it is killed."""
    daemon = Daemon(log)
    loop = asyncio.get_running_loop()
    await loop.create_unix_server(lambda: Lines(daemon.heard, daemon.lost), path)
    print("ready", flush=True)
    await asyncio.Event().wait()


async def work(path: str, slots: int) -> None:
    """Run a worker of coroutines until the daemon is gone."""
    worker, gone = AsyncWorker(), asyncio.Event()
    loop = asyncio.get_running_loop()
    _, worker.lines = await loop.create_unix_connection(
        lambda: Lines(worker.heard, lambda _: gone.set()), path
    )
    worker.lines.send(Message("worker", slots))
    print("ready", flush=True)
    await gone.wait()


if __name__ == "__main__":
    role, address, *rest_ = sys.argv[1:]
    if role == "daemon":
        uvloop.run(serve(address, Path(rest_[0])))
    elif rest_[0] == "async":
        uvloop.run(work(address, int(rest_[1])))
    else:
        threads(address, int(rest_[1]))
