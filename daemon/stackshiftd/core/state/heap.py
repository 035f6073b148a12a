"""A heap with lazy deletion, in which the core keeps everything that is ordered.

Items are never searched for and removed. An item that no longer counts is dropped when it comes to
the head. If the head does not move for long, the heap is filtered once about half of its items may
no longer count. So a heap holds at most twice the most items that counted at once, plus a few.

Laws:

- The caller decides what counts, and settles the heap after each change that may affect its head.
  After that the head counts, or the heap is empty.
- An item may be in the heap twice. It counts once: equal items leave the head together.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Final, TypeVar

T = TypeVar("T", bound=Any)

FEW: Final = 64
"""A heap of up to this many items is never filtered."""


class Heap(list[T]):
    """Smallest first."""

    __slots__ = ("_most",)

    def __init__(self) -> None:
        super().__init__()
        self._most = FEW

    def add(self, item: T, counts: Callable[[T], bool], live: int = 0) -> None:
        """Push `item`; if the heap has grown large, drop all items that no longer count. It has not
        as long as it holds no more than twice `live`: so many items count, if that is known."""
        heappush(self, item)
        if len(self) > self._most and len(self) > 2 * live:
            # Sorted, not merely heapified: the next item pushed is usually later than all of these.
            self[:] = sorted(dict.fromkeys(filter(counts, self)))
            # The heap has to double before it is filtered again: amortized, a push stays cheap.
            self._most = max(FEW, 2 * len(self))

    def settle(self, counts: Callable[[T], bool]) -> None:
        """Bring an item that counts to the head."""
        while self and not counts(self[0]):
            heappop(self)
        if not self:
            self._most = FEW
