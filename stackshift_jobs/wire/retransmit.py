"""What happens to a request whose connection breaks: is it sent again, or which error is raised?

Both the blocking and the async client leave these decisions to this module.

Invariants: a request that may have reached a daemon is sent again only if that cannot do anything
twice. A line that could not be written in full was not executed, since only its last byte makes it
a request; so it may always be sent again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from stackshift_jobs.calls import methods
from stackshift_jobs.errors import DaemonUnavailable, StackshiftError
from stackshift_jobs.wire.unavailable import (
    BROKEN,
    NO_ANSWER,
    NOT_LISTENING,
    NOT_RUNNING,
    STALE,
)

PAUSE: Final = 0.05
"""Seconds between two attempts to reach a daemon that is restarting."""
MAX_LOSSES: Final = 5
"""Connections that one request may lose in quick succession."""
SOON: Final = 5.0
"""If a connection is lost within this many seconds after a request, the request may be the
cause."""
RESTARTING: Final = frozenset((NOT_RUNNING, STALE, NOT_LISTENING, BROKEN, NO_ANSWER))
"""The reasons for which a daemon that is restarting can be unavailable."""


class ConnectionLost(Exception):
    """The connection ended during a request. `sent` is false if it was certainly not executed."""

    def __init__(self, why: StackshiftError, sent: bool) -> None:
        super().__init__(str(why))
        self.why = why
        self.sent = sent


def may_repeat(method: str, params: Mapping[str, Any]) -> bool:
    """Has this request the same effect whether it is carried out once or twice?"""
    repeat = methods.method(method).repeat
    return repeat in (methods.READ, methods.SAFE) or (
        repeat == methods.KEYED
        and "idempotency_key" in params
        and not params.get("retry_failed")  # The run may have failed again by then.
    )


def bound(method: str, params: Mapping[str, Any], seconds: float | None) -> float | None:
    """Seconds that a request of `method` may take, if the client's requests may take `seconds`.
    None for a method that waits for something to end; the time to wait for a lock or a state entry
    is added."""
    if seconds is None or methods.method(method).is_unbounded:
        return None
    return seconds + float(params.get("wait_ms", 0)) / 1000


def uncertain(method: str, why: Exception) -> DaemonUnavailable:
    """The error for a request that may have been carried out, and must not be sent again."""
    return DaemonUnavailable(
        f"{method}: the connection broke before the reply arrived ({why}); the request may have "
        "taken effect",
        hint=methods.method(method).if_unsure,
        reason=BROKEN,
        may_have_happened=True,
    )


def timed_out(method: str) -> TimeoutError:
    """The error for a request whose reply did not arrive in time."""
    caution = "" if methods.method(method).reads else "; the request may still take effect"
    return TimeoutError(f"{method}: the daemon did not answer in time{caution}")
