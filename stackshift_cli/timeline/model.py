"""The values of a timeline: rows of spans, failed tries, and totals.

`build` makes them from a run's records, `axis` lays them out, `render` draws them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from stackshift_cli.timeline.describe import call
from stackshift_cli.timeline.intervals import Interval, Kind, length_us
from stackshift_cli.timeline.progress import Progress
from stackshift_jobs.values.identities import is_step
from stackshift_jobs.values.limits import FINISHED

NO_STEP: Final = "\0"
"""Begins the keys of rows that are not steps; no name of a step can contain it."""
QUEUED: Final = NO_STEP + "queued"
SCHEDULED: Final = NO_STEP + "scheduled"
HANDLER: Final = NO_STEP + "handler"
CODE: Final = NO_STEP + "code changed"


@dataclass(frozen=True)
class Try:
    """A failed try, its traceback as it was recorded, and how long after it the next try began
    (None: there was none)."""

    number: int
    type: str
    message: str
    took_ms: int
    retry_ms: int | None
    traceback: str = ""


@dataclass(frozen=True)
class Child:
    """A run that a step started or waits for: its job as far as it is known, what is known of its
    status, why it is not progressing, and its own timeline if that was asked for."""

    id: str
    job: str = ""
    status: str = ""
    why: str = ""
    timeline: Timeline | None = None


@dataclass
class Row:
    """One row of the timeline. `note` is shown after the bar, for example what a wait waits for.
    When a person has a step forgotten, the spans and tries it had are drawn, but not counted.

    What the run object says of the step, where that is known, is said here too: how many tries it
    has had, since when, and how long it took."""

    key: str
    status: str = "running"
    spans: list[Interval] = field(default_factory=list)
    tries: list[Try] = field(default_factory=list)
    note: str = ""
    forgotten_spans: int = 0
    forgotten_tries: int = 0
    child: Child | None = None
    attempts: int | None = None
    since_us: int | None = None
    took_ms: int | None = None

    @property
    def name(self) -> str:
        """The step's name, or the word for a row that is not a step."""
        return call(self.key.lstrip(NO_STEP))

    @property
    def number(self) -> int:
        """The number of the try under way, or of the last one."""
        if self.attempts is not None:
            return self.attempts
        failed = len(self.tries) - self.forgotten_tries
        return failed if self.status in ("failed", "retrying") else failed + 1

    @property
    def remark(self) -> str:
        """What is shown after the bar: `try 3`, from a step's second one on, and the note."""
        is_tried = is_step(self.key) and self.number > 1
        return " · ".join(filter(None, (f"try {self.number}" if is_tried else "", self.note)))

    @property
    def counted(self) -> list[Interval]:
        """The spans that are not from before a person had the step forgotten."""
        return self.spans[self.forgotten_spans :]

    @property
    def started_us(self) -> int:
        """When it began, or began again; 0 if it never did. A backoff is no beginning, though it
        may be the earlier one if the clock was set back."""
        if self.since_us is not None:
            return self.since_us
        counted = self.counted
        begun = [span for span in counted if span.kind is not Kind.BACKOFF]
        return min((span.start_us for span in begun or counted), default=0)

    @property
    def duration_ms(self) -> int:
        """The time from the first span's start to the last one's end; for `queued`, the time spent
        in the queue."""
        if self.took_ms is not None:
            return self.took_ms
        counted = self.counted
        if self.key == QUEUED:
            return length_us((s.start_us, s.end_us) for s in counted) // 1000
        if not counted:
            return 0
        return max(0, max(s.end_us for s in counted) - self.started_us) // 1000


@dataclass(frozen=True)
class CodeChange:
    """A run went on with other code."""

    at_us: int
    before: str
    after: str


@dataclass(frozen=True)
class Totals:
    """What the time between creation and end, or now, was spent on. `total_ms` is the sum of the
    others: what is both active and backoff (two branches) counts as active, and what is neither
    counts as waiting."""

    active_ms: int
    backoff_ms: int
    waiting_ms: int
    total_ms: int


@dataclass(frozen=True)
class Timeline:
    """Everything that drawing a run needs besides the run object itself."""

    rows: list[Row]
    start_us: int
    end_us: int
    status: str
    attempt: int
    code: str
    far_workers: list[str]
    """Workers on other hosts that have executed it, in order: `gpu-1/w3`."""
    changes: list[CodeChange]
    totals: Totals
    progress: Progress | None

    @property
    def finished(self) -> bool:
        """Has the run ended?"""
        return self.status in FINISHED

    @property
    def places(self) -> str:
        """`on gpu-1/w3, gpu-2/w4`: where it was executed last; empty if that was here."""
        return f"on {', '.join(self.far_workers[-3:])}" if self.far_workers else ""
