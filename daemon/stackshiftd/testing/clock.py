"""The clock of a test."""

from __future__ import annotations

from stackshift_jobs.handler.clock import Clock


class TestClock(Clock):
    """Stands still until it is moved. Durations are measured on it too, so that they are the same
    each time."""

    __test__ = False

    def __init__(self, start_us: int) -> None:
        self.us = start_us

    def now_us(self) -> int:
        return self.us

    def seconds(self) -> float:
        return self.us / 1e6
