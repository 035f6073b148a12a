"""Ids of runs and events: `run_` or `evt_` and a ULID in lower case, so that ids sort by creation
time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base 32: without i, l, o and u, which are easily misread."""
_OF_BYTE: Final = (_ALPHABET * 8).encode("ascii")
"""For each byte, the digit of its lowest 5 bits."""
_TIME_DIGITS: Final = 10
_CHANCE_DIGITS: Final = 16


def _wall_us() -> int:
    return time.time_ns() // 1000


def digits(number: int, count: int = _CHANCE_DIGITS) -> str:
    """The last `count` digits of `number` in base 32."""
    return "".join(_ALPHABET[number >> 5 * at & 31] for at in range(count - 1, -1, -1))


class _Chance:
    """80 random bits at a time, as 16 digits, of bytes that the system gives for many ids at once:
    to ask it, the interpreter is given up, and a busy loop then waits for a thread to give it
    back."""

    _IDS: Final = 400

    def __init__(self) -> None:
        self._digits = ""
        self._at = 0

    def __call__(self) -> str:
        at = self._at
        if at == len(self._digits):
            chance = os.urandom(_CHANCE_DIGITS * self._IDS)
            self._digits, at = chance.translate(_OF_BYTE).decode("ascii"), 0
        self._at = at + _CHANCE_DIGITS
        return self._digits[at : self._at]


class Ids:
    """Generates ids: 48 bits of time in ms, 80 random bits (github.com/ulid/spec); `chance` gives
    the digits of these."""

    def __init__(
        self, clock_us: Callable[[], int] = _wall_us, chance: Callable[[], str] | None = None
    ) -> None:
        self._clock_us = clock_us
        self._chance = chance or _Chance()
        self._last = (-1, "")
        """The time of the last id in ms, and its digits."""

    def run(self) -> str:
        """A new run id."""
        return "run_" + self._ulid()

    def event(self) -> str:
        """A new event id."""
        return "evt_" + self._ulid()

    def _ulid(self) -> str:
        ms = self._clock_us() // 1000
        last = self._last
        if last[0] != ms:
            last = self._last = (ms, digits(ms, _TIME_DIGITS))
        return last[1] + self._chance()
