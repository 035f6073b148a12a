"""A daemon in the foreground: that of `dev`, which hears of each reload, and ends with the command.

They share a socket. The daemon stops when that is closed, so also after a `kill -9` of the command;
and its end closes it too. It is in a session of its own: a Ctrl-C is the command's to act on.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Any, Final

from stackshift_cli.daemon import autostart
from stackshift_cli.daemon.units import daemon_command
from stackshift_cli.errors import DaemonRunning
from stackshift_jobs.errors import DaemonUnavailable
from stackshift_jobs.programs.processes import unmarked
from stackshift_jobs.project.discovery import LOG_FILE, read_daemon
from stackshift_jobs.project.locate import Project
from stackshift_jobs.wire.unavailable import BROKEN, unavailable

_READY_SECONDS: Final = 60.0
_READ_BYTES: Final = 1 << 16
_RELOAD: Final = b'{"reload"'


class Attended:
    """The daemon of `project`, started here. Leaving the `with` block stops it, and waits."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._log = project.data_dir / LOG_FILE
        self._read = b""
        self._reloads: list[bytes] = []
        self._link, its_end = socket.socketpair()
        log_fd = autostart.open_log(self._log)
        try:
            fd = its_end.fileno()
            self._process = subprocess.Popen(
                daemon_command(project.root, "--dev", "--ready-fd", str(fd)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log_fd,
                cwd=project.root,
                env=unmarked(os.environ),
                pass_fds=(fd,),
                start_new_session=True,
            )
        finally:
            its_end.close()
            os.close(log_fd)
        self._link.setblocking(False)

    def __enter__(self) -> Attended:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._link.close()
        try:
            self._process.wait()
        except KeyboardInterrupt:
            # Nothing is lost: what executes begins again, with what it has recorded.
            self._process.kill()
            self._process.wait()

    def fileno(self) -> int:
        """What `select` finds readable when there is news."""
        return self._link.fileno()

    def until_ready(self, note: Callable[[str], None]) -> None:
        """Wait until it serves; `note` gets its notes. Raises `DaemonRunning` if another one serves
        the project, and what keeps it from starting."""
        if autostart.outcome(self._report(), self._log, note) is None:
            info = read_daemon(self._project.data_dir)
            process = f" (pid {info.pid})" if info is not None else ""
            raise DaemonRunning(
                f"a daemon serves the project already{process}",
                hint="stackshift daemon stop, then stackshift dev",
            )

    def news(self) -> list[dict[str, Any]]:
        """What each reload since has done, without waiting: as `daemon.reload` answers, or `{error:
        …}`. Raises `DaemonUnavailable` once the daemon has ended."""
        lines, self._reloads = self._reloads + self._lines(), []
        return [json.loads(line)["reload"] for line in lines]

    def _report(self) -> bytes:
        """The line that says whether it is ready; empty if it has ended without one."""
        deadline = monotonic() + _READY_SECONDS
        while monotonic() < deadline:
            try:
                lines = self._lines()
            except DaemonUnavailable:
                return b""
            # What was saved meanwhile has been loaded already.
            self._reloads += [line for line in lines if line.startswith(_RELOAD)]
            if reports := [line for line in lines if not line.startswith(_RELOAD)]:
                return reports[0]
            select.select([self._link], [], [], max(0.0, deadline - monotonic()))
        raise unavailable(
            f"the daemon was not ready after {_READY_SECONDS:g} s",
            "no_answer",
            "stackshift daemon logs",
        )

    def _lines(self) -> list[bytes]:
        try:
            data = self._link.recv(_READ_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            raise unavailable("the daemon has ended", BROKEN, "stackshift daemon logs")
        *lines, self._read = (self._read + data).split(b"\n")
        return lines
