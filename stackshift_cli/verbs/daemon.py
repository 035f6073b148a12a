"""`daemon run|start|stop|restart|reload|status|logs`: the background daemon of the project."""

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
from stackshift_jobs.errors import BadConfiguration, DaemonUnavailable
from stackshift_jobs.project.discovery import LOG_FILE

_POLL_SECONDS: Final = 0.1
_LOG_LINES: Final = 50


def run(session: Session, _given: Given) -> int:
    """`daemon run`: replace this process with the daemon, in the foreground."""
    command = autostart.command(session.project)
    sys.stdout.flush()
    sys.stderr.flush()
    os.chdir(session.project.root)
    os.execv(command[0], command)


def start(session: Session, _given: Given) -> int:
    """`daemon start`: start it unless it is running already; 78 if a job module cannot be imported,
    else 0."""
    running = _running(session)
    pid = None
    if running is None:
        running, pid = autostart.start_and_open(session.project, lambda _note: None)
    with running as connection:
        status = connection.call("daemon.status", {}, 60.0)
    _say_started(session, status, started=pid is not None)
    return _say_failed(session, status["failed_modules"])


def stop(session: Session, given: Given) -> int:
    """`daemon stop`: stop it and wait until it has exited; 0 also if none was running."""
    pid = _stop(session, drain=given.flag("drain"))
    if session.json:
        messages.data(messages.compact({"pid": pid, "stopped": pid is not None}))
    else:
        session.say("no daemon is running" if pid is None else f"stopped stackshiftd (pid {pid})")
    return 0


def restart(session: Session, given: Given) -> int:
    """`daemon restart`: stop it and start it, possibly in another version. The settings are checked
    first: if the new daemon would refuse them, the old one keeps running."""
    from stackshift_jobs.project.config import load_config

    load_config(session.project.root)
    pid = _stop(session, drain=False)
    if pid is not None:
        session.say(f"stopped stackshiftd (pid {pid})")
    return start(session, given)


def reload(session: Session, _given: Given) -> int:
    """`daemon reload`: load the job modules as they are now; 78 if one cannot be imported. Never
    starts the daemon, and raises `DaemonUnavailable` (3) if none is running."""
    with Connection.open(session.project.data_dir) as connection:
        reply = connection.call("daemon.reload", {})
    if session.json:
        messages.data(messages.compact(reply))
    elif reply["loaded"]:
        session.say(_loaded(reply))
    failed = _say_failed(session, reply["failed_modules"])
    if not reply["loaded"]:
        session.say("not reloaded: the code from before goes on")
    return failed


def _loaded(reply: dict[str, Any]) -> str:
    """What a reload has done, in a line."""
    did = [f"{what} {safe(', '.join(jobs))}" for what, jobs in reply["jobs"].items() if jobs]
    files = safe(", ".join(reply["changed"]))
    return f"reloaded {files or 'the job modules'}" + (f": {'; '.join(did)}" if did else "")


def _say_failed(session: Session, modules: list[dict[str, Any]]) -> int:
    """Name the modules that cannot be imported; the exit status that this means."""
    for module in modules:
        session.say(f"failed to import: {safe(messages.failed_module(module))}")
    return BadConfiguration.exit_status if modules else 0


def status(session: Session, _given: Given) -> int:
    """`daemon status`: print its status; never starts it, and raises `DaemonUnavailable` (3) if
    none is running."""
    with Connection.open(session.project.data_dir) as connection:
        reply = connection.call("daemon.status", {}, 60.0)
    if session.json:
        messages.data(messages.compact(reply))
    elif draws(session.options):
        from stackshift_cli.render.lists import print_status

        print_status(session.options, reply)
    else:
        for name, value in reply.items():
            messages.data(tsv.tabbed((name, value)))
    _say_failed(session, reply["failed_modules"])
    return 0


def logs(session: Session, given: Given) -> int:
    """`daemon logs [-f]`: print the last lines of its log, also after it has exited."""
    log = LogFile(session.project.data_dir / LOG_FILE)
    count = given.whole("lines", 0, 1_000_000)
    _print_lines(session, log.last_lines(_LOG_LINES if count is None else count))
    while given.flag("follow"):
        select.select([], [], [], _POLL_SECONDS)
        _print_lines(session, log.new_lines())
    if log.unfinished:
        _print_lines(session, [log.unfinished])
    return 0


def _print_lines(session: Session, lines: list[str]) -> None:
    for line in lines:
        messages.data(messages.compact({"line": line}) if session.json else safe(line))
    sys.stdout.flush()


def _running(session: Session) -> Connection | None:
    """A connection to the daemon, or None if none is running; raises `DaemonUnavailable` if one is
    running that cannot be used."""
    try:
        return Connection.open(session.project.data_dir)
    except DaemonUnavailable as bad:
        if autostart.absent(bad):
            return None
        raise


def _say_started(session: Session, status: dict[str, Any], started: bool) -> None:
    pid = status["pid"]
    if session.json:
        failed = status["failed_modules"]
        messages.data(messages.compact({"pid": pid, "started": started, "failed_modules": failed}))
    else:
        did = "started stackshiftd" if started else "stackshiftd is already running"
        session.say(f"{did} (pid {pid})")


def _stop(session: Session, drain: bool) -> int | None:
    """Stop the daemon and wait until it has exited; its process id, None if none was running."""
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
    """Terminate a daemon whose protocol we do not speak. The process is the daemon: the connection
    was accepted at the socket that `daemon.json` names, by a process of our own user."""
    import signal

    from stackshift_jobs.project.discovery import read_daemon

    info = read_daemon(session.project.data_dir)
    if info is None:
        return None
    os.kill(info.pid, signal.SIGTERM)
    _until_gone(info.pid)
    return info.pid


def _until_gone(pid: int) -> None:
    """Wait until the process `pid` has exited; then the journal is free for the next daemon."""
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
        # A zombie whose parent does not reap it has exited too. Only Linux shows that; elsewhere
        # init is the parent, and reaps it.
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
            return file.read().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return True
