"""The process of one worker, as the daemon sees it: how it is started, what it uses, how it ends.

It inherits one end of a socket pair, its working directory and the documented environment. Its
standard output and error are pipes that it reads itself (see `worker.program_output`); what it
could not read before it died is read here.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from stackshift_jobs.errors import StackshiftError
from stackshift_jobs.programs.processes import Mark, ProcessGroup
from stackshift_jobs.project.code import check_code
from stackshift_jobs.project.config import LOCAL, Config
from stackshift_jobs.project.environment import environment, interpreter
from stackshiftd.shell.workers.programs import end_of_worker, worker_mark

_PIPE_BYTES: Final = 1 << 20
"""More than a pipe holds, unless somebody has asked for more."""


class Process(Protocol):
    """The process, or what stands in for it in a test, that a worker runs in."""

    @property
    def pid(self) -> int:
        """Its process id."""

    def death_fd(self) -> int | None:
        """A descriptor that becomes readable when it ends, for the caller to close; None where
        there is no such thing."""

    def poll(self) -> int | None:
        """Its exit status, or the negative number of a signal; None while it runs."""

    def wait(self) -> int:
        """Wait for its end; returns what `poll` returns after that."""

    def cpu_seconds(self) -> float:
        """The CPU time that the worker has used; 0 if it is not known."""

    def resident_bytes(self) -> int:
        """The worker's resident memory; 0 if it is not known."""

    def kill(self) -> None:
        """Kill it; does nothing if it has ended. What it has started is left to
        `end_programs`."""

    def last_words(self) -> dict[str, bytes]:
        """What it had written to each of its streams and not stored when it ended; once."""

    def end_programs(self, programs: Iterable[ProcessGroup], grace_seconds: float) -> None:
        """Wait for its end, then end what it has started, `programs` included; blocks until all of
        that is gone."""


Launch = Callable[[Config, socket.socket], Process]
"""Starts a worker at the other end of a socket pair. Raises `OSError` or `BadConfiguration`."""


class EarlyWorker(NamedTuple):
    """A worker that was started before it is known what it is for, and our end of its socket pair.
    It loads none of the project's code before it is greeted, and ends when that socket is
    closed."""

    process: Process
    ours: socket.socket

    @classmethod
    def launch(cls, config: Config) -> EarlyWorker | None:
        """Start one on this machine; None if that cannot be done, or if no worker is to run
        here: whoever needs one later will say why."""
        if LOCAL not in config.workers.hosts:
            return None
        ours, theirs = socket.socketpair()
        try:
            return cls(launch_process(config, theirs), ours)
        except (OSError, StackshiftError):
            ours.close()
            return None
        finally:
            theirs.close()

    def dismiss(self) -> None:
        """End it, and wait for that."""
        self.ours.close()
        self.process.kill()
        self.process.wait()


class WorkerProcess(subprocess.Popen[bytes]):
    """A worker in a session of its own. It and what it starts have `mark`. `outputs` are the
    reading ends of its standard output and error: it reads them itself, and we what it could
    not."""

    def __init__(self, *args: Any, outputs: dict[str, int], mark: Mark, **options: Any) -> None:
        self._outputs = outputs
        self._mark = mark
        super().__init__(*args, **options)

    def death_fd(self) -> int | None:
        """A pidfd, which Linux has."""
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                return os.pidfd_open(self.pid)
        return None

    def cpu_seconds(self) -> float:
        """See `Process.cpu_seconds`."""
        return cpu_seconds(self.pid)

    def resident_bytes(self) -> int:
        """See `Process.resident_bytes`."""
        return resident_bytes(self.pid)

    def last_words(self) -> dict[str, bytes]:
        """What is left in the pipes, as much as a pipe holds."""
        words: dict[str, bytes] = {}
        outputs, self._outputs = self._outputs, {}
        for stream, fd in outputs.items():
            with contextlib.suppress(OSError):
                os.set_blocking(fd, False)
                words[stream] = os.read(fd, _PIPE_BYTES)
            os.close(fd)
        return {stream: data for stream, data in words.items() if data}

    def end_programs(self, programs: Iterable[ProcessGroup], grace_seconds: float) -> None:
        """See `Process.end_programs`."""
        self.wait()
        end_of_worker(self.pid, self._mark, programs, grace_seconds)


def launch_process(config: Config, theirs: socket.socket) -> Process:
    """Start a worker process by exec, unless other users can change by now what it would run."""
    check_code(config)
    mark = worker_mark(config.data_dir)
    return start_worker(interpreter(config), config.root, environment(config), mark, theirs)


def start_worker(
    python: str,
    root: Path,
    environment: dict[str, str],
    mark: Mark,
    theirs: socket.socket,
    *lease: int,
) -> WorkerProcess:
    """Start a worker of the code in `root`, with these variables and `mark`, and with the
    descriptor of its `lease` if it has one. Raises `OSError`."""
    out, out_end = os.pipe()
    err, err_end = os.pipe()
    log = os.dup(2)
    passed = (theirs.fileno(), out, err, log, *lease)
    try:
        return WorkerProcess(
            [python, "-P", "-m", "stackshiftd.worker", "--fd", *map(str, passed)],
            outputs={"stdout": out, "stderr": err},
            mark=mark,
            pass_fds=passed,
            stdin=subprocess.DEVNULL,
            stdout=out_end,
            stderr=err_end,
            cwd=root,
            env=environment | {mark.variable: mark.value},
            # Ctrl-C in the terminal of `daemon run` is for the daemon to handle.
            start_new_session=True,
        )
    except BaseException:
        os.close(out)
        os.close(err)
        raise
    finally:
        for fd in (out_end, err_end, log):
            os.close(fd)


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used; 0 if it cannot be determined."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        if sys.platform == "linux":
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        result = subprocess.run(
            ["ps", "-o", "cputime=", "-p", str(pid)], capture_output=True, check=False, text=True
        )
        return clock_seconds(result.stdout.strip())
    return 0.0


def clock_seconds(text: str) -> float:
    """The seconds in `[[days-]hours:]minutes:seconds`, as `ps` writes them; raises `ValueError`."""
    days, _, rest = text.rpartition("-")
    seconds = 0.0
    for part in rest.split(":"):
        seconds = seconds * 60 + float(part)
    return int(days or 0) * 86_400 + seconds


def resident_bytes(pid: int) -> int:
    """Resident memory of a process in bytes; 0 if it cannot be determined."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        if sys.platform == "linux":
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            return pages * os.sysconf("SC_PAGE_SIZE")
        result = subprocess.run(
            ["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, check=False
        )
        return int(result.stdout) * 1024
    return 0
