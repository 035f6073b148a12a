"""A run's timeline as values: rows of spans, the tries that failed, and the sums of it all.

`timeline` makes them of a run's records, `axis` lays them out, `render` draws them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from stackshift_cli.timeline.describe import call
from stackshift_cli.timeline.intervals import Interval
from stackshift_jobs.values.limits import FINISHED

NO_STEP: Final = "\0"
"""Begins the keys of rows that are no steps: no step can be called so."""
QUEUED: Final = NO_STEP + "queued"
SCHEDULED: Final = NO_STEP + "scheduled"
HANDLER: Final = NO_STEP + "handler"


@dataclass(frozen=True)
class Try:
    """A try that failed, and how long after it the next one came (None: never)."""

    number: int
    type: str
    message: str
    took_ms: int
    retry_ms: int | None
    where: str


@dataclass
class Row:
    """One line of the timeline; `note` says what a wait waits for."""

    key: str
    status: str = "running"
    spans: list[Interval] = field(default_factory=list)
    tries: list[Try] = field(default_factory=list)
    note: str = ""

    @property
    def name(self) -> str:
        """The step's name, or the word for what is not a step."""
        return call(self.key.lstrip(NO_STEP))

    @property
    def duration_ms(self) -> int:
        """From the first moment to the last; of `queued`, the time spent in the queue."""
        if not self.spans:
            return 0
        if self.key == QUEUED:
            return sum(s.end_us - s.start_us for s in self.spans) // 1000
        return (max(s.end_us for s in self.spans) - min(s.start_us for s in self.spans)) // 1000


@dataclass(frozen=True)
class Timeline:
    """All that a picture of a run needs besides the run object itself."""

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
