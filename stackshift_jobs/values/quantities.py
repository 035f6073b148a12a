"""Numbers of things, in words."""

from __future__ import annotations


def quantity(number: int, noun: str) -> str:
    """`1 run`, `2 runs`, `0 runs`: for nouns whose plural ends in s. What stands before the noun
    may be part of it: `queued run`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
