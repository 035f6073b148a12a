"""What becomes of a request whose connection breaks: is it asked again, or what is its caller told?

Both clients, the blocking one and the awaited one, leave that to this module.

Invariants: a request that may have reached a daemon is sent again only if that cannot do anything
twice. A line that could not be written in full was not executed, since its last byte makes it a
request; so it may always go again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from stackshift_jobs.errors import DaemonUnavailable, StackshiftError
from stackshift_jobs.wire.unavailable import BROKEN, NO_ANSWER, NOT_RUNNING, STALE

READS: Final = frozenset(
    (
        "run.get",
        "run.list",
        "run.why",
        "run.wait",
        "run.logs",
        "job.list",
        "job.get",
        "daemon.status",
        "journal.stats",
        "queue.list",
        "queue.show",
        "queue.pause",
        "queue.resume",
        "queue.limit",
        "queue.drain",
        "state.get",
        "state.list",
        "state.history",
        "event.list",
        "lock.extend",
    )
)
"""Methods that change nothing, or nothing more when they are asked twice."""
_KEYED: Final = frozenset(("run.start", "event.send"))
"""Methods that an idempotency key makes the same when they are asked twice."""
PAUSE: Final = 0.05
"""Seconds between two tries to reach a daemon that is restarting."""
MAX_LOSSES: Final = 5
"""Connections that one request may lose, one soon after the other."""
SOON: Final = 5.0
"""Seconds after being asked within which a lost connection looks like the request's own doing."""
RESTARTING: Final = frozenset((NOT_RUNNING, STALE, BROKEN, NO_ANSWER))
"""How a daemon that is about to come back can look."""


_LOOK: Final = {
    "run.start": "look with stackshift runs list; a start with an idempotency key can be repeated",
    "event.send": "one with an idempotency key can be repeated, and is the same event",
    **dict.fromkeys(
        ("state.set", "state.delete", "state.increment"),
        "look with stackshift state history; a write with if_version can be repeated",
    ),
    **dict.fromkeys(
        ("lock.acquire", "lock.release"), "a lock that nobody gives back ends with its ttl"
    ),
}
"""By method, what to do if it may have happened."""


class ConnectionLost(Exception):
    """The connection ended under a request. `sent` is False if it was certainly not executed."""

    def __init__(self, why: StackshiftError, sent: bool) -> None:
        super().__init__(str(why))
        self.why = why
        self.sent = sent


def may_repeat(method: str, params: Mapping[str, Any]) -> bool:
    """Is it the same to do this once or twice?"""
    return method in READS or (method in _KEYED and "idempotency_key" in params)


def bound(method: str, params: Mapping[str, Any], seconds: float | None) -> float | None:
    """Seconds that `method` may take where a client's requests may take `seconds`: a wait for the
    end of a run has a bound of its own, and a wait for a lock comes on top."""
    if method == "run.wait" or seconds is None:
        return None
    return seconds + float(params.get("wait_ms", 0)) / 1000


def uncertain(method: str, why: StackshiftError) -> DaemonUnavailable:
    """The error for a request that may have been carried out, and may not be sent again."""
    return DaemonUnavailable(
        f"{method}: the connection broke before the reply came ({why}); it may have happened",
        hint=_LOOK.get(method, _LOOK["run.start"]),
        reason=BROKEN,
        may_have_happened=True,
    )


def timed_out(method: str) -> TimeoutError:
    """The error for a request whose reply did not come in time."""
    caution = "" if method in READS else "; it may happen all the same"
    return TimeoutError(f"{method}: the daemon did not answer in time{caution}")
