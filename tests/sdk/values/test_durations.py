"""Durations and times, as people write them and as they are stored."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackshift_jobs.errors import Usage
from stackshift_jobs.values.durations import (
    MAX_DURATION_MS,
    MAX_TIME_US,
    format_ms,
    from_rfc3339,
    milliseconds,
    parse_time,
    rfc3339,
    short_ms,
    to_datetime,
    to_us,
)

WRITTEN: list[tuple[Any, int]] = [
    ("250ms", 250),
    ("10s", 10_000),
    ("5m", 300_000),
    ("24h", 86_400_000),
    ("7d", 604_800_000),
    ("2w", 1_209_600_000),
    ("1h30m", 5_400_000),
    ("1.5h", 5_400_000),
    (" 1s ", 1000),
    ("90", 90_000),
    (90, 90_000),
    (0.25, 250),
    (0, 0),
    (timedelta(minutes=1, milliseconds=5), 60_005),
    (timedelta(microseconds=1), 1),
    ("0.0001s", 1),
    (MAX_DURATION_MS // 1000, MAX_DURATION_MS),
]


@pytest.mark.parametrize(("value", "ms"), WRITTEN)
def test_duration_is_a_whole_number_of_milliseconds(value: Any, ms: int) -> None:
    """It is rounded up: a wait is never shorter than requested."""
    assert milliseconds(value) == ms


BAD_TEXTS = ["", *"s ten 1h-5m -1s 10sx 1e3 11w1y 600w ٣s ٣".split(), "10 s"]
BAD_NUMBERS = [-1, -0.001, float("nan"), float("inf"), MAX_DURATION_MS]
BAD: list[Any] = [*BAD_TEXTS, *BAD_NUMBERS, True, None, b"1s", [], timedelta(seconds=-1)]


@pytest.mark.parametrize("value", BAD, ids=repr)
def test_invalid_duration_is_refused(value: Any) -> None:
    """Negative, absurd and ambiguous ones, too, and always with `Usage`."""
    with pytest.raises(Usage):
        milliseconds(value)


@given(st.integers(0, MAX_DURATION_MS))
def test_binary_fractions_add_nothing(ms: int) -> None:
    """2.007 s is 2007 ms, whatever its binary fraction is."""
    assert milliseconds(ms / 1000) == milliseconds(f"{ms}ms") == ms
    assert milliseconds(f"{ms // 1000}.{ms % 1000:03d}s") == ms


SHOWN = [
    (0, "0ms"),
    (999, "999ms"),
    (1000, "1.0s"),
    (2149, "2.1s"),
    (59_999, "59.9s"),
    (60_000, "1m00s"),
    (72_000, "1m12s"),
    (7_200_000, "2h00m"),
    (86_399_999, "23h59m"),
    (273_600_000, "3d4h"),
]


@pytest.mark.parametrize(("ms", "text"), SHOWN)
def test_duration_is_shown_with_at_most_two_units(ms: int, text: str) -> None:
    """It is never shown as sixty of a unit."""
    assert format_ms(ms) == text


@given(st.integers(0, MAX_TIME_US - 1))
def test_time_survives_being_written_and_read(us: int) -> None:
    """Every microsecond survives."""
    text = rfc3339(us)
    assert len(text) == 27
    assert from_rfc3339(text) == parse_time(text) == to_us(to_datetime(us)) == us


@given(st.lists(st.integers(0, MAX_TIME_US - 1), min_size=2, max_size=2))
def test_times_sort_as_text(times: list[int]) -> None:
    """So `sort` and `jq` need no parser."""
    assert (times[0] < times[1]) == (rfc3339(times[0]) < rfc3339(times[1]))


def test_time_without_an_offset_is_local_time() -> None:
    """That is what a person means."""
    local = datetime(2026, 11, 22, 9, 0).astimezone()
    assert parse_time("2026-11-22T09:00:00") == to_us(local)
    assert parse_time("2026-11-22T09:00:00Z") == to_us(datetime(2026, 11, 22, 9, tzinfo=UTC))
    assert parse_time("2026-11-22t09:00:00z") == to_us(datetime(2026, 11, 22, 9, tzinfo=UTC))
    assert parse_time("2026-11-22T10:00:00+01:00") == parse_time("2026-11-22T09:00:00Z")


NO_TIMES = """now tomorrow 2026-13-01T00:00:00Z 2026-02-30T00:00:00Z 0001-01-01T00:00:00
0001-01-01T00:00:00Z 1969-12-31T23:59:59Z 9999-12-31T23:59:59-10:00 9999-12-31T23:59:59"""


@pytest.mark.parametrize("text", ["", *NO_TIMES.split(), 17, None])
def test_invalid_time_is_refused(text: Any) -> None:
    """Also a time that could not be written back."""
    with pytest.raises(Usage):
        parse_time(text)


@pytest.mark.parametrize(
    ("local", "utc"),
    [
        ("2026-03-29T01:59:59", "2026-03-29T00:59:59.000000Z"),
        ("2026-03-29T03:00:00", "2026-03-29T01:00:00.000000Z"),
        # The hour that is skipped: read with the offset of the time before, so an hour later.
        ("2026-03-29T02:30:00", "2026-03-29T01:30:00.000000Z"),
        # The hour that comes twice: its first time.
        ("2026-10-25T02:30:00", "2026-10-25T00:30:00.000000Z"),
        ("2026-10-25T03:00:00", "2026-10-25T02:00:00.000000Z"),
    ],
)
def test_local_time_when_the_clocks_change(
    monkeypatch: pytest.MonkeyPatch, local: str, utc: str
) -> None:
    """In a zone with daylight-saving time, each local time always means the same moment."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        assert rfc3339(parse_time(local)) == utc
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (30 * 86_400_000, "30d"),
        (10 * 86_400_000 + 10 * 3_600_000, "10d10h"),
        (3_600_000, "1h"),
        (5_400_000, "1h30m"),
        (60_000, "1m"),
        (90_000, "1m30s"),
        (600_000, "10m"),
        (2000, "2s"),
        (1500, "1.5s"),
        (0, "0ms"),
    ],
    ids=str,
)
def test_duration_that_was_chosen_has_no_empty_parts(ms: int, text: str) -> None:
    """`30d` is not shown as `30d0h`."""
    assert short_ms(ms) == text
