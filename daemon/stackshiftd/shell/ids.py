"""Ids of runs and events: `run_` or `evt_` and a ULID in lower case, so that they sort by time of
creation."""

from __future__ import annotations

import os
import time
from functools import lru_cache
from typing import Final

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's: no i, l, o, u, which are misread."""
_PAIRS: Final = [a + b for a in _ALPHABET for b in _ALPHABET]


def new_run_id() -> str:
    """A new id: 48 bits of time in ms, 80 bits of chance (github.com/ulid/spec)."""
    return f"run_{_ulid()}"


def new_event_id() -> str:
    """A new id, made alike."""
    return f"evt_{_ulid()}"


def _ulid() -> str:
    chance = int.from_bytes(os.urandom(10), "big")
    high, low = chance >> 40, chance & 0xFF_FFFF_FFFF
    return (
        f"{_time_digits(time.time_ns() // 1_000_000)}"
        f"{_PAIRS[high >> 30]}{_PAIRS[high >> 20 & 1023]}"
        f"{_PAIRS[high >> 10 & 1023]}{_PAIRS[high & 1023]}"
        f"{_PAIRS[low >> 30]}{_PAIRS[low >> 20 & 1023]}"
        f"{_PAIRS[low >> 10 & 1023]}{_PAIRS[low & 1023]}"
    )


@lru_cache(4)
def _time_digits(ms: int) -> str:
    """Ten digits of base 32."""
    return "".join(_ALPHABET[ms >> shift & 31] for shift in range(45, -1, -5))
