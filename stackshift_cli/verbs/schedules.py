"""`schedules list|next|pause|resume|trigger`: inspect and control the schedules of jobs."""

from __future__ import annotations

from typing import Any, Final

from stackshift_cli.arguments import Given
from stackshift_cli.daemon.session import Session
from stackshift_cli.output import messages
from stackshift_cli.output.safe_text import safe
from stackshift_cli.output.terminal import draws
from stackshift_cli.render import tsv
from stackshift_cli.verbs.jobs import say_boot_hint

_PAGE: Final = 1000
"""The most ticks that the daemon answers with at once."""
_MAX_TICKS: Final = 1_000_000


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
            session.say(f"{safe(schedule['job'])} cannot start: {safe(schedule['problem'])}")
    if any(not schedule["retired"] for schedule in schedules):
        say_boot_hint(session)
    return 0


def next_(session: Session, given: Given) -> int:
    """`schedules next [JOB] [-n N]`: print the upcoming ticks, the next one first."""
    job = given.text("job")
    ticks = _next(session, job, given.whole("number", 1, _MAX_TICKS) or 5)
    if session.json:
        messages.data(messages.compact(ticks))
    elif ticks and draws(session.options):
        from stackshift_cli.render.lists import print_ticks

        print_ticks(session.options, ticks)
    else:
        for tick in ticks:
            messages.data(tsv.columns(tick, tsv.TICK_COLUMNS))
    if not ticks:
        session.say("no upcoming ticks" if job is None else f"{safe(job)} has no upcoming ticks")
    return 0


def _next(session: Session, job: str | None, count: int) -> list[dict[str, Any]]:
    """The next `count` ticks, asked for page by page."""
    ticks: list[dict[str, Any]] = []
    params: dict[str, Any] = {} if job is None else {"job": job}
    while len(ticks) < count:
        params["count"] = min(count - len(ticks), _PAGE)
        page = session.call("schedule.next", params)["ticks"]
        ticks += page
        if len(page) < params["count"]:
            break
        params |= {"after_at": page[-1]["at"], "after_job": page[-1]["job"]}
    return ticks


def pause(session: Session, given: Given) -> int:
    """`schedules pause JOB`: start no runs by its schedule until it is resumed."""
    reply = session.call("schedule.pause", {"job": given.word("job")})
    if not reply["changed"]:
        session.say(f"the schedule of {safe(reply['job'])} is already paused")
    return _report(session, reply)


def resume(session: Session, given: Given) -> int:
    """`schedules resume JOB`: start runs by its schedule again, from the next tick on."""
    reply = session.call("schedule.resume", {"job": given.word("job")})
    if not reply["changed"]:
        session.say(f"the schedule of {safe(reply['job'])} is not paused")
    elif reply["next_at"] is not None:
        session.say(f"next at {messages.moment(reply['next_at'])}")
    return _report(session, reply)


def trigger(session: Session, given: Given) -> int:
    """`schedules trigger JOB`: start a run now, with the schedule's payload, and print its id. The
    next tick still happens."""
    reply = session.call("schedule.trigger", {"job": given.word("job")})
    messages.data(messages.compact(reply) if session.json else reply["id"])
    return 0


def _report(session: Session, reply: dict[str, Any]) -> int:
    messages.data(messages.compact(reply) if session.json else safe(reply["job"]))
    return 0
