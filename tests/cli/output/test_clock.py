"""The clock of a screen, in a zone that the test sets."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from stackshift_cli.output.clock import Clock
from stackshift_jobs.values.durations import from_rfc3339

NOW = "2026-05-06T22:30:00.000000Z"


@pytest.fixture
def tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """The clock at `NOW` in Tokyo, where it is 07:30 of the next day."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield Clock(from_rfc3339(NOW))
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("at", "moment", "away"),
    [
        ("2026-05-06T22:30:05.000000Z", "07:30:05", "in 5s"),
        ("2026-05-06T22:30:00.400000Z", "07:30:00", "now"),
        ("2026-05-06T15:00:00Z", "00:00:00", "7h ago"),
        ("2026-05-06T14:59:59Z", "06 May 23:59", "7h ago"),
        ("2026-05-09T22:30:00Z", "10 May 07:30", "in 3d"),
        ("2027-01-01T00:00:00Z", "2027-01-01 09:00", "in 239d"),
    ],
)
def test_time_is_local_and_as_short_as_the_day_allows(
    tokyo: Clock, at: str, moment: str, away: str
) -> None:
    """Today's times have no date, this year's no year; how far away is one unit."""
    assert (tokyo.moment(at), tokyo.away(at)) == (moment, away)
    assert tokyo.both(at) == f"{moment}, {away}"


def test_times_in_sentences_become_local(tokyo: Clock) -> None:
    """What the daemon wrote in UTC is on the same clock as everything else on the screen."""
    told = tokyo.localized("sleeping until 2026-05-06T22:31:00Z (1m00s left), since 21:00Z")
    assert told == "sleeping until 07:31:00 (1m00s left), since 21:00Z"
    told = tokyo.localized("queued 3.0s: queue a has been paused since 2026-05-06T22:00:00Z")
    assert told == "queued 3.0s: queue a has been paused since 07:00:00"
    assert (tokyo.zone, tokyo.time) == ("JST", "07:30:00")
    for of_others in (
        "waiting for event paid [tick:2026-05-06T22:31:00Z]",
        "failed: ValueError: no data for 2026-05-06T22:31:00Z (yet)",
    ):
        assert tokyo.localized(of_others) == of_others
    assert tokyo.date_of(NOW) == "Thu 07 May 2026"
