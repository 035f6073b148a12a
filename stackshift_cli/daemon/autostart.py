"""Starting the daemon of a project and waiting until it answers.

The daemon is a separate program (`python -m stackshiftd run`), run by the same interpreter in a
session of its own, so that a terminal's Ctrl-C or hang-up does not reach it. Over a pipe it reports
that it is ready or why it is not, in one line of JSON; if it exits without one, its log says why.

Two commands may start a daemon at the same time. The journal's lock decides: the loser's daemon
answers `daemon_running`, and the loser's command uses the winner's daemon. Where a process holds
the lock and does not listen, none is started: it will listen soon, or release the lock.
"""

from __future__ import annotations

import json
import os
import select
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any, Final

from stackshift_cli.daemon.connection import Connection
from stackshift_cli.daemon.log import LogFile
from stackshift_cli.daemon.presence import absent, open_soon
from stackshift_cli.daemon.units import daemon_command
from stackshift_cli.errors import UNWRITABLE
from stackshift_jobs.errors import BadConfiguration, DaemonUnavailable, DiskFull, from_json
from stackshift_jobs.project.discovery import LOG_FILE, read_daemon
from stackshift_jobs.project.locate import FarProject, Project
from stackshift_jobs.project.trust import note_of_root, permission_hint
from stackshift_jobs.wire.unavailable import unavailable

_READY_SECONDS: Final = 60.0
"""A daemon recovers its journal before it is ready; reading a long journal takes a while."""
_RACE_SECONDS: Final = 60.0
"""How long another daemon may take until it accepts connections or has stopped."""
_MAX_READY_BYTES: Final = 1 << 20
_TAIL_LINES: Final = 10


def start(project: Project, note: Callable[[str], None]) -> int | None:
    """Start the daemon and return its process id when it is ready; None if another one was first.

    `note` receives what a person should know, such as a module that cannot be imported, in the
    words of the daemon. Raises the error that kept the daemon from starting, as the daemon reports
    it.
    """
    if isinstance(project, FarProject):
        from stackshift_jobs.wire import ssh

        return ssh.start(project, note)
    import subprocess

    from stackshift_cli.daemon.boot import started_as_service
    from stackshift_jobs.programs.processes import unmarked

    if started_as_service(project) and (info := read_daemon(project.data_dir_text)) is not None:
        return info.pid

    log = project.data_dir / LOG_FILE
    is_new = not log.parent.exists()
    log_fd = open_log(log)
    if is_new and (text := note_of_root(str(project.root), str(log.parent))) is not None:
        note(text)
    ready, ready_end = os.pipe()
    try:
        subprocess.Popen(
            daemon_command(project.root, "--ready-fd", str(ready_end)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log_fd,
            cwd=project.root,
            # It is not a program of the job that may have called us, and must not end with it; nor
            # the service that we may be part of.
            env=unmarked(os.environ),
            pass_fds=(ready_end,),
            start_new_session=True,
        ).returncode = 0  # It outlives us. With a status set, Popen does not warn that it runs.
    finally:
        os.close(ready_end)
        os.close(log_fd)
    try:
        return outcome(_first_line(ready), log, note)
    finally:
        os.close(ready)


def open_log(log: Path) -> int:
    """Open the daemon's log, and create the data directory if it is missing. A disk that cannot be
    written takes no log, but the daemon can serve reads: what it says of itself, nobody will read.

    Raises `BadConfiguration` where we may not, and `DiskFull` if there is no data directory yet,
    and none can be made.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW
    try:
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as bad:
        if bad.errno not in UNWRITABLE:
            raise _unusable(bad) from bad
        raise DiskFull(
            f"no room to create {log.parent}: {bad.strerror}",
            hint="make room there, or choose another disk with [project] data_dir",
            directory=str(log.parent),
        ) from bad
    try:
        return os.open(log, flags | os.O_CREAT, 0o600)
    except OSError as bad:
        if bad.errno not in UNWRITABLE:
            raise _unusable(bad) from bad
        return os.open(os.devnull, flags)


def _unusable(bad: OSError) -> BadConfiguration:
    return BadConfiguration(
        f"cannot write {bad.filename}: {bad.strerror}",
        hint=permission_hint(os.fsdecode(bad.filename))
        or "set STACKSHIFT_DATA_DIR to a directory where you can write",
    )


def start_and_open(project: Project, note: Callable[[str], None]) -> tuple[Connection, int | None]:
    """Start the daemon if none is running; a connection, and its process id if it was started here.
    `note` is as for `start`. Raises `DaemonUnavailable`."""
    deadline = monotonic() + _RACE_SECONDS
    pid = None
    while True:
        try:
            return open_soon(project, deadline - monotonic()), pid
        except DaemonUnavailable as bad:
            if pid is not None or not absent(bad) or monotonic() > deadline:
                raise
        pid = start(project, note)


def _first_line(fd: int) -> bytes:
    """The line that the daemon writes to `fd`; empty if it exited without one."""
    deadline = monotonic() + _READY_SECONDS
    said = b""
    while b"\n" not in said:
        left = deadline - monotonic()
        if left <= 0 or len(said) > _MAX_READY_BYTES:
            raise unavailable(
                f"the daemon was not ready after {_READY_SECONDS:g} s",
                "no_answer",
                "stackshift daemon logs",
            )
        if not select.select([fd], [], [], left)[0]:
            continue
        part = os.read(fd, 65_536)
        if not part:
            return b""
        said += part
    return said.split(b"\n")[0]


def outcome(line: bytes, log: Path, note: Callable[[str], None]) -> int | None:
    """What the line says that a daemon has reported: its process id, None if another one holds the
    project. `note` gets its notes. Raises what kept it from starting; without a line, its log says
    that."""
    report = _parsed(line)
    if report is not None and report.get("ready"):
        for text in report.get("notes", ()):
            note(text)
        return int(report["pid"])
    if report is not None and isinstance(report.get("error"), dict):
        if report["error"].get("code") == "daemon_running":
            return None
        raise from_json(report["error"])
    log_file = LogFile(log)
    tail = [line for line in (*log_file.last_lines(_TAIL_LINES), log_file.unfinished) if line]
    raise DaemonUnavailable(
        "the daemon exited before it was ready" + (f": {tail[-1]}" if tail else ""),
        hint="stackshift daemon logs shows the rest" if len(tail) > 1 else "stackshift daemon run",
        log=tail,
        reason="died",
    )


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        report = json.loads(line)
    except ValueError:
        return None
    return report if isinstance(report, dict) else None
