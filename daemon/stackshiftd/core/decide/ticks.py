"""When a schedule ticks: pure functions of its expression, its time zone and times passed in.

The cron rules are those of cronsim, which are Debian's: see `docs/schedules.md`. The one thing that
is not passed in is the machine's time zone database, which changes over the years. So only
decisions compute ticks; records contain the results, and `fold` never computes one.

Ticks are in order: each is later than the one before and later than the time asked about, even when
the clocks of a zone go back.
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
"""Skipped ticks are counted up to this many; this number stands for as many or more."""
_MINUTE_US: Final = 60_000_000
_HINT: Final = 'five fields such as "0 9 * * 1-5", or @hourly @daily @weekly @monthly @yearly, '
_FORMS: Final = _HINT + 'or "@every 30m"'


class Clock(Protocol):
    """The ticks of one schedule."""

    def after(self, us: int) -> Iterator[int]:
        """The ticks after the time `us`, in order (µs since 1970)."""


class Every:
    """`@every 30m`: whole periods counted from `since_us`."""

    def __init__(self, period_us: int, since_us: int) -> None:
        self._period_us = period_us
        self._since_us = since_us

    def after(self, us: int) -> Iterator[int]:
        """The ticks after the time `us`, in order (µs since 1970)."""
        passed = max(us - self._since_us, 0) // self._period_us
        tick = self._since_us + (passed + 1) * self._period_us
        while tick < MAX_TIME_US:
            yield tick
            tick += self._period_us


class Cron:
    """Five fields, matched against the wall clock of a time zone."""

    def __init__(self, fields: str, zone: tzinfo) -> None:
        self._fields = fields
        self._zone = zone

    def after(self, us: int) -> Iterator[int]:
        """The ticks after the time `us`, in order (µs since 1970)."""
        newest = us
        for when in CronSim(self._fields, to_datetime(us).astimezone(self._zone)):
            tick = to_us(when)
            # In the hour that occurs twice, cronsim returns ticks of its first occurrence even
            # when it starts from within the second.
            if tick > newest:
                newest = tick
                yield tick


def clock_of(expression: str, timezone: str, since_us: int) -> Clock:
    """The ticks of `expression` in `timezone`; `@every` counts from `since_us`. Raises `Usage` for
    an invalid expression, an unknown time zone, or an expression that never ticks."""
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
        raise Usage(f"{expression[:MAX_EXPRESSION]!r} is not a valid schedule", hint=hint)
    try:
        first = next(CronSim(fields, datetime(2024, 1, 1, tzinfo=UTC)), None)
    except CronSimError as bad:
        reason = str(bad)[:1].lower() + str(bad)[1:]
        raise Usage(f"{expression!r} is not a valid schedule: {reason}", hint=_FORMS) from bad
    if first is None:
        raise Usage(f"the schedule {expression!r} never ticks", hint=_FORMS)
    return 0, fields, zone


def _period_us(expression: str) -> int:
    try:
        period_us = milliseconds(expression.removeprefix(EVERY)) * 1000
    except Usage as bad:
        raise Usage(
            f"{expression!r} is not a valid schedule: {bad.message}", hint=bad.hint
        ) from bad
    if period_us < 1_000_000:
        raise Usage(f"{expression!r} is not a valid schedule: it ticks more than once a second")
    return period_us


def zone_of(name: str) -> tzinfo:
    """The time zone `name`. Raises `Usage` for one that this machine does not know."""
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
            hint = "this machine has no time zone database: install tzdata, as a system package "
            hint += "or from PyPI"
        raise Usage(f"{name!r} is not a known time zone", hint=hint) from bad


# --- Searching -----------------------------------------------------------------------------


def next_after(clock: Clock, us: int) -> int | None:
    """The first tick after `us`; None if there is none."""
    return next(clock.after(us), None)


def latest(clock: Clock, first_us: int, until_us: int) -> int:
    """The last tick from the tick `first_us` to `until_us`, both included. A binary search over
    time, so it takes no longer for many ticks than for a few."""
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
    """The number of ticks from the tick `first_us`, included, to `before_us`, excluded; at most
    `most`."""
    if before_us <= first_us:
        return 0
    number = 1
    for _ in takewhile(lambda tick: tick < before_us, clock.after(first_us)):
        if number >= most:
            break
        number += 1
    return number


def newest(clock: Clock, first_us: int, until_us: int, most: int) -> int:
    """The first of at most `most` ticks up to `until_us`: the tick `first_us` if there are no more
    from it on, else the earliest one that a search by minutes finds."""
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
