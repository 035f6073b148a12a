"""The daemon's end of one worker: what it sends, what it hears, and what is known of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Final, Protocol, cast

import msgspec

from stackshift_jobs.programs.processes import ProcessGroup
from stackshiftd.core import commands as c
from stackshiftd.core.why import Beat as StepBeat
from stackshiftd.shell.tuning import Tuning
from stackshiftd.shell.workers.local_host import Host
from stackshiftd.shell.workers.process import Process
from stackshiftd.shell.workers.silence import Silence
from stackshiftd.shell.workers.watch import Watch
from stackshiftd.worker.frames import Beat, Frame, Greeting, Printed, Rehearsed, encode

_READ_BYTES: Final = 1 << 18


class WorkerEnded(Exception):
    """A worker has ended before it could greet; the text says how."""


class WorkerListener(Protocol):
    """Handles what workers report."""

    def imports(self, link: WorkerLink, module: str) -> None:
        """A worker has begun to import this module."""

    def greeted(self, link: WorkerLink, greeting: Greeting) -> None:
        """A worker has imported its modules and can be given work."""

    def heard(self, link: WorkerLink, command: c.Command) -> None:
        """A worker has sent a command."""

    def beaten(self, link: WorkerLink, beat: Beat) -> None:
        """A worker is alive, and says what it executes."""

    def handed_back(self, link: WorkerLink, run: str, token: int) -> None:
        """A handler has left its worker at a drain, before its run had ended."""

    def programs(self, link: WorkerLink) -> list[ProcessGroup]:
        """The programs that are recorded for the executions of a worker."""

    def printed(self, link: WorkerLink, line: Printed) -> None:
        """A worker that cannot see the log of a run has a line for it."""

    def lost(self, link: WorkerLink, reason: str, ours: bool) -> None:
        """A worker is gone, and nothing executes there any more."""

    def needs_spare(self, queue: str) -> bool:
        """May a run of this pool start, which must be tried alone?"""

    def vacant(self) -> None:
        """Another extra worker may be started, or given work."""


class LinkOwner(Protocol):
    """The pool, as links see it."""

    heartbeat: float
    beat_seconds: float
    tuning: Tuning

    def heard(self, link: WorkerLink, line: bytes) -> None:
        """Handle a line that a worker has sent."""

    def broke_silence(self) -> None:
        """A worker that was silent for long can be given work again."""

    def retire(self, link: WorkerLink, reason: str) -> None:
        """Replace a worker, once it has handed back what it holds."""

    def ended(self, link: WorkerLink) -> None:
        """Replace a worker whose socket is closed."""


class WorkerLink(asyncio.Protocol):
    """The daemon's end of one worker."""

    def __init__(
        self,
        pool: LinkOwner,
        worker: str,
        queue: str,
        process: Process,
        host: Host,
        *,
        spare: bool = False,
        trial: asyncio.Future[Greeting] | None = None,
    ) -> None:
        self.id = worker
        self.spare = spare
        """Is it an extra worker, started for one run that is tried alone?"""
        self.trial = trial
        """Gets its greeting, if it is only to show whether changed modules can be imported."""
        self.rehearsals: dict[str, asyncio.Future[Rehearsed]] = {}
        """Get what a run's handler would do, by run."""
        self.replaced = False
        """Does another worker have its place already?"""
        self.queue = queue
        """The queue that it belongs to; empty if it serves all queues without workers of their
        own."""
        self.process = process
        self.host = host
        self.slots = 0
        self.offered: int | None = None
        """How many runs it takes at once, where its host has its own say in that."""
        self.ready = False
        self.importing = ""
        """The module that it is importing; empty once it has greeted."""
        self.stopping: set[str] = set()
        """Runs that were asked to stop and have not stopped yet; meanwhile it gets no new work."""
        self.codes: dict[str, str] = {}
        """Digests of the code that it has, by job and by file."""
        self.outdated = False
        """Does it lack the code that runs are executed with now?"""
        self.retired = False
        """Is it to be replaced, and gets no new work?"""
        self.gone = False
        self.dismissal = ""
        """Why the daemon has ended it, if it has."""
        self.silence = Silence(pool.heartbeat, process.cpu_seconds)
        self.executed = 0
        self.watch = Watch(pool.beat_seconds)
        self.last_words: dict[str, bytes] = {}
        """What its process had written and not stored when it died by itself."""
        self.knows_secrets = False
        self.beats: dict[str, list[StepBeat]] = {}
        """Run → when the functions of its steps were last known to be alive."""
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._gathered: list[bytes] = []
        self._loop = asyncio.get_running_loop()

    @property
    def usable(self) -> bool:
        """Can it be given work, as far as it has free slots?"""
        return (
            self.ready
            and not self.stopping
            and not self.retired
            and not self.outdated
            and not self.gone
            and self.trial is None
            and not self.silence.is_long
        )

    @property
    def status(self) -> str:
        """What `daemon.status` says of it."""
        if not self.ready or self.trial is not None:
            return "starting"
        if self.silence.is_long:
            return "silent"
        if not self.usable:
            return "leaving"
        return "spare" if self.spare else "serving"

    def post(self, frame: Frame | msgspec.Struct) -> None:
        """Send a frame, in one write with all others that this turn of the loop sends."""
        if not self._gathered:
            self._loop.call_soon(self.flush)
        self._gathered.append(encode(frame))

    def flush(self) -> None:
        """Send what was posted."""
        if not self._gathered:
            return
        gathered, self._gathered = self._gathered, []
        if self._transport is not None and not self.gone:
            gathered.append(b"")
            self._transport.write(b"\n".join(gathered))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport of the socket."""
        # A cast, because the transports of uvloop do not inherit from those of asyncio.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Pass the lines that are complete to the pool."""
        self._break_silence()
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            self._pool.heard(self, line)

    def _break_silence(self) -> None:
        if self.silence.is_long:
            self._pool.broke_silence()
        self.silence.broken()

    def open(self) -> None:
        """Say what has to be said before anything else."""

    def look(self) -> str:
        """Do what is due once a second; why the worker is lost, if it is."""
        return ""

    @property
    def is_cut_off(self) -> bool:
        """Has its connection ended, and nothing is known of the worker itself?"""
        return False

    async def settle(self) -> None:
        """Return when nothing of the worker, whose process has ended, executes any more."""

    def manner(self, status: int) -> str:
        """How the worker ended, in parentheses, where its process ended with `status`."""
        return f" (signal {-status})" if status < 0 else f" (exit status {status})"

    def process_ended(self) -> None:
        """Handle what the process had sent, and close the connection: nothing else comes."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.pause_reading()
        fd = transport.get_extra_info("socket").fileno()
        try:
            with contextlib.suppress(OSError):
                while data := os.read(fd, _READ_BYTES):
                    self.data_received(data)
        finally:
            transport.abort()

    def connection_lost(self, _exc: Exception | None) -> None:
        """Report the end of the worker to the pool."""
        self._pool.ended(self)

    def close(self) -> None:
        """Close the daemon's end, which makes the worker exit."""
        if self._transport is not None:
            self._transport.close()
