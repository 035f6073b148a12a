"""`daemon run|start|stop|restart|status|logs`: the background daemon of a project."""

from __future__ import annotations

import os
import select
import sys
from typing import Any, Final

from stackshift_cli.arguments import Given
from stackshift_cli.daemon import autostart
from stackshift_cli.daemon.connection import Connection
from stackshift_cli.daemon.log import LogFile
from stackshift_cli.daemon.session import Session
from stackshift_cli.output import messages
from stackshift_cli.output.safe_text import safe
from stackshift_cli.output.terminal import draws
from stackshift_cli.render import tsv
from stackshift_jobs.errors import DaemonUnavailable

_POLL_SECONDS: Final = 0.1
_LOG_LINES: Final = 50


def run(session: Session, given: Given) -> int:
    """`daemon run`: become the daemon, in the foreground."""
    command = autostart.command(session.project)
    sys.stdout.flush()
    sys.stderr.flush()
    os.chdir(session.project.root)
    os.execv(command[0], command)


def start(session: Session, given: Given) -> int:
    """`daemon start`: 0 also where one runs already."""
    running = _running(session)
    pid = None
    if running is None:
        running, pid = autostart.start_and_open(session.project, session.say)
    with running as connection:
        status = connection.call("daemon.status", {}, 60.0)
    _say_started(session, status["pid"], started=pid is not None)
    return 0


def stop(session: Session, given: Given) -> int:
    """`daemon stop`: returns when it has gone; 0 also where none runs."""
    pid = _stop(session, drain=given.flag("drain"))
    if session.json:
        messages.data(messages.compact({"pid": pid, "stopped": pid is not None}))
    else:
        session.say("no daemon runs" if pid is None else f"stopped stackshiftd (pid {pid})")
    return 0


def restart(session: Session, given: Given) -> int:
    """`daemon restart`: also the way to a daemon of another version. With settings that the new one
    would refuse, the old one stays."""
    from stackshift_jobs.project.config import load_config

    load_config(session.project.root)
    pid = _stop(session, drain=False)
    if pid is not None:
        session.say(f"stopped stackshiftd (pid {pid})")
    return start(session, given)


def status(session: Session, given: Given) -> int:
    """`daemon status`: starts nothing; 3 where none runs."""
    with Connection.open(session.project.data_dir) as connection:
        told = connection.call("daemon.status", {}, 60.0)
    if session.json:
        messages.data(messages.compact(told))
    elif draws(session.options):
        from stackshift_cli.render.lists import print_status

        print_status(session.options, told)
    else:
        for name, value in told.items():
            messages.data(tsv.tabbed((name, value)))
    for module in told["failed_modules"]:
        session.say(f"does not import: {safe(messages.failed_module(module))}")
    return 0


def logs(session: Session, given: Given) -> int:
    """`daemon logs`: what the daemon wrote, also after it has ended."""
    log = LogFile(session.project.data_dir / autostart.LOG_FILE)
    count = given.whole("lines", 0, 1_000_000)
    _print_lines(session, log.last_lines(_LOG_LINES if count is None else count))
    while given.flag("follow"):
        select.select([], [], [], _POLL_SECONDS)
        _print_lines(session, log.new_lines())
    if log.unfinished:
        _print_lines(session, [log.unfinished])
    return 0


def _print_lines(session: Session, written: list[str]) -> None:
    for line in written:
        messages.data(messages.compact({"line": line}) if session.json else safe(line))
    sys.stdout.flush()


def _running(session: Session) -> Connection | None:
    """A connection to the daemon if one runs; raises if one runs that cannot be used."""
    try:
        return Connection.open(session.project.data_dir)
    except DaemonUnavailable as bad:
        if autostart.absent(bad):
            return None
        raise


def _say_started(session: Session, pid: int, started: bool) -> None:
    if session.json:
        messages.data(messages.compact({"pid": pid, "started": started}))
    else:
        session.say(
            f"{'started stackshiftd' if started else 'stackshiftd runs already'} (pid {pid})"
        )


def _stop(session: Session, drain: bool) -> int | None:
    """Stop the daemon and wait until it has gone; its process id, None if none ran."""
    try:
        connection = _running(session)
    except DaemonUnavailable as bad:
        if bad.fields.get("reason") != "other_protocol":
            raise
        return _stop_other_version(session)
    if connection is None:
        return None
    with connection:
        reply: dict[str, Any] = connection.call("daemon.stop", {"drain": drain})
    _until_gone(int(reply["pid"]))
    return int(reply["pid"])


def _stop_other_version(session: Session) -> int | None:
    """End a daemon that we cannot talk to. That the process is the daemon was made sure of by the
    connection: it was accepted at the socket that `daemon.json` names, by our own user."""
    import signal

    from stackshift_jobs.project.discovery import read_daemon

    info = read_daemon(session.project.data_dir)
    if info is None:
        return None
    os.kill(info.pid, signal.SIGTERM)
    _until_gone(info.pid)
    return info.pid


def _until_gone(pid: int) -> None:
    """Wait until the process `pid` has ended: then the journal is free for the next one."""
    while _is_alive(pid):
        select.select([], [], [], 0.02)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        # A zombie whose parent does not look is gone for us. Linux tells; elsewhere init reaps it.
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
            return file.read().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return True
