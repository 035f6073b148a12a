"""Durations and times as people write them, and as the wire and the journal hold them.

A duration is a whole number of milliseconds; a time is a whole number of microseconds since 1970
(UTC). Text is parsed here and nowhere else.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

from stackshift_jobs.errors import Usage

Duration = str | int | float | timedelta
"""`250ms 10s 5m 24h 7d 2w`, sums like `1h30m`, a number of seconds, or a `timedelta`."""

_UNIT_MS: Final = {
    "ms": 1,
    "s": 1000,
    "m": 60_000,
    "h": 3_600_000,
    "d": 86_400_000,
    "w": 604_800_000,
}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)", re.ASCII)
_NUMBER: Final = re.compile(r"\d+(?:\.\d+)?", re.ASCII)
MAX_DURATION_MS: Final = 10 * 366 * 86_400_000
"""Ten years; a longer one is far more often a mistake in the unit than what was meant."""


def milliseconds(value: Duration, of: str = "") -> int:
    """Milliseconds in `value`, rounded up to a whole one; raises `Usage` if it is not a duration,
    is negative, or is over ten years. The error begins with what it is the duration `of`."""
    if of:
        try:
            return milliseconds(value)
        except Usage as bad:
            raise Usage(f"{of}: {bad.message}", hint=bad.hint) from None
    if isinstance(value, timedelta):
        exact = value / timedelta(milliseconds=1)
    elif isinstance(value, bool):
        raise Usage(f"{value!r} is not a duration", hint="write 250ms, 10s, 5m, 24h, 7d or 2w")
    elif isinstance(value, int | float):
        exact = value * 1000
    elif isinstance(value, str):
        exact = _parse(value)
    else:
        raise Usage(f"{value!r} is not a duration", hint="write 250ms, 10s, 5m, 24h, 7d or 2w")
    if not 0 <= exact <= MAX_DURATION_MS:
        raise Usage(f"duration {value!r} is out of range", hint="0 to 10 years")
    # 2.007 * 1000 is a little over 2007. The error of binary fractions must not be rounded up; in
    # ten years it is less than half a microsecond.
    return -int(-round(exact, 3) // 1)


def _parse(text: str) -> float:
    """Milliseconds written in `text`; a bare number is seconds."""
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return float(text) * 1000
    total, at = 0.0, 0
    while part := _PART.match(text, at):
        total += float(part[1]) * _UNIT_MS[part[2]]
        at = part.end()
    if at == 0 or at != len(text):
        raise Usage(
            f"{text!r} is not a duration", hint="write 250ms, 10s, 5m, 24h, 7d, 2w or 1h30m"
        )
    return total


def format_ms(ms: int) -> str:
    """A duration for people, two units at most: `0.4s`, `2.1s`, `1m12s`, `2h00m`, `3d4h`."""
    if ms < 1000:
        return f"{ms}ms"
    if ms < 60_000:
        return f"{min(ms / 1000, 59.9):.1f}s"
    seconds = ms // 1000
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    if seconds < 86_400:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
    return f"{seconds // 86_400}d{seconds % 86_400 // 3600}h"


def short_ms(ms: int) -> str:
    """A duration that was chosen, not measured, without the parts that are zero: `2h`, `30d`,
    `5s`, `1m30s`."""
    text = format_ms(ms)
    for zero in ("00s", "00m", "0h"):
        if text.endswith(zero) and text[: -len(zero)][-1:].isalpha():
            text = text[: -len(zero)]
    return text.replace(".0s", "s")


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def parse_time(text: str) -> int:
    """Microseconds since 1970 of an RFC 3339 time; without an offset it is local time.

    Raises `Usage` for anything else.
    """
    when = parse_datetime(text)
    try:
        us = moment_us(when)
    except (ValueError, OverflowError, OSError) as bad:
        raise _not_a_time(text) from bad
    if not 0 <= us < MAX_TIME_US:
        raise Usage(f"time {text!r} is out of range", hint="1970 to 9998")
    return us


def parse_datetime(text: str) -> datetime:
    """The RFC 3339 time `text`, whose `T` and `Z` may be written small; naive without an offset.

    Raises `Usage` for anything else.
    """
    try:
        return datetime.fromisoformat(text.upper())
    except (ValueError, TypeError, AttributeError) as bad:
        raise _not_a_time(text) from bad


def _not_a_time(text: object) -> Usage:
    return Usage(f"{text!r} is not a time", hint="write 2026-05-06T09:00:00Z")


MAX_TIME_US: Final = (datetime(9999, 1, 1, tzinfo=UTC) - _EPOCH) // _MICROSECOND
"""From here on, times cannot be written as text in every time zone; nor can years before 1000."""


def moment_us(when: datetime) -> int:
    """Microseconds since 1970 of any `datetime`; a naive one is local time.

    When the clocks change, a time that occurs twice means its first occurrence, and a skipped time
    moves later by the length of the gap, never earlier, unlike with `astimezone`."""
    if when.tzinfo is not None:
        return to_us(when)
    return int(when.replace(microsecond=0).timestamp()) * 1_000_000 + when.microsecond


def instant_us(when: datetime | str) -> int:
    """Microseconds since 1970 of a `datetime` or of RFC 3339 text; without an offset it is local
    time. Raises `Usage`."""
    return parse_time(when) if isinstance(when, str) else moment_us(when)


def to_us(when: datetime) -> int:
    """Microseconds since 1970 of an aware `datetime`."""
    return (when - _EPOCH) // _MICROSECOND


def to_datetime(us: int) -> datetime:
    """The aware `datetime` (UTC) of a time in microseconds."""
    return _EPOCH + timedelta(microseconds=us)


def rfc3339(us: int) -> str:
    """`2026-11-22T06:57:11.123456Z`, always with six digits, so that times sort as text."""
    seconds, rest = divmod(us, 1_000_000)
    return f"{_second(seconds)}.{rest:06d}Z"


@lru_cache(64)
def _second(seconds: int) -> str:
    """The text of a whole second. Cached: a busy daemon writes the same one thousands of times."""
    return (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")


def from_rfc3339(text: str) -> int:
    """Inverse of `rfc3339`."""
    return to_us(datetime.fromisoformat(text))
