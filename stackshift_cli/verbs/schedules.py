"""`schedules list|next|pause|resume|trigger`: what starts jobs by itself."""

from __future__ import annotations

from typing import Any, Final

from stackshift_cli.arguments import Given
from stackshift_cli.daemon.boot import boot_hint
from stackshift_cli.daemon.session import Session
from stackshift_cli.output import messages
from stackshift_cli.output.safe_text import safe
from stackshift_cli.output.terminal import draws
from stackshift_cli.render import tsv

_MAX_SHOWN: Final = 1000


def list_(session: Session, given: Given) -> int:
    """`schedules list`."""
    schedules = session.call("schedule.list")["schedules"]
    if session.json:
        messages.data(messages.compact(schedules))
    elif draws(session.options):
        from stackshift_cli.render.lists import print_schedules

        print_schedules(session.options, schedules)
    else:
        for each in schedules:
            messages.data(tsv.columns(each, tsv.SCHEDULE_COLUMNS))
    for each in schedules:
        if each["problem"]:
            session.say(f"{safe(each['job'])} cannot start: {safe(each['problem'])}")
    lives = any(not each["retired"] for each in schedules)
    if lives and not session.options.quiet and (hint := boot_hint(session.project.root)):
        session.say(f"hint: {safe(hint)}")
    return 0


def next_(session: Session, given: Given) -> int:
    """`schedules next [JOB]`: the ticks to come, the next one first."""
    params: dict[str, Any] = {"count": given.whole("number", 1, _MAX_SHOWN) or 5}
    job = given.text("job")
    if job is not None:
        params["job"] = job
    ticks = session.call("schedule.next", params)["ticks"]
    if session.json:
        messages.data(messages.compact(ticks))
    elif ticks and draws(session.options):
        from stackshift_cli.render.lists import print_ticks

        print_ticks(session.options, ticks)
    else:
        for tick in ticks:
            messages.data(tsv.columns(tick, tsv.TICK_COLUMNS))
    if not ticks:
        session.say("nothing will come" if job is None else f"{safe(job)} has no tick to come")
    return 0


def pause(session: Session, given: Given) -> int:
    """`schedules pause JOB`."""
    reply = session.call("schedule.pause", {"job": given.word("job")})
    if not reply["changed"]:
        session.say(f"the schedule of {safe(reply['job'])} was paused already")
    return _told(session, reply)


def resume(session: Session, given: Given) -> int:
    """`schedules resume JOB`."""
    reply = session.call("schedule.resume", {"job": given.word("job")})
    if not reply["changed"]:
        session.say(f"the schedule of {safe(reply['job'])} was not paused")
    elif reply["next_at"] is not None:
        session.say(f"next at {reply['next_at']}")
    return _told(session, reply)


def trigger(session: Session, given: Given) -> int:
    """`schedules trigger JOB`: a run now, with the schedule's payload; no tick is used up."""
    reply = session.call("schedule.trigger", {"job": given.word("job")})
    messages.data(messages.compact(reply) if session.json else reply["id"])
    return 0


def _told(session: Session, reply: dict[str, Any]) -> int:
    messages.data(messages.compact(reply) if session.json else safe(reply["job"]))
    return 0
