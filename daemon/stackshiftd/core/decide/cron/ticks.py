"""When a schedule ticks: pure functions of its expression, its time zone and times passed in.

The cron rules are Debian's: see `docs/schedules.md`. The one thing that
is not passed in is the machine's time zone database, which changes over the years. So only
decisions compute ticks; records contain the results, and `fold` never computes one.

Ticks are in order: each is later than the one before and later than the time asked about, even when
the clocks of a zone go back.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from hashlib import sha256
from itertools import takewhile
from typing import Final, NamedTuple, Protocol
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from stackshift_jobs.errors import Usage
from stackshift_jobs.values.durations import MAX_TIME_US, milliseconds, rfc3339, to_datetime, to_us
from stackshiftd.core.decide.cron.advice import advice
from stackshiftd.core.decide.cron.clock_changes import changes, offset_us

EVERY: Final = "@every "
REBOOT: Final = "@reboot"
ALIASES: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
MAX_EXPRESSION: Final = 256
MAX_COUNTED: Final = 10_000
"""Skipped ticks are counted up to this many; this number stands for as many or more."""
_MINUTE_US: Final = 60_000_000
_LARGE_US: Final = 180 * _MINUTE_US
"""A change of the clocks that cron does not make up for."""
_UNTIL_CAUGHT_UP_US: Final = _LARGE_US + 60 * _MINUTE_US
_ONE_WITH_STEP: Final = re.compile(r"\b(\w+)-\1/\d+")


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


class Reboot:
    """`@reboot`: no time has a tick by itself. The shell tells when the machine was started."""

    def after(self, _us: int) -> Iterator[int]:
        """None."""
        return iter(())


class Cron:
    """Five fields, matched against the wall clock of a time zone, as Debian's cron does.

    An entry whose minute or hour begins with `*` is a wildcard entry, and ticks in each minute that
    the wall clock shows and the fields name. Any other is at fixed times: what a change of the
    clocks by less than three hours skips comes at the change, and what it repeats does not come
    again. (After a larger one cron begins anew, as if it had just been started.)

    cronsim knows these rules, too, but not for clocks that change by half an hour; so it is asked
    for wall-clock times alone, which it finds without a zone.
    """

    def __init__(self, fields: str, zone: tzinfo) -> None:
        self._fields = _without_empty_steps(fields)
        self._zone = zone
        minute, hour, *_ = fields.split()
        self._is_wild = minute.startswith("*") or hour.startswith("*")

    def after(self, us: int) -> Iterator[int]:
        """The ticks after the time `us`, in order (µs since 1970)."""
        newest = us
        # What a change shortly before skips or repeats is known only to who has seen it.
        change = next(changes(self._zone, us - _UNTIL_CAUGHT_UP_US), None)
        is_recent = change is not None and change.at_us <= us
        for tick in self._since(us - _UNTIL_CAUGHT_UP_US if is_recent else us):
            if tick > newest:
                newest = tick
                yield tick

    def _since(self, from_us: int) -> Iterator[int]:
        offset = offset_us(self._zone, from_us)
        walls = self._walls(from_us + offset)
        wall = next(walls, None)
        for change in changes(self._zone, from_us):
            while wall is not None and wall - offset < change.at_us:
                yield wall - offset
                wall = next(walls, None)
            if wall is None:
                return
            offset += change.by_us
            now = change.at_us + offset
            if not self._is_wild and -_LARGE_US <= change.by_us < _LARGE_US:
                if wall < now:
                    yield change.at_us
            elif change.by_us < 0:
                walls = self._walls(now - 1)
                wall = next(walls, None)
            while wall is not None and change.by_us > 0 and wall < now:
                wall = next(walls, None)
        while wall is not None:
            yield wall - offset
            wall = next(walls, None)

    def _walls(self, after: int) -> Iterator[int]:
        """What the wall clock shows at ticks, after the wall-clock time `after`."""
        return (to_us(when) for when in CronSim(self._fields, to_datetime(after)))


def _without_empty_steps(fields: str) -> str:
    """`5-5/2` is 5, and not `5/2`, for which cronsim takes it."""
    return _ONE_WITH_STEP.sub(r"\1", fields)


def clock_of(expression: str, timezone: str, since_us: int) -> Clock:
    """The ticks of `expression` in `timezone`; `@every` counts from `since_us`. Raises `Usage` for
    an invalid expression, an unknown time zone, or an expression that never ticks."""
    period_us, fields, zone = _parsed(expression, timezone)
    if expression == REBOOT:
        return Reboot()
    return Every(period_us, since_us) if period_us else Cron(fields, zone)


def fields_of(expression: str) -> str:
    """The five fields of a valid expression; empty for `@every` and `@reboot`."""
    return _parsed(expression, "UTC")[1]


def days_and_months(fields: str) -> tuple[list[int], list[int]]:
    """The days of the month and the months that valid fields name, in order; `L` is no number."""
    parsed = CronSim(fields, datetime(2024, 1, 1, tzinfo=UTC))
    return sorted(day for day in parsed.days if day > 0), sorted(parsed.months)


@lru_cache(1024)
def _parsed(expression: str, timezone: str) -> tuple[int, str, tzinfo]:
    zone = zone_of(timezone)
    if expression == REBOOT:
        return 0, "", zone
    if expression.startswith(EVERY):
        return _period_us(expression), "", zone
    fields = ALIASES.get(expression, expression)
    if len(expression) > MAX_EXPRESSION or len(fields.split()) != 5:
        known = (*ALIASES, REBOOT)
        near = difflib.get_close_matches(expression, known, 1) if expression[:1] == "@" else []
        hint = f"did you mean {near[0]}?" if near else advice(expression[:MAX_EXPRESSION])
        raise Usage(f"{expression[:MAX_EXPRESSION]!r} is not a valid schedule", hint=hint)
    try:
        first = next(CronSim(fields, datetime(2024, 1, 1, tzinfo=UTC)), None)
    except CronSimError as bad:
        if _names_no_date(fields):
            raise _never_ticks(expression) from bad
        reason = str(bad)[:1].lower() + str(bad)[1:]
        raise Usage(
            f"{expression!r} is not a valid schedule: {reason}", hint=advice(expression)
        ) from bad
    if first is None:
        raise _never_ticks(expression)
    return 0, fields, zone


def _never_ticks(expression: str) -> Usage:
    return Usage(f"the schedule {expression!r} never ticks", hint=advice(expression))


def _names_no_date(fields: str) -> bool:
    """Are fields that cronsim refuses valid, but no month that they name has such a day?"""
    minute, hour, day, month, weekday = fields.split()
    try:
        CronSim(f"{minute} {hour} {day} * {weekday}", datetime(2024, 1, 1, tzinfo=UTC))
        CronSim(f"{minute} {hour} * {month} {weekday}", datetime(2024, 1, 1, tzinfo=UTC))
    except CronSimError:
        return False
    return True


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
        raise Usage(f"{name!r} is not a known time zone", hint=_zone_hint(name)) from bad


_OFFSET: Final = re.compile(r"(?:GMT|UTC)?([+-])([0-9]{1,2})(?::?00)?", re.IGNORECASE)
_ABBREVIATION: Final = re.compile(r"[A-Z]{2,5}")


def _zone_hint(name: str) -> str:
    """What may be meant by a zone that is not known."""
    known = available_timezones()
    if not known:
        return (
            "this machine has no time zone database: install tzdata, as a system package or from "
            "PyPI"
        )
    if offset := _OFFSET.fullmatch(name):
        fixed = f"Etc/GMT{'-' if offset[1] == '+' else '+'}{int(offset[2])}"
        if fixed in known:
            return f"{fixed}, whose sign is the opposite one, or a place: Europe/Berlin"
    if alike := next((each for each in known if each.lower() == name.lower()), None):
        return f"did you mean {alike}?"
    if not (offset or _ABBREVIATION.fullmatch(name)):
        for near in difflib.get_close_matches(name, known, 1):
            return f"did you mean {near}?"
    return 'an IANA name such as "Europe/Berlin"'


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


def tick_key(name: str, tick_us: int) -> str:
    """The idempotency key of a tick's run: `schedule:nightly:2026-11-22T09:00:00Z`."""
    return f"schedule:{name}:{rfc3339(tick_us).replace('.000000Z', 'Z')}"


# --- Spreading -----------------------------------------------------------------------------


class Spread(NamedTuple):
    """How far the ticks of the schedule `name` are spread: up to `jitter_ms`, by `seed`."""

    name: str
    jitter_ms: int = 0
    seed: str = ""

    def due_us(self, clock: Clock, tick_us: int) -> int:
        """When the tick is decided: some whole milliseconds later, the same for whoever asks, but
        before the tick after it, so that ticks stay in order."""
        if not self.jitter_ms:
            return tick_us
        following = next_after(clock, tick_us)
        gap_ms = self.jitter_ms if following is None else (following - tick_us) // 1000
        digest = sha256(f"{self.seed}\0{self.name}\0{tick_us}".encode()).digest()
        return tick_us + int.from_bytes(digest[:8]) % min(self.jitter_ms, gap_ms) * 1000
