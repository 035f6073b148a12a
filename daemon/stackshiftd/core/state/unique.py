"""Unique keys in memory: which runs have one, and whose turn it is.

Laws:

- A run with a unique key has a place from its creation, or its retry, until it has ended and
  nothing executes for it any more. So a run that is cancelled keeps the next one out until its
  handler has stopped.
- The runs that have become due form a line, in the order in which they did. The first has the turn:
  no other run of the line executes. Without `on_duplicate = "queue"` at most one of them is
  unfinished.
- Places follow from the runs alone. A run that has left memory would have had a place before all
  that are left, so a snapshot, which does not know it, gives the same turn.
- A run that continues another has its place.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec


class UniqueKey(msgspec.Struct):
    """The runs of one unique key: those that are `due`, in order, and those `scheduled` for
    later."""

    due: dict[str, None] = {}
    scheduled: dict[str, None] = {}

    @property
    def turn(self) -> str:
        """The run that may execute; empty if none is due."""
        return next(iter(self.due), "")

    def __iter__(self) -> Iterator[str]:
        """All runs, the one whose turn it is first."""
        yield from self.due
        yield from self.scheduled


class UniqueKeys:
    """All unique keys that a run has a place under."""

    __slots__ = ("by_key",)

    def __init__(self) -> None:
        self.by_key: dict[str, UniqueKey] = {}

    def runs(self, key: str) -> list[str]:
        """The runs with a place under `key`, the one whose turn it is first."""
        found = self.by_key.get(key)
        return list(found) if found is not None else []

    def turn(self, key: str) -> str:
        """The run whose turn it is under `key`; empty if there is none."""
        found = self.by_key.get(key)
        return found.turn if found is not None else ""

    def has(self, key: str, run: str) -> bool:
        """Has the run a place under `key`?"""
        found = self.by_key.get(key)
        return found is not None and (run in found.due or run in found.scheduled)

    def is_blocked(self, key: str, run: str) -> bool:
        """Is it another run's turn? Never without a key."""
        return bool(key) and self.turn(key) != run

    # --- Changes, by fold alone ------------------------------------------------------------

    def schedule(self, key: str, run: str) -> None:
        """Give a place to a run that is not due yet."""
        self.by_key.setdefault(key, UniqueKey()).scheduled[run] = None

    def join(self, key: str, run: str) -> None:
        """Put a run that is due at the end of the line, unless it is in it."""
        found = self.by_key.setdefault(key, UniqueKey())
        found.scheduled.pop(run, None)
        found.due.setdefault(run, None)

    def follow(self, key: str, run: str, before: str) -> None:
        """Put a run into the line that has the turn after `before`, which it continues, and which
        may have left memory."""
        found = self.by_key.setdefault(key, UniqueKey())
        first = {before: None} if before in found.due else {}
        found.due = {**first, run: None, **found.due}

    def postpone(self, key: str, run: str) -> str:
        """Take a run that is not due any more out of the line, and keep its place. Returns what
        `leave` does."""
        following = self.leave(key, run)
        self.schedule(key, run)
        return following

    def leave(self, key: str, run: str) -> str:
        """Take the place of a run that is over. Returns the run whose turn it is now, if that
        has changed; else empty."""
        found = self.by_key[key]
        before = found.turn
        found.scheduled.pop(run, None)
        found.due.pop(run, None)
        if not found.due and not found.scheduled:
            del self.by_key[key]
        return found.turn if found.turn != before else ""
