"""Ids of runs: `run_` and a ULID in lower case, so that they sort by time of creation."""

from __future__ import annotations

import os
import time
from base64 import b32encode
from functools import lru_cache
from typing import Final

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's: no i, l, o, u, which are misread."""
_FROM_RFC4648: Final = bytes.maketrans(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", _ALPHABET.encode("ascii")
)


def new_run_id() -> str:
    """A new id: 48 bits of time in ms, 80 bits of chance (github.com/ulid/spec)."""
    chance = b32encode(os.urandom(10)).translate(_FROM_RFC4648)
    return f"run_{_time_digits(time.time_ns() // 1_000_000)}{chance.decode('ascii')}"


@lru_cache(4)
def _time_digits(ms: int) -> str:
    """Ten digits of base 32."""
    return "".join(_ALPHABET[ms >> shift & 31] for shift in range(45, -1, -5))
