"""Waiting for something to be so. No test sleeps: it waits for a condition, with a deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

SECONDS: Final = 60.0
"""Long enough for a loaded machine; a test that works takes milliseconds of it."""
_LOOK_SECONDS: Final = 0.005


def wait_until(condition: Callable[[], T], what: str, seconds: float = SECONDS) -> T:
    """What `condition` gives as soon as it is true; fails with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {seconds:g} s without success: {what}"
        time.sleep(_LOOK_SECONDS)


async def until(condition: Callable[[], T], what: str, seconds: float = SECONDS) -> T:
    """`wait_until` on a loop that has other things to do."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {seconds:g} s without success: {what}"
        await asyncio.sleep(_LOOK_SECONDS)
