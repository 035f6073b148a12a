"""`cluster status|handover|forget`: the daemons of a project on several machines."""

from __future__ import annotations

from stackshift_cli.arguments import Given
from stackshift_cli.daemon.session import Session
from stackshift_cli.flows.cluster_members import problems
from stackshift_cli.output import messages
from stackshift_cli.output.safe_text import safe
from stackshift_cli.output.terminal import draws
from stackshift_cli.render import tsv


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
        for problem in problems(each, members):
            session.say(f"note: {safe(each['host'])}: {safe(problem)}")
    return 0


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
