"""What becomes of a request whose connection breaks: is it asked again, or what is its caller told?

Both clients, the blocking one and the awaited one, leave that to this module.

Invariants: a request that may have reached a daemon is sent again only if that cannot do anything
twice. A line that could not be written in full was not executed, since its last byte makes it a
request; so it may always go again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from stackshift_jobs.calls import methods
from stackshift_jobs.errors import DaemonUnavailable, StackshiftError
from stackshift_jobs.wire.unavailable import BROKEN, NO_ANSWER, NOT_RUNNING, STALE

PAUSE: Final = 0.05
"""Seconds between two tries to reach a daemon that is restarting."""
MAX_LOSSES: Final = 5
"""Connections that one request may lose, one soon after the other."""
SOON: Final = 5.0
"""Seconds after being asked within which a lost connection looks like the request's own doing."""
RESTARTING: Final = frozenset((NOT_RUNNING, STALE, BROKEN, NO_ANSWER))
"""How a daemon that is about to come back can look."""


class ConnectionLost(Exception):
    """The connection ended under a request. `sent` is False if it was certainly not executed."""

    def __init__(self, why: StackshiftError, sent: bool) -> None:
        super().__init__(str(why))
        self.why = why
        self.sent = sent


def may_repeat(method: str, params: Mapping[str, Any]) -> bool:
    """Is it the same to do this once or twice?"""
    repeat = methods.method(method).repeat
    return repeat in (methods.READ, methods.SAFE) or (
        repeat == methods.KEYED and "idempotency_key" in params
    )


def bound(method: str, params: Mapping[str, Any], seconds: float | None) -> float | None:
    """Seconds that `method` may take where a client's requests may take `seconds`: one that waits
    for something to end has no bound, and a wait for a lock comes on top."""
    if seconds is None or methods.method(method).is_unbounded:
        return None
    return seconds + float(params.get("wait_ms", 0)) / 1000


def uncertain(method: str, why: Exception) -> DaemonUnavailable:
    """The error for a request that may have been carried out, and may not be sent again."""
    return DaemonUnavailable(
        f"{method}: the connection broke before the reply came ({why}); it may have happened",
        hint=methods.method(method).if_unsure,
        reason=BROKEN,
        may_have_happened=True,
    )


def timed_out(method: str) -> TimeoutError:
    """The error for a request whose reply did not come in time."""
    caution = "" if methods.method(method).reads else "; it may happen all the same"
    return TimeoutError(f"{method}: the daemon did not answer in time{caution}")
