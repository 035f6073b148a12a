"""`doctor`: look for what keeps jobs from running; `doctor --cron`: run a command as cron does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Final

from stackshift_cli.arguments import Given
from stackshift_cli.daemon.session import Session
from stackshift_cli.flows.doctor import checkup
from stackshift_cli.flows.doctor import daemon as checkup_daemon
from stackshift_cli.flows.doctor.checkup import GOOD, NOTE, PROBLEM, Finding
from stackshift_cli.output import messages
from stackshift_cli.output.safe_text import safe
from stackshift_cli.output.terminal import draws, shows_unicode, wants_color
from stackshift_cli.output.wrapping import width_of, wrapped
from stackshift_cli.render import tsv
from stackshift_jobs.errors import BadConfiguration, StackshiftError, Usage
from stackshift_jobs.project.locate import Project
from stackshift_jobs.values.quantities import quantity

_STATUS_CELLS: Final = 7
_LEAST_CELLS: Final = 30
_COLORS = {GOOD: "32", NOTE: "33", PROBLEM: "31"}


def doctor(session: Session, given: Given) -> int:
    """`doctor`: print a line per finding; 0 if there is no problem, else the status that fits the
    worst: 78 for settings and modules, 3 for the daemon, 1 for anything else."""
    command = given.texts("command")
    if given.flag("cron"):
        from stackshift_cli.flows.cron_trial import try_as_cron

        return try_as_cron(session, command)
    if command:
        raise Usage("doctor takes a command only with --cron", hint="add --cron")
    found = []
    for finding in _findings(session):
        found.append(finding)
        if not session.json:
            _print(session, finding)
            sys.stdout.flush()
    if session.json:
        rows = [{**f._asdict(), "hint": f.hint or None} for f in found]
        for row in rows:
            del row["exit_status"]
        messages.data(messages.compact(rows))
    problems = [finding.exit_status for finding in found if finding.status == PROBLEM]
    if not session.json:
        session.say(quantity(len(problems), "problem") if problems else "no problems")
    return max(problems, default=0)


def _findings(session: Session) -> Iterator[Finding]:
    yield from checkup.about_versions()
    try:
        project = session.project
    except BadConfiguration as bad:
        refused = checkup.refusal(bad)
        yield refused if "path" in bad.fields else refused._replace(subject="project")
        return
    is_trusted = True
    for finding in checkup.about_trust(project):
        is_trusted = finding.status != PROBLEM
        yield finding
    is_valid = True
    for finding in _looked_at(checkup.about_project, project):
        is_valid = is_valid and (finding.subject, finding.status) != ("project", PROBLEM)
        yield finding
    subjects = [
        checkup.about_disk,
        checkup.about_clock,
        checkup.about_limits,
        checkup_daemon.about_socket,
        checkup_daemon.about_daemon,
    ]
    if is_valid:
        subjects.append(checkup_daemon.about_cluster)
    for subject in subjects:
        yield from _looked_at(subject, project)
    if is_trusted and is_valid:  # Else nothing more can be said, and the reason has been.
        yield from checkup_daemon.about_modules(session)
        yield from checkup_daemon.about_hosts(session)


def _looked_at(
    subject: Callable[[Project], Iterator[Finding]], project: Project
) -> Iterator[Finding]:
    try:
        yield from subject(project)
    except (OSError, StackshiftError) as bad:
        name = subject.__name__.removeprefix("about_")
        yield Finding(name, PROBLEM, f"cannot be looked at: {bad}", "stackshift doctor -v")


def _print(session: Session, finding: Finding) -> None:
    if not draws(session.options):
        messages.data(tsv.tabbed(finding[:4]))
        return
    status = f"{finding.status:<{_STATUS_CELLS}}"
    if wants_color(session.options):
        status = f"\x1b[{_COLORS[finding.status]}m{status}\x1b[0m"
    before = f"{finding.subject:<11}  "
    indent = " " * (_STATUS_CELLS + 2 + len(before))
    room = max(_LEAST_CELLS, width_of(sys.stdout) - len(indent))
    first, *rest = wrapped(safe(finding.message), room, indent)
    messages.data(f"{status}  {before}{first.lstrip()}")
    for line in rest:
        messages.data(line)
    if finding.hint and finding.status != GOOD:
        arrow = "→" if shows_unicode() else "->"
        messages.data(f"{'':<22}{arrow} {safe(finding.hint)}")
