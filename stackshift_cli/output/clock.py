"""The one clock of a screen: times in the local zone, and how far away they are.

    09:00:05     29 Nov 09:00     2025-11-29     in 12h     5m ago

Only screens use it. JSON and TSV keep the times as the daemon sent them, in UTC.
"""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import Final

from stackshift_jobs.values.durations import from_rfc3339, to_datetime

_TIME: Final = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z"
_OF_THE_DAEMON: Final = re.compile(rf"{_TIME}(?= \(\w[\w.]* left\))|(?<= paused since ){_TIME}")
"""A time that the daemon has written into why a run is not progressing."""
_UNITS: Final = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))


class Clock:
    """The time `now_us`, and other times as they look from there. Times are RFC 3339 text."""

    def __init__(self, now_us: int) -> None:
        self.now_us = now_us
        self._now = _local(now_us)

    @classmethod
    def now(cls) -> Clock:
        """The clock at this moment."""
        return cls(time.time_ns() // 1000)

    @property
    def zone(self) -> str:
        """The local zone: `CET`."""
        return self._now.tzname() or "local"

    @property
    def time(self) -> str:
        """The time of day: `09:00:05`."""
        return f"{self._now:%H:%M:%S}"

    def time_of(self, at: str) -> str:
        """The time of day at `at`."""
        return f"{_local(from_rfc3339(at)):%H:%M:%S}"

    def precise(self, at: str) -> str:
        """The time of day at `at` with milliseconds: `09:00:05.250`."""
        return f"{_local(from_rfc3339(at)):%H:%M:%S.%f}"[:-3]

    def date_of(self, at: str) -> str:
        """The day of `at`: `Sun 29 Nov 2026`."""
        return f"{_local(from_rfc3339(at)):%a %d %b %Y}"

    def moment(self, at: str) -> str:
        """`at` in as few words as name it: the time if it is today, else with the day."""
        when = _local(from_rfc3339(at))
        if when.date() == self._now.date():
            return f"{when:%H:%M:%S}"
        return f"{when:%d %b %H:%M}" if when.year == self._now.year else f"{when:%Y-%m-%d %H:%M}"

    def away(self, at: str) -> str:
        """How far `at` is: `in 12h`, `5m ago`, `now`."""
        seconds = (from_rfc3339(at) - self.now_us) // 1_000_000
        if abs(seconds) < 1:
            return "now"
        return f"in {_rough(seconds)}" if seconds > 0 else f"{_rough(-seconds)} ago"

    def age(self, at: str) -> str:
        """How long ago `at` was: `12h`, and `0s` for a time to come."""
        return _rough(max(0, (self.now_us - from_rfc3339(at)) // 1_000_000))

    def both(self, at: str) -> str:
        """`29 Nov 03:15, in 4h`."""
        return f"{self.moment(at)}, {self.away(at)}"

    def elsewhere(self, at: str) -> str:
        """The time of day of `at`, which has its own zone, with that zone: `09:00 +02:00`. Empty if
        it is the same here."""
        there = datetime.fromisoformat(at)
        if there.utcoffset() == there.astimezone().utcoffset():
            return ""
        return f"{there:%H:%M} {there.isoformat()[-6:]}"

    def localized(self, why: str) -> str:
        """The daemon's sentence `why` with its times as this clock shows them. Those in names, keys
        and errors of others stay as they are."""
        return _OF_THE_DAEMON.sub(lambda match: self.moment(match[0]), why)


def _local(us: int) -> datetime:
    return to_datetime(us).astimezone()


def _rough(seconds: int) -> str:
    """The largest unit alone: `12h`."""
    unit, size = next((pair for pair in _UNITS if seconds >= pair[1]), _UNITS[-1])
    return f"{seconds // size}{unit}"
