"""The command that reaches a host, as the process of a worker there.

Its end is the end of the worker: the keeper at the other end of it sees the closed pipe. What it
writes to standard error is the command's own words and what the keeper has to say there.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable
from typing import Any, Final

from stackshift_jobs.programs.processes import Mark, ProcessGroup
from stackshift_jobs.project.code import check_code
from stackshift_jobs.project.config import Config
from stackshift_jobs.project.environment import environment
from stackshiftd.shell.workers.hosts.code_archive import Archive
from stackshiftd.shell.workers.programs import end_of_worker, worker_mark

MARGIN_SECONDS: Final = 2.0
"""How much longer than the grace of what it has started the end of a worker there may take."""
KEPT_BYTES: Final = 4096
"""So much of the end of what it has written is kept."""
_FROM_US: Final = ("SSH_AUTH_SOCK", "KUBECONFIG", "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG")
"""Variables of the daemon by which such commands find keys and servers."""


class HostProcess(subprocess.Popen[bytes]):
    """The command. `archive` is the code that its host can ask for; the daemon notes here what the
    keeper reports of the worker."""

    def __init__(
        self,
        *args: Any,
        mark: Mark,
        archive: Archive | None,
        grace_seconds: float,
        **options: Any,
    ) -> None:
        self._mark = mark
        self._patience_seconds = grace_seconds + MARGIN_SECONDS
        self._is_ending = False
        self.is_lost = False
        """Does its host not answer?"""
        self.archive = archive
        self.used_seconds = 0.0
        self.used_bytes = 0
        self.words: dict[str, bytes] = {}
        self.is_mute = False
        """Has it closed its standard error?"""
        self._said = b""
        super().__init__(*args, **options)
        assert self.stderr is not None
        os.set_blocking(self.stderr.fileno(), False)

    def death_fd(self) -> int | None:
        """A pidfd, which Linux has."""
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                return os.pidfd_open(self.pid)
        return None

    def began(self, _pid: int) -> None:
        """Note that the worker has begun there. Its process is ours: the command."""

    def cpu_seconds(self) -> float:
        """The CPU time that the worker there has used, as its keeper told last."""
        return self.used_seconds

    def resident_bytes(self) -> int:
        """The worker's memory there, as its keeper told last."""
        return self.used_bytes

    def kill(self) -> None:
        """Have the worker there ended. The caller closes the pipe, which tells the keeper; the
        command ends when the keeper has ended what the worker had started."""
        self._is_ending = True

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the command. One that is to end and does not, or whose host does not
        answer, is killed."""
        if self._is_ending and timeout is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return super().wait(0 if self.is_lost else self._patience_seconds)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        return super().wait(timeout)

    def last_words(self) -> dict[str, bytes]:
        """What the worker had written and its keeper has told; once."""
        words, self.words = self.words, {}
        return words

    def end_programs(self, _programs: Iterable[ProcessGroup], grace_seconds: float) -> None:
        """End what the command has left here. The programs of the worker are on its host, where its
        keeper ends them."""
        self.wait()
        end_of_worker(self.pid, self._mark, (), grace_seconds)

    def hear(self) -> list[str]:
        """Read what it has written to standard error: whole lines, and the last one at its end."""
        assert self.stderr is not None
        lines: list[str] = []
        while not self.is_mute:
            try:
                data = os.read(self.stderr.fileno(), 1 << 16)
            except BlockingIOError:
                break
            except (OSError, ValueError):
                data = b""
            if not data:
                self.is_mute = True
                data = b"\n" if self._said else b""
            self._said += data
            *whole, self._said = self._said.split(b"\n")
            self._said = self._said[-KEPT_BYTES:]
            lines += [line.decode("utf-8", "backslashreplace").strip() for line in whole]
        return [line for line in lines if line]


def launch_on_host(
    config: Config, command: list[str], theirs: socket.socket, archive: Archive | None
) -> HostProcess:
    """Start the command that reaches a host, unless other users can change by now what would run
    there. Raises `OSError` and `BadConfiguration`."""
    check_code(config)
    mark = worker_mark(config.data_dir)
    ours = {name: os.environ[name] for name in _FROM_US if name in os.environ}
    return HostProcess(
        command,
        mark=mark,
        archive=archive,
        grace_seconds=config.workers.grace_ms / 1000,
        stdin=theirs.fileno(),
        stdout=theirs.fileno(),
        stderr=subprocess.PIPE,
        cwd=config.root,
        env=ours | environment(config) | {mark.variable: mark.value},
        start_new_session=True,
    )
