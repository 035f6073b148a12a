"""Ids of runs: `run_` and a ULID in lower case, so that they sort by time of creation."""

from __future__ import annotations

import os
import time
from typing import Final

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS: Final = [a + b for a in _ALPHABET for b in _ALPHABET]
"""Two digits at a time: half the steps."""


def new_run_id() -> str:
    """A new id: 48 bits of time in ms, 80 bits of chance (github.com/ulid/spec)."""
    number = (time.time_ns() // 1_000_000 << 80) | int.from_bytes(os.urandom(10), "big")
    pairs = [_PAIRS[number >> shift & 1023] for shift in range(120, -1, -10)]
    return "run_" + "".join(pairs)
