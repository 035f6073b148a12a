"""No daemon to talk to: the words for why, and the error that carries one of them.

Callers act on the word, never on the message: a daemon that is not running can be started, one
that is restarting can be waited for, one of another user can be neither.
"""

from __future__ import annotations

from stackshift_jobs.errors import DaemonUnavailable

TYPE_CHECKING = False  # See `errors`: loading `typing` takes too long here.
if TYPE_CHECKING:
    from typing import Final

NOT_RUNNING: Final = "not_running"
STALE: Final = "stale"
OTHER_PROTOCOL: Final = "other_protocol"
OTHER_USER: Final = "other_user"
NO_ANSWER: Final = "no_answer"
BROKEN: Final = "broken"
"""What `DaemonUnavailable.fields["reason"]` can be."""

START: Final = "stackshift daemon start"
RESTART: Final = "stackshift daemon restart"
DOCTOR: Final = "stackshift doctor"
"""What the hint can be."""


def unavailable(message: str, reason: str, hint: str = START) -> DaemonUnavailable:
    """`DaemonUnavailable` with its reason, one of the words above."""
    return DaemonUnavailable(message, hint=hint, reason=reason)
