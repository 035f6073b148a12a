"""The daemon's log does not grow without end.

The command that starts a daemon opens the log and hands it on as standard error; workers write
there too, all of them by appending. So the file is not replaced but emptied, once it is full, after
its end has been copied to `daemon.log.1`. Another standard error (a terminal, a service manager's)
is left alone. It is looked at once a second, and at each start, since a daemon that does not come
to serve writes too.

Who else moves the log away (logrotate) or removes it gets the lines up to then, and the daemon
begins another. Workers that were started before that go on writing to the old one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from pathlib import Path
from typing import Final

from stackshift_jobs.project.discovery import LOG_FILE

MAX_BYTES: Final = 8 << 20


class DaemonLog:
    """The log of `data_dir`, if `fd` appends to it from the beginning."""

    def __init__(self, data_dir: Path, fd: int = 2) -> None:
        self._data_dir = data_dir
        self._fd = fd
        opened = os.fstat(fd)
        appends = bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND)
        self._is_ours = appends and _is(data_dir / LOG_FILE, opened)

    def look(self) -> None:
        """Begin another log if this one is not in its place any more, and empty it if it is full.
        Raises `OSError`."""
        if not self._is_ours:
            return
        path = self._data_dir / LOG_FILE
        if not _is(path, os.fstat(self._fd)):
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            another = os.open(path, flags, 0o600)
            os.dup2(another, self._fd)
            os.close(another)
        trim(self._data_dir, self._fd)


def trim(data_dir: Path, fd: int = 2, max_bytes: int = MAX_BYTES) -> bool:
    """Empty the log of `data_dir`, which `fd` appends to, if it holds more than `max_bytes`; the
    last of them stay in the other file. Returns whether that was done. Raises `OSError`."""
    path = data_dir / LOG_FILE
    opened = os.fstat(fd)
    if opened.st_size <= max_bytes or not stat.S_ISREG(opened.st_mode):
        return False
    if not (fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND) or not _is(path, opened):
        return False
    with path.open("rb") as file:
        # A daemon that serves, and one that is about to find that out, must not both do it.
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_size <= max_bytes:
            return False
        file.seek(-max_bytes, os.SEEK_END)
        _, _, end = file.read(max_bytes).partition(b"\n")
        older = path.with_name(f"{LOG_FILE}.1")
        try:
            _replace(older, end)
        except OSError:
            # There is no room for a copy, and a log that fills the disk is worse than a lost one.
            older.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                _replace(older, end)
        os.ftruncate(fd, 0)
    return True


def _replace(path: Path, data: bytes) -> None:
    written = path.with_name(f"{LOG_FILE}.new")
    written.unlink(missing_ok=True)
    try:
        with open(written, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(data)
        written.replace(path)
    except OSError:
        written.unlink(missing_ok=True)
        raise


def _is(path: Path, opened: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.lstat(), opened)
    except FileNotFoundError:
        return False
