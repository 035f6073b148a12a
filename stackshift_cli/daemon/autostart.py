"""Starting the daemon of a project, and waiting until it answers.

The daemon is a program of its own (`python -m stackshiftd run`), run by the interpreter that runs
us, in a session of its own, so that no terminal's Ctrl-C or hang-up reaches it. It says over a
pipe, in one line of JSON, that it is ready or why it is not; if it ends without a line, its log
says why.

Two commands may start one at the same time. The journal's lock decides: the loser's daemon answers
`daemon_running`, and the loser uses the winner's.
"""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any, Final

from stackshift_cli.daemon.connection import Connection
from stackshift_cli.daemon.log import LogFile
from stackshift_jobs.errors import DaemonUnavailable, from_json
from stackshift_jobs.project.locate import Project
from stackshift_jobs.wire.unavailable import NOT_RUNNING, STALE, unavailable

LOG_FILE: Final = "daemon.log"
_READY_SECONDS: Final = 60.0
"""A daemon recovers its journal before it is ready; a long journal takes a while to read."""
_RACE_SECONDS: Final = 60.0
"""How long another daemon may take until it accepts connections, or has stopped."""
_AGAIN_SECONDS: Final = 0.5
"""How long to try to connect before it is tried to start one again."""
_MAX_READY_BYTES: Final = 1 << 20
_TAIL_LINES: Final = 10


def absent(bad: DaemonUnavailable) -> bool:
    """Does `bad` say that there is no daemon, rather than one that cannot be used?"""
    return bad.fields.get("reason") in (NOT_RUNNING, STALE)


def command(project: Project, *more: str) -> list[str]:
    """The command line of the daemon of `project`. `-P`: no file of the directory that it starts in
    can stand in for a module of ours or of the standard library."""
    return [
        sys.executable,
        "-P",
        "-m",
        "stackshiftd",
        "run",
        "--project",
        str(project.root),
        *more,
    ]


def start(project: Project, say: Callable[[str], None]) -> int | None:
    """Start the daemon; its process id when it is ready, None if another one got there first.

    `say` gets what the daemon has to note, such as a setting that has no effect. Raises what kept
    it from starting, as the daemon says it.
    """
    import subprocess

    data_dir = project.data_dir
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = data_dir / LOG_FILE
    ready, ready_end = os.pipe()
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    log_fd = os.open(log, flags, 0o600)
    try:
        subprocess.Popen(
            command(project, "--ready-fd", str(ready_end)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log_fd,
            cwd=project.root,
            pass_fds=(ready_end,),
            start_new_session=True,
        ).returncode = 0  # It outlives us: nobody waits for it, and none warns that nobody did.
    finally:
        os.close(ready_end)
        os.close(log_fd)
    try:
        return _outcome(_first_line(ready), log, say)
    finally:
        os.close(ready)


def start_and_open(project: Project, say: Callable[[str], None]) -> tuple[Connection, int | None]:
    """A connection, and the process id of the daemon if it was started here.

    While another one holds the project it is either starting, and answers soon, or on its way out:
    then its place is free soon.
    """
    deadline = monotonic() + _RACE_SECONDS
    while True:
        pid = start(project, say)
        again = monotonic() + _AGAIN_SECONDS
        while pid is not None or monotonic() < again:
            try:
                return Connection.open(project.data_dir_text), pid
            except DaemonUnavailable as bad:
                if pid is not None or not absent(bad) or monotonic() > deadline:
                    raise
            select.select([], [], [], 0.02)


def _first_line(fd: int) -> bytes:
    """What the daemon says, up to the end of its line; empty if it ended without a word."""
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


def _outcome(line: bytes, log: Path, say: Callable[[str], None]) -> int | None:
    said = _parsed(line)
    if said is not None and said.get("ready"):
        for note in said.get("notes", ()):
            say(f"note: {note}")
        return int(said["pid"])
    if said is not None and isinstance(said.get("error"), dict):
        if said["error"].get("code") == "daemon_running":
            return None
        raise from_json(said["error"])
    written = LogFile(log)
    tail = [line for line in (*written.last_lines(_TAIL_LINES), written.unfinished) if line]
    raise DaemonUnavailable(
        "the daemon ended before it was ready" + (f": {tail[-1]}" if tail else ""),
        hint="stackshift daemon logs shows the rest" if len(tail) > 1 else "stackshift daemon run",
        log=tail,
        reason="died",
    )


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        said = json.loads(line)
    except ValueError:
        return None
    return said if isinstance(said, dict) else None
