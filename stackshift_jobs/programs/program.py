"""One program, from its start until nothing of it is left.

It leads a process group of its own, with default signals, and prints into pipes that are read as
it writes. Invariants:

- When `run` returns or raises, no process of the group runs, nor one that has left the group and
  kept the mark. What a program leaves in the background ends with it.
- Nothing is written to disk, and of each stream only the last `TAIL_BYTES` are kept.
- Nothing waits for a pipe: when the program has ended, what the pipes hold is read, and no more.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import signal
import subprocess
from typing import IO, Final, NamedTuple, Protocol

from stackshift_jobs.errors import cut_off
from stackshift_jobs.programs.ending import Ending, Remains, end
from stackshift_jobs.programs.processes import Mark, ProcessGroup
from stackshift_jobs.programs.supervisor import Stop, Supervisor
from stackshift_jobs.values.clocks import monotonic
from stackshift_jobs.values.durations import short_ms

_SHEBANG_BYTES: Final = 256
"""What Linux reads of a program's first line."""
TAIL_BYTES: Final = 64 * 1024
"""How much of the end of each stream is kept, where programs usually say what went wrong."""
LEFTOVER_SECONDS: Final = 1.0
"""The grace of what a program left in the background when it ended by itself."""
_LOOK_SECONDS: Final = 0.02
"""How often to look whether the program has ended, where the system does not say when it does."""
_READ_BYTES: Final = 64 * 1024
_DRAIN_BYTES: Final = 1 << 20
"""The most that is read from a pipe after the program has ended; no pipe holds more."""


class Program(NamedTuple):
    """A program to run. `env` is added to this process's environment, or with `is_whole_env` is all
    that it has. `stdin` is what it can read, or the descriptor from which it does; `cwd` is where
    it runs and `umask` what it starts with (None: as this process)."""

    argv: tuple[str, ...]
    env: dict[str, str] | None = None
    cwd: str | None = None
    stdin: bytes | int = b""
    timeout_ms: int | None = None
    umask: int | None = None
    is_whole_env: bool = False


class Outcome(NamedTuple):
    """How a program ended: its exit status (negative: killed by that signal), and the last
    `TAIL_BYTES` of each stream."""

    exit_code: int
    stdout: bytes
    stderr: bytes


class Service(Protocol):
    """What a program can ask of the process that has started it, on the thread that waits for
    it."""

    def attached(self, stdout: int) -> None:
        """The program is about to start, and will print into the pipe of which `stdout` is the end
        that is read."""

    def fileno(self) -> int:
        """Readable when the program asks for something."""

    def handle(self) -> None:
        """Do what it asks for. What it has printed before that was passed on. Whatever this raises
        ends the program, and is raised when nothing of that is left."""


def run(
    program: Program, supervisor: Supervisor, stop: Stop, service: Service | None = None
) -> Outcome:
    """Run `program` and wait until nothing of it is left. Meanwhile `service` does what it asks
    for.

    Raises `OSError` if it cannot be started; `TimeoutError` after its timeout; and the reason of
    `stop`, or what the service has raised, when that is why it was ended.
    """
    try:
        mark = supervisor.admit(stop)
        with _Running(program, supervisor, stop, mark, service) as running:
            return running.outcome()
    finally:
        supervisor.ended(stop)
        stop.close()


class _Output:
    """One of the program's streams; `tail` is the end of what came so far."""

    def __init__(self, name: str, pipe: IO[bytes], supervisor: Supervisor, stop: Stop) -> None:
        self.name = name
        self.pipe = pipe
        self.tail = bytearray()
        self._supervisor = supervisor
        self._stop = stop
        os.set_blocking(pipe.fileno(), False)

    def read(self) -> int | None:
        """Pass on what has come; its size in bytes, 0 at the end of the stream, None if there is
        nothing yet."""
        try:
            data = os.read(self.pipe.fileno(), _READ_BYTES)
        except BlockingIOError:
            return None
        self.tail += data
        del self.tail[:-TAIL_BYTES]
        if data:
            self._supervisor.wrote(self._stop, self.name, data)
        return len(data)

    def drain(self) -> None:
        """Pass on what the pipe holds. A process that we may not end can keep it open, and write
        for ever."""
        left = _DRAIN_BYTES
        while left > 0 and (size := self.read()):
            left -= size


class _Running:
    """A program that was started. `ending` is None until it, or what it left behind, is being
    ended."""

    def __init__(
        self,
        program: Program,
        supervisor: Supervisor,
        stop: Stop,
        mark: Mark | None,
        service: Service | None,
    ) -> None:
        self._program = program
        self._service = service
        self._supervisor = supervisor
        self._stop = stop
        self._selector = selectors.DefaultSelector()
        try:
            added = {**supervisor.variables(stop), **({mark.variable: mark.value} if mark else {})}
            self._process = _served(program, added, service) if service else _start(program, added)
        except BaseException:
            self._selector.close()
            raise
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._outputs = [
            _Output("stdout", self._process.stdout, supervisor, stop),
            _Output("stderr", self._process.stderr, supervisor, stop),
        ]
        self._input = memoryview(program.stdin if isinstance(program.stdin, bytes) else b"")
        self._remains = Remains((self._process.pid,), mark)
        self._ending: Ending | None = None
        self._look_at = 0.0
        self._is_gone = False
        self._stopped = False
        self._timed_out = False
        self._deadline = (
            monotonic() + program.timeout_ms / 1000
            if program.timeout_ms is not None
            else float("inf")
        )
        self._exit_fd = _open_exit(self._process.pid)

    def __enter__(self) -> _Running:
        return self

    def __exit__(self, *_raised: object) -> None:
        try:
            if not self._is_gone:  # Something was raised meanwhile, perhaps by the look for it.
                self._kill()
        finally:
            self._selector.close()
            if self._exit_fd is not None:
                os.close(self._exit_fd)
            for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()

    def _kill(self) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        end(self._remains, grace_seconds=0)

    def outcome(self) -> Outcome:
        """See `run`."""
        self._supervisor.started(ProcessGroup.of_leader(self._process.pid))
        self._listen()
        while not self._is_over(monotonic()):
            for key, _ in self._selector.select(self._patience(monotonic())):
                self._handle(key)
        self._is_gone = True
        for output in self._outputs:
            output.drain()
        if self._timed_out:
            assert self._program.timeout_ms is not None
            raise cut_off(
                TimeoutError(
                    f"{self._program.argv[0]} ran longer than {short_ms(self._program.timeout_ms)}"
                )
            )
        if self._stopped:
            assert self._stop.reason is not None
            raise self._stop.reason
        stdout, stderr = (bytes(output.tail) for output in self._outputs)
        assert self._process.returncode is not None
        return Outcome(self._process.returncode, stdout, stderr)

    # --- Waiting ---------------------------------------------------------------------------

    def _listen(self) -> None:
        for output in self._outputs:
            self._selector.register(output.pipe, selectors.EVENT_READ, output)
        self._selector.register(self._stop, selectors.EVENT_READ)
        if self._service is not None:
            self._selector.register(self._service, selectors.EVENT_READ, self._service)
        if self._exit_fd is not None:
            self._selector.register(self._exit_fd, selectors.EVENT_READ)
        if self._process.stdin is not None:
            os.set_blocking(self._process.stdin.fileno(), False)
            self._selector.register(self._process.stdin, selectors.EVENT_WRITE)

    def _handle(self, key: selectors.SelectorKey) -> None:
        if isinstance(key.data, _Output):
            if key.data.read() == 0:
                self._selector.unregister(key.fileobj)
        elif key.data is not None:
            self._serve(key.data)
        elif key.fileobj is self._process.stdin:
            self._feed(self._process.stdin)
        else:  # It has ended, or is asked to: once noticed, that stays readable.
            self._selector.unregister(key.fileobj)

    def _serve(self, service: Service) -> None:
        """Do what the program asks for. It asks no more once it is being ended."""
        if self._ending is not None:
            self._selector.unregister(service)
            return
        for output in self._outputs:
            output.drain()
        try:
            service.handle()
        except BaseException as error:
            self._stop.request(error)

    def _feed(self, pipe: IO[bytes]) -> None:
        try:
            self._input = self._input[os.write(pipe.fileno(), self._input[:_READ_BYTES]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:  # A program need not read it all.
            self._input = self._input[:0]
        if not self._input:
            self._selector.unregister(pipe)
            pipe.close()

    def _patience(self, now: float) -> float | None:
        """How long to wait for something to happen."""
        if self._ending is not None:
            return max(0.0, self._look_at - now)
        if self._exit_fd is None:
            return _LOOK_SECONDS
        return max(0.0, self._deadline - now) if self._deadline < float("inf") else None

    # --- Ending ----------------------------------------------------------------------------

    def _is_over(self, now: float) -> bool:
        """Is nothing left? Begins to end it when it is time to."""
        had_ended = self._process.returncode is not None
        has_ended = self._process.poll() is not None
        if self._ending is None:
            if has_ended:
                self._ending = Ending(self._remains, now + LEFTOVER_SECONDS)
            elif self._stop.reason is not None or now >= self._deadline:
                self._stopped = self._stop.reason is not None
                self._timed_out = not self._stopped
                self._ending = Ending(self._remains, now + self._supervisor.grace_seconds)
            else:
                return False
        elif now < self._look_at and has_ended == had_ended:
            return False  # It was output that woke us.
        left = self._ending.push(now)
        self._look_at = now + self._ending.pause(now)
        return not left and has_ended


def _served(program: Program, added: dict[str, str], service: Service) -> subprocess.Popen[bytes]:
    """Start a program whose service must know the pipe that it prints into before it runs."""
    reading, writing = os.pipe()
    output = os.fdopen(reading, "rb", buffering=0)
    try:
        service.attached(reading)
        process = _start(program, added, writing)
    except BaseException:
        output.close()
        raise
    finally:
        os.close(writing)
    process.stdout = output
    return process


def _start(
    program: Program, added: dict[str, str], stdout: int = subprocess.PIPE
) -> subprocess.Popen[bytes]:
    try:
        return _popen(program, added, stdout)
    except FileNotFoundError as bad:
        name = program.argv[0]
        if bad.filename != name:
            raise
        # With its number and the name, the text would begin with `[Errno 2]`.
        if "/" not in name:
            problem = f"{name!r} not found in PATH, which [workers] path sets"
        elif (first := _first_line(program)).startswith("#!"):
            problem = f"the interpreter of {name!r} does not exist: {first}"
        else:
            raise
        raise FileNotFoundError(problem) from bad
    except OSError as bad:
        if bad.errno != errno.ENOEXEC or _first_line(program).startswith("#!"):
            raise
        # A shell would run it itself. We do not guess which one it was written for.
        name = program.argv[0]
        problem = f"{name!r} is not a program for this machine, and has no #! line"
        raise OSError(f"{problem}: add one, or run it as sh {name}") from bad


def _first_line(program: Program) -> str:
    try:
        with open(os.path.join(program.cwd or "", program.argv[0]), "rb") as file:  # noqa: PTH118, PTH123
            return file.readline(_SHEBANG_BYTES).decode("utf-8", "replace").strip()
    except OSError:
        return ""


def _popen(program: Program, added: dict[str, str], stdout: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        program.argv,
        stdin=_stdin(program),
        stdout=stdout,
        stderr=subprocess.PIPE,
        bufsize=0,
        cwd=program.cwd,
        env={**({} if program.is_whole_env else os.environ), **(program.env or {}), **added},
        umask=-1 if program.umask is None else program.umask,
        # A group of its own, and no terminal that it could read from.
        start_new_session=True,
    )


def _stdin(program: Program) -> int:
    if isinstance(program.stdin, int):
        return program.stdin
    return subprocess.PIPE if program.stdin else subprocess.DEVNULL


def _open_exit(pid: int) -> int | None:
    """A descriptor that is readable once our child `pid` has ended; None where there is none."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):  # Not on macOS, nor on an old kernel.
        return None
