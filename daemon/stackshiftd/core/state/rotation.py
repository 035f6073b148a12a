"""Lines: which queue is next among those that the same workers serve.

A line contains the queues that have a run which their own limits allow to start: in `turns` those
that may be served, least recently served first; in `throttled` those whose rate allows the next
run only later. As time passes, `fold` moves them from one heap to the other
(`State.settle_throttled`); `_due` finds those that come due between two entries.

Law: a waiting queue is overtaken only by queues that were served less recently. So no queue waits
longer than it takes to serve every other one once.
"""

from __future__ import annotations

from collections.abc import Iterator

from stackshiftd.core.state.heap import Heap
from stackshiftd.core.state.queues import Queue, Turn


class Rotation:
    """The queues that the workers of one pool serve. `own`: the pool belongs to a single queue.
    The items of both heaps are (number of its turn, name of the queue)."""

    __slots__ = ("_own", "_queues", "throttled", "turns")

    def __init__(self, queues: dict[str, Queue], own: bool) -> None:
        self._queues = queues
        self._own = own
        self.turns: Heap[tuple[int, str]] = Heap()
        self.throttled: Heap[tuple[int, str]] = Heap()

    def next(self, now_us: int) -> str | None:
        """The queue to serve at `now_us`: the least recently served one that may be served, or
        None."""
        first = self.turns[0] if self.turns else None
        if not self.throttled:
            return first[1] if first is not None else None
        for _, name in self._due(now_us):
            place = (self._queues[name].served, name)
            if first is None or place < first:
                first = place
        return first[1] if first is not None else None

    def next_permit_us(self, looked_us: int) -> int | None:
        """The earliest time after `looked_us` at which a queue's rate allows its next run."""
        throttled = self.throttled
        earliest = None
        unvisited = [0]
        while unvisited:
            at = unvisited.pop()
            if at < len(throttled) and (earliest is None or throttled[at][0] < earliest):
                if throttled[at][0] > looked_us and self._is_throttled(throttled[at]):
                    earliest = throttled[at][0]
                else:
                    unvisited += (2 * at + 1, 2 * at + 2)
        return earliest

    def _due(self, now_us: int) -> Iterator[tuple[int, str]]:
        """The throttled queues whose time has come since the last entry."""
        throttled = self.throttled
        unvisited = [0]
        while unvisited:
            at = unvisited.pop()
            if at < len(throttled) and throttled[at][0] <= now_us:
                if self._is_throttled(throttled[at]):
                    yield throttled[at]
                unvisited += (2 * at + 1, 2 * at + 2)  # its children in the heap

    # --- Changes, by fold alone ------------------------------------------------------------

    def add(self, name: str, turn: Turn) -> None:
        """Add the queue to the heap that `turn` belongs to."""
        if turn.throttled:
            self.throttled.add((turn.number, name), self._is_throttled)
        else:
            self.turns.add((turn.number, name), self._has_turn)

    def settle(self) -> None:
        """Bring a queue that still has its turn here to the head of each heap."""
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
