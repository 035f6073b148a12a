"""The keeper: a process on another host that keeps one worker for a daemon.

`python -P -m stackshiftd.worker --stdio`, started through a command such as `ssh gpu-1`, whose
standard input and output are the pipe to the daemon. It gets the code, starts the worker as a
daemon starts its own, and passes on what both say (`worker.host_frames` has the protocol). The
worker itself knows nothing of it. With `--project DIR` it keeps a worker of the project there, with
the settings there; so a machine lends its own workers to a daemon elsewhere.

States: opening (no `Open` yet), getting and preparing the code, serving, ending. In each of them
the end of the pipe, and a daemon that is silent for too long, end all: the worker is killed, what
it has started is ended, and nothing is left. One that is asked to end by SIGTERM tells the daemon,
which lets its runs be handed back first. A keeper that is killed itself takes its worker with
it (the worker dies with its parent), and its warden ends the rest.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Final

import msgspec

from stackshift_jobs.errors import BadConfiguration
from stackshift_jobs.programs import inheritance, warden
from stackshift_jobs.project.code import check_code
from stackshift_jobs.project.config import Config, load_config
from stackshift_jobs.project.environment import (
    environment,
    interpreter,
    of_account,
    own_interpreter,
)
from stackshift_jobs.version import __version__
from stackshiftd.keeper.code_store import MAX_BYTES, BadCode, CodeStore
from stackshiftd.keeper.relay import Lines, Outlet
from stackshiftd.shell.workers.process import WorkerProcess, start_worker
from stackshiftd.shell.workers.programs import worker_mark
from stackshiftd.worker.frames import encode
from stackshiftd.worker.host_frames import (
    HOST_PROTOCOL,
    SILENCE_SECONDS,
    TAG,
    Alive,
    Close,
    CodePart,
    Ended,
    HostFrame,
    Leaves,
    Open,
    Opened,
    Prepares,
    Pulse,
    Refused,
    Started,
    WantsCode,
    decode_for_keeper,
)
from stackshiftd.worker.lease import Lease

REFUSED_STATUS: Final = 78
LAST_WRITE_SECONDS: Final = 5.0
"""How long a daemon may take to read the last that a keeper says."""
_LOOK_SECONDS: Final = 1.0


class Keeper:
    """Keeps one worker for the daemon behind the descriptors `source` and `sink`. `cache` is the
    folder of what is kept between keepers; with `project`, its code and settings count."""

    def __init__(self, source: int, sink: int, cache: Path, project: Config | None = None) -> None:
        self._project = project
        self._from_daemon = Lines(source, self._heard)
        self._to_daemon = Outlet(sink)
        self._from_worker: Lines | None = None
        self._to_worker: Outlet | None = None
        self._cache = cache
        self._store = CodeStore(cache / "code")
        self._open: Open | None = None
        self._hello = b""
        """The `Hello` for the worker, and what came after it, until the worker runs."""
        self._place: Path | None = None
        """Where the code is, once it can be used."""
        self._archive: list[bytes] = []
        self._archive_bytes = 0
        self._worker: WorkerProcess | None = None
        self._prepares: subprocess.Popen[bytes] | None = None
        self._prepares_known = threading.Event()
        """Set while no preparation may have been started that `_prepares` does not know yet."""
        self._prepares_known.set()
        self._warden: subprocess.Popen[bytes] | None = None
        self._status: int | None = None
        """What to end with, once everything is written."""
        self._lease = Lease()
        """How long the daemon may be silent, and the worker may begin anything."""
        self._lease.renew(SILENCE_SECONDS)
        self._done: SimpleQueue[Callable[[], None]] = SimpleQueue()
        """What threads want done by this one."""
        self._poll = select.poll()
        self._polled: dict[int, int] = {}
        """What is looked for now, by descriptor."""
        self._wake, self._waker = os.pipe()
        os.set_blocking(self._wake, False)

    # --- The loop --------------------------------------------------------------------------

    def run(self) -> int:
        """Keep a worker until it or the daemon is gone; the exit status."""
        try:
            while self._status is None:
                happened = self._wait(_LOOK_SECONDS)
                # Before what has arrived is read: if this host stood still, it was said long ago.
                if self._lease.is_over:
                    _say(f"the daemon was silent for {self._silence_seconds:g} s")
                    return 1
                self._handle(happened)
                if self._from_daemon.has_ended or self._to_daemon.has_ended:
                    return 0
            deadline = time.monotonic() + LAST_WRITE_SECONDS
            while not self._to_daemon.is_empty and time.monotonic() < deadline:
                self._handle(self._wait(0.1))
                if self._to_daemon.has_ended:
                    break
            return self._status
        finally:
            self._end()

    @property
    def _silence_seconds(self) -> float:
        return self._open.silence_seconds if self._open is not None else SILENCE_SECONDS

    def _wait(self, seconds: float) -> list[tuple[int, int]]:
        """Wait for something to happen, at most so long: descriptors, and what they are ready
        for."""
        wanted = {self._wake: select.POLLIN}
        if not self._from_daemon.has_ended:
            wanted[self._from_daemon.fd] = select.POLLIN
        if not self._to_daemon.is_empty:
            wanted[self._to_daemon.fd] = select.POLLOUT
        worker = self._from_worker
        if worker is not None and self._to_worker is not None and not worker.has_ended:
            reads = 0 if self._to_daemon.is_full else select.POLLIN
            writes = 0 if self._to_worker.is_empty else select.POLLOUT
            wanted[worker.fd] = reads | writes
        if wanted != self._polled:
            self._polled, self._poll = wanted, select.poll()
            for fd, events in wanted.items():
                self._poll.register(fd, events)
        return self._poll.poll(seconds * 1000)

    def _handle(self, happened: list[tuple[int, int]]) -> None:
        for fd, events in happened:
            if fd == self._wake:
                self._woken()
            elif fd == self._from_daemon.fd:
                self._from_daemon.read()
            elif fd == self._to_daemon.fd:
                self._to_daemon.write()
            else:
                assert self._to_worker is not None
                self._to_worker.write()
                if events & ~select.POLLOUT:
                    self._read_worker()

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake, 4096)
        while not self._done.empty():
            self._done.get()()

    def _in_thread(self, work: Callable[[], Callable[[], None]]) -> None:
        """Do `work` in a thread, and what it returns in this one."""

        def run() -> None:
            self._done.put(work())
            os.write(self._waker, b".")

        threading.Thread(target=run, daemon=True).start()

    def leave(self, *_signal: object) -> None:
        """Have the worker hand back its runs, and then end. May be called in a signal handler."""
        self._done.put(lambda: self._tell(Leaves()))
        os.write(self._waker, b".")

    def _tell(self, frame: HostFrame) -> None:
        self._to_daemon.add(encode(frame) + b"\n")

    # --- From the daemon -------------------------------------------------------------------

    def _heard(self, lines: bytes) -> None:
        self._lease.renew(self._silence_seconds)
        if TAG not in lines:
            self._pass_on(lines)
            return
        passed = []
        for line in lines.splitlines(keepends=True):
            if line.startswith(TAG):
                self._obey(line)
            else:
                passed.append(line)
        if passed:
            self._pass_on(b"".join(passed))

    def _pass_on(self, lines: bytes) -> None:
        if self._to_worker is not None:
            self._to_worker.add(lines)
            self._to_worker.write()
        else:
            self._hello += lines
            self._launch_if_ready()

    def _obey(self, line: bytes) -> None:
        try:
            frame = decode_for_keeper(line)
        except msgspec.MsgspecError as bad:
            self._refuse("protocol", f"stackshift-jobs there, {__version__}, cannot read it: {bad}")
            return
        if isinstance(frame, Pulse):
            worker = self._worker
            used = (0.0, 0) if worker is None else (worker.cpu_seconds(), worker.resident_bytes())
            self._tell(Alive(frame.number, *used))
        elif isinstance(frame, Open):
            self._opened(frame)
        elif isinstance(frame, Close):
            self._status = 0
        else:
            self._take_part(frame)

    def _opened(self, order: Open) -> None:
        self._open = order
        self._lease.renew(self._silence_seconds)
        name = socket.gethostname()
        self._tell(Opened(HOST_PROTOCOL, __version__, name, sys.executable))
        if order.protocol != HOST_PROTOCOL:
            self._refuse(
                "protocol",
                f"stackshift-jobs there is {__version__}, the daemon is {order.version}: their "
                f"protocols are {HOST_PROTOCOL} and {order.protocol}",
            )
        elif self._project is not None:
            self._ready(self._project.root)
        elif order.directory:
            if Path(order.directory).is_dir():
                self._ready(Path(order.directory))
            else:
                self._refuse("code", f"there is no directory {order.directory}")
        elif (place := self._store.find(order.digest)) is not None:
            self._prepare(place)
        else:
            self._tell(WantsCode(order.digest))

    def _take_part(self, part: CodePart) -> None:
        self._archive_bytes += len(part.data)
        if self._archive_bytes > MAX_BYTES:
            self._refuse("code", f"the code is larger than {MAX_BYTES >> 20} MiB")
            return
        self._archive.append(part.data)
        if part.last:
            archive = b"".join(self._archive)
            self._archive.clear()
            order = self._open
            assert order is not None

            def unpack() -> Callable[[], None]:
                try:
                    place = self._store.unpack(order.digest, archive)
                except (BadCode, OSError) as bad:
                    why = str(bad)
                    return lambda: self._refuse("code", why)
                return lambda: self._prepare(place)

            self._in_thread(unpack)

    # --- The worker ------------------------------------------------------------------------

    def _prepare(self, place: Path) -> None:
        order = self._open
        assert order is not None
        if not order.prepare:
            self._ready(place)
            return
        self._tell(Prepares())
        self._prepares_known.clear()
        variables = self._environment(place)

        def prepare() -> Callable[[], None]:
            try:
                self._store.prepare(place, order.prepare, variables, self._begin_preparing)
            except (BadCode, OSError) as bad:
                self._prepares_known.set()
                why = str(bad)
                return lambda: self._refuse("prepare", why)
            self._prepares_known.set()
            return lambda: self._ready(place)

        self._in_thread(prepare)

    def _begin_preparing(self, process: subprocess.Popen[bytes]) -> None:
        self._prepares = process
        self._prepares_known.set()

    def _environment(self, place: Path) -> dict[str, str]:
        if self._project is not None:
            return environment(self._project)
        order = self._open
        assert order is not None
        given = of_account(place, own_interpreter(place), order.path)
        return {name: variable.value for name, variable in given.items()} | order.environment

    def _python(self, place: Path) -> str:
        """The worker's interpreter. Raises `BadConfiguration` if others can change the project."""
        if self._project is None:
            return own_interpreter(place)
        check_code(self._project)
        return interpreter(self._project)

    def _ready(self, place: Path) -> None:
        """The code is in `place`, and prepared."""
        self._place = place
        self._launch_if_ready()

    def _launch_if_ready(self) -> None:
        if self._place is not None and b"\n" in self._hello:
            self._launch(self._place)

    def _launch(self, place: Path) -> None:
        """Start the worker, in the code's directory."""
        order = self._open
        assert order is not None
        try:
            self._cache.mkdir(mode=0o700, parents=True, exist_ok=True)
            mark = worker_mark(self._cache)
            self._warden = subprocess.Popen(
                warden.command(mark, order.grace_ms / 1000),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
            ours, theirs = socket.socketpair()
            with theirs:
                self._worker = start_worker(
                    self._python(place),
                    place,
                    self._environment(place),
                    mark,
                    theirs,
                    self._lease.fd,
                )
        except (OSError, BadConfiguration) as bad:
            self._refuse("code", f"the worker cannot be started: {bad}")
            return
        fd = ours.detach()
        self._from_worker = Lines(fd, self._to_daemon.add)
        self._to_worker = Outlet(fd)
        self._tell(Started(self._worker.pid, str(place)))
        hello, newline, rest = self._hello.partition(b"\n")
        settings = msgspec.json.decode(hello)
        # What lies here is not where the daemon has it; the runs' logs stay there.
        settings |= {"project": str(place), "data_dir": str(self._cache), "logs": ""}
        self._hello = b""
        self._pass_on(msgspec.json.encode(settings) + newline + rest)

    def _read_worker(self) -> None:
        worker = self._from_worker
        assert worker is not None
        worker.read()
        self._to_daemon.write()
        if worker.has_ended:
            self._in_thread(self._bury)

    def _bury(self) -> Callable[[], None]:
        """The worker has closed its end: it has ended, or is about to."""
        worker = self._worker
        assert worker is not None
        assert self._open is not None
        worker.kill()
        status = worker.wait()
        words = worker.last_words()
        worker.end_programs((), self._open.grace_ms / 1000)

        def told() -> None:
            self._tell(Ended(status, words))
            self._status = 0

        return told

    # --- The end ---------------------------------------------------------------------------

    def _refuse(self, kind: str, why: str) -> None:
        self._tell(Refused(kind, why))
        self._status = REFUSED_STATUS

    def _end(self) -> None:
        """End all that was started."""
        self._prepares_known.wait(LAST_WRITE_SECONDS)
        if self._prepares is not None and self._prepares.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._prepares.pid, signal.SIGKILL)
        if self._worker is not None:
            assert self._open is not None
            self._worker.kill()
            self._worker.end_programs((), self._open.grace_ms / 1000)
        if self._warden is not None:
            self._warden.communicate()


def _say(text: str) -> None:
    print(f"stackshift: {text}", file=sys.stderr, flush=True)


def main(project: Path | None = None) -> int:
    """Keep a worker, of `project` if there is one, for the daemon behind standard input and output;
    the exit status. Raises `BadConfiguration`."""
    import platformdirs

    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        continue  # Somebody has closed a standard stream, whose number must not become the pipe's.
    os.close(fd)
    source, sink = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    # Whatever prints here must not be taken for frames.
    os.dup2(2, 1)
    inheritance.reset()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    cache = platformdirs.user_cache_path("stackshift")
    keeper = Keeper(source, sink, cache, None if project is None else load_config(project))
    signal.signal(signal.SIGTERM, keeper.leave)
    return keeper.run()
