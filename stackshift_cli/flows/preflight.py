"""What would become of runs in flight with the code as it is on disk: asked for, and shown."""

from __future__ import annotations

from typing import Any, Final

from stackshift_cli.daemon.session import Session
from stackshift_cli.output import in_flight, messages
from stackshift_cli.output.safe_text import safe
from stackshift_jobs.errors import BadConfiguration, Conflict

DIFFERENT: Final = Conflict.exit_status
"""The exit status where runs would not go on as they are recorded."""


def check_runs(session: Session, runs: list[str] | None, more: dict[str, Any]) -> int:
    """Print what would become of `runs` (None: of all that are unfinished); `more` is added to the
    JSON. Returns the exit status: 78 if a module cannot be imported, `DIFFERENT`, or 0."""
    reply = session.wait("daemon.preflight", {"runs": runs})
    report = reply["in_flight"]
    for module in reply["failed_modules"]:
        session.say(f"failed to import: {safe(messages.failed_module(module))}")
    if session.json:
        messages.data(messages.compact({**more, "in_flight": report}))
    elif report is not None:
        for line in in_flight.lines(report):
            messages.data(line)
    if report is None or reply["failed_modules"]:
        return BadConfiguration.exit_status
    return DIFFERENT if report["findings"] else 0
