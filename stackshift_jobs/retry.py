"""When a job or a step is retried: by its policy, or after the delay that an error asks for."""

from __future__ import annotations

from dataclasses import dataclass

from stackshift_jobs.errors import StackshiftError, Usage
from stackshift_jobs.values.durations import Duration, milliseconds
from stackshift_jobs.values.limits import MAX_ATTEMPTS, MAX_FACTOR


@dataclass(frozen=True, slots=True)
class Retry:
    """Exponential backoff: `backoff * factor ** (n - 1)` after the n-th failure, at most
    `max_backoff`, varied by up to ±`jitter` of itself. `max_attempts` counts the first try.

    Raises `Usage` for a value that is out of range.
    """

    max_attempts: int = 3
    backoff: Duration = "1s"
    factor: float = 2.0
    max_backoff: Duration = "1h"
    jitter: float = 0.1

    def __post_init__(self) -> None:
        if not 1 <= self.max_attempts <= MAX_ATTEMPTS:
            raise Usage(
                f"max_attempts cannot be {self.max_attempts}", hint=f"use 1 to {MAX_ATTEMPTS:,}"
            )
        if not 1.0 <= self.factor <= MAX_FACTOR:
            raise Usage(f"factor cannot be {self.factor}", hint=f"use 1 to {MAX_FACTOR}")
        if not 0.0 <= self.jitter <= 1.0:
            raise Usage(f"jitter cannot be {self.jitter}", hint="use 0 to 1")
        self.as_json()

    def as_json(self) -> dict[str, int | float]:
        """The policy as the wire and the journal hold it."""
        return {
            "max_attempts": self.max_attempts,
            "backoff_ms": milliseconds(self.backoff, "backoff in Retry(…)"),
            "factor": self.factor,
            "max_backoff_ms": milliseconds(self.max_backoff, "max_backoff in Retry(…)"),
            "jitter": self.jitter,
        }


class RetryAfter(StackshiftError):
    """Raise this in a handler or a step to set the delay before the next try: `RetryAfter("30s")`.

    `message` is the error's message in the timeline.
    """

    code = "retry_after"
    exit_status = 1

    def __init__(self, delay: Duration, message: str = "") -> None:
        self.delay_ms = milliseconds(delay, "the delay of RetryAfter")
        super().__init__(message or f"asked to be retried in {self.delay_ms} ms")
