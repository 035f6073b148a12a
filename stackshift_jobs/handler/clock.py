"""What time it is for handlers.

Owns the one place where the SDK asks for the time of a run: what `ctx.now()` gives and how long a
step took. A driver that has a time of its own (a test with a clock that moves when it is told to)
hands in another `Clock`.
"""

from __future__ import annotations

import time


class Clock:
    """The machine's clock."""

    def now_us(self) -> int:
        """Microseconds since 1970."""
        return time.time_ns() // 1000

    def seconds(self) -> float:
        """Seconds of a clock that never goes back, to measure by."""
        return time.monotonic()


WALL = Clock()
