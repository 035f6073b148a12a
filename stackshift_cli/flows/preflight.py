"""What would become of runs in flight with the code as it is on disk: asked for, and shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from stackshift_cli.daemon.session import Session
from stackshift_cli.output import messages
from stackshift_cli.output.safe_text import safe
from stackshift_jobs.errors import BadConfiguration, Conflict

DIFFERENT: Final = Conflict.exit_status
"""The exit status where runs would not go on as they are recorded."""
_SENTENCES: Final = {
    "wait_gone": ("waits at {}, which", "wait at {}, which"),
    "again": ("would run {} again", "would run {} again"),
    "unused": ("has an outcome of {}, which", "have an outcome of {}, which"),
    "fails": ("would fail: {}", "would fail: {}"),
    "stopped": ("does not come to rest", "do not come to rest"),
}
"""By the kind of a finding: of one run, and of several. What is incomplete goes on with `_GONE`."""
_GONE: Final = " the code no longer asks for"


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
        for line in lines(report):
            messages.data(line)
    if report is None or reply["failed_modules"]:
        return BadConfiguration.exit_status
    return DIFFERENT if report["findings"] else 0


def lines(report: dict[str, Any]) -> Iterator[str]:
    """A report of `daemon.preflight` in lines: how many runs go on, then each finding with those
    that it is about."""
    unchecked = report["unchecked"]
    late = f", {unchecked} not checked for lack of time" if unchecked else ""
    yield f"{report['in_flight']} in flight: {report['go_on']} go on{late}"
    for each in report["findings"]:
        count, kind = each["count"], each["kind"]
        sentence = _SENTENCES[kind][count != 1]
        sentence += _GONE if sentence.endswith("which") else ""
        about = each["about"] if kind == "fails" else repr(each["about"])
        ids = ", ".join(each["runs"]) + (", …" if count > len(each["runs"]) else "")
        yield safe(f"  {count} of {each['job']} {sentence.format(about)}: {ids}")
