"""The methods of the protocol, and what may be done with a request of each: the one table.

Clients look here whether a request may be sent again over a new connection, how long it may take,
and what to tell whoever cannot know whether it happened; handlers look here what to call instead;
the daemon looks here what only reads. `docs/protocol.md` says what their params and results are,
and is held to this table by a test, as is the daemon's own table.
"""

from __future__ import annotations

from typing import Final, NamedTuple

READ: Final = "read"
"""Changes nothing."""
SAFE: Final = "safe"
"""Changes nothing more when it is asked twice."""
KEYED: Final = "keyed"
"""Happens once however often it is asked, if it has an `idempotency_key`."""
ONCE: Final = "once"
"""Happens again when it is asked again."""

_STARTS: Final = "look with stackshift runs list; a start with an idempotency key can be repeated"
_WRITES: Final = "look with stackshift state history; a write with if_version can be repeated"
_EXPIRES: Final = "a lock that nobody releases expires with its ttl"


class Method(NamedTuple):
    """One method. `in_handler` is what the client's call is named and what to write instead of it
    in a handler; `if_unsure` is what to do where it may have happened. `is_unbounded`: its answer
    may take as long as what it waits for."""

    repeat: str
    in_handler: tuple[str, str] | None = None
    if_unsure: str = _STARTS
    is_unbounded: bool = False

    @property
    def reads(self) -> bool:
        """Does it change nothing?"""
        return self.repeat == READ


def _in_handler(called: str, instead: str = "") -> tuple[str, str]:
    return called, instead or called


METHODS: Final[dict[str, Method]] = {
    "run.start": Method(KEYED, ("start", "step.start")),
    "run.start_many": Method(ONCE, ("start_many", "step.start")),
    "run.get": Method(READ),
    "run.list": Method(READ),
    "run.why": Method(READ),
    "run.logs": Method(READ),
    "run.wait": Method(READ, ("result", "step.result"), is_unbounded=True),
    "run.cancel": Method(ONCE),
    "run.retry": Method(ONCE),
    "run.fork": Method(ONCE),
    "run.remove": Method(ONCE),
    "dead.count": Method(READ),
    "dead.retry": Method(ONCE),
    "dead.discard": Method(ONCE),
    "feed.open": Method(ONCE),
    "feed.close": Method(ONCE),
    "job.list": Method(READ),
    "job.get": Method(READ),
    "state.get": Method(READ, _in_handler("state.get")),
    "state.list": Method(READ, _in_handler("state.list")),
    "state.history": Method(READ, _in_handler("state.history")),
    "state.set": Method(ONCE, _in_handler("state.set"), _WRITES),
    "state.delete": Method(ONCE, _in_handler("state.delete"), _WRITES),
    "state.increment": Method(ONCE, _in_handler("state.increment"), _WRITES),
    "lock.acquire": Method(ONCE, _in_handler("state.lock"), _EXPIRES),
    "lock.extend": Method(SAFE, _in_handler("state.lock")),
    "lock.release": Method(ONCE, _in_handler("state.lock"), _EXPIRES),
    "event.send": Method(
        KEYED,
        _in_handler("events.send"),
        "one with an idempotency key can be repeated, and is the same event",
    ),
    "event.list": Method(READ),
    "schedule.list": Method(READ),
    "schedule.next": Method(READ),
    "schedule.pause": Method(SAFE),
    "schedule.resume": Method(SAFE),
    "schedule.trigger": Method(ONCE),
    "queue.list": Method(READ),
    "queue.show": Method(READ),
    "queue.pause": Method(SAFE),
    "queue.resume": Method(SAFE),
    "queue.limit": Method(SAFE),
    "queue.drain": Method(SAFE, is_unbounded=True),
    "queue.purge": Method(ONCE),
    "daemon.status": Method(READ),
    "daemon.stop": Method(ONCE),
    "journal.stats": Method(READ),
    "journal.compact": Method(ONCE, is_unbounded=True),
}

UNKNOWN: Final = Method(ONCE)
"""A method that only a newer daemon has."""


def method(name: str) -> Method:
    """What is known of the method `name`."""
    return METHODS.get(name, UNKNOWN)
