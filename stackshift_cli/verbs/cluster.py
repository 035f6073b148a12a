"""`cluster status|handover|forget`: the daemons of a project on several machines."""

from __future__ import annotations

from typing import Any, Final

from stackshift_cli.arguments import Given
from stackshift_cli.daemon.session import Session
from stackshift_cli.output import messages
from stackshift_cli.output.safe_text import safe
from stackshift_cli.output.terminal import draws
from stackshift_cli.render import tsv

_WRONG_MS: Final = 1000
"""A clock that differs by more is worth a word."""


def status(session: Session, _given: Given) -> int:
    """`cluster status`: who leads, and who follows."""
    found = session.call("cluster.status")
    # Compared as they said it last: what the leader has by now, nobody else can have said.
    newest = max((each["seq"] for each in found["members"] if each["role"] == "leads"), default=0)
    members = [{**each, "behind": max(0, newest - each["seq"])} for each in found["members"]]
    if session.json:
        messages.data(messages.compact(found))
        return 0
    if draws(session.options):
        from stackshift_cli.render.lists import print_members

        print_members(session.options, found, members)
    else:
        for each in members:
            messages.data(tsv.columns(each, tsv.MEMBER_COLUMNS))
    for each in members:
        for problem in _problems(each, members):
            session.say(f"note: {safe(each['host'])}: {safe(problem)}")
    return 0


def _problems(member: dict[str, Any], members: list[dict[str, Any]]) -> list[str]:
    """What somebody should look at."""
    if member["role"] == "stopped":
        return []
    problems = []
    if abs(member["clock_ahead_ms"]) > _WRONG_MS:
        which = "ahead of" if member["clock_ahead_ms"] > 0 else "behind"
        seconds = abs(member["clock_ahead_ms"]) / 1000
        problems.append(f"its clock is {seconds:.1f} s {which} the database's")
    if member["address"] is None:
        problems.append("it does not listen: it lacks stackshift-jobs[cluster]")
    leads = next((each for each in members if each["role"] == "leads"), None)
    if leads is not None and member["version"] != leads["version"]:
        problems.append(f"it is {member['version']}, and {leads['host']} {leads['version']}")
    return problems


def handover(session: Session, given: Given) -> int:
    """`cluster handover [HOST]`: let another daemon lead; prints the host that will."""
    told = session.call("cluster.handover", {"host": given.text("host")})
    messages.data(messages.compact(told) if session.json else safe(told["to"]))
    session.say(f"the daemon on {safe(told['from'])} hands over, and then follows")
    return 0


def forget(session: Session, given: Given) -> int:
    """`cluster forget HOST`: drop a host from the members; prints it."""
    told = session.call("cluster.forget", {"host": given.word("host")})
    messages.data(messages.compact(told) if session.json else safe(told["host"]))
    return 0
