"""Ticks are those of cron: compared with a second telling of Debian's rules, and with croniter.

The short form runs always. `make long`, or `STACKSHIFT_LONG=1 pytest
tests/core/decide/test_cron_rules.py`, compares many thousand lines, and in every zone each change
of its clocks in ten years.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter

from core.cron_rules import minutes_of
from stackshift_cli.crontab.lines import CronEntry, parse
from stackshift_jobs.errors import Usage
from stackshift_jobs.values.durations import to_datetime, to_us
from stackshiftd.core.decide.cron.clock_changes import changes
from stackshiftd.core.decide.cron.ticks import clock_of

LONG: Final = os.environ.get("STACKSHIFT_LONG") == "1"
ZONES: Final = (
    "Europe/Berlin",
    "America/New_York",
    "America/St_Johns",  # half an hour from the others
    "Australia/Lord_Howe",  # whose clocks change by half an hour
    "Asia/Tehran",  # until 2022, at midnight
    "America/Sao_Paulo",  # until 2019, at midnight
    "Africa/Casablanca",  # around Ramadan
    "Pacific/Apia",
    "America/Caracas",
    "Asia/Pyongyang",  # by half an hour, once
    "Antarctica/Troll",  # by two hours
    "America/Havana",
    "Asia/Beirut",
    "Europe/Volgograd",
)
TEN_YEARS: Final = (datetime(2016, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC))
LINES: Final = 12 if not LONG else 400
LINES_AT_A_CHANGE: Final = 8 if not LONG else 60
CHANGES: Final = 2 if not LONG else 1000
TICKS: Final = 1000
AROUND: Final = timedelta(hours=30)
REAL: Final = Path(__file__).with_name("crontab-of-40-lines")


def field(chance: random.Random, low: int, high: int, names: tuple[str, ...] = ()) -> str:
    """A field as people write them."""
    kind = chance.random()
    if kind < 0.35:
        return "*"
    if kind < 0.5:
        return f"*/{chance.randint(1, high + 2)}"
    items = [item(chance, low, high, names) for _ in range(chance.choice((1, 1, 1, 2, 3)))]
    if kind > 0.97:
        items.insert(0, "*")
    return ",".join(items)


def item(chance: random.Random, low: int, high: int, names: tuple[str, ...]) -> str:
    """A number, a name or a range, perhaps with a step."""
    first = chance.randint(low, high)
    if names and chance.random() < 0.4:
        return chance.choice(names)
    if chance.random() < 0.6:
        return f"{first}"
    last = chance.randint(first, high)
    return f"{first}-{last}" + (f"/{chance.randint(1, 9)}" if chance.random() < 0.5 else "")


MONTHS: Final = ("jan", "Feb", "MAR", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS: Final = ("sun", "Mon", "TUE", "wed", "thu", "fri", "sat")


def expressions(seed: str, count: int, *, at_night: bool = False) -> Iterator[str]:
    """Lines, of which those that never tick are left out. `at_night`: most are at the hours in
    which clocks change."""
    chance = random.Random(seed)
    made = 0
    while made < count:
        hour = field(chance, 0, 23)
        if at_night and chance.random() < 0.7:
            hour = chance.choice(("0", "1", "2", "3", "0-3", "1,2", "2-23/2", "*/2", "23", "*"))
        expression = " ".join(
            (
                field(chance, 0, 59),
                hour,
                "*" if at_night and chance.random() < 0.8 else field(chance, 1, 31),
                "*" if at_night and chance.random() < 0.9 else field(chance, 1, 12, MONTHS),
                "*" if at_night and chance.random() < 0.8 else field(chance, 0, 7, DAYS),
            )
        )
        try:
            clock_of(expression, "UTC", 0)
        except Usage as never:
            assert "never ticks" in never.message, expression
            continue
        made += 1
        yield expression


def ticks_between(
    expression: str, zone: str, begins: datetime, ends: datetime, most: int = 100_000
) -> list[datetime]:
    """Our ticks after `begins` and up to `ends`."""
    found = (to_datetime(us) for us in clock_of(expression, zone, 0).after(to_us(begins)))
    return list(islice((at for at in _until(found, ends)), most))


def _until(ticks: Iterator[datetime], ends: datetime) -> Iterator[datetime]:
    for at in ticks:
        if at > ends:
            return
        yield at


@pytest.mark.parametrize("part", range(4))
def test_ticks_of_any_line_are_those_of_cron(part: int) -> None:
    """Steps, lists, ranges, names, and both days: two weeks of each line, by the loop of cron."""
    begins = datetime(2024, 2, 20, 12, 0, tzinfo=UTC)  # with a 29 February
    ends = begins + timedelta(days=14)
    lines = list(expressions(f"lines {part}", LINES))
    wanted = minutes_of(dict.fromkeys(lines, ends), UTC, begins)
    for expression in lines:
        assert ticks_between(expression, "UTC", begins, ends) == wanted[expression], expression


@pytest.mark.parametrize("part", range(4))
def test_ticks_of_any_line_are_those_of_croniter(part: int) -> None:
    """Two hundred of each, over years where it ticks seldom. croniter has cron's rule for both days
    only on request."""
    begins = datetime(2024, 2, 20, 12, 0, tzinfo=UTC)
    for expression in expressions(f"croniter {part}", LINES):
        if re.search(r"\b(\w+)-\1\b", expression):
            continue  # croniter takes `9-9` for all that there is.
        other = croniter(expression, begins, implement_cron_bug=True)
        ours = clock_of(expression, "UTC", 0).after(to_us(begins))
        for us in islice(ours, 200):
            theirs = other.get_next(datetime)
            if theirs.year > 2060:
                break
            assert to_datetime(us) == theirs, expression


@pytest.mark.parametrize("zone", ZONES)
def test_ticks_around_clock_changes_are_those_of_cron(zone: str) -> None:
    """Whether the clocks go ahead or back, by how much, and at which hour."""
    info = ZoneInfo(zone)
    begins_us, ends_us = map(to_us, TEN_YEARS)
    found = list(takewhile(lambda change: change.at_us < ends_us, changes(info, begins_us)))
    chance = random.Random(zone)
    for change in chance.sample(found, min(CHANGES, len(found))):
        at = to_datetime(change.at_us)
        begins, ends = at - AROUND, at + AROUND
        seed = f"{zone} {at}"
        lines = list(expressions(seed, LINES_AT_A_CHANGE, at_night=True))
        wanted = minutes_of(dict.fromkeys(lines, ends), info, begins)
        for expression in lines:
            ours = ticks_between(expression, zone, begins, ends)
            assert ours == wanted[expression], f"{expression} in {zone} around {at}"


def test_every_entry_of_a_real_crontab_ticks_as_in_cron() -> None:
    """Forty lines as people have them: the next thousand ticks of each, or all in three years."""
    entries = [
        entry
        for entry in parse(REAL.read_text(), names_users=False)
        if isinstance(entry, CronEntry)
    ]
    assert len(entries) == 40
    begins = datetime(2026, 3, 1, tzinfo=UTC)
    zone = "Europe/Berlin"
    ours: dict[str, list[datetime]] = {}
    for entry in entries:
        if entry.schedule == "@reboot":
            assert list(clock_of(entry.schedule, zone, 0).after(0)) == []
            continue
        whole = ticks_between(entry.schedule, zone, begins, begins + timedelta(days=1100), TICKS)
        assert whole, entry.schedule
        ours[entry.schedule] = whole
    month = begins + timedelta(days=40)  # with a change of the clocks
    ends = {line: ticks[-1] if LONG else min(ticks[-1], month) for line, ticks in ours.items()}
    wanted = minutes_of(ends, ZoneInfo(zone), begins)
    for line, ticks in ours.items():
        assert [at for at in ticks if at <= ends[line]] == wanted[line], line
