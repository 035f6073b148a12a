"""`dev`: the daemon in the foreground, for whoever writes jobs: what is saved is loaded, and what
happens is shown."""

from __future__ import annotations

import contextlib
import os
import select
import sys
from typing import Any

from stackshift_cli.arguments import Given
from stackshift_cli.daemon.attended import Attended
from stackshift_cli.daemon.session import Session
from stackshift_cli.flows import reload_report
from stackshift_cli.output import messages
from stackshift_cli.output.safe_text import safe
from stackshift_cli.output.terminal import draws, is_terminal
from stackshift_jobs.errors import DaemonUnavailable
from stackshift_jobs.wire.unavailable import BROKEN, unavailable


def dev(session: Session, _given: Given) -> int:
    """`dev`: serve the project until `q`, Ctrl-C or SIGTERM. On a terminal runs are drawn; in a
    pipe there is a line per record, with `--json` an object. Raises `DaemonRunning` if a daemon
    serves the project already."""
    status = 0
    with Attended(session.project) as attended:
        with contextlib.suppress(KeyboardInterrupt):
            attended.until_ready(lambda _note: None)
            try:
                status = _show(session, attended)
            except DaemonUnavailable as bad:
                raise unavailable("the daemon has ended", BROKEN, "stackshift daemon logs") from bad
        session.say("stopping; Ctrl-C again: at once (what is running goes on next time)")
    return status


def _show(session: Session, attended: Attended) -> int:
    """Show what happens. Raises `DaemonUnavailable` when the daemon ends by itself."""
    session.connection()
    if draws(session.options) and is_terminal(sys.stdin) and _moves_its_cursor():
        from stackshift_cli.flows.dev import on_terminal

        return on_terminal(session, attended)
    return _in_lines(session, attended)


def _moves_its_cursor() -> bool:
    return os.environ.get("TERM") not in (None, "", "dumb")


def _in_lines(session: Session, attended: Attended) -> int:
    """Print what happens, until Ctrl-C."""
    from stackshift_cli.flows.watch import RecordPrinter

    printer = RecordPrinter(session)
    session.call("feed.open", {})
    connection = session.connection()
    reload_report.say_failed(session, session.call("daemon.status")["failed_modules"])
    while True:
        for outcome in attended.news():
            _report(session, outcome)
        noticed = connection.noticed()
        for method, params in noticed:
            if method == "feed.record":
                printer.print(params["record"])
        if not noticed:
            select.select([connection.fileno(), attended.fileno()], [], [])


def _report(session: Session, outcome: dict[str, Any]) -> None:
    if session.json:
        messages.data(messages.compact({"reload": outcome}))
        sys.stdout.flush()
    elif error := outcome.get("error"):
        session.say(f"not reloaded: {safe(error['message'])}")
    else:
        reload_report.say(session, outcome)
