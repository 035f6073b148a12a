"""Stretches of time: their union and difference. Pure arithmetic, in microseconds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

Stretch = tuple[int, int]
"""Start and end, in microseconds since 1970."""


class Kind(Enum):
    """What a stretch of time was spent on."""

    HOLD = "hold"  # of a lock; work and waits go on at the same time
    WAIT = "wait"
    BACKOFF = "backoff"
    FAILED = "failed"
    WORK = "work"
    CHANGE = "change"  # of the code: a moment


@dataclass(frozen=True)
class Interval:
    """A stretch of time of one kind, in microseconds since 1970."""

    kind: Kind
    start_us: int
    end_us: int


def covered_us(spans: Iterable[Interval], kinds: Iterable[Kind]) -> list[Stretch]:
    """The time covered by those of `spans` that are of these `kinds`, as stretches in order that do
    not touch."""
    wanted = set(kinds)
    return joined((s.start_us, s.end_us) for s in spans if s.kind in wanted)


def joined(stretches: Iterable[Stretch]) -> list[Stretch]:
    """The time covered by `stretches`, as stretches in order that do not touch."""
    merged: list[Stretch] = []
    for start, end in sorted(stretches):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def without(stretches: Iterable[Stretch], covered: list[Stretch]) -> list[Stretch]:
    """The parts of `stretches` that are in none of `covered` (in order, not touching)."""
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


def length_us(stretches: Iterable[Stretch]) -> int:
    """How long `stretches`, which do not touch, are together."""
    return sum(end - start for start, end in stretches)
