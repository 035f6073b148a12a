"""Why there is no daemon to talk to: the reasons as words, and the error that carries one.

Callers act on the word, never on the message: they can start a daemon that is not running, wait for
one that is starting or stopping (`not_listening`: a process holds the project, but takes no
connections), and do neither for another user's.
"""

from __future__ import annotations

from stackshift_jobs.errors import DaemonUnavailable

TYPE_CHECKING = False  # See `errors`: loading `typing` takes too long here.
if TYPE_CHECKING:
    from typing import Final

NOT_RUNNING: Final = "not_running"
STALE: Final = "stale"
NOT_LISTENING: Final = "not_listening"
OTHER_PROTOCOL: Final = "other_protocol"
OTHER_USER: Final = "other_user"
NO_ANSWER: Final = "no_answer"
BROKEN: Final = "broken"
"""The values of `DaemonUnavailable.fields["reason"]`."""

START: Final = "stackshift daemon start"
RESTART: Final = "stackshift daemon restart"
STATUS: Final = "stackshift daemon status, then stackshift daemon restart"
LOGS: Final = "stackshift daemon logs"
"""The usual hints."""


def unavailable(message: str, reason: str, hint: str = START, **fields: int) -> DaemonUnavailable:
    """The `DaemonUnavailable` error with `reason`, one of the words above."""
    return DaemonUnavailable(message, hint=hint, reason=reason, **fields)
