"""Queues: which ready run of a queue is next, and whether one may start now.

A queue has two lanes of ready runs: those that would begin a new attempt (`fresh`), which count
against its rate, and those that resume an attempt (`resumed`), which do not. In each lane, runs
with a concurrency key wait in the line of their key, and only the first run of each line that has
room is among the `heads`. So the runs behind a full key or an empty bucket are never searched: the
run that may start is at the head of a heap.

Laws:

- Only `fold` changes a queue. The head of a lane, as `fold` left it, is live until the next change.
- The rate is a token bucket in whole numbers, stored as the time at which it would be full again
  (GCRA, ITU-T I.371, annex A): at most burst + rate·t fresh starts in any window of length t. A
  change of rate or burst creates no tokens, and removes only those that no longer fit.
- Heaps delete lazily (`state.heap`): a place that is no longer live is dropped when it comes to the
  head, or when there are too many of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from heapq import heappop
from typing import Final, NamedTuple

from stackshiftd.core.records import QueueTerms
from stackshiftd.core.state.heap import Heap

Place = tuple[int, int, int, str, str]
"""The place of a ready run: (-priority, due time in µs, sequence number of its creation, its id,
its concurrency key or ""). The smallest is first."""

LAYERS: Final = ("person", "file", "code")
"""Where a queue's limits can come from, highest precedence first: a person at run time
(`queues limit`), `stackshift.toml`, the job modules."""

_UNITS: Final = (
    ("w", 604_800_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
)
UNSAID: Final = QueueTerms()


class Limits(NamedTuple):
    """The limits in force for a queue; None: no bound. A fresh start costs `per_us` units of a
    bucket that holds `burst` times as many and gains `rate` units per microsecond."""

    concurrency: int | None = None
    key_concurrency: int | None = None
    rate: int | None = None
    per_us: int = 0
    burst: int = 1
    paused: bool = False
    processes: int | None = None

    @property
    def rate_text(self) -> str | None:
        """The rate as `stackshift.toml` spells it: `100/m`."""
        if self.rate is None:
            return None
        per_ms = self.per_us // 1000
        unit, size = next((u, size) for u, size in _UNITS if per_ms % size == 0)
        return f"{self.rate}/{'' if per_ms == size else per_ms // size}{unit}"


class Turn(NamedTuple):
    """When a queue is served: in turn (`throttled` false), after the queues that were last served
    before `number` (a sequence number); or, throttled, not before the time `number` (µs). `own`: by
    workers of its own."""

    own: bool
    throttled: bool
    number: int


class Lane:
    """Ready runs of one kind: those that begin an attempt (`fresh`), or those that resume one.
    `live` is whether a place in the lane is still valid."""

    __slots__ = ("heads", "keyed", "live", "offered")

    def __init__(self, live: Callable[[bool, Place], bool], fresh: bool) -> None:
        self.live: Callable[[Place], bool] = partial(live, fresh)
        self.heads: Heap[Place] = Heap()
        self.keyed: dict[str, Heap[Place]] = {}
        self.offered: dict[str, Place] = {}
        """Key → the first place of its line, while that is among the heads."""

    def leads(self, place: Place) -> bool:
        """Does `place` belong among the heads?"""
        return self.live(place) and (not place[4] or self.offered.get(place[4]) == place)


class Queue:
    """One queue. `live(fresh, place)` is whether a place in a lane is still valid."""

    __slots__ = (
        "_arrivals",
        "_live",
        "busy",
        "depth",
        "executing",
        "fresh",
        "full_at",
        "limits",
        "paused_us",
        "resumed",
        "said",
        "served",
        "turn",
    )

    def __init__(self, live: Callable[[bool, Place], bool]) -> None:
        self._live = live
        self.said: dict[str, QueueTerms] = {}
        """The terms from each of `LAYERS` that sets any."""
        self.limits = Limits()
        self.paused_us = 0
        """When it was paused; 0 if it is not paused."""
        self.served = 0
        """Sequence number of the record that last dispatched one of its runs."""
        self.fresh = Lane(live, True)
        self.resumed = Lane(live, False)
        self.depth = 0
        """How many of its runs are ready, including those that must be tried alone, which are in
        no lane."""
        self.executing = 0
        """How many of its runs hold a slot."""
        self.busy: dict[str, int] = {}
        """How many runs hold a slot, by concurrency key."""
        self.turn: Turn | None = None
        """Its turn among the queues; maintained by `State`."""
        self._arrivals: Heap[tuple[int, Place, bool]] = Heap()
        self.full_at = 0
        """When the bucket is full again, in µs times `limits.rate`: a whole number at any rate."""

    # --- Queries ---------------------------------------------------------------------------

    @property
    def has_slot(self) -> bool:
        """Do pause and concurrency allow one more of its runs to execute?"""
        limit = self.limits.concurrency
        return not self.limits.paused and (limit is None or self.executing < limit)

    def has_room(self, key: str) -> bool:
        """May one more run with this concurrency key execute?"""
        limit = self.limits.key_concurrency
        return limit is None or not key or self.busy.get(key, 0) < limit

    @property
    def permit_us(self) -> int:
        """The earliest time at which the rate lets a new attempt start."""
        limits = self.limits
        if limits.rate is None:
            return 0
        spare = (limits.burst - 1) * limits.per_us
        return -((spare - self.full_at) // limits.rate)

    def next(self, now_us: int) -> Place | None:
        """The run that is next at `now_us`, regardless of pause and concurrency."""
        resumed, fresh = self.resumed.heads, self.fresh.heads
        if fresh and (self.limits.rate is None or self.permit_us <= now_us):
            return min(resumed[0], fresh[0]) if resumed else fresh[0]
        return resumed[0] if resumed else None

    def turn_at(self, now_us: int) -> Turn | None:
        """Its turn among the queues; None if none of its runs may start."""
        is_resumed, limits = bool(self.resumed.heads), self.limits
        if not is_resumed and not self.fresh.heads:
            return None
        if not self.has_slot:
            return None
        own = limits.processes is not None
        if not is_resumed and limits.rate is not None and self.permit_us > now_us:
            return Turn(own, True, self.permit_us)
        turn = self.turn
        if turn is not None and turn.number == self.served and not turn.throttled:
            return turn if turn.own == own else Turn(own, False, self.served)
        return Turn(own, False, self.served)

    def oldest_us(self) -> int | None:
        """The due time of the ready run that has waited longest; None if none is ready."""
        return self._arrivals[0][0] if self._arrivals else None

    # --- Changes, by fold alone ------------------------------------------------------------

    def push(self, place: Place, fresh: bool) -> None:
        """Add a run that has become ready."""
        self._arrivals.add((place[1], place, fresh), self._has_arrived, self.depth)
        lane = self.fresh if fresh else self.resumed
        key = place[4]
        if not key:
            lane.heads.add(place, lane.leads, self.depth)
            return
        line = lane.keyed.get(key)
        if line is None:
            line = lane.keyed[key] = Heap()
        line.add(place, lane.live)
        self._offer(lane, key)

    def leave(self, key: str) -> None:
        """Note that a run with this concurrency key ("" for none) is no longer ready."""
        if key:
            self._offer_next(key)
        self._settle()

    def take(self, key: str, fresh: bool, seq: int, now_us: int) -> None:
        """Note that the record `seq` has dispatched a run, which takes a slot."""
        self.served = seq
        self.executing += 1
        if key:
            self.busy[key] = self.busy.get(key, 0) + 1
        if fresh and self.limits.rate is not None:
            self.full_at = max(self.full_at, now_us * self.limits.rate) + self.limits.per_us
        if key:
            self._settle()

    def empty(self, now_us: int) -> None:
        """Take from the bucket what was filled in after `now_us`, as if its last token had been
        spent just now: so no window has more starts than the rate allows."""
        limits = self.limits
        if limits.rate is not None:
            self.full_at = min(self.full_at, now_us * limits.rate + limits.burst * limits.per_us)

    def release(self, key: str) -> None:
        """Note that a run has given up its slot."""
        self.executing -= 1
        if key:
            self.busy[key] -= 1
            if not self.busy[key]:
                del self.busy[key]
            self._offer_next(key)

    def limit(self, by: str, terms: QueueTerms, now_us: int) -> None:
        """Replace the terms of the layer `by`."""
        if terms == UNSAID:
            self.said.pop(by, None)
        else:
            self.said[by] = terms
        before = self.limits
        self.limits = limits_of(self.said)
        if not self.limits.paused:
            self.paused_us = 0
        elif not before.paused:
            self.paused_us = now_us
        self._pour(before, now_us)
        if self.limits.key_concurrency != before.key_concurrency:
            for lane in (self.fresh, self.resumed):
                for key in list(lane.keyed):
                    self._offer(lane, key)
            self._settle()

    def _pour(self, before: Limits, now_us: int) -> None:
        """Carry the fill of the bucket over from the limits `before` to those in force now. A new
        bucket is full."""
        now = self.limits
        if (now.rate, now.per_us, now.burst) == (before.rate, before.per_us, before.burst):
            return
        if now.rate is None or before.rate is None:
            self.full_at = 0
            return
        # The missing tokens, converted to what a token costs now. Rounded up, so that no change,
        # however often it is repeated, creates a token.
        missing = max(0, self.full_at - now_us * before.rate)
        lacking = -(-missing * now.per_us // before.per_us)
        grown = (now.burst - before.burst) * now.per_us
        self.full_at = now_us * now.rate + max(0, lacking + grown)

    def restore(
        self, said: dict[str, QueueTerms], paused_us: int, served: int, full_at: int
    ) -> None:
        """Set everything that does not follow from its runs, which are in their lanes already."""
        for by, terms in said.items():
            self.limit(by, terms, paused_us)
        self.paused_us, self.served, self.full_at = paused_us, served, full_at
        self._settle()

    # --- Lanes -----------------------------------------------------------------------------

    def _offer_next(self, key: str) -> None:
        self._offer(self.fresh, key)
        self._offer(self.resumed, key)

    def _offer(self, lane: Lane, key: str) -> None:
        """Put the first place of the key's line among the heads, if the key has room."""
        line = lane.keyed.get(key)
        if line is None:
            return
        line.settle(lane.live)
        if not line:
            del lane.keyed[key]
        elif self.has_room(key):
            if lane.offered.get(key) != line[0]:
                lane.offered[key] = line[0]
                lane.heads.add(line[0], lane.leads)
            return
        if not line or lane.offered.get(key) != line[0]:
            lane.offered.pop(key, None)

    def _has_arrived(self, arrival: tuple[int, Place, bool]) -> bool:
        return self._live(arrival[2], arrival[1])

    def _settle(self) -> None:
        """Bring a live place to the head of each lane."""
        for lane in (self.fresh, self.resumed):
            if lane.heads:
                self._settle_lane(lane)
        self._arrivals.settle(self._has_arrived)

    def _settle_lane(self, lane: Lane) -> None:
        heads = lane.heads
        while heads:
            place = heads[0]
            key = place[4]
            if lane.live(place) and (
                not key or (self.has_room(key) and lane.keyed[key][0] == place)
            ):
                return
            heappop(heads)
            if key and lane.offered.get(key) == place:
                del lane.offered[key]


def limits_of(said: dict[str, QueueTerms]) -> Limits:
    """The limits in force: each term is taken from the first of `LAYERS` that sets it."""

    def first(name: str) -> int | None:
        for by in LAYERS:
            value: int | None = getattr(said.get(by, UNSAID), name)
            if value is not None:
                return value
        return None

    rated = next((t for by in LAYERS if (t := said.get(by, UNSAID)).rate is not None), UNSAID)
    return Limits(
        concurrency=first("concurrency") or None,
        key_concurrency=first("key_concurrency") or None,
        rate=rated.rate or None,
        per_us=rated.rate_per_ms * 1000 if rated.rate else 0,
        burst=first("rate_burst") or 1,
        paused=bool(first("paused")),
        processes=first("processes"),
    )


def origin_of(said: dict[str, QueueTerms], name: str) -> str:
    """The one of `LAYERS` that a term comes from; `default` if none sets it."""
    for by in LAYERS:
        if getattr(said.get(by, UNSAID), name) is not None:
            return by
    return "default"
