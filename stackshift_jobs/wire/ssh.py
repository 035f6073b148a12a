"""The way to a daemon on another machine: `ssh`, and `stackshift daemon dial` there.

That command joins its standard input and output to the daemon's socket, after a line that says
whether it could. So what is at our end is a socket, as that of a daemon here; whether the machine,
its key and we are to be trusted is ssh's business, which asks on the terminal if it has to. The
`stackshift` there is that of the project's `.venv`, else the one in the PATH.
"""

from __future__ import annotations

import json
import os
import select
import shlex
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import IO, Any, Final

from stackshift_jobs.errors import BadConfiguration, HostUnreachable, StackshiftError, from_json
from stackshift_jobs.project.locate import FarProject
from stackshift_jobs.version import PROTOCOL
from stackshift_jobs.wire.unavailable import OTHER_PROTOCOL, unavailable

OPTIONS: Final = ("-T", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3")
ANSWER_SECONDS: Final = 60.0
"""Somebody may have to type a password."""
START_SECONDS: Final = 120.0
"""… and a daemon that is started there recovers its journal first."""
MAX_LINE: Final = 1 << 20
"""The longest first line: it has the notes of a daemon that was started."""
_MAX_WORDS: Final = 1 << 16
"""How much of what ssh has said is looked at."""
_SSH_FAILED: Final = 255
_NOT_FOUND: Final = 127


def dial_line(version: str, pid: int | None, notes: list[str]) -> bytes:
    """The first line of `daemon dial`, once it has reached the daemon; `pid` and `notes` are those
    of one which it has started."""
    return _line({"protocol": PROTOCOL, "version": version, "started": pid, "notes": notes})


def refusal_line(refused: StackshiftError) -> bytes:
    """The first and only line of a `daemon dial` that cannot reach it."""
    return _line({"error": refused.as_json()})


def _line(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode() + b"\n"


def connect(url: str) -> socket.socket:
    """A blocking socket to the daemon of the project at `url`. Raises `HostUnreachable`,
    `BadConfiguration`, and what `unix_socket.connect` raises, as it is raised there."""
    return _dial(FarProject(url), start=False)[0]


def start(project: FarProject, note: Callable[[str], None]) -> int | None:
    """Have the daemon started there if none runs; the process id of one that was. `note` gets its
    notes. Raises as `connect` does."""
    ours, said = _dial(project, start=True)
    ours.close()
    for text in said.get("notes", ()):
        note(str(text))
    pid = said.get("started")
    return pid if isinstance(pid, int) else None


def _dial(project: FarProject, *, start: bool) -> tuple[socket.socket, dict[str, Any]]:
    """A socket to the daemon, and what `daemon dial` has said of it."""
    ours, theirs = socket.socketpair()
    try:
        with theirs, _file() as words:
            try:
                ssh = subprocess.Popen(
                    command(project, start=start),
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=words,
                )
            except OSError as bad:
                raise BadConfiguration(f"ssh cannot be run: {bad.strerror}") from bad
            theirs.close()
            line = _first_line(ours, START_SECONDS if start else ANSWER_SECONDS)
            if line:
                # It is reaped whenever it ends, which is when either end of it is closed.
                threading.Thread(target=ssh.wait, name="stackshift-ssh", daemon=True).start()
                return ours, _said(project, line)
            ours.close()
            raise _failure(project, ssh, words)
    except BaseException:
        ours.close()
        raise


def _file() -> IO[bytes]:
    """A file for the messages of ssh; they are dropped if the disk has no room for one."""
    try:
        return tempfile.TemporaryFile()
    except OSError:
        return Path(os.devnull).open("r+b")


def command(project: FarProject, *, start: bool) -> list[str]:
    """The command line of `ssh`. What it runs there has to be one word for a shell of any kind."""
    directory = project.directory
    place = shlex.quote(directory)
    if directory.startswith("~/"):
        place = '"$HOME"/' + shlex.quote(directory[2:])
    more = " --start" if start else ""
    script = (
        f'p={place}; s="$p"/.venv/bin/stackshift; [ -x "$s" ] || s=stackshift; '
        f'exec "$s" -C "$p" daemon dial{more}'
    )
    port = ("-p", project.port) if project.port else ()
    return ["ssh", *OPTIONS, *port, "--", project.host, f"exec sh -c {shlex.quote(script)}"]


def _first_line(ours: socket.socket, seconds: float) -> bytes:
    """What comes first, up to the end of a line, byte by byte: what follows is not ours. Empty if
    nothing does, or in time."""
    deadline = monotonic() + seconds
    line = b""
    while not line.endswith(b"\n") and len(line) < MAX_LINE:
        if not select.select([ours], [], [], max(0.0, deadline - monotonic()))[0]:
            return b""
        try:
            byte = ours.recv(1)
        except OSError:
            return b""
        if not byte:
            return b""
        line += byte
    return line


def _said(project: FarProject, line: bytes) -> dict[str, Any]:
    """What the first line says; raises what was refused there."""
    try:
        said: dict[str, Any] = json.loads(line)
        error, protocol = said.get("error"), said.get("protocol")
    except (ValueError, AttributeError):
        text = line.decode("utf-8", "backslashreplace").strip()
        raise HostUnreachable(
            f"what {project.host} says makes no sense: {text[:200]}",
            hint="a shell there prints something at its start, even if nobody reads it",
        ) from None
    if error is not None:
        raise from_json(error)
    if protocol != PROTOCOL:
        raise unavailable(
            f"version {said.get('version')} on {project.host} speaks protocol {protocol}, this "
            f"program speaks {PROTOCOL}",
            OTHER_PROTOCOL,
            "install the same version on both",
        )
    return said


def _failure(project: FarProject, ssh: subprocess.Popen[bytes], words: IO[bytes]) -> Exception:
    """Why nothing was said, in the words of ssh or the shell there."""
    try:
        status = ssh.wait(1)
    except subprocess.TimeoutExpired:
        ssh.kill()
        ssh.wait()
        return HostUnreachable(f"{project.host} does not answer")
    words.seek(0, os.SEEK_END)
    words.seek(max(0, words.tell() - _MAX_WORDS))
    said = words.read().decode("utf-8", "backslashreplace").strip().splitlines()
    last = said[-1].strip() if said else f"ssh ended with status {status}"
    if status == _SSH_FAILED:
        return HostUnreachable(
            f"{project.host} cannot be reached: {last}", hint=f"ssh {project.host}"
        )
    if status == _NOT_FOUND:
        return BadConfiguration(
            f"{project.host} has no command of that name: {last}",
            hint=f"install it in {project.directory}/.venv, or where commands are found there",
        )
    return HostUnreachable(f"{project.host}: {last}")
