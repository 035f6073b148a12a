"""Is the disk so quick that the event loop may wait for it?

A commit in a thread costs two switches of threads, and after each system call that thread waits for
the interpreter, for longer than a quick disk takes to sync. So the loop waits for a quick disk by
itself. A slow one must not keep it: then commits go to the thread, for a time that doubles while
the disk is still slow whenever it is tried again.
"""

from __future__ import annotations

from typing import Final

QUICK_SECONDS: Final = 0.001
"""The most that a commit may take in the mean."""
WEIGHT: Final = 0.1
"""That of the last commit in the mean: one that takes ten times `QUICK_SECONDS` is enough."""
FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 60.0
"""How long the loop does not wait for a disk that was slow."""
PAUSE_SHARE: Final = 50
"""A pause is at least so many times as long as the commit that led to it, so that a loop that waits
for a disk that stands still loses little time with it."""
PROVEN: Final = 100
"""Commits after which a disk that becomes slow gets the first pause again."""


class DiskSpeed:
    """What the last commits took for which the loop has waited. Times are those of one monotonic
    clock, in seconds."""

    def __init__(self) -> None:
        self._mean = 0.0
        self._quick_from = 0.0
        self._pause = 0.0
        self._commits = 0

    def is_quick(self, now: float, /) -> bool:
        """May the loop wait for the next commit?"""
        return now >= self._quick_from

    def took(self, began: float, ended: float) -> None:
        """Note a commit for which the loop has waited."""
        self._mean += WEIGHT * (ended - began - self._mean)
        self._commits += 1
        if self._mean <= QUICK_SECONDS:
            return
        if self._commits >= PROVEN:
            self._pause = 0.0
        pause = max(2 * self._pause, FIRST_PAUSE_SECONDS, PAUSE_SHARE * (ended - began))
        self._pause = min(pause, LONGEST_PAUSE_SECONDS)
        self._quick_from = ended + self._pause
        self._mean, self._commits = 0.0, 0
