"""How busy the daemon is: how long its commits take and how much is in each, and how late its loop
is. Bounded, and nothing of it survives the daemon."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

COMMIT_SECONDS: Final = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    5.0,
)
COMMIT_RECORDS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
RECENT: Final = 1000
"""The commits that `Load.commits_shown` is about."""
LAG_SECONDS: Final = 60
"""How far `Load.lag` looks back."""


class Histogram:
    """Counts of values up to each of `bounds`, which rise, and beyond the last."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def note(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)


class Load:
    """Counts commits, and looks at the loop once a second."""

    def __init__(self) -> None:
        self.seconds = Histogram(COMMIT_SECONDS)
        self.records = Histogram(COMMIT_RECORDS)
        self._recent: deque[tuple[float, int]] = deque(maxlen=RECENT)
        self._lags: deque[float] = deque(maxlen=LAG_SECONDS)

    def committed(self, seconds: float, records: int) -> None:
        """Note an append that has become durable."""
        self.seconds.note(seconds)
        self.records.note(records)
        self._recent.append((seconds, records))

    def turned(self, late_seconds: float) -> None:
        """Note how late the loop was to call what is due every second."""
        self._lags.append(max(0.0, late_seconds))

    @property
    def lag(self) -> float:
        """The most seconds that the loop was late, in the last `LAG_SECONDS`."""
        return max(self._lags, default=0.0)

    def commits_shown(self) -> dict[str, Any]:
        """`{count, records, p50_ms, p99_ms}`: how many there were, and the mean number of records
        and the durations of the last `RECENT`; None for those before the first."""
        shown: dict[str, Any] = {"count": self.seconds.count}
        if not self._recent:
            return shown | {"records": None, "p50_ms": None, "p99_ms": None}
        ms = sorted(seconds * 1000 for seconds, _ in self._recent)
        mean = sum(records for _, records in self._recent) / len(ms)
        return shown | {
            "records": round(mean, 1),
            "p50_ms": round(ms[len(ms) // 2], 3),
            "p99_ms": round(ms[len(ms) * 99 // 100], 3),
        }
