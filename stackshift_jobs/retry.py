"""When a job or a step is retried: by its policy, or as an error asks for."""

from __future__ import annotations

from dataclasses import dataclass

from stackshift_jobs.errors import StackshiftError, Usage
from stackshift_jobs.values.durations import Duration, instant_us, milliseconds
from stackshift_jobs.values.limits import MAX_ATTEMPTS, MAX_FACTOR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime
    from typing import Any

    Errors = type[BaseException] | tuple[type[BaseException], ...]
    """One class of errors or several, as in an `except` clause."""

_NUMBERS = (int, float)


@dataclass(frozen=True, slots=True)
class Retry:
    """Exponential backoff: `backoff * factor ** (n - 1)` after the n-th failure, at most
    `max_backoff`, varied by up to ±`jitter` of itself. `max_attempts` counts the first try.

    `on` is the class of the errors that are retried, or a tuple of several (default: all), and
    `not_on` those of them that are not; subclasses count. What is not to be retried fails at once,
    a step together with its run.

    Raises `Usage` for a value that is out of range.
    """

    max_attempts: int = 3
    backoff: Duration = "1s"
    factor: float = 2.0
    max_backoff: Duration = "1h"
    jitter: float = 0.1
    on: Errors = ()
    not_on: Errors = ()

    def __post_init__(self) -> None:
        if type(self.max_attempts) is not int or not 1 <= self.max_attempts <= MAX_ATTEMPTS:
            raise Usage(
                f"max_attempts cannot be {self.max_attempts!r}", hint=f"use 1 to {MAX_ATTEMPTS:,}"
            )
        if type(self.factor) not in _NUMBERS or not 1.0 <= self.factor <= MAX_FACTOR:
            raise Usage(f"factor cannot be {self.factor!r}", hint=f"use 1 to {MAX_FACTOR}")
        if type(self.jitter) not in _NUMBERS or not 0.0 <= self.jitter <= 1.0:
            raise Usage(f"jitter cannot be {self.jitter!r}", hint="use 0 to 1")
        self.as_json()

    def as_json(self) -> dict[str, Any]:
        """The policy as the wire and the journal hold it."""
        return {
            "max_attempts": self.max_attempts,
            "backoff_ms": milliseconds(self.backoff, "backoff in Retry(…)"),
            "factor": self.factor,
            "max_backoff_ms": milliseconds(self.max_backoff, "max_backoff in Retry(…)"),
            "jitter": self.jitter,
            "on": _names(self.on, "on"),
            "not_on": _names(self.not_on, "not_on"),
        }


def check_retry(retry: Any, what: str) -> Retry | None:
    """`retry`, if it is a policy or None. Raises `Usage`, which says `what` it is."""
    if retry is not None and not isinstance(retry, Retry):
        raise Usage(
            f"{what} is {retry!r}, which is not a policy", hint="retry=Retry(max_attempts=3)"
        )
    return retry


_MODULE = type.__dict__["__module__"].__get__
_QUALNAME = type.__dict__["__qualname__"].__get__


def full_name(cls: type) -> str:
    """The name by which a policy knows a class of errors: `builtins.ConnectionError`. It is what
    Python knows of the class, whatever its metaclass makes of attributes."""
    return f"{_MODULE(cls)}.{_QUALNAME(cls)}"


def _names(errors: Errors, option: str) -> list[str]:
    listed = errors if isinstance(errors, tuple) else (errors,)
    for cls in listed:
        if not (isinstance(cls, type) and issubclass(cls, BaseException)):
            raise Usage(
                f"{option} in Retry(…) cannot have {cls!r}, which is not a class of errors",
                hint=f"{option}=ConnectionError, or {option}=(ConnectionError, TimeoutError)",
            )
    return [full_name(cls) for cls in listed]


class RetryAfter(StackshiftError):
    """Raise this in a handler or a step to set when it is tried again: `RetryAfter("30s")`, or
    `RetryAfter(at=…)` with a `datetime` (local if naive) or RFC 3339 text.

    With `counts=False` it is a snooze: this try uses up no attempt, and leaves the backoff as it
    is. `message` is the error's message in the timeline. Raises `Usage` unless there is one of a
    delay and a time.
    """

    code = "retry_after"
    exit_status = 1

    def __init__(
        self,
        delay: Duration | None = None,
        message: str = "",
        *,
        at: datetime | str | None = None,
        counts: bool = True,
    ) -> None:
        if (delay is None) == (at is None):
            raise Usage(
                "RetryAfter needs either a delay or a time",
                hint='RetryAfter("30s"), or RetryAfter(at="2026-05-06T09:00:00Z")',
            )
        self.delay_ms = None if delay is None else milliseconds(delay, "the delay of RetryAfter")
        self.at_us = None if at is None else instant_us(at)
        self.counts = counts
        when = f"at {at}" if delay is None else f"in {self.delay_ms} ms"
        super().__init__(message or f"asked to be retried {when}")


class CancelRun(StackshiftError):
    """Raise this in a handler or a step to end the run as cancelled, for `reason`: it is not
    retried, and is not a failure that anyone has to look at."""

    code = "cancel_run"
    exit_status = 7

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
