"""When the clocks of a time zone change: pure functions of its rules."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Final, NamedTuple

from stackshift_jobs.values.durations import to_datetime, to_us

SECOND_US: Final = 1_000_000
DAY_US: Final = 86_400 * SECOND_US
_LAST_YEAR: Final = 2400
"""Nothing ticks later; dates end in 9999."""


class Change(NamedTuple):
    """The clocks go forward at `at_us` by `by_us`, or back if that is negative."""

    at_us: int
    by_us: int


def changes(zone: tzinfo, from_us: int) -> Iterator[Change]:
    """The changes after `from_us`, in order; for most zones there is no last one."""
    for year in range(to_datetime(from_us).year, _LAST_YEAR):
        for change in _in_year(zone, year):
            if change.at_us > from_us:
                yield change


def offset_us(zone: tzinfo, us: int) -> int:
    """How far the clocks of the zone are ahead of UTC at a time."""
    offset = to_datetime(us).astimezone(zone).utcoffset() or timedelta(0)
    return offset // timedelta(microseconds=1)


@lru_cache(8192)
def _in_year(zone: tzinfo, year: int) -> tuple[Change, ...]:
    """Found by looking at each day: no zone has two changes in one."""
    if zone is UTC:
        return ()
    begins, ends = (to_us(datetime(each, 1, 1, tzinfo=UTC)) for each in (year, year + 1))
    found: list[Change] = []
    before = offset_us(zone, begins)
    for low_us in range(begins, ends, DAY_US):
        high_us = min(low_us + DAY_US, ends)
        after = offset_us(zone, high_us)
        if after == before:
            continue
        while high_us - low_us > SECOND_US:
            middle_us = (low_us + high_us) // 2
            if offset_us(zone, middle_us) == before:
                low_us = middle_us
            else:
                high_us = middle_us
        # Zones count in seconds, and the change is in the second that ends with `high_us`.
        found.append(Change(high_us // SECOND_US * SECOND_US, after - before))
        before = after
    return tuple(found)
