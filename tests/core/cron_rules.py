"""Debian's cron, told again: which minutes its main loop runs an entry in.

This is the second opinion on `decide.cron.ticks`: it reads the fields by itself and goes through
time as the loop in cron.c of Vixie's cron 3.0pl1 with Debian's patches does, minute by minute, with
a virtual clock that follows the wall clock. An entry whose minute or hour begins with `*` is a
wildcard entry. When the wall clock jumps ahead by up to three hours, entries at fixed times that
were skipped run at once; when it goes back by up to three hours, only wildcard entries run until it
has caught up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

_RANGES: Final = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
_MONTHS: Final = "jan feb mar apr may jun jul aug sep oct nov dec".split()
_DAYS: Final = "sun mon tue wed thu fri sat".split()
_NAMES: Final[tuple[dict[str, int], ...]] = (
    {},
    {},
    {},
    {name: number for number, name in enumerate(_MONTHS, 1)},
    {name: number for number, name in enumerate(_DAYS)},
)
_NICKNAMES: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_MINUTE: Final = timedelta(minutes=1)
_THREE_HOURS: Final = 3 * 60


class Entry:
    """The five fields of an entry."""

    def __init__(self, expression: str) -> None:
        fields = _NICKNAMES.get(expression, expression).split()
        self.minutes, self.hours, self.days, self.months, weekdays = (
            _bits(text, *limits, names)
            for text, limits, names in zip(fields, _RANGES, _NAMES, strict=True)
        )
        self.weekdays = {day % 7 for day in weekdays}
        self.is_wild = fields[0].startswith("*") or fields[1].startswith("*")
        self._star_day = fields[2].startswith("*") or fields[4].startswith("*")

    def matches(self, local: datetime) -> bool:
        """Does it run in this minute of the wall clock?"""
        day = local.day in self.days
        weekday = local.isoweekday() % 7 in self.weekdays
        return (
            local.minute in self.minutes
            and local.hour in self.hours
            and local.month in self.months
            and (day and weekday if self._star_day else day or weekday)
        )


def _bits(text: str, low: int, high: int, names: dict[str, int]) -> set[int]:
    bits: set[int] = set()
    for item in text.lower().split(","):
        found = re.fullmatch(r"(?:\*|(\w+)(?:-(\w+))?)(?:/(\d+))?", item)
        assert found is not None, item
        first, last, step = found.groups()
        begin = low if first is None else names.get(first) or int(names.get(first, first))
        end = high if first is None else begin if last is None else int(names.get(last, last))
        bits.update(range(begin, end + 1, int(step or 1)))
    return bits


def minutes_of(
    ends: Mapping[str, datetime], zone: tzinfo, begins: datetime
) -> dict[str, list[datetime]]:
    """The minutes (UTC) after `begins` in which cron, which has run since then, runs each of some
    entries, up to its own time in `ends`; each once.

    As in cron, all entries are looked at in one walk through time: what is slow is to tell which
    time it is on the wall.
    """
    ran: dict[str, list[datetime]] = {expression: [] for expression in ends}
    coming = sorted(ends, key=ends.__getitem__)
    entries = _by_minute(coming)
    now = begins.astimezone(UTC).replace(second=0, microsecond=0)
    virtual = _wall(now, zone)
    while coming:
        now += _MINUTE
        if now > ends[coming[0]]:
            coming = [expression for expression in coming if ends[expression] >= now]
            entries = _by_minute(coming)
        wall = _wall(now, zone)
        ahead = (wall - virtual) // _MINUTE
        if ahead == 1 or ahead > _THREE_HOURS or ahead <= -_THREE_HOURS:
            virtual = wall
            due = [name for name, entry in entries[wall.minute] if entry.matches(wall)]
        else:
            due = [
                name for name, each in entries[wall.minute] if each.is_wild and each.matches(wall)
            ]
            while virtual < wall:
                virtual += _MINUTE
                due += [
                    name
                    for name, each in entries[virtual.minute]
                    if not each.is_wild and each.matches(virtual)
                ]
        for name in dict.fromkeys(due):
            ran[name].append(now)
    return ran


def _by_minute(expressions: Iterable[str]) -> list[list[tuple[str, Entry]]]:
    """The entries by the minutes of the hour in which they may run."""
    entries = [(expression, Entry(expression)) for expression in expressions]
    return [[each for each in entries if minute in each[1].minutes] for minute in range(60)]


def _wall(at: datetime, zone: tzinfo) -> datetime:
    return at.astimezone(zone).replace(tzinfo=None)
