"""When a schedule ticks: pure functions of its expression, its zone, and times that are handed in.

The rules of cron are cronsim's, which are those of Debian's: see `docs/schedules.md`. The one
thing that is not handed in is the zone database of the machine, which changes over the years. So
only decisions look here; what they find stands in records, and `fold` never computes a tick.

All ticks come in order, each later than the one before and later than the time asked about, also
where the clocks of a zone go back.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from itertools import takewhile
from typing import Final, Protocol
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from stackshift_jobs.errors import Usage
from stackshift_jobs.values.durations import MAX_TIME_US, milliseconds, rfc3339, to_datetime, to_us

EVERY: Final = "@every "
ALIASES: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
}
MAX_EXPRESSION: Final = 256
MAX_COUNTED: Final = 10_000
"""Ticks that were passed over are counted so far; that many stand for as many or more."""
_MINUTE_US: Final = 60_000_000
_HINT: Final = 'five fields such as "0 9 * * 1-5", or @hourly @daily @weekly @monthly @yearly, '
_FORMS: Final = _HINT + 'or "@every 30m"'


class Clock(Protocol):
    """The ticks of one schedule."""

    def after(self, us: int) -> Iterator[int]:
        """Its ticks after the time `us`, in order (µs since 1970)."""


class Every:
    """`@every 30m`: whole periods from `since_us` on, whatever happened meanwhile."""

    def __init__(self, period_us: int, since_us: int) -> None:
        self._period_us = period_us
        self._since_us = since_us

    def after(self, us: int) -> Iterator[int]:
        passed = max(us - self._since_us, 0) // self._period_us
        tick = self._since_us + (passed + 1) * self._period_us
        while tick < MAX_TIME_US:
            yield tick
            tick += self._period_us


class Cron:
    """Five fields, read as the wall clock of a zone shows them."""

    def __init__(self, fields: str, zone: tzinfo) -> None:
        self._fields = fields
        self._zone = zone

    def after(self, us: int) -> Iterator[int]:
        newest = us
        for when in CronSim(self._fields, to_datetime(us).astimezone(self._zone)):
            tick = to_us(when)
            # In the hour that comes twice cronsim finds the first one also from within the second.
            if tick > newest:
                newest = tick
                yield tick


def clock_of(expression: str, timezone: str, since_us: int) -> Clock:
    """The ticks of `expression` in `timezone`; `@every` counts from `since_us`. Raises `Usage` for
    what is no expression, no zone, or never comes."""
    period_us, fields, zone = _parsed(expression, timezone)
    return Every(period_us, since_us) if period_us else Cron(fields, zone)


@lru_cache(1024)
def _parsed(expression: str, timezone: str) -> tuple[int, str, tzinfo]:
    zone = zone_of(timezone)
    if expression.startswith(EVERY):
        return _period_us(expression), "", zone
    fields = ALIASES.get(expression, expression)
    if len(expression) > MAX_EXPRESSION or len(fields.split()) != 5:
        near = difflib.get_close_matches(expression, ALIASES, 1) if expression[:1] == "@" else []
        hint = f"did you mean {near[0]}?" if near else _FORMS
        raise Usage(f"{expression[:MAX_EXPRESSION]!r} is no schedule", hint=hint)
    try:
        comes = next(CronSim(fields, datetime(2024, 1, 1, tzinfo=UTC)), None)
    except CronSimError as bad:
        told = str(bad)[:1].lower() + str(bad)[1:]
        raise Usage(f"{expression!r} is no schedule: {told}", hint=_FORMS) from bad
    if comes is None:
        raise Usage(f"the schedule {expression!r} never comes", hint=_FORMS)
    return 0, fields, zone


def _period_us(expression: str) -> int:
    try:
        period_us = milliseconds(expression.removeprefix(EVERY)) * 1000
    except Usage as bad:
        raise Usage(f"{expression!r} is no schedule: {bad.message}", hint=bad.hint) from bad
    if period_us < 1_000_000:
        raise Usage(f"{expression!r} is no schedule: it ticks more than once a second")
    return period_us


def zone_of(name: str) -> tzinfo:
    """The zone of that name. Raises `Usage` for one that is not known here."""
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as bad:
        known = available_timezones()
        near = difflib.get_close_matches(name, known, 1)
        hint = 'an IANA name such as "Europe/Berlin"'
        if near:
            hint = f"did you mean {near[0]}?"
        elif not known:
            hint = "this machine has no zone database: install tzdata (the system's, or PyPI's)"
        raise Usage(f"{name!r} is no time zone", hint=hint) from bad


# --- Looking -------------------------------------------------------------------------------


def next_after(clock: Clock, us: int) -> int | None:
    """The first tick after `us`; None where there will be none."""
    return next(clock.after(us), None)


def latest(clock: Clock, first_us: int, until_us: int) -> int:
    """The last tick from the tick `first_us` to `until_us`, both included. Takes no longer for many
    ticks than for a few: ticks keep their order, so it halves the time between."""
    low_us, high_us = first_us, until_us
    while (tick := next_after(clock, low_us)) is not None and tick <= until_us:
        low_us = tick
        middle_us = (low_us + high_us) // 2
        tick = next_after(clock, middle_us)
        if tick is not None and tick <= until_us:
            low_us = tick
        else:
            high_us = middle_us
    return low_us


def count(clock: Clock, first_us: int, before_us: int, most: int = MAX_COUNTED) -> int:
    """How many ticks there are from the tick `first_us` on and before `before_us`, at most
    `most`."""
    if before_us <= first_us:
        return 0
    found = 1
    for _ in takewhile(lambda tick: tick < before_us, clock.after(first_us)):
        if found >= most:
            break
        found += 1
    return found


def newest(clock: Clock, first_us: int, until_us: int, most: int) -> int:
    """The tick from which on there are at most `most` until `until_us`: `first_us`, if that is few
    enough."""
    if count(clock, first_us, until_us + 1, most + 1) <= most:
        return first_us
    low_us, high_us = first_us, until_us
    while high_us - low_us > _MINUTE_US:
        middle_us = (low_us + high_us) // 2
        tick = next_after(clock, middle_us)
        few = tick is None or count(clock, tick, until_us + 1, most + 1) <= most
        low_us, high_us = (low_us, middle_us) if few else (middle_us, high_us)
    tick = next_after(clock, high_us)
    return tick if tick is not None and tick <= until_us else latest(clock, first_us, until_us)


def tick_key(job: str, tick_us: int) -> str:
    """The idempotency key of a tick's run: `schedule:nightly:2026-11-22T09:00:00Z`."""
    return f"schedule:{job}:{rfc3339(tick_us).replace('.000000Z', 'Z')}"
