"""When a schedule ticks: expressions, zones, and the two nights a year when clocks change."""

from __future__ import annotations

import re
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.schedule_story import at, minutes
from stackshift_jobs.errors import Usage
from stackshiftd.core.decide.cron.ticks import (
    MAX_COUNTED,
    clock_of,
    count,
    latest,
    newest,
    next_after,
    tick_key,
    zone_of,
)

BERLIN = "Europe/Berlin"
MINUTE = 60_000_000


def coming(expression: str, timezone: str, after: str, most: int = 3) -> list[str]:
    """The next ticks after a time, in UTC."""
    clock = clock_of(expression, timezone, at(after))
    return minutes(*islice(clock.after(at(after)), most))


@pytest.mark.parametrize(
    ("alias", "wanted"),
    [
        ("@hourly", ["2026-11-22 09:00", "2026-11-22 10:00"]),
        ("@daily", ["2026-11-23 00:00", "2026-11-24 00:00"]),
        ("@weekly", ["2026-11-29 00:00", "2026-12-06 00:00"]),
        ("@monthly", ["2026-12-01 00:00", "2027-01-01 00:00"]),
        ("@yearly", ["2027-01-01 00:00", "2028-01-01 00:00"]),
        ("0 9 * * 1-5", ["2026-11-23 09:00", "2026-11-24 09:00"]),
        ("*/20 8 * * *", ["2026-11-22 08:20", "2026-11-22 08:40"]),
    ],
)
def test_expressions_mean_what_cron_says(alias: str, wanted: list[str]) -> None:
    """Five fields, or an alias for them; a tick at the very time asked about has passed."""
    assert coming(alias, "UTC", "2026-11-22 08:00", 2) == wanted


def test_zone_says_whose_nine_it_is() -> None:
    """Nine in Berlin is eight in winter and seven in summer."""
    assert coming("0 9 * * *", BERLIN, "2026-11-22 00:00", 1) == ["2026-11-22 08:00"]
    assert coming("0 9 * * *", BERLIN, "2026-07-01 00:00", 1) == ["2026-07-01 07:00"]


def test_time_in_the_hour_that_is_left_out_comes_right_after_it() -> None:
    """29 March 2026: 02:00 to 03:00 does not exist; the tick of 02:30 is at 03:00, exactly once."""
    assert coming("30 2 * * *", BERLIN, "2026-03-28 12:00") == [
        "2026-03-29 01:00",
        "2026-03-30 00:30",
        "2026-03-31 00:30",
    ]
    # Two times of that hour are one tick.
    assert coming("0,30 2 * * *", BERLIN, "2026-03-28 12:00", 2) == [
        "2026-03-29 01:00",
        "2026-03-30 00:00",
    ]


def test_time_in_the_hour_that_comes_twice_comes_once() -> None:
    """25 October 2026: 02:00 to 03:00 occurs twice; the tick of 02:30 is in the first of the
    two."""
    once = ["2026-10-25 00:30", "2026-10-26 01:30"]
    assert coming("30 2 * * *", BERLIN, "2026-10-24 12:00", 2) == once
    # Also asked from in between, and from within the second one.
    assert coming("30 2 * * *", BERLIN, "2026-10-25 00:30", 1) == once[1:]
    assert coming("30 2 * * *", BERLIN, "2026-10-25 01:10", 1) == once[1:]


@pytest.mark.parametrize("night", ["2026-03-29", "2026-10-25"])
@pytest.mark.parametrize("expression", ["@hourly", "0 * * * *", "15 */1 * * *"])
def test_hourly_goes_on_hourly_when_clocks_change(night: str, expression: str) -> None:
    """No hour is left out and none repeated: it is an hour from tick to tick."""
    clock = clock_of(expression, BERLIN, 0)
    ticks = list(islice(clock.after(at(f"{night} 00:00") - 3 * 60 * MINUTE), 8))
    assert {later - tick for tick, later in pairwise(ticks)} == {60 * MINUTE}


def test_every_counts_from_first_sight_and_never_drifts() -> None:
    """Whole periods, whenever it is asked."""
    clock = clock_of("@every 1h30m", "UTC", at("2026-11-22 08:07"))
    assert minutes(next_after(clock, at("2026-11-22 08:00"))) == ["2026-11-22 09:37"]
    assert minutes(next_after(clock, at("2026-11-22 09:37"))) == ["2026-11-22 11:07"]
    assert minutes(next_after(clock, at("2027-11-22 08:06"))) == ["2027-11-22 08:07"]


@pytest.mark.parametrize(
    ("expression", "timezone", "told"),
    [
        ("61 * * * *", "UTC", "is not a valid schedule: bad minute"),
        ("* * * *", "UTC", "is not a valid schedule"),
        ("0 * * * * *", "UTC", "is not a valid schedule"),
        ("", "UTC", "is not a valid schedule"),
        ("@dayly", "UTC", "is not a valid schedule"),
        ("@reboots", "UTC", "is not a valid schedule"),
        ("0 0 31 2 *", "UTC", "never ticks"),
        ("@every", "UTC", "is not a valid schedule"),
        ("@every soon", "UTC", "is not a valid schedule: 'soon' is not a duration"),
        ("@every 500ms", "UTC", "ticks more than once a second"),
        ("@every 0s", "UTC", "ticks more than once a second"),
        ("@daily", "Europe/Berlim", "is not a known time zone"),
        ("@daily", "", "is not a known time zone"),
        ("@daily", "../etc/passwd", "is not a known time zone"),
        ("@daily", "/etc/localtime", "is not a known time zone"),
        ("@daily", "Europe", "is not a known time zone"),
        ("0 0 * * " + "1," * 200 + "1", "UTC", "is not a valid schedule"),
    ],
)
def test_invalid_schedule_is_refused(expression: str, timezone: str, told: str) -> None:
    """The error says what is wrong, before anything ticks."""
    with pytest.raises(Usage) as refused:
        clock_of(expression, timezone, 0)
    assert told in refused.value.message


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("Europe/Berlim", "did you mean Europe/Berlin?"),
        ("europe/berlin", "did you mean Europe/Berlin?"),
        ("utc", "did you mean UTC?"),
        ("GMT+2", "Etc/GMT-2, whose sign is the opposite one"),
        ("utc-05:00", "Etc/GMT+5, whose sign is the opposite one"),
        ("+0200", "Etc/GMT-2, whose sign is the opposite one"),
        ("PST", 'an IANA name such as "Europe/Berlin"'),
        ("GMT+99", 'an IANA name such as "Europe/Berlin"'),
    ],
)
def test_zone_that_is_not_known_is_told_what_may_be_meant(name: str, meant: str) -> None:
    """No other abbreviation or offset is: a schedule would be hours off."""
    with pytest.raises(Usage) as refused:
        zone_of(name)
    assert refused.value.hint.startswith(meant)


@pytest.mark.parametrize(
    ("expression", "advised"),
    [
        ("0 0 * * fri-mon", "write fri-sat,sun-mon for fri-mon"),
        ("0 0 * * SAT-sun", "write SAT,sun for SAT-sun"),
        ("0 22-4 * * *", "write 22-23,0-4 for 22-4"),
        ("50-10,30 * * * *", "write 50-59,0-10 for 50-10"),
        ("0 0 * nov-feb *", "write nov-dec,jan-feb for nov-feb"),
        ("0 0 0 * * *", '"@every 10s"'),
        ("CRON_TZ=Europe/Berlin 0 0 * * *", "--timezone Europe/Berlin"),
        ("TZ=Asia/Tokyo @daily", "--timezone Asia/Tokyo"),
        ("61 * * * *", "five fields such as"),
    ],
)
def test_hint_says_what_to_write_instead(expression: str, advised: str) -> None:
    """What other schedulers take is named as it is written here."""
    with pytest.raises(Usage) as refused:
        clock_of(expression, "UTC", 0)
    assert advised in refused.value.hint
    for written in re.findall(r"write (\S+) for (\S+)", refused.value.hint):
        clock_of(expression.replace(written[1], written[0]), "UTC", 0)


def test_near_names_are_hinted_at() -> None:
    """The hint for a typo names the nearest match."""
    for expression, timezone, near in (
        ("@dayly", "UTC", "@daily"),
        ("@daily", "Europe/Berlim", "Europe/Berlin"),
    ):
        with pytest.raises(Usage) as refused:
            clock_of(expression, timezone, 0)
        assert refused.value.hint == f"did you mean {near}?"


FREQUENT = ["* * * * *", "30 2 * * *", "0,30 1-3 * * *", "*/7 */2 * * *", "@hourly"]
RARE = ["0 0 29 2 *", "59 23 28-31 * *", "0 12 * * 1#1"]
EXPRESSIONS = st.sampled_from([*FREQUENT, *RARE, "@every 1h", "@every 47m"])
ZONES = st.sampled_from(["UTC", BERLIN, "America/Sao_Paulo", "Australia/Lord_Howe", "Asia/Kolkata"])
TIMES = st.integers(at("1995-01-01 00:00"), at("2037-01-01 00:00"))


@given(EXPRESSIONS, ZONES, TIMES)
def test_ticks_come_in_order_and_after_what_was_asked(
    expression: str, timezone: str, after_us: int
) -> None:
    """Whatever the zone does to its clocks: later than asked, and each later than the one before;
    and asking from a tick gives the one that followed it."""
    clock = clock_of(expression, timezone, at("1994-06-01 00:00"))
    ticks = list(islice(clock.after(after_us), 12))
    assert after_us < ticks[0]
    assert ticks == sorted(set(ticks))
    for tick, later in pairwise(ticks):
        assert next_after(clock, tick) == later


@given(EXPRESSIONS, ZONES, TIMES, st.integers(0, 40), st.integers(1, 50))
def test_last_and_number_of_missed_ticks_are_those_of_a_count(
    expression: str, timezone: str, after_us: int, missed: int, most: int
) -> None:
    """The searches for the last tick, and for the newest few, agree with counting."""
    clock = clock_of(expression, timezone, at("1994-06-01 00:00"))
    ticks = list(islice(clock.after(after_us), missed + 2))
    first_us, until_us = ticks[0], ticks[-1] - 1
    assert latest(clock, first_us, until_us) == ticks[-2]
    assert count(clock, first_us, ticks[-2]) == missed
    begin_us = newest(clock, first_us, until_us, most)
    assert begin_us in ticks
    left = len(ticks) - 1 - ticks.index(begin_us)
    assert left == len(ticks) - 1 if len(ticks) - 1 <= most else 1 <= left <= most


def test_years_of_missed_minutes_are_looked_through_at_once() -> None:
    """The last of five million is found by binary search, and the count is bounded."""
    clock = clock_of("* * * * *", BERLIN, 0)
    first_us, until_us = at("2016-01-01 00:00"), at("2026-01-01 00:00")
    assert latest(clock, first_us, until_us) == until_us
    assert count(clock, first_us, until_us) == MAX_COUNTED
    assert newest(clock, first_us, until_us, 1000) == until_us - 999 * MINUTE


def test_key_of_a_tick_names_job_and_time() -> None:
    """As people would write it; fractions only where there are any."""
    assert tick_key("nightly", at("2026-11-22 09:00")) == "schedule:nightly:2026-11-22T09:00:00Z"
    assert tick_key("x", 1_500_000) == "schedule:x:1970-01-01T00:00:01.500000Z"
