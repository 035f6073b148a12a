"""`daemon run|start|stop|restart|reload|status|logs`: the background daemon of the project."""

from __future__ import annotations

import os
import select
import signal
import sys
from time import monotonic
from typing import Any, Final

from stackshift_cli.arguments import Given
from stackshift_cli.daemon.connection import Connection
from stackshift_cli.daemon.presence import absent, open_soon
from stackshift_cli.daemon.session import Session
from stackshift_cli.flows import reload_report
from stackshift_cli.output import messages
from stackshift_cli.output.safe_text import safe
from stackshift_cli.output.terminal import draws
from stackshift_cli.render import tsv
from stackshift_jobs.errors import DaemonUnavailable, StackshiftError
from stackshift_jobs.project.discovery import LOG_FILE, DaemonInfo, announcements, is_held
from stackshift_jobs.wire.unavailable import BROKEN, OTHER_PROTOCOL, unavailable

_POLL_SECONDS: Final = 0.1
_LOOK_SECONDS: Final = 0.02
_STOP_SECONDS: Final = 60.0
"""How long to try to ask a daemon that does not listen to stop: one that is starting will."""
_LOG_LINES: Final = 50


def run(session: Session, _given: Given) -> int:
    """`daemon run`: replace this process with the daemon, in the foreground."""
    from stackshift_cli.daemon.units import daemon_command

    command = daemon_command(session.project.root)
    sys.stdout.flush()
    sys.stderr.flush()
    os.chdir(session.project.root)
    os.execv(command[0], command)


def start(session: Session, _given: Given) -> int:
    """`daemon start`: start it unless it is running already; 78 if a job module cannot be imported,
    else 0."""
    from stackshift_cli.daemon import autostart

    running, pid = autostart.start_and_open(session.project, lambda _note: None)
    with running as connection:
        status = session.ask(connection, "daemon.status")
    _say_started(session, status, started=pid is not None)
    if status.get("role") == "follows":
        session.say(f"note: the daemon on {safe(status['leader'])} leads, and this one follows it")
    if status["mode"] != "serving":
        session.say(f"note: only reads are served: {safe(status['read_only_because'])}")
    return reload_report.say_failed(session, status["failed_modules"])


def dial(session: Session, given: Given) -> int:
    """`daemon dial [--start]`: join standard input and output to the daemon, after a line of JSON
    that says whether that was possible. It is what `-C ssh://HOST/DIR` runs there."""
    from stackshift_cli.daemon import autostart
    from stackshift_cli.flows.dial import splice, write_all
    from stackshift_jobs.version import __version__
    from stackshift_jobs.wire import ssh
    from stackshift_jobs.wire.unix_socket import connect

    pid = None
    notes: list[str] = []
    try:
        if given.flag("start"):
            running, pid = autostart.start_and_open(session.project, notes.append)
            running.close()
        sock = connect(session.project.data_dir_text)
    except StackshiftError as refused:
        write_all(ssh.refusal_line(refused))
        return refused.exit_status
    write_all(ssh.dial_line(__version__, pid, notes))
    splice(sock)
    return 0


def stop(session: Session, given: Given) -> int:
    """`daemon stop`: stop it and wait until it has exited; 0 also if none was running."""
    pid = _stop(session, drain=given.flag("drain"))
    if session.json:
        messages.data(messages.compact({"pid": pid, "stopped": pid is not None}))
    else:
        session.say("no daemon is running" if pid is None else f"stopped stackshiftd (pid {pid})")
    return 0


def restart(session: Session, given: Given) -> int:
    """`daemon restart`: stop it and start it, possibly in another version. What the new daemon
    would refuse is checked first (settings, code that others can change), and then the old one
    keeps running."""
    from stackshift_jobs.project.code import check_code
    from stackshift_jobs.project.config import load_config
    from stackshift_jobs.project.environment import check_env_file, check_interpreter

    config = load_config(session.project.root)
    check_code(config)
    check_interpreter(config)
    check_env_file(config)
    pid = _stop(session, drain=False)
    if pid is not None:
        session.say(f"stopped stackshiftd (pid {pid})")
    return start(session, given)


def reload(session: Session, given: Given) -> int:
    """`daemon reload [--strict]`: load the job modules as they are now; 78 if one cannot be
    imported, and with `--strict` 5 if runs in flight would not go on as they are recorded: then
    nothing is loaded. Never starts the daemon, and raises `DaemonUnavailable` (3) if none runs."""
    with Connection.open(session.project.data_dir) as connection:
        params = {"strict": given.flag("strict")}
        reply = session.ask(connection, "daemon.reload", params, None)
    if session.json:
        messages.data(messages.compact(reply))
    return reload_report.say(session, reply)


def status(session: Session, _given: Given) -> int:
    """`daemon status`: print its status; never starts it, and raises `DaemonUnavailable` (3) if
    none is running."""
    with open_soon(session.project) as connection:
        reply = session.ask(connection, "daemon.status")
    if session.json:
        messages.data(messages.compact(reply))
    elif draws(session.options):
        from stackshift_cli.render.lists import print_status

        print_status(session.options, reply)
    else:
        for name, value in reply.items():
            messages.data(tsv.tabbed((name, value)))
    if damage := reply.get("damage"):
        session.say(f"the journal is damaged: {safe(damage['message'])}")
        session.say("the next start may refuse it: see `stackshift journal verify`")
    reload_report.say_failed(session, reply["failed_modules"])
    return 0


def metrics(session: Session, _given: Given) -> int:
    """`daemon metrics`: print its metrics in Prometheus's text format; never starts it, and raises
    `DaemonUnavailable` (3) if none is running."""
    from stackshift_jobs.values.exposition import exposition

    with open_soon(session.project) as connection:
        reply = session.ask(connection, "daemon.metrics")
    if session.json:
        messages.data(messages.compact(reply))
    else:
        messages.data(exposition(reply["metrics"]).rstrip("\n"))
    return 0


def clock(session: Session, given: Given) -> int:
    """`daemon clock`: print daemon time, and on stderr whether it stands still; `--set-back` sets
    it back to the system clock, after confirmation."""
    from stackshift_cli.output.confirm import confirmed
    from stackshift_jobs.values.durations import format_ms

    reply = session.call("daemon.clock")
    if given.flag("set_back") and reply["ahead_ms"]:
        ahead = format_ms(reply["ahead_ms"])
        if not confirmed(f"set daemon time back by {ahead}", given.flag("yes")):
            return 0
        reply = session.call("daemon.clock", {"set_back": True})
    if session.json:
        messages.data(messages.compact(reply))
        return 0
    messages.data(reply["time"])
    if reply["changed"]:
        session.say("set back to the system clock")
    elif reply["ahead_ms"]:
        ahead = format_ms(reply["ahead_ms"])
        session.say(
            f"it is {ahead} ahead of the system clock and stands still until then: no timer fires"
        )
        session.say("hint: stackshift daemon clock --set-back")
    return 0


def logs(session: Session, given: Given) -> int:
    """`daemon logs [-f]`: print the last lines of its log, also after it has exited."""
    from stackshift_cli.daemon.log import LogFile

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


def _say_started(session: Session, status: dict[str, Any], started: bool) -> None:
    pid = status["pid"]
    if session.json:
        failed = status["failed_modules"]
        messages.data(messages.compact({"pid": pid, "started": started, "failed_modules": failed}))
    else:
        did = "started stackshiftd" if started else "stackshiftd is already running"
        session.say(f"{did} (pid {pid})")


def stop_running(session: Session) -> int | None:
    """Stop the daemon as `daemon stop` does; its process id, None if none was running."""
    return _stop(session, drain=False)


def _stop(session: Session, drain: bool) -> int | None:
    """Stop the daemon and wait until it has exited; its process id, None if none was running."""
    deadline = monotonic() + _STOP_SECONDS
    while True:
        before = announcements(session.project.data_dir)
        try:
            with open_soon(session.project, deadline - monotonic()) as connection:
                pid, own = _ask_to_stop(session, connection, drain)
            break
        except DaemonUnavailable as bad:
            if absent(bad):
                return None
            reason = bad.fields["reason"]
            if reason == OTHER_PROTOCOL:
                pid = own = _terminate(bad)
                break
            # A connection that it dropped before it answered: it is stopping already, or starts
            # again after a failure.
            if reason != BROKEN or monotonic() > deadline:
                raise
        select.select([], [], [], _LOOK_SECONDS)
    _until_gone(session, before, own)
    return pid


def _ask_to_stop(session: Session, connection: Connection, drain: bool) -> tuple[int, int]:
    """Ask the daemon to stop, and wait until it has ended its connections. Returns its process id,
    and what that is here: 0 if it runs where we do not see processes."""
    own = connection.peer_pid
    pid = int(session.ask(connection, "daemon.stop", {"drain": drain}, None)["pid"])
    connection.wait_end()
    return pid, own if own == pid else 0


def _terminate(other: DaemonUnavailable) -> int:
    """Terminate a daemon whose protocol we do not speak; its process id, which is certainly its
    own: the kernel says who has accepted the connection."""
    pid = int(other.fields["pid"])
    if not pid:
        raise unavailable(
            "the daemon has another version and runs in a container, where it cannot be ended from "
            "here",
            OTHER_PROTOCOL,
            "run stackshift daemon stop in the container",
        )
    os.kill(pid, signal.SIGTERM)
    return pid


def _until_gone(session: Session, before: set[DaemonInfo], pid: int) -> None:
    """Wait until the project is free for the next daemon, or that has come already, and until the
    process `pid` has exited. The lock is what counts: a process id of a container means nothing
    here, or somebody else."""
    data_dir = session.project.data_dir
    while is_held(data_dir) and announcements(data_dir) <= before:
        select.select([], [], [], _LOOK_SECONDS)
    while pid and _is_alive(pid):
        select.select([], [], [], _LOOK_SECONDS)


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
