"""Lines: whose turn it is among the queues that the same workers serve.

A line holds the queues of which a run may go as far as their own limits say: in `turns` those that
may be served, who was served least recently first; in `throttled` those whose rate lets the next
run go at a time. As time passes, `fold` moves them from one to the other
(`State.settle_throttled`); what comes due between two entries is found by a look at the throttled.

Law: who waits is overtaken by each other queue only while it was served before. So no queue waits
longer than it takes to serve all others once.
"""

from __future__ import annotations

from collections.abc import Iterator

from stackshiftd.core.state.heap import Heap
from stackshiftd.core.state.queues import Queue, Turn


class Rotation:
    """The queues that the workers of one pool serve; `own`: there is one, it has them for itself.
    The entries of both heaps are (number of its turn, name of the queue)."""

    __slots__ = ("_own", "_queues", "throttled", "turns")

    def __init__(self, queues: dict[str, Queue], own: bool) -> None:
        self._queues = queues
        self._own = own
        self.turns: Heap[tuple[int, str]] = Heap()
        self.throttled: Heap[tuple[int, str]] = Heap()

    def next(self, now_us: int) -> str | None:
        """The queue to be served at `now_us`: of those that may be, the one that was served least
        recently."""
        first = self.turns[0] if self.turns else None
        if not self.throttled:
            return first[1] if first is not None else None
        for _, name in self._due(now_us):
            found = (self._queues[name].served, name)
            if first is None or found < first:
                first = found
        return first[1] if first is not None else None

    def next_permit_us(self, now_us: int) -> int | None:
        """When, after `now_us`, the rate of a queue lets its next run go."""
        throttled = self.throttled
        found = None
        looked = [0]
        while looked:
            at = looked.pop()
            if at < len(throttled) and (found is None or throttled[at][0] < found):
                if throttled[at][0] > now_us and self._is_throttled(throttled[at]):
                    found = throttled[at][0]
                else:
                    looked += (2 * at + 1, 2 * at + 2)
        return found

    def _due(self, now_us: int) -> Iterator[tuple[int, str]]:
        """Those of the throttled whose time has come since the last entry."""
        throttled = self.throttled
        looked = [0]
        while looked:
            at = looked.pop()
            if at < len(throttled) and throttled[at][0] <= now_us:
                if self._is_throttled(throttled[at]):
                    yield throttled[at]
                looked += (2 * at + 1, 2 * at + 2)  # what comes after it in the heap

    # --- Changes; by fold alone ------------------------------------------------------------

    def add(self, name: str, turn: Turn) -> None:
        """The queue stands here now, by `turn`."""
        if turn.throttled:
            self.throttled.add((turn.number, name), self._is_throttled)
        else:
            self.turns.add((turn.number, name), self._has_turn)

    def settle(self) -> None:
        """Bring a queue that stands here to the head of either heap."""
        self.turns.settle(self._has_turn)
        self.throttled.settle(self._is_throttled)

    def _has_turn(self, place: tuple[int, str]) -> bool:
        turn = self._queues[place[1]].turn
        return (
            turn is not None
            and turn.number == place[0]
            and not turn.throttled
            and turn.own == self._own
        )

    def _is_throttled(self, place: tuple[int, str]) -> bool:
        turn = self._queues[place[1]].turn
        return (
            turn is not None
            and turn.number == place[0]
            and turn.throttled
            and turn.own == self._own
        )
