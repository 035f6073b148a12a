"""The order in which runs were created: where a list of runs begins, without a search.

A run is not removed from it when it leaves memory. Once a fifth of it has left, it is filtered; so
it stays in proportion to the runs in memory, and the cost of a change does not depend on their
number.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Container, Sized
from typing import Final, Protocol

FEW: Final = 64
"""So many runs that have left memory are always kept."""


class Known(Container[str], Sized, Protocol):
    """The ids of the runs in memory."""


class Order:
    """The ids of runs, by the sequence numbers of their creation."""

    __slots__ = ("_ids", "_seqs")

    def __init__(self) -> None:
        self._seqs = array("q")
        self._ids: list[str] = []

    def add(self, seq: int, run: str) -> None:
        """Add a run that was created by the record `seq`: the newest, or one that is back in
        memory because a person has retried it."""
        if self._seqs and seq <= self._seqs[-1]:
            at = bisect_left(self._seqs, seq)
            if self._seqs[at] == seq:
                return
            self._seqs.insert(at, seq)
            self._ids.insert(at, run)
        else:
            self._seqs.append(seq)
            self._ids.append(run)

    def settle(self, known: Known) -> None:
        """Drop the runs that have left memory, if they are many."""
        if len(self._ids) > FEW + len(known) * 5 // 4:
            kept = [at for at, run in enumerate(self._ids) if run in known]
            self._seqs = array("q", (self._seqs[at] for at in kept))
            self._ids = [self._ids[at] for at in kept]

    def run(self, seq: int) -> str:
        """The id of the run in memory that the record `seq` created."""
        return self._ids[bisect_left(self._seqs, seq)]

    def before(self, seq: int | None, count: int) -> list[tuple[int, str]]:
        """The last `count` runs, with their sequence numbers, that were created before `seq` (None:
        of all), newest first. Some may have left memory."""
        end = len(self._seqs) if seq is None else bisect_left(self._seqs, seq)
        start = max(0, end - count)
        return list(zip(self._seqs[start:end], self._ids[start:end], strict=True))[::-1]
