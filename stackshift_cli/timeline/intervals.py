"""Stretches of time, and what of them is covered by what. Pure arithmetic, in microseconds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

Stretch = tuple[int, int]
"""From and to, in microseconds since 1970."""


class Kind(Enum):
    """What a stretch of time was spent on."""

    HOLD = "hold"  # of a lock: beside what is done or waited for meanwhile
    WAIT = "wait"
    BACKOFF = "backoff"
    FAILED = "failed"
    WORK = "work"


@dataclass(frozen=True)
class Interval:
    """A stretch of time, in microseconds since 1970."""

    kind: Kind
    start_us: int
    end_us: int


def covered_us(spans: Iterable[Interval], kinds: Iterable[Kind]) -> list[Stretch]:
    """The time that `spans` of these `kinds` cover, as stretches that do not touch."""
    wanted = set(kinds)
    return joined((s.start_us, s.end_us) for s in spans if s.kind in wanted)


def joined(stretches: Iterable[Stretch]) -> list[Stretch]:
    """The same time as stretches that do not touch, in order."""
    merged: list[Stretch] = []
    for start, end in sorted(stretches):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def without(stretches: Iterable[Stretch], covered: list[Stretch]) -> list[Stretch]:
    """What of `stretches` is in none of `covered` (which do not touch, in order)."""
    left: list[Stretch] = []
    for start, end in stretches:
        at = start
        for from_us, to_us in covered:
            if at < from_us < end:
                left.append((at, from_us))
            if from_us < end:
                at = max(at, to_us)
        if at < end:
            left.append((at, end))
    return left
