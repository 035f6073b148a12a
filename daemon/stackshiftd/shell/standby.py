"""A daemon that follows another one: what it refuses, and who waits until it has taken over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from stackshift_jobs.errors import Fenced

ANSWERED: Final = frozenset(
    (
        "daemon.metrics",
        "daemon.status",
        "daemon.stop",
        "cluster.status",
        "cluster.forget",
        "run.logs_here",
        "run.printed_here",
    )
)
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
    if not leader:
        return "no daemon leads, and this one is not to lead"
    return f"the daemon on {leader} leads, and this one follows it"


def refusal(leader: str | None) -> Fenced:
    """The error for a request while another daemon leads."""
    there = f"give the command on {leader}" if leader else "start a daemon that is to lead"
    return Fenced(following(leader), hint=f"{there}, or pip install 'stackshift-jobs[cluster]'")
