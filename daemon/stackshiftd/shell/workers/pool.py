"""The worker processes: started by exec, greeted, listened to, replaced.

Each has a socket pair; nothing else of the daemon reaches it. A worker that is silent for the
heartbeat time, or whose process ends, is lost: its executions are given up first, then it is
killed, so that nothing it may still say counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol, cast

import msgspec

from stackshift_jobs.errors import BadConfiguration
from stackshift_jobs.project.config import Config
from stackshiftd.core import commands as c
from stackshiftd.shell.environment import environment
from stackshiftd.shell.tuning import Tuning
from stackshiftd.worker.frames import (
    Beat,
    Drain,
    Frame,
    Greeting,
    HandBack,
    Hello,
    Importing,
    Stuck,
    decode_from_worker,
    encode,
)

log = logging.getLogger("stackshiftd.pool")

_DEATH_LOOKS: Final = 10
_DEATH_LOOK_SECONDS: Final = 0.01


class WorkerListener(Protocol):
    """Who is told what workers say."""

    def imports(self, link: WorkerLink, module: str) -> None:
        """A worker has begun to import this module."""

    def greeted(self, link: WorkerLink, greeting: Greeting) -> None:
        """A worker has imported its modules and can be given work."""

    def heard(self, link: WorkerLink, command: c.Command) -> None:
        """A worker's command."""

    def handed_back(self, link: WorkerLink, run: str, token: int) -> None:
        """A worker has left a handler at a drain."""

    def lost(self, link: WorkerLink, reason: str, ours: bool) -> None:
        """A worker is gone; whatever executed there executes no more."""


class Process(Protocol):
    """What runs a worker."""

    @property
    def pid(self) -> int:
        """Its number, as the system knows it."""

    def poll(self) -> int | None:
        """How it ended; None while it runs."""

    def wait(self) -> int:
        """Wait for its end; how it ended."""

    def kill(self) -> None:
        """End it, and all that it has started, at once; nothing if it has ended."""


Launch = Callable[[Config, socket.socket], Process]
"""Starts a worker at the other end of a socket pair. Raises `OSError` or `BadConfiguration`."""


class WorkerProcess(subprocess.Popen[bytes]):
    """A worker in a session of its own."""

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


def launch_process(config: Config, theirs: socket.socket) -> Process:
    """Start a worker process by exec."""
    return WorkerProcess(
        [_python(config), "-P", "-m", "stackshiftd.worker", "--fd", str(theirs.fileno())],
        pass_fds=(theirs.fileno(),),
        stdin=subprocess.DEVNULL,
        cwd=config.root,
        env=environment(config),
        # A Ctrl-C at the terminal of `daemon run` is the daemon's to handle.
        start_new_session=True,
    )


def _python(config: Config) -> str:
    """`[workers] python`, else the project's own environment if it has us, else our own."""
    chosen = config.workers.python
    if chosen is not None:
        return str(config.root / Path(chosen).expanduser())
    own = config.root / ".venv" / "bin" / "python"
    has_us = any(config.root.glob(".venv/lib/python3*/site-packages/stackshift_jobs*"))
    return str(own) if has_us and own.exists() else sys.executable


class WorkerLink(asyncio.Protocol):
    """The daemon's end of one worker."""

    def __init__(self, pool: Pool, worker: str, queue: str, process: Process) -> None:
        self.id = worker
        self.queue = queue
        """The one that it is for; empty for all that have no workers of their own."""
        self.process = process
        self.slots = 0
        self.ready = False
        self.importing = ""
        """The module that it is importing; empty once it has greeted."""
        self.stopping: set[str] = set()
        """Runs that were asked to stop and have not yet: no new work meanwhile."""
        self.codes: dict[str, str] = {}
        """The jobs that it has, with the digest of their code."""
        self.outdated = False
        """Its code is not the one that runs are given to now."""
        self.retired = False
        """It gets no new work any more."""
        self.gone = False
        self.silent_ticks = 0
        self.executed = 0
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._gathered: list[bytes] = []
        self._loop = asyncio.get_running_loop()

    @property
    def usable(self) -> bool:
        return (
            self.ready
            and not self.stopping
            and not self.retired
            and not self.outdated
            and not self.gone
        )

    def post(self, frame: Frame | msgspec.Struct) -> None:
        """Send, together with all that this turn of the loop sends."""
        if not self._gathered:
            self._loop.call_soon(self._flush)
        self._gathered.append(encode(frame))

    def _flush(self) -> None:
        gathered, self._gathered = self._gathered, []
        if self._transport is not None and not self.gone:
            gathered.append(b"")
            self._transport.write(b"\n".join(gathered))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no class of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.silent_ticks = 0
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            self._pool.heard(self, line)

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.ended(self)

    def close(self) -> None:
        """Close our end: the worker ends by itself."""
        if self._transport is not None:
            self._transport.close()


class Pool:
    """`[workers] processes` workers and those that queues have of their own, kept up."""

    def __init__(
        self,
        config: Config,
        logs: Path,
        ears: WorkerListener,
        tuning: Tuning,
        executing: Callable[[str], int],
        launch: Launch = launch_process,
    ) -> None:
        self._executing = executing
        self._launch = launch
        self._config = config
        self._logs = logs
        self._ears = ears
        self._tuning = tuning
        self._loop = asyncio.get_running_loop()
        self._count = 0
        self._early_deaths = 0
        self._closing = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self.links: dict[str, WorkerLink] = {}

    # --- Starting -------------------------------------------------------------------------

    async def start(self) -> None:
        """Start all workers; returns when they run, not when they are ready."""
        for _ in range(self._config.workers.processes):
            await self._spawn("")
        for name, queue in self._config.queues.items():
            for _ in range(queue.processes or 0):
                await self._spawn(name)
        self._loop.call_later(1.0, self._listen)

    async def _spawn(self, queue: str) -> None:
        ours, theirs = socket.socketpair()
        self._count += 1
        worker = f"w{self._count}"
        try:
            process = self._launch(self._config, theirs)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        link = WorkerLink(self, worker, queue, process)
        self.links[worker] = link
        await self._loop.create_unix_connection(lambda: link, sock=ours)
        link.post(
            Hello(
                worker=worker,
                project=str(self._config.root),
                jobs=list(self._config.project.jobs),
                slots=self._config.workers.slots,
                logs=str(self._logs),
                payload_bytes=self._config.limits.payload_bytes,
            )
        )

    @property
    def whole(self) -> bool:
        """Is every worker there that there is to be, and ready?"""
        return not self._tasks and all(link.usable for link in self.links.values())

    # --- Listening -------------------------------------------------------------------------

    def heard(self, link: WorkerLink, line: bytes) -> None:
        """A line of a worker."""
        if link.gone:
            return
        frame = decode_from_worker(line)
        if isinstance(frame, c.Command):
            self._ears.heard(link, frame)
        elif isinstance(frame, Importing):
            link.importing = frame.module
            self._ears.imports(link, frame.module)
        elif isinstance(frame, Greeting):
            self._early_deaths = 0
            link.importing = ""
            link.slots = self._config.workers.slots
            link.ready = True
            self._ears.greeted(link, frame)
        elif isinstance(frame, HandBack):
            self._ears.handed_back(link, frame.run, frame.token)
        elif isinstance(frame, Stuck):
            log.warning("%s: step %r of %s is past its timeout", link.id, frame.step, frame.run)
            self.retire(link, f"step {frame.step!r} of {frame.run} did not end at its timeout")
        else:
            assert isinstance(frame, Beat)

    def _listen(self) -> None:
        """Once a second: who has fallen silent? Counted in looks, not in seconds, so that a daemon
        that was itself stopped for a while blames nobody."""
        if self._closing:
            return
        for link in list(self.links.values()):
            link.silent_ticks += 1
            if link.gone:
                continue
            if link.retired:
                if not self._executing(link.id):
                    self._give_up(link, "retired", ours=True)
            elif link.silent_ticks > self._tuning.heartbeat:
                log.warning("%s has been silent for %d s", link.id, link.silent_ticks)
                self._give_up(link, "silent past its heartbeat", ours=False)
            elif reason := self._worn_out(link):
                log.info("%s is replaced: %s", link.id, reason)
                link.retired = True
        self._loop.call_later(min(1.0, self._tuning.heartbeat), self._listen)

    def _worn_out(self, link: WorkerLink) -> str:
        """Why a worker is due to be replaced (it finishes what it holds first), if it is."""
        workers = self._config.workers
        if workers.recycle_runs is not None and link.executed >= workers.recycle_runs:
            return f"it has executed {link.executed} runs"
        if workers.max_memory_bytes is not None:
            resident = resident_bytes(link.process.pid)
            if resident > workers.max_memory_bytes:
                return f"it holds {resident} bytes of memory"
        return ""

    # --- Ending ----------------------------------------------------------------------------

    def retire(self, link: WorkerLink, reason: str) -> None:
        """Replace a worker: no new work, the grace to record what it holds, then the end."""
        if link.retired or link.gone:
            return
        link.retired = True
        link.post(Drain())
        self._loop.call_later(
            self._config.workers.grace_ms / 1000, self._give_up, link, reason, True
        )

    def replace(self, link: WorkerLink, reason: str) -> None:
        """End a worker that had its grace: at once for the handler that would not stop, with a
        grace of their own for the others to record their step."""
        if len(link.stopping) >= self._executing(link.id):
            self._give_up(link, reason, True)
        else:
            self.retire(link, reason)

    def _give_up(self, link: WorkerLink, reason: str, ours: bool) -> None:
        """Its executions are lost now; the process is killed after."""
        if link.gone:
            return
        link.ready = False
        link.retired = True
        self._ears.lost(link, reason, ours)
        if self._tuning.kill_delay:
            # Its late results are heard meanwhile, and must change nothing.
            self._loop.call_later(self._tuning.kill_delay, self._kill, link)
        else:
            self._kill(link)

    def _kill(self, link: WorkerLink) -> None:
        link.process.kill()
        link.gone = True
        link.close()

    def ended(self, link: WorkerLink) -> None:
        """Its socket is closed: the process has ended, or is about to."""
        self.links.pop(link.id, None)
        unheard = not link.gone
        self._kill(link)  # changes nothing in how a process ends that is ending
        if not link.ready and link.slots == 0:
            self._early_deaths += 1
        if unheard:
            self._tell_lost(link, _DEATH_LOOKS)
        self._track(self._reap_and_replace(link))

    def _tell_lost(self, link: WorkerLink, looks: int) -> None:
        """Say that a worker is lost, and of what. Its socket closes a moment before there is a
        status to be had: that is looked for a few times, never waited for."""
        status = link.process.poll()
        if status is None and looks and not self._closing:
            self._loop.call_later(_DEATH_LOOK_SECONDS, self._tell_lost, link, looks - 1)
            return
        reason = "the worker process died" if link.ready else "the worker did not start"
        self._ears.lost(link, reason + _manner(status), ours=self._closing)

    async def _reap_and_replace(self, link: WorkerLink) -> None:
        status = await asyncio.to_thread(link.process.wait)
        if self._closing:
            return
        log.warning("%s (pid %d) ended with status %d", link.id, link.process.pid, status)
        while not self._closing:
            if self._early_deaths:
                tuning = self._tuning
                delay = tuning.respawn_first * 2 ** min(self._early_deaths - 1, 10)
                await asyncio.sleep(min(delay, tuning.respawn_most))
            try:
                await self._spawn(link.queue)
                return
            except (OSError, BadConfiguration) as bad:
                # An environment that is being built anew, no more processes: it may pass.
                self._early_deaths += 1
                log.error("a worker cannot be started: %s", bad)

    def _track(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def drain(self) -> None:
        """Have every worker hand its runs back."""
        for link in self.links.values():
            link.retired = True
            link.post(Drain())

    async def close(self) -> None:
        """End all workers now."""
        self._closing = True
        links = list(self.links.values())
        for link in links:
            self._kill(link)
        for link in links:
            await asyncio.to_thread(link.process.wait)
        for task in list(self._tasks):
            task.cancel()


def _manner(status: int | None) -> str:
    """How a process ended, in brackets; nothing where that is not known yet."""
    if status is None:
        return ""
    return f" (signal {-status})" if status < 0 else f" (exit status {status})"


def resident_bytes(pid: int) -> int:
    """Resident memory of a process; 0 where it cannot be told."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        if sys.platform == "linux":
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            return pages * os.sysconf("SC_PAGE_SIZE")
        told = subprocess.run(
            ["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, check=False
        )
        return int(told.stdout) * 1024
    return 0
