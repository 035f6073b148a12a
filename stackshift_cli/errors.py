"""Errors that only the command line knows."""

from __future__ import annotations

import errno

from stackshift_jobs.errors import BadConfiguration, DiskFull, RunFailed, StackshiftError

TYPE_CHECKING = False  # See `stackshift_jobs.errors`: loading `typing` takes too long here.
if TYPE_CHECKING:
    from typing import Any

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""What the system says of a disk that is full, or read-only."""

DETACHED = 130
"""The exit status of a command that was interrupted: what it has begun goes on."""


def unwritten(what: str, bad: OSError) -> StackshiftError:
    """The error for a file or directory that cannot be written: `what` begins the message."""
    message = f"{what}: {bad.strerror or bad}"
    if bad.errno in UNWRITABLE:
        return DiskFull(message, hint=room_hint(bad))
    return BadConfiguration(message)


def room_hint(bad: OSError) -> str:
    """What to do about `bad`, one of `UNWRITABLE`."""
    return "remount it, or use another" if bad.errno == errno.EROFS else "make room there"


class WatchedRunFailed(RunFailed):
    """The run that the command waited for failed. `lines` say where, for people to read."""

    def __init__(self, run_id: str, error: dict[str, Any], lines: list[str]) -> None:
        super().__init__(run_id, error)
        self.lines = lines


class TimedOut(StackshiftError):
    """`--timeout` passed first, and what the command waited for continues; or `--wait` of `state
    get`."""

    code = "timeout"
    exit_status = 124


class LockGone(StackshiftError):
    """The lock that a command is running under is no longer ours."""

    code = "lock_lost"
    exit_status = 5


class CommandNotFound(StackshiftError):
    """The program to run does not exist; the status is the one shells use."""

    code = "command_not_found"
    exit_status = 127


class CommandNotRun(StackshiftError):
    """The program to run cannot be executed; the status is the one shells use."""

    code = "command_not_run"
    exit_status = 126


class OutputCut(StackshiftError):
    """What a program has printed is longer than what is kept of it."""

    code = "output_cut"
    exit_status = 74


class DaemonRunning(StackshiftError):
    """The command needs the journal for itself, and the daemon holds it."""

    code = "daemon_running"
    exit_status = 5


class NotInstalled(StackshiftError):
    """Nothing here can start the daemon at boot, or what can has refused to."""

    code = "not_installed"
    exit_status = 78


class OutputClosed(Exception):
    """Whoever read standard output has closed it, as `head` does when it has seen enough. The
    command ends with `status`: 0, unless its work was cut off."""

    status = 0
