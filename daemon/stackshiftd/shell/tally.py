"""What happened lately: starts, steps and ends a second, and the slowest steps.

Counted from the records as they become durable, so that a client that asks needs no feed. Bounded:
a few numbers for each of the last seconds, and at most `MAX_STEPS` names for each of the last
minutes. Nothing of it survives the daemon.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from stackshiftd.core import records as r
from stackshiftd.core.records import Entry

RATE_SECONDS: Final = 10
"""Rates are means over so many whole seconds."""
STEP_MINUTES: Final = 5
SLOW_MS: Final = 100
"""Only steps that took so long are counted among the slow ones, since each costs a look-up."""
MAX_STEPS: Final = 500
STARTED, STEPS, ENDED, FAILED, STEPS_FAILED = range(5)
"""What is counted: failed runs are not among those that have `ENDED`."""
_COUNTED: Final[dict[type[r.Record], int]] = {
    r.RunCreated: STARTED,
    r.StepCompleted: STEPS,
    r.RunCompleted: ENDED,
    r.RunCancelled: ENDED,
    r.RunFailed: FAILED,
    r.StepFailed: STEPS_FAILED,
}
_TIMED: Final = (STEPS, STEPS_FAILED)
"""Those with a duration."""
_NAMES: Final = ("started", "steps", "ended", "failed")
"""Of those whose rates are shown."""
_OCCURRENCE: Final = re.compile(r"\[\d+\]|#\d+")


class Tally:
    """Counts entries. `job_of` gives the job of a run, None if it is not known any more."""

    def __init__(self, job_of: Callable[[str], str | None]) -> None:
        self._job_of = job_of
        self.totals = [0, 0, 0, 0, 0]
        """How many there were of each since the daemon's start."""
        self._seconds: deque[tuple[int, list[int]]] = deque(maxlen=RATE_SECONDS + 1)
        self._minutes: deque[tuple[int, dict[tuple[str, str], list[int]]]] = deque(
            maxlen=STEP_MINUTES
        )

    def add(self, entries: Iterable[Entry]) -> None:
        """Count `entries`, which are durable now."""
        column_of, totals = _COUNTED.get, self.totals
        latest, counts = self._seconds[-1] if self._seconds else (-1, [])
        for entry in entries:
            record: Any = entry.record
            column = column_of(type(record))
            if column is None:
                continue
            second = entry.at_us // 1_000_000
            if second != latest:
                latest, counts = second, [0] * len(totals)
                self._seconds.append((latest, counts))
            counts[column] += 1
            totals[column] += 1
            is_timed = column in _TIMED
            if is_timed and record.duration_ms >= SLOW_MS:
                self._note_slow(entry.at_us, record)

    def _note_slow(self, at_us: int, record: r.StepCompleted | r.StepFailed) -> None:
        minute = at_us // 60_000_000
        if not self._minutes or self._minutes[-1][0] != minute:
            self._minutes.append((minute, {}))
        steps = self._minutes[-1][1]
        job = self._job_of(record.run)
        name = (job or "", _OCCURRENCE.sub("", record.step))
        if job is None or (name not in steps and len(steps) >= MAX_STEPS):
            return
        counts = steps.setdefault(name, [0, 0, 0])
        counts[0] += 1
        counts[1] += record.duration_ms
        counts[2] = max(counts[2], record.duration_ms)

    def rates(self, now_us: int) -> dict[str, float]:
        """How many runs were started, steps completed, runs ended and of these failed, per second,
        in the last `RATE_SECONDS` whole seconds."""
        now = now_us // 1_000_000
        counts = [0] * len(self.totals)
        for second, each in self._seconds:
            if now - RATE_SECONDS <= second < now:
                counts = [a + b for a, b in zip(counts, each, strict=True)]
        counts[ENDED] += counts[FAILED]
        return {name: n / RATE_SECONDS for name, n in zip(_NAMES, counts, strict=False)}

    def slow_steps(self, now_us: int, limit: int) -> list[dict[str, Any]]:
        """The steps that took longest in the last `STEP_MINUTES`, the slowest on average first."""
        minute = now_us // 60_000_000
        total: dict[tuple[str, str], list[int]] = {}
        for at, steps in self._minutes:
            if at <= minute - STEP_MINUTES:
                continue
            for name, (count, ms, most) in steps.items():
                sums = total.setdefault(name, [0, 0, 0])
                sums[0], sums[1], sums[2] = sums[0] + count, sums[1] + ms, max(sums[2], most)
        slowest = sorted(total.items(), key=lambda item: (-item[1][1] // item[1][0], item[0]))
        return [
            {"job": job, "step": step, "count": count, "mean_ms": ms // count, "max_ms": most}
            for (job, step), (count, ms, most) in slowest[:limit]
        ]
