"""Errors that only the command line knows."""

from __future__ import annotations

from stackshift_jobs.errors import StackshiftError


class TimedOut(StackshiftError):
    """`--timeout` has passed; what was waited for goes on."""

    code = "timeout"
    exit_status = 124


class LockGone(StackshiftError):
    """The lock that a command was to be run under is not ours any more."""

    code = "lock_lost"
    exit_status = 5


class CommandNotFound(StackshiftError):
    """There is no such program to be run under a lock; as shells say it."""

    code = "command_not_found"
    exit_status = 127


class CommandNotRun(StackshiftError):
    """The program to be run under a lock is there and cannot be run; as shells say it."""

    code = "command_not_run"
    exit_status = 126


class DaemonRunning(StackshiftError):
    """The daemon holds the journal that this command must have for itself."""

    code = "daemon_running"
    exit_status = 5
