"""What programs write to the standard output and error that they inherit from a worker.

Both descriptors of a worker are pipes, which a thread reads. A program that Python's `subprocess`
starts for a handler or step gets pipes of its own in their place, so its output is known to be that
run's and step's. Whatever else writes to the descriptors (libraries in C, `os.system`, programs
that a program started and left behind) is one run's if only one step is executing in the worker, or
only one run; otherwise it goes to the daemon's log. Lines are escaped, cut and bounded as those
that Python prints.

The daemon holds the reading ends too: what a worker wrote just before it died is not lost.
"""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial, wraps
from threading import RLock, Thread
from typing import Any, Final, Protocol

from stackshift_jobs.handler.scope import current_step
from stackshiftd.worker.output.run_log import RunLog, current_log, program_numbers
from stackshiftd.worker.output.streams import OwnLog

READ_BYTES: Final = 1 << 16

Printing = Callable[[], "tuple[RunLog, str | None] | None"]
"""The log and step of the run that alone can have written something; None if that is not known."""


class Sink(Protocol):
    """Takes what was read from a pipe, and its end."""

    def take(self, data: bytes) -> None:
        """Store `data`."""

    def end(self) -> None:
        """Store what is left: nothing else comes."""


class OutputPipe:
    """The reading end of a pipe, read by whoever comes first: the thread that reads all of them, or
    one that is about to print."""

    def __init__(self, fd: int, sink: Sink) -> None:
        self.fd = fd
        self.over = False
        self._sink = sink
        self._lock = RLock()
        os.set_blocking(fd, False)

    def catch_up(self) -> None:
        """Read all that is in the pipe now."""
        with self._lock:
            while not self.over:
                try:
                    data = os.read(self.fd, READ_BYTES)
                except BlockingIOError:
                    return
                except OSError:
                    data = b""
                if data:
                    self._sink.take(data)
                else:
                    self.over = True
                    self._sink.end()


class _SharedPipes:
    """The standard output and error of this process. Looked at after every step, so with a single
    call if nothing is there."""

    def __init__(self, pipes: list[OutputPipe]) -> None:
        self._pipes = pipes
        self.is_readable = _readable([pipe.fd for pipe in pipes])

    def catch_up(self) -> None:
        """Read all that is in the pipes now."""
        for pipe in self._pipes:
            pipe.catch_up()


def _readable(fds: list[int]) -> Callable[[], object]:
    """A function that says whether there is anything to read, for any thread."""
    if sys.platform == "linux":
        shared = select.epoll()
        for fd in fds:
            shared.register(fd, select.EPOLLIN)
        return partial(shared.poll, 0)

    def polled() -> object:
        own = select.poll()  # several threads may not share one
        for fd in fds:
            own.register(fd, select.POLLIN)
        return own.poll(0)

    return polled


class ProgramPipes:
    """All pipes of this process, and the thread that reads them."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._shared: _SharedPipes | None = None
        self.forked = False
        """Is this a forked process? Then nobody reads here, and its programs write to the pipes of
        the worker."""

    def start(
        self,
        out: int,
        err: int,
        own: OwnLog,
        printing: Printing,
        on_error: Callable[[BaseException], None],
    ) -> None:
        """Read the pipes `out` and `err`, to which anything in this process may write. `on_error`
        is called with an error that ends the thread which does: programs would soon stand still."""
        self._on_error = on_error
        pipes = [
            OutputPipe(fd, _SharedSink(stream, own, printing))
            for stream, fd in (("stdout", out), ("stderr", err))
        ]
        self._shared = _SharedPipes(pipes)
        for pipe in pipes:
            self._selector.register(pipe.fd, selectors.EVENT_READ, (pipe, None))
        Thread(target=self._read, name="program-output", daemon=True).start()

    def watch(self, log: RunLog) -> None:
        """Have `log` read the shared pipes before it stores what is printed later."""
        if self._shared is not None:
            log.shared = self._shared

    @contextlib.contextmanager
    def replaced(self, stdout: Any, stderr: Any) -> Iterator[tuple[Any, Any]]:
        """What to start a program with that was to have these: where that is a stream of the
        worker's, a pipe of the run that executes, which is closed here in the end."""
        log = current_log.get()
        ends: list[int] = []

        def chosen(given: Any, stream: str, fd: int) -> Any:
            if log is None or self.forked or not _inherits(given, fd):
                return given
            ends.append(self._open(log, stream, current_step.get()))
            return ends[-1]

        try:
            yield chosen(stdout, "stdout", 1), chosen(stderr, "stderr", 2)
        finally:
            for end in ends:
                os.close(end)

    def _open(self, log: RunLog, stream: str, step: str | None) -> int:
        ours, theirs = os.pipe()
        pipe = OutputPipe(ours, _ProgramSink(log, stream, step))
        log.sources.append(pipe)
        self._selector.register(ours, selectors.EVENT_READ, (pipe, log))
        return theirs

    def _read(self) -> None:
        try:
            while True:
                for key, _ in self._selector.select():
                    self._take(*key.data)
        except BaseException as bad:
            self._on_error(bad)

    def _take(self, pipe: OutputPipe, log: RunLog | None) -> None:
        pipe.catch_up()
        if pipe.over:
            self._selector.unregister(pipe.fd)
            os.close(pipe.fd)
            if log is not None:
                with contextlib.suppress(ValueError):
                    log.sources.remove(pipe)


class _ProgramSink:
    """Stores what one program writes."""

    def __init__(self, log: RunLog, stream: str, step: str | None) -> None:
        self._log = log
        self._stream = stream
        self._step = step
        self._number = next(program_numbers)

    def take(self, data: bytes) -> None:
        self._log.take(self._stream, self._step, self._number, data)

    def end(self) -> None:
        self._log.end(self._stream, self._step, self._number)


class _SharedSink:
    """Stores what was written to a descriptor of the worker itself."""

    def __init__(self, stream: str, own: OwnLog, printing: Printing) -> None:
        self._stream = stream
        self._own = own
        self._printing = printing
        self._number = next(program_numbers)

    def take(self, data: bytes) -> None:
        printing = self._printing()
        if printing is None:
            self._own.write(self._stream, data)
        else:
            log, step = printing
            log.take(self._stream, step, self._number, data)

    def end(self) -> None:
        self._own.flush(self._stream)


def install(programs: ProgramPipes) -> None:
    """Give pipes of their own to the programs that `subprocess` starts for a run, from now on."""
    begin: Any = subprocess.Popen.__init__

    @wraps(begin)
    def begin_read(
        process: Any,
        args: Any,
        bufsize: int = -1,
        executable: Any = None,
        stdin: Any = None,
        stdout: Any = None,
        stderr: Any = None,
        *more: Any,
        **options: Any,
    ) -> None:
        with programs.replaced(stdout, stderr) as (out, err):
            begin(process, args, bufsize, executable, stdin, out, err, *more, **options)

    def forked() -> None:
        programs.forked = True

    subprocess.Popen.__init__ = begin_read  # type: ignore[method-assign,assignment]
    os.register_at_fork(after_in_child=forked)


def _inherits(given: Any, fd: int) -> bool:
    """Would the program write to the worker's own `fd`?"""
    if given is None:
        return True
    if not isinstance(given, int):
        try:
            given = given.fileno()
        except (AttributeError, OSError, ValueError):
            return False
    return bool(given == fd)
