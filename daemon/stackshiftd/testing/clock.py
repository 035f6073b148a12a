"""The clock of a test."""

from __future__ import annotations

from stackshift_jobs.handler.clock import Clock


class TestClock(Clock):
    """Stands still until it is moved. Durations are measured with it too, so that they are the same
    each time."""

    __test__ = False

    def __init__(self, start_us: int) -> None:
        self.us = start_us

    def now_us(self) -> int:
        """Microseconds since 1970."""
        return self.us

    def seconds(self) -> float:
        """The same in seconds, for measuring durations."""
        return self.us / 1e6
