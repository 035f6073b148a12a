"""Which machine led when: of a journal that several share."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable
from typing import Final

MOST: Final = 1000
"""So many changes are remembered, the last ones."""


class Leads:
    """The changes of the machine that leads: from each sequence number on, that host. Empty for a
    journal that is not shared."""

    def __init__(self, changes: Iterable[tuple[int, str]] = ()) -> None:
        self.changes = list(changes)

    def begin(self, seq: int, host: str) -> None:
        """From the record `seq` on, `host` leads."""
        last = self.changes[-1][1] if self.changes else ""
        if host != last:
            self.changes.append((seq, host))
            del self.changes[:-MOST]

    def at(self, seq: int) -> str:
        """The host that led at the record `seq`; "" if there was none, or it is forgotten."""
        before = bisect(self.changes, seq, key=lambda change: change[0])
        return self.changes[before - 1][1] if before else ""

    def since(self, seq: int) -> frozenset[str]:
        """The hosts that have led at the record `seq` or later, without those that are
        forgotten."""
        before = bisect(self.changes, seq, key=lambda change: change[0])
        return frozenset(host for _, host in self.changes[max(before - 1, 0) :])
