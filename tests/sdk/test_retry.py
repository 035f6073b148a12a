"""`Retry` and `RetryAfter`: their form on the wire, and values that are refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from stackshift_jobs import Retry, RetryAfter
from stackshift_jobs.errors import Usage


def test_defaults_are_those_of_the_guide() -> None:
    """Three attempts, 1 s doubled, an hour at most, a tenth of jitter."""
    assert Retry().as_json() == {
        "max_attempts": 3,
        "backoff_ms": 1000,
        "factor": 2.0,
        "max_backoff_ms": 3_600_000,
        "jitter": 0.1,
        "on": [],
        "not_on": [],
    }


def test_classes_of_errors_are_written_by_name() -> None:
    """One class or several, as after `except`, with their modules."""
    policy = Retry(on=ConnectionError, not_on=(json.JSONDecodeError, KeyError)).as_json()
    assert policy["on"] == ["builtins.ConnectionError"]
    assert policy["not_on"] == ["json.decoder.JSONDecodeError", "builtins.KeyError"]


@pytest.mark.parametrize(
    "options",
    [
        {"max_attempts": 0},
        {"max_attempts": -1},
        {"max_attempts": 1_000_001},
        {"max_attempts": 2.5},
        {"max_attempts": "3"},
        {"max_attempts": True},
        {"factor": "2"},
        {"jitter": False},
        {"backoff": "-1s"},
        {"backoff": "soon"},
        {"factor": 0.5},
        {"factor": 1001},
        {"jitter": -0.1},
        {"jitter": 1.1},
        {"max_backoff": "11000w"},
        {"factor": float("nan")},
        {"jitter": float("nan")},
        {"on": "ConnectionError"},
        {"not_on": (ValueError, ConnectionError("an object"))},
        {"on": int},
    ],
)
def test_policy_out_of_range_is_refused_where_it_is_written(options: Any) -> None:
    """When the module is imported, not at the first failure."""
    with pytest.raises(Usage, match=next(iter(options))):
        Retry(**options)


def test_retry_after_takes_any_duration() -> None:
    """It refuses anything that is not a duration."""
    assert RetryAfter("1h30m").delay_ms == 5_400_000
    assert str(RetryAfter("30s", "rate limited")) == "rate limited"
    with pytest.raises(Usage):
        RetryAfter("-1s")


def test_retry_after_takes_a_time_instead_of_a_delay() -> None:
    """One of the two, and not both; a naive time is local."""
    nine = datetime(2026, 5, 6, 9, tzinfo=UTC)
    assert RetryAfter(at=nine).at_us == RetryAfter(at="2026-05-06T11:00:00+02:00").at_us
    assert RetryAfter(at=nine).counts
    assert not RetryAfter(at=nine, counts=False).counts
    with pytest.raises(Usage, match="either a delay or a time"):
        RetryAfter()
    with pytest.raises(Usage, match="either a delay or a time"):
        RetryAfter("1s", at=nine)
    with pytest.raises(Usage, match="not a time"):
        RetryAfter(at="tomorrow")
