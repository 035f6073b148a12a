"""A daemon that follows another one: what it refuses, and who waits until it has taken over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from stackshift_jobs.errors import Fenced

ANSWERED: Final = frozenset(("daemon.status", "daemon.stop"))
"""The methods that it answers for itself."""


class Standby:
    """Held by a daemon from the moment that it follows another until it serves in its place."""

    def __init__(self) -> None:
        self.is_taking_over = False
        """Does nobody else lead any more?"""
        self._waiting: list[Callable[[], None]] = []

    def when_over(self, resume: Callable[[], None]) -> None:
        """Call `resume` once the daemon serves."""
        self._waiting.append(resume)

    def end(self) -> None:
        """It serves now."""
        waiting, self._waiting = self._waiting, []
        for resume in waiting:
            resume()


def following(leader: str | None) -> str:
    """Where the daemon is that is followed, in a sentence."""
    return f"the daemon on {leader} leads, and this one follows it"


def refusal(leader: str | None) -> Fenced:
    """The error for a request while another daemon leads."""
    return Fenced(
        following(leader),
        hint=f"give the command on {leader}; this daemon takes over when that one ends",
    )
