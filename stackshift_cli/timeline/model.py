"""The values of a timeline: rows of spans, failed tries, and totals.

`build` makes them from a run's records, `axis` lays them out, `render` draws them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from stackshift_cli.timeline.describe import call
from stackshift_cli.timeline.intervals import Interval
from stackshift_jobs.values.limits import FINISHED

NO_STEP: Final = "\0"
"""Begins the keys of rows that are not steps; no name of a step can contain it."""
QUEUED: Final = NO_STEP + "queued"
SCHEDULED: Final = NO_STEP + "scheduled"
HANDLER: Final = NO_STEP + "handler"


@dataclass(frozen=True)
class Try:
    """A failed try, where its error was raised, and how long after it the next try began (None:
    there was none)."""

    number: int
    type: str
    message: str
    took_ms: int
    retry_ms: int | None
    where: str


@dataclass
class Row:
    """One row of the timeline. `note` is shown after the bar, for example what a wait waits for."""

    key: str
    status: str = "running"
    spans: list[Interval] = field(default_factory=list)
    tries: list[Try] = field(default_factory=list)
    note: str = ""

    @property
    def name(self) -> str:
        """The step's name, or the word for a row that is not a step."""
        return call(self.key.lstrip(NO_STEP))

    @property
    def duration_ms(self) -> int:
        """The time from the first span's start to the last one's end; for `queued`, the time spent
        in the queue."""
        if not self.spans:
            return 0
        if self.key == QUEUED:
            return sum(s.end_us - s.start_us for s in self.spans) // 1000
        return (max(s.end_us for s in self.spans) - min(s.start_us for s in self.spans)) // 1000


@dataclass(frozen=True)
class Timeline:
    """Everything that drawing a run needs besides the run object itself."""

    rows: list[Row]
    start_us: int
    end_us: int
    status: str
    attempt: int
    code: str
    active_ms: int
    waiting_ms: int
    total_ms: int
    progress: str

    @property
    def finished(self) -> bool:
        """Has the run ended?"""
        return self.status in FINISHED
