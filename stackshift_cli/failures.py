"""Errors that only the command line knows."""

from __future__ import annotations

from stackshift_jobs.errors import StackshiftError


class TimedOut(StackshiftError):
    """`--timeout` has passed; what was waited for goes on."""

    code = "timeout"
    exit_status = 124


class DaemonRunning(StackshiftError):
    """The daemon holds the journal that this command must have for itself."""

    code = "daemon_running"
    exit_status = 5
