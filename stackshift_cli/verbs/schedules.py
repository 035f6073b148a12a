"""`schedules list|next|pause|resume|trigger|lint`: inspect and control schedules."""

from __future__ import annotations

from typing import Any, Final

from stackshift_cli.arguments import Given
from stackshift_cli.daemon.session import Session
from stackshift_cli.output import messages
from stackshift_cli.output.safe_text import safe
from stackshift_cli.output.terminal import draws
from stackshift_cli.render import tsv
from stackshift_cli.verbs.jobs import say_boot_hint
from stackshift_jobs.errors import Usage

_PAGE: Final = 1000
"""The most ticks that the daemon answers with at once."""
_MAX_TICKS: Final = 1_000_000
_WRONG: Final = frozenset(("never", "problem"))
"""Findings of `schedules lint` that keep a schedule from starting anything."""


def list_(session: Session, _given: Given) -> int:
    """`schedules list`: list all schedules; on stderr what keeps them from starting runs."""
    schedules = session.whole("schedule.list", "schedules")["schedules"]
    if session.json:
        messages.data(messages.compact(schedules))
    elif draws(session.options):
        from stackshift_cli.render.lists import print_schedules

        print_schedules(session.options, schedules)
    else:
        for schedule in schedules:
            messages.data(tsv.columns(schedule, tsv.SCHEDULE_COLUMNS))
    for schedule in schedules:
        if schedule["problem"]:
            session.say(f"{safe(schedule['name'])} cannot start: {safe(schedule['problem'])}")
    if any(not schedule["retired"] for schedule in schedules):
        say_boot_hint(session)
    return 0


def next_(session: Session, given: Given) -> int:
    """`schedules next [NAME] [-n N]`: print the upcoming ticks, the next one first."""
    name = given.text("schedule")
    ticks = _next(session, name, given.whole("number", 1, _MAX_TICKS) or 5)
    if session.json:
        messages.data(messages.compact(ticks))
    elif ticks and draws(session.options):
        from stackshift_cli.render.lists import print_ticks

        print_ticks(session.options, ticks)
    else:
        for tick in ticks:
            messages.data(tsv.columns(tick, tsv.TICK_COLUMNS))
    paused = _paused(session, name) if name is None or not ticks else []
    for each in paused:
        resume = f"stackshift schedules resume {safe(each)}"
        session.say(f"{safe(each)} is paused; to resume it: {resume}")
    if not ticks and not paused:
        session.say("no upcoming ticks" if name is None else f"{safe(name)} has no upcoming ticks")
    return 0


def _paused(session: Session, name: str | None) -> list[str]:
    """The names of the paused schedules, of all or of the one with the `name`."""
    schedules = session.whole("schedule.list", "schedules")["schedules"]
    return [
        each["name"]
        for each in schedules
        if each["paused"] and not each["retired"] and name in (None, each["name"])
    ]


def _next(session: Session, name: str | None, count: int) -> list[dict[str, Any]]:
    """The next `count` ticks, asked for page by page."""
    ticks: list[dict[str, Any]] = []
    params: dict[str, Any] = {} if name is None else {"name": name}
    while len(ticks) < count:
        params["count"] = min(count - len(ticks), _PAGE)
        page = session.call("schedule.next", params)["ticks"]
        ticks += page
        if len(page) < params["count"]:
            break
        params |= {"after_at": page[-1]["at"], "after_name": page[-1]["name"]}
    return ticks


def pause(session: Session, given: Given) -> int:
    """`schedules pause NAME`: start no runs by its schedule until it is resumed."""
    reply = session.call("schedule.pause", {"name": given.word("schedule")})
    if not reply["changed"]:
        session.say(f"the schedule {safe(reply['name'])} is already paused")
    return _report(session, reply)


def resume(session: Session, given: Given) -> int:
    """`schedules resume NAME`: start runs by its schedule again, from the next tick on."""
    reply = session.call("schedule.resume", {"name": given.word("schedule")})
    if not reply["changed"]:
        session.say(f"the schedule {safe(reply['name'])} is not paused")
    elif reply["next_at"] is not None:
        session.say(f"next at {messages.moment(reply['next_at'])}")
    return _report(session, reply)


def trigger(session: Session, given: Given) -> int:
    """`schedules trigger NAME`: start a run now, with the schedule's payload, and print its id. The
    next tick still happens."""
    reply = session.call("schedule.trigger", {"name": given.word("schedule")})
    messages.data(messages.compact(reply) if session.json else reply["id"])
    return 0


def lint(session: Session, given: Given) -> int:
    """`schedules lint [NAME] [--cron EXPRESSION]`: print what may surprise. Exit 78 if a schedule
    never ticks or cannot start, which is more than a surprise."""
    params: dict[str, Any] = {}
    if (name := given.text("schedule")) is not None:
        params["name"] = name
    if (expression := given.text("cron")) is not None:
        if name is not None:
            raise Usage("a name and --cron cannot be used together")
        params["schedule"] = expression
    if (timezone := given.text("timezone")) is not None:
        if expression is None:
            raise Usage("--timezone requires --cron")
        params["timezone"] = timezone
    findings = session.call("schedule.lint", params)["findings"]
    if session.json:
        messages.data(messages.compact(findings))
    else:
        for each in findings:
            if draws(session.options):
                what = f"{safe(each['name'])}: " if each["name"] else ""
                messages.data(f"{what}{safe(each['message'])}")
            else:
                messages.data(tsv.columns(each, tsv.FINDING_COLUMNS))
    if not findings:
        session.say("nothing to say")
    return 78 if any(each["code"] in _WRONG for each in findings) else 0


def _report(session: Session, reply: dict[str, Any]) -> int:
    messages.data(messages.compact(reply) if session.json else safe(reply["name"]))
    return 0
