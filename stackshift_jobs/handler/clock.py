"""The clock of handlers.

The only place where the SDK reads the time for a run: for `ctx.now()` and for how long a step took.
A driver with a time of its own, such as a test that moves its clock, passes another `Clock`.
"""

from __future__ import annotations

from stackshift_jobs.values.clocks import monotonic, time_ns


class Clock:
    """The machine's clock."""

    def now_us(self) -> int:
        """Microseconds since 1970."""
        return time_ns() // 1000

    seconds = staticmethod(monotonic)
    """Seconds of a clock that never goes back, for measuring durations."""


WALL = Clock()
