"""The daemon's end of a worker on another host: that of its keeper, and of the worker behind it.

The worker's own lines are handled as those of any worker. Whether it is alive is asked of both: a
keeper answers a pulse every two seconds, whatever its worker does; one that has not answered for
long is given up, a little later than it would have ended by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Container, Mapping
from typing import Any, Final

import msgspec

from stackshift_jobs.errors import error_text
from stackshiftd.shell.tuning import Tuning
from stackshiftd.shell.workers.hosts.far_host import FarHost
from stackshiftd.shell.workers.hosts.host_process import HostProcess
from stackshiftd.shell.workers.hosts.joined_process import JoinedProcess
from stackshiftd.shell.workers.link import WorkerLink
from stackshiftd.worker.frames import Greeting, Printed
from stackshiftd.worker.host_frames import (
    PART_BYTES,
    TAG,
    Alive,
    CodePart,
    Ended,
    Leaves,
    Opened,
    Prepares,
    Pulse,
    Refused,
    Started,
    decode_from_keeper,
)
from stackshiftd.worker.output.log_file import LogFile

log = logging.getLogger("stackshiftd.hosts")

PULSE_TICKS: Final = 2
SENT_PATIENCE: Final = 6
"""How many times longer a worker with sent code is kept before it is tried again: nobody deploys
code there, but a missing package may be installed."""
MAX_LOGS: Final = 256
"""Logs of executions that have ended are forgotten when there are so many."""
_KEPT_LINES: Final = 5


class HostLink(WorkerLink):
    """One worker on another host."""

    host: FarHost
    process: HostProcess | JoinedProcess

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._tuning: Tuning = self._pool.tuning
        self._unheard_ticks = 0
        self._ticks = 0
        self._pulse = (0, 0.0)
        """The number of the last pulse, and when it was sent."""
        self._said: list[str] = []
        self._refusal = ""
        self._status: int | None = None
        self._stderr = -1
        self._is_open = False
        """Has the keeper said that it is there?"""
        self._is_started = False
        """Was a worker started there?"""
        self._sent = 0
        """Bytes of the code that were sent."""
        self._is_full = False
        self._outdated_ticks = 0
        self._jobs: dict[str, str] = {}
        """The code of each job there."""
        self._failed = ""
        self._logs: dict[str, tuple[int, LogFile]] = {}
        """The logs of the runs that it executes, and the tokens of these executions."""

    # --- Sending ---------------------------------------------------------------------------

    def open(self) -> None:
        """Tell the keeper what it needs to know. Raises `BadConfiguration`."""
        if self.process.stderr is not None:
            self._stderr = self.process.stderr.fileno()
            self._loop.add_reader(self._stderr, self._hear)
        self.post(self.host.order(self.id, self._tuning.host_silence, self.process.archive))

    def _send_code(self) -> None:
        """Send the next part of the code, and the others as the pipe takes them."""
        archive = self.process.archive
        assert archive is not None
        at, self._sent = self._sent, self._sent + PART_BYTES
        part = archive.data[at : self._sent]
        is_last = self._sent >= len(archive.data)
        self.post(CodePart(part, last=is_last))
        if not is_last:
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if not self._is_full and not self.gone:
            self._send_code()

    def pause_writing(self) -> None:
        """The pipe takes no more for now."""
        self._is_full = True

    def resume_writing(self) -> None:
        """It takes more."""
        self._is_full = False
        archive = self.process.archive
        if archive is not None and 0 < self._sent < len(archive.data):
            self._loop.call_soon(self._go_on)

    def pulse(self) -> None:
        """Ask the keeper whether it is there, and say that we are."""
        self._pulse = (self._pulse[0] + 1, time.monotonic())
        self.post(Pulse(self._pulse[0]))

    def look(self) -> str:
        """See `WorkerLink.look`."""
        self._ticks += 1
        self._unheard_ticks += 1
        if self._unheard_ticks > self._tuning.host_given_up:
            why = f"{self.host.name} has not answered for {self._unheard_ticks - 1} s"
            self.host.troubled(why)
            self.process.is_lost = True
            return why
        if self._ticks % PULSE_TICKS == 0:
            self.pulse()
        self._outdated_ticks = self._outdated_ticks + 1 if self.outdated else 0
        return ""

    @property
    def is_tried_again(self) -> bool:
        """Has it had other code than ours for so long that a new one should look what lies there
        now?"""
        patience = SENT_PATIENCE if self.host.is_sent else 1
        return self._outdated_ticks > patience * self._tuning.outdated_seconds

    # --- Code and logs ---------------------------------------------------------------------

    def greeted(self, greeting: Greeting) -> None:
        """Note the code that the worker there has."""
        self._jobs = {job.name: job.code for job in greeting.jobs}
        if greeting.failed:
            first = greeting.failed[0]
            self._failed = (
                f"{first.module} does not import there: {error_text(first.type, first.message)}"
            )

    def compare(self, ours: Mapping[str, str]) -> None:
        """Give it work only if it has the code `ours`. The project's own directory decides which
        code is new: hosts with different code would replace each other for ever."""
        other = sorted(job for job, code in ours.items() if self._jobs.get(job) != code)
        self.outdated = bool(other)
        self.host.outdated = ""
        if other:
            more = f" and {len(other) - 1} more" if len(other) > 1 else ""
            differs = f"its code of {other[0]}{more} is not that of the project"
            self.host.outdated = self._failed or differs

    def begin_log(
        self, run: str, token: int, store: LogFile, executing: Container[str]
    ) -> dict[int, int]:
        """Keep the log of an execution that begins; what `Execute.printed` says of it. `executing`
        are all runs that the worker executes."""
        if len(self._logs) > MAX_LOGS:
            self._logs = {run: log for run, log in self._logs.items() if run in executing}
        self._logs[run] = (token, store)
        printed: dict[int, int] = {}
        with contextlib.suppress(OSError):
            printed = store.printed()
            store.close()  # It is opened for each line: very many runs may be silent for long.
        return printed

    def keep(self, printed: Printed) -> None:
        """Store a line that the worker has sent; one of an earlier execution is dropped."""
        token, store = self._logs.get(printed.run, (0, None))
        if store is not None and token == printed.token:
            with contextlib.suppress(OSError):  # A full disk costs lines, and never the run.
                store.append(msgspec.json.decode(printed.line))

    # --- Hearing ---------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Handle the lines of the keeper, and pass those of the worker to the pool."""
        self._unheard_ticks = 0
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            try:
                self._take(line)
            except msgspec.MsgspecError as bad:
                self._refuse(f"what comes from there makes no sense: {bad}")
                return

    def _take(self, line: bytes) -> None:
        if line.startswith(TAG):
            self._kept(line)
        elif self._is_open:
            self._break_silence()
            self._pool.heard(self, line)
        else:
            # A shell there greets whoever comes, before it starts the keeper.
            self._note(line.decode("utf-8", "backslashreplace").strip())

    def _kept(self, line: bytes) -> None:
        frame = decode_from_keeper(line)
        host = self.host
        match frame:
            case Alive():
                self.process.used_seconds = frame.cpu_seconds
                self.process.used_bytes = frame.resident_bytes
                if frame.number == self._pulse[0]:
                    host.round_trip_ms = round((time.monotonic() - self._pulse[1]) * 1000, 2)
                if not self.ready and not self.importing:
                    self.silence.broken()  # It is being prepared, which takes as long as it takes.
            case Opened():
                self._is_open = True
                host.version, host.python = frame.version, frame.python
            case Refused():
                self._refuse(frame.why)
            case Prepares():
                host.prepares = True
                log.info("%s prepares the code", self.id)
            case Started():
                self._is_started = True
                self.process.began(frame.pid)
                host.prepares = False
                log.info("%s runs there as process %d in %s", self.id, frame.pid, frame.directory)
            case Leaves():
                self._pool.retire(self, f"{host.name} takes it back")
            case Ended():
                self._status = frame.status
                self.process.words = frame.words
            case _:
                self._send_code()

    def _refuse(self, why: str) -> None:
        """This worker is of no use."""
        self._refusal = why
        self.host.troubled(why)
        log.error("%s: %s", self.host.name, why)
        self._loop.call_soon(self.close)

    def _hear(self) -> None:
        for line in self.process.hear():
            self._note(line)
        if self.process.is_mute:
            self._deafen()

    def _note(self, said: str) -> None:
        """Keep what the command or the host has to say."""
        if said:
            log.info("%s: %s", self.id, said)
            self._said = [*self._said, said][-_KEPT_LINES:]

    def _deafen(self) -> None:
        if self._stderr >= 0:
            self._loop.remove_reader(self._stderr)
            self._stderr = -1
            self.process.is_mute = True
            if self.process.stderr is not None:
                self.process.stderr.close()

    # --- Its end ---------------------------------------------------------------------------

    def connection_lost(self, exc: Exception | None) -> None:
        """See `WorkerLink.connection_lost`."""
        self._hear()
        self._deafen()
        self.host.prepares = False
        if not self.gone and not self._refusal and self._status is None:
            self.host.troubled(self._words() or "the connection was lost")
        super().connection_lost(exc)

    @property
    def is_cut_off(self) -> bool:
        """See `WorkerLink.is_cut_off`. Of a worker that dies, its keeper tells the end."""
        return self._is_started and self._status is None

    async def settle(self) -> None:
        """See `WorkerLink.settle`. A keeper that has not told the end of its worker sees the end of
        the pipe and ends it, a moment later than we see it."""
        if self.is_cut_off and not self.process.is_lost:
            await asyncio.sleep(self._tuning.host_settles)

    def _words(self) -> str:
        return " / ".join(self._said)

    def manner(self, status: int) -> str:
        """How it ended: as the keeper told, or in the words of the command."""
        if self._status is not None:
            return super().manner(self._status)
        words = self._refusal or self._words()
        return f" ({words})" if words else f": the connection ended{super().manner(status)}"
