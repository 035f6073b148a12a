"""What a reload has done, in lines on standard error."""

from __future__ import annotations

from typing import Any

from stackshift_cli.daemon.session import Session
from stackshift_cli.flows import preflight
from stackshift_cli.output import in_flight, messages, reloads
from stackshift_cli.output.safe_text import safe
from stackshift_jobs.errors import BadConfiguration
from stackshift_jobs.project.locate import CONFIG_FILE


def say(session: Session, reply: dict[str, Any]) -> int:
    """Say what the answer `reply` of `daemon.reload` means; the exit status: 78 if a module cannot
    be imported, `preflight.DIFFERENT` if nothing was loaded because of runs in flight, else 0."""
    if reply["loaded"]:
        session.say(_loaded(reply))
    status = say_failed(session, reply["failed_modules"])
    report = reply["in_flight"]
    if report is not None and (report["findings"] or report["unchecked"]):
        for line in in_flight.lines(report):
            session.say(line)
    if not reply["loaded"]:
        session.say("not reloaded: the code from before goes on")
        if did := _schedules(reply):
            session.say(f"{CONFIG_FILE}: {'; '.join(did)}")
        status = status or preflight.DIFFERENT
    return status


def say_failed(session: Session, modules: list[dict[str, Any]]) -> int:
    """Name the modules that cannot be imported; the exit status that this means."""
    for module in modules:
        session.say(f"failed to import: {safe(messages.failed_module(module))}")
    return BadConfiguration.exit_status if modules else 0


def _loaded(reply: dict[str, Any]) -> str:
    did = [f"{what} {safe(', '.join(jobs))}" for what, jobs in reply["jobs"].items() if jobs]
    did += _schedules(reply)
    return reloads.files(reply) + (f": {'; '.join(did)}" if did else "")


def _schedules(reply: dict[str, Any]) -> list[str]:
    """What has become of the schedules in the file, which are read whatever becomes of the code."""
    return [
        f"{what} schedule {safe(', '.join(names))}"
        for what, names in reply.get("schedules", {}).items()
        if names
    ]
