"""How far a run is, and how long the rest will take: a fold of what its handler reported.

    report(at_us, 40, 200, "rows") … report(at_us, 120, 200, "rows")
    → Progress(120, 200, "rows", rate=4.0, left_ms=20_000)

The pace is that of this execution: after a wait or a retry the clock has run on without any work.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from stackshift_jobs.values.durations import format_ms, from_rfc3339

_LEAST_US: Final = 200_000
"""Over a shorter time than this, a pace is a guess."""


class Progress(NamedTuple):
    """What a handler reported last, how fast that grew in this execution (in units a second; None:
    not known), and how long the rest takes at this pace."""

    done: float
    total: float | None
    message: str
    rate: float | None = None
    left_ms: int | None = None


class Reports:
    """What the handler of one run has reported so far."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None
        self._last: tuple[int, float, float | None, str] | None = None

    def restart(self) -> None:
        """The handler executes again: what comes now has a pace of its own."""
        self._first = None

    def add(self, record: dict[str, Any], at_us: int) -> None:
        """Add the record of a report."""
        done = float(record.get("done") or 0)
        if self._first is None or (self._last is not None and done < self._last[1]):
            self._first = (at_us, done)
        self._last = (at_us, done, record.get("total"), str(record.get("message") or ""))

    def progress(self) -> Progress | None:
        """How far the run is; None if nothing was reported."""
        if self._last is None:
            return None
        at_us, done, total, message = self._last
        rate = None
        if self._first is not None and at_us - self._first[0] >= _LEAST_US:
            rate = (done - self._first[1]) * 1e6 / (at_us - self._first[0])
        left = total - done if total else 0
        left_ms = round(left * 1000 / rate) if rate and left > 0 else None
        return Progress(done, total, message, rate or None, left_ms)


def progress_of(records: Iterable[dict[str, Any]]) -> Progress | None:
    """How far the run with these records is; None if its handler reported nothing."""
    reports = Reports()
    for record in records:
        if record["kind"] == "progress.reported":
            reports.add(record, from_rfc3339(record["at"]))
        elif record["kind"] in ("attempt.started", "attempt.resumed"):
            reports.restart()
    return reports.progress()


def words(progress: Progress) -> str:
    """`120/200 rows, 60%, 4.0/s, 20.0s left`."""
    count = f"{progress.done:g}/{progress.total:g}" if progress.total else f"{progress.done:g}"
    facts = [f"{count} {progress.message}".strip()]
    if progress.total:
        facts.append(f"{100 * progress.done / progress.total:.0f}%")
    if progress.rate:
        facts.append(f"{progress.rate:.2g}/s" if progress.rate < 10 else f"{progress.rate:.0f}/s")
    if progress.left_ms is not None:
        facts.append(f"{format_ms(progress.left_ms)} left")
    return ", ".join(facts)
