"""Starts the daemon's warden, and waits for that of an earlier daemon.

Whatever kills the daemon kills its workers; the warden is left, and ends what these have started.
It finds it by marks, so there is none where the system shows no marks.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from stackshift_jobs.programs.ending import KILLED_SECONDS
from stackshift_jobs.programs.warden import command
from stackshiftd.shell.workers.programs import daemon_mark

LOCK_FILE: Final = "warden.lock"
_LOOK_SECONDS: Final = 0.02


class Warden:
    """The warden of this daemon. Raises `OSError` if it cannot be started."""

    def __init__(self, data_dir: Path, grace_seconds: float) -> None:
        lock = data_dir / LOCK_FILE
        os.close(_open(lock))
        self._process: subprocess.Popen[bytes] | None = None
        if sys.platform == "linux":
            # Not the project's: a new daemon may have workers before this warden looks.
            mark = daemon_mark(data_dir)
            self._process = subprocess.Popen(
                command(mark, grace_seconds, lock),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )

    def dismiss(self) -> None:
        """Let the warden look a last time, and wait for its end; idempotent."""
        if self._process is not None:
            self._process.communicate()


def await_warden(data_dir: Path, grace_seconds: float) -> None:
    """Wait for the warden of an earlier daemon, if one is still at work; but not for one that does
    not come to an end."""
    deadline = time.monotonic() + grace_seconds + KILLED_SECONDS
    fd = _open(data_dir / LOCK_FILE)
    try:
        while time.monotonic() < deadline:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                time.sleep(_LOOK_SECONDS)
    finally:
        os.close(fd)


def _open(lock: Path) -> int:
    return os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
