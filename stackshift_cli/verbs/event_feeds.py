"""`event tail`: follow events as they are received, expire and are consumed.

An event arrives with the record `event.received`. One that is kept ends with `event.expired`, or is
consumed by a run that waits for it later; the only record of that is the end of the wait. One that
a run received and gave up before its handler saw it comes back with `event.returned`.
"""

from __future__ import annotations

from typing import Any, Final

from stackshift_cli.arguments import Given
from stackshift_cli.daemon.session import Session
from stackshift_cli.verbs.run_feeds import TAIL_RECORDS, opening_given, tail_records

_EVENTS: Final = "event."
_CONSUMED: Final = "wait.ended"


def tail(session: Session, given: Given) -> int:
    """`event tail`: print the records of events as they become durable."""
    no_follow = given.flag("no_follow")
    opening = opening_given(session, given)
    if no_follow and not opening:
        opening["last"] = TAIL_RECORDS
    if "last" in opening:
        opening = {"since_seq": _before_last(session, opening["last"])}
    opening["kinds"] = [_EVENTS, _CONSUMED]
    return tail_records(session, opening, no_follow, "Detached", OfEvents())


class OfEvents:
    """Tells which of the records in a feed are about events, in their order."""

    def __init__(self) -> None:
        self._passed_on: str | None = None
        """The event that went from one run straight to others, if that was the last news."""

    def __call__(self, record: dict[str, Any]) -> bool:
        """Is `record` about an event? The end of a wait is, if the event was kept before it;
        otherwise the event's own record, in the same append, has said the same already."""
        if record["kind"] != _CONSUMED:
            self._passed_on = record.get("event") if record.get("resumed") else None
            return True
        event = record.get("event")
        if not event or event == self._passed_on:
            return False
        return str(record.get("received_at")) < str(record["at"])


def _before_last(session: Session, count: int) -> int:
    """The sequence number before the last `count` records of events. The ends of waits are not
    counted: most have nothing to do with an event, and could make up all of the last `count`."""
    feed = session.call("feed.open", {"kinds": [_EVENTS], "last": count})
    session.call("feed.close", {"feed": feed["feed"]})
    return int(feed["next_seq"]) - 1
