"""`event tail`: being there while events come and go.

An event comes by `event.received`. One that is kept goes by `event.expired`, or is consumed by a
run that waits for it later: of that there is no record but the end of this wait.
"""

from __future__ import annotations

from typing import Any, Final

from stackshift_cli.arguments import Given
from stackshift_cli.daemon.session import Session
from stackshift_cli.verbs.run_feeds import TAIL_RECORDS, opening_given, tail_records

_EVENTS: Final = "event."
_CONSUMED: Final = "wait.ended"


def tail(session: Session, given: Given) -> int:
    """`event tail`: their records as they become durable: received, expired, consumed."""
    no_follow = given.flag("no_follow")
    opening = opening_given(session, given)
    if no_follow and not opening:
        opening["last"] = TAIL_RECORDS
    if "last" in opening:
        opening = {"since_seq": _before_last(session, opening["last"])}
    opening["kinds"] = [_EVENTS, _CONSUMED]
    return tail_records(session, opening, no_follow, "Detached", is_of_events)


def is_of_events(record: dict[str, Any]) -> bool:
    """Does `record` tell what became of an event? The end of a wait does if the event was kept
    before; else the event's own record has told it."""
    if record["kind"] != _CONSUMED:
        return True
    return bool(record.get("event")) and str(record.get("received_at")) < str(record["at"])


def _before_last(session: Session, count: int) -> int:
    """The sequence number before the last `count` records of events. Waits end by the thousand
    without one: were they counted too, there could be any number of events among the last ten."""
    found = session.call("feed.open", {"kinds": [_EVENTS], "last": count})
    session.call("feed.close", {"feed": found["feed"]})
    return int(found["next_seq"]) - 1
