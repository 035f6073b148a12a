"""The wall clock of a daemon that runs inside the test: goes on as time does, and jumps when the
test says so."""

from __future__ import annotations

import time

from stackshift_jobs.values.durations import milliseconds


class WallClock:
    """µs since 1970; begins at `now_us`."""

    def __init__(self, now_us: int) -> None:
        self._ahead_us = now_us - time.monotonic_ns() // 1000

    def __call__(self) -> int:
        return time.monotonic_ns() // 1000 + self._ahead_us

    def jump(self, duration: str, *, back: bool = False) -> None:
        """Set the clock by so much."""
        step_us = milliseconds(duration) * 1000
        self._ahead_us += -step_us if back else step_us
