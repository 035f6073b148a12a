"""What this command has changed so far: told on standard error if standard output cannot be
written, since it may be nowhere else to be seen."""

from __future__ import annotations

from stackshift_cli.output import messages

TYPE_CHECKING = False  # See `stackshift_jobs.errors`: loading `typing` takes too long here.
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Final

MAX_REPLIES: Final = 1000
"""The last requests of a command that are remembered; commands that send more say what they do."""
_MAX_TEXT: Final = 500
_replies: Final[list[tuple[str, str, Any]]] = []


def note(command: str, method: str, reply: Any) -> None:
    """Remember the daemon's reply to a request of `method`, which `command` has made."""
    _replies.append((command, method, reply))
    del _replies[:-MAX_REPLIES]


def lines() -> Iterator[str]:
    """A line for each request that has changed something: `stackshift start: run_…`."""
    from stackshift_cli.output.safe_text import safe
    from stackshift_jobs.calls.methods import method

    for command, name, reply in _replies:
        if not method(name).reads and not name.startswith("feed."):
            what = reply.get("id") if isinstance(reply, dict) else None
            text = safe(str(what or messages.compact(reply)))[:_MAX_TEXT]
            yield f"stackshift {command}: {text}"
