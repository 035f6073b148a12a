"""Ids of runs and events: `run_` or `evt_` and a ULID in lower case, so that ids sort by creation
time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base 32: without i, l, o and u, which are easily misread."""
_PAIRS: Final = [a + b for a in _ALPHABET for b in _ALPHABET]


def _wall_us() -> int:
    return time.time_ns() // 1000


class _Chance:
    """80 random bits at a time, of bytes that the system gives for many ids at once: to ask it, the
    interpreter is given up, and a busy loop then waits for a thread to give it back."""

    _BYTES: Final = 10
    _IDS: Final = 400

    def __init__(self) -> None:
        self._bytes = b""
        self._at = 0

    def __call__(self) -> int:
        at = self._at
        if at == len(self._bytes):
            self._bytes, at = os.urandom(self._BYTES * self._IDS), 0
        self._at = at + self._BYTES
        return int.from_bytes(self._bytes[at : self._at], "big")


class Ids:
    """Generates ids: 48 bits of time in ms, 80 random bits (github.com/ulid/spec)."""

    def __init__(
        self, clock_us: Callable[[], int] = _wall_us, chance: Callable[[], int] | None = None
    ) -> None:
        self._clock_us = clock_us
        self._chance = chance or _Chance()

    def run(self) -> str:
        """A new run id."""
        return f"run_{self._ulid()}"

    def event(self) -> str:
        """A new event id."""
        return f"evt_{self._ulid()}"

    def _ulid(self) -> str:
        """26 digits of 5 bits: 10 of the time, 16 of chance; written two by two."""
        ms, chance = self._clock_us() // 1000, self._chance()
        high, low = chance >> 40, chance & 0xFF_FFFF_FFFF
        return (
            f"{_PAIRS[ms >> 40]}{_PAIRS[ms >> 30 & 1023]}{_PAIRS[ms >> 20 & 1023]}"
            f"{_PAIRS[ms >> 10 & 1023]}{_PAIRS[ms & 1023]}"
            f"{_PAIRS[high >> 30]}{_PAIRS[high >> 20 & 1023]}"
            f"{_PAIRS[high >> 10 & 1023]}{_PAIRS[high & 1023]}"
            f"{_PAIRS[low >> 30]}{_PAIRS[low >> 20 & 1023]}"
            f"{_PAIRS[low >> 10 & 1023]}{_PAIRS[low & 1023]}"
        )
