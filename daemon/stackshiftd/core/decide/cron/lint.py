"""What is worth knowing of an expression before it surprises somebody: pure functions, as in
`ticks`.

Only what a person would not have meant is said. An hourly job that ticks in both of two hours named
02:00 follows elapsed time, and nobody minds; a job at 02:30 that does so is another matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import takewhile
from typing import Final, NamedTuple

from stackshift_jobs.values.durations import to_datetime, to_us
from stackshiftd.core.decide.cron.clock_changes import DAY_US, Change, changes
from stackshiftd.core.decide.cron.ticks import Cron, clock_of, days_and_months, fields_of, zone_of

YEARS_AHEAD: Final = 3
"""How far clock changes are looked for."""
_MOST_TICKS: Final = 1000
_MONTHS: Final = (
    *("January", "February", "March", "April", "May", "June", "July", "August"),
    *("September", "October", "November", "December"),
)
_DAYS: Final = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_SHORTEST: Final = 28


class Finding(NamedTuple):
    """`code` is `clock_change` or `short_month`; `text` is a sentence without a full stop."""

    code: str
    text: str


def lint(expression: str, timezone: str, now_us: int) -> list[Finding]:
    """What there is to say of a valid expression. Raises `Usage` for one that is not, or that
    never ticks."""
    clock_of(expression, timezone, 0)
    fields = fields_of(expression)
    if not fields:
        return []
    return [*_short_months(fields), *_clock_changes(fields, timezone, now_us)]


# --- Months --------------------------------------------------------------------------------


def _short_months(fields: str) -> Iterator[Finding]:
    _minute, _hour, day, _month, weekday = fields.split()
    if day.startswith("*") or not weekday.startswith("*"):
        return
    days, months = days_and_months(fields)
    for number in days:
        if number <= _SHORTEST:
            continue
        lacking = [_MONTHS[m - 1] for m in months if _DAYS[m - 1] < number]
        if lacking == ["February"] and number == _SHORTEST + 1:
            yield Finding("short_month", "February has a day 29 in leap years only")
        elif lacking:
            names = lacking[0] if len(lacking) == 1 else f"{', '.join(lacking[:-1])} and "
            names += "" if len(lacking) == 1 else lacking[-1]
            has = "has" if len(lacking) == 1 else "have"
            hint = "; L is the last day of any month" if number == max(_DAYS) else ""
            yield Finding("short_month", f"{names} {has} no day {number}{hint}")


# --- Clock changes -------------------------------------------------------------------------


def _clock_changes(fields: str, timezone: str, now_us: int) -> Iterator[Finding]:
    if fields.split()[1].startswith("*"):
        return
    zone = zone_of(timezone)
    seen: set[bool] = set()
    until_us = now_us + YEARS_AHEAD * 366 * DAY_US
    for change in takewhile(lambda each: each.at_us < until_us, changes(zone, now_us)):
        is_gap = change.by_us > 0
        if is_gap in seen:
            continue
        found = _gap(fields, zone, change) if is_gap else _fold(fields, zone, change)
        if found:
            seen.add(is_gap)
            yield Finding("clock_change", found.replace("ZONE", timezone))


def _gap(fields: str, zone: tzinfo, change: Change) -> str:
    """Of a time that does not exist: whether it ticks after all, and when."""
    resumed = to_datetime(change.at_us).astimezone(zone)
    by = timedelta(microseconds=change.by_us)
    begins = resumed.replace(tzinfo=UTC) - by
    named = list(_between(fields, UTC, begins, begins + by))
    if not named:
        return ""
    text = f"{named[0]:%Y-%m-%d %H:%M} does not exist in ZONE, whose clocks go forward"
    actual = next(Cron(fields, zone).after(change.at_us - 1), None)
    return (
        f"{text}: it ticks at {resumed:%H:%M}"
        if actual == change.at_us
        else (
            f"{text}: there is no tick that day"
            if actual is None or to_datetime(actual).astimezone(zone).date() != resumed.date()
            else f"{text}: that tick is left out"
        )
    )


def _fold(fields: str, zone: tzinfo, change: Change) -> str:
    """Of a time that comes twice: whether it ticks once or twice."""
    again = to_datetime(change.at_us).astimezone(zone)
    begins = again.replace(tzinfo=UTC)
    by = timedelta(microseconds=change.by_us)
    named = list(_between(fields, UTC, begins, begins - by))
    if not named:
        return ""
    first = to_datetime(change.at_us) + by
    actual = len(list(_between(fields, zone, first, to_datetime(change.at_us) - by)))
    how = "once, the first time" if actual <= len(named) else "twice"
    text = f"{named[0]:%Y-%m-%d %H:%M} comes twice in ZONE, whose clocks go back"
    return f"{text}: it ticks {how}"


def _between(fields: str, zone: tzinfo, begins: datetime, ends: datetime) -> Iterator[datetime]:
    """The ticks from `begins`, included, to `ends`, excluded; at most `_MOST_TICKS`."""
    ticks = Cron(fields, zone).after(to_us(begins) - 1)
    for number, tick_us in enumerate(takewhile(lambda us: us < to_us(ends), ticks)):
        if number == _MOST_TICKS:
            return
        yield to_datetime(tick_us)
