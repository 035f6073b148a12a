"""A heap that forgets lazily: what the core keeps its orders in.

Nothing is searched for and taken out. An item that does not count any more is dropped when it comes
to the head, or, where the head stays and stays, once so many have come that half of them may not
count: a heap holds at most twice what it has held that counted, and a few.

Laws:

- The caller tells what counts, and settles the heap after each change that may concern its head;
  then the head counts, or the heap is empty.
- An item may lie here twice. It counts once: equal items leave the head together.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Final, TypeVar

T = TypeVar("T", bound=Any)

FEW: Final = 64
"""Items that are never worth a look at all of them."""


class Heap(list[T]):
    """Smallest first."""

    __slots__ = ("_most",)

    def __init__(self) -> None:
        super().__init__()
        self._most = FEW

    def add(self, item: T, counts: Callable[[T], bool]) -> None:
        """Put `item` in, and forget what does not count if there is much."""
        heappush(self, item)
        if len(self) > self._most:
            # In order rather than as any heap: what is pushed next is later than all, as a rule.
            self[:] = sorted(dict.fromkeys(filter(counts, self)))
            # So many more must come before the next look that a look costs each of them little.
            self._most = max(FEW, 2 * len(self))

    def settle(self, counts: Callable[[T], bool]) -> None:
        """Bring an item that counts to the head."""
        while self and not counts(self[0]):
            heappop(self)
        if not self:
            self._most = FEW
