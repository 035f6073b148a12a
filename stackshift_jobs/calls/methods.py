"""The one table of the protocol's methods, and of what may be done with a request of each.

It tells clients whether a request may be sent again over a new connection, whether its duration is
bounded, and what to advise if it is not known whether it took effect. It tells handlers what to
call instead, and the daemon which methods only read. `docs/protocol.md` describes their params and
results; tests compare it, and the daemon's own table, with this one.
"""

from __future__ import annotations

from typing import Final, NamedTuple

READ: Final = "read"
"""Changes nothing."""
SAFE: Final = "safe"
"""Changes nothing more when it is requested again."""
KEYED: Final = "keyed"
"""Takes effect once however often it is requested, if it has an `idempotency_key`."""
ONCE: Final = "once"
"""Takes effect again when it is requested again."""

_STARTS: Final = "see stackshift runs list; a start with an idempotency key can be repeated"
_WRITES: Final = "see stackshift state history; a write with if_version can be repeated"
_EXPIRES: Final = "a lock that nobody releases expires with its ttl"


class Method(NamedTuple):
    """One method. `in_handler` is the name of the client's call, and the call to use instead of it
    in a handler; `if_unsure` is the advice if it may have taken effect. `is_unbounded`: its answer
    may take as long as what it waits for."""

    repeat: str
    in_handler: tuple[str, str] | None = None
    if_unsure: str = _STARTS
    is_unbounded: bool = False

    @property
    def reads(self) -> bool:
        """Does it change nothing?"""
        return self.repeat == READ


def _in_handler(called: str) -> tuple[str, str]:
    """`Method.in_handler` for a call that has the same name on `ctx`."""
    return called, called


METHODS: Final[dict[str, Method]] = {
    "run.start": Method(KEYED, ("start", "step.start")),
    "run.start_many": Method(ONCE, ("start_many", "step.start")),
    "run.get": Method(READ),
    "run.list": Method(READ),
    "run.count": Method(READ),
    "run.why": Method(READ),
    "run.logs": Method(READ),
    "run.logs_here": Method(READ),
    "run.printed_here": Method(READ),
    "run.wait": Method(READ, ("result", "step.result"), is_unbounded=True),
    "run.cancel": Method(ONCE),
    "run.move": Method(ONCE),
    "run.retry": Method(ONCE),
    "run.fork": Method(ONCE),
    "run.remove": Method(ONCE),
    "run.cancel_all": Method(ONCE),
    "run.retry_all": Method(ONCE),
    "run.remove_all": Method(ONCE),
    "dead.count": Method(READ),
    "dead.retry": Method(ONCE),
    "dead.discard": Method(ONCE),
    "feed.open": Method(ONCE),
    "feed.close": Method(ONCE),
    "job.list": Method(READ),
    "job.get": Method(READ),
    "state.get": Method(READ, _in_handler("state.get")),
    "state.wait": Method(READ, ("state.get", "step.run")),
    "state.list": Method(READ, _in_handler("state.list")),
    "state.history": Method(READ, _in_handler("state.history")),
    "state.set": Method(ONCE, _in_handler("state.set"), _WRITES),
    "state.delete": Method(ONCE, _in_handler("state.delete"), _WRITES),
    "state.increment": Method(ONCE, _in_handler("state.increment"), _WRITES),
    "lock.list": Method(READ),
    "lock.acquire": Method(ONCE, _in_handler("state.lock"), _EXPIRES),
    "lock.extend": Method(SAFE, _in_handler("state.lock")),
    "lock.release": Method(ONCE, _in_handler("state.lock"), _EXPIRES),
    "event.send": Method(
        KEYED,
        _in_handler("events.send"),
        "an event with an idempotency key can be sent again, and is then the same event",
    ),
    "event.list": Method(READ),
    "schedule.list": Method(READ),
    "schedule.next": Method(READ),
    "schedule.lint": Method(READ),
    "schedule.past": Method(READ),
    "schedule.add": Method(SAFE),
    "schedule.remove": Method(ONCE),
    "schedule.backfill": Method(SAFE),
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
    "leader.status": Method(READ),
    "daemon.activity": Method(READ),
    "daemon.metrics": Method(READ),
    "daemon.clock": Method(SAFE),
    "daemon.stop": Method(ONCE),
    "daemon.reload": Method(SAFE, is_unbounded=True),
    "daemon.preflight": Method(SAFE, is_unbounded=True),
    "cluster.status": Method(SAFE),
    "cluster.handover": Method(ONCE),
    "cluster.forget": Method(ONCE),
    "journal.stats": Method(READ),
    "journal.compact": Method(ONCE, is_unbounded=True),
}

UNKNOWN: Final = Method(ONCE)
"""Stands for any method that is not in the table: only a newer daemon has it."""


def method(name: str) -> Method:
    """The entry of the method `name`, or `UNKNOWN`."""
    return METHODS.get(name, UNKNOWN)
