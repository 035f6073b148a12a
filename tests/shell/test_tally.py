"""Rates and slow steps, counted from records."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Raw

from stackshiftd.core import records as r
from stackshiftd.core.records import Entry
from stackshiftd.shell.tally import MAX_STEPS, RATE_SECONDS, STEP_MINUTES, Tally

T0 = 1_795_000_020_000_000
NULL = Raw(b"null")


def entry(seconds: float, record: Any) -> Entry:
    """A record so many seconds after `T0`, the beginning of a minute."""
    return Entry(1, T0 + round(seconds * 1e6), record)


def step(name: str, ms: int, run: str = "r1") -> r.StepCompleted:
    """A step that took `ms`."""
    return r.StepCompleted(run=run, attempt=1, step=name, result=NULL, duration_ms=ms)


def test_rates_are_means_of_the_last_whole_seconds() -> None:
    """The second that is under way does not count, nor do those before the last ten."""
    tally = Tally(lambda _: "job")
    created = r.RunCreated(run="r1", job="job", queue="q", payload=NULL)
    completed = r.RunCompleted(run="r1", attempt=1, result=NULL)
    failed = r.RunFailed(run="r1", attempt=1, error=r.Error("E", "m"), reason="attempts")
    tally.add(entry(at, created) for at in (-0.1, 0, 0.5, 9.9, 10.0))
    tally.add([entry(10.1, step("a", 1)), entry(10.2, completed), entry(10.3, failed)])
    assert tally.rates(T0 + RATE_SECONDS * 1_000_000) == {
        "started": 0.3,
        "steps": 0.0,
        "ended": 0.0,
        "failed": 0.0,
    }
    assert tally.rates(T0 + 11_000_000) == {
        "started": 0.2,
        "steps": 0.1,
        "ended": 0.2,
        "failed": 0.1,
    }
    assert set(tally.rates(T0 + 60_000_000).values()) == {0.0}


def test_slow_steps_are_named_without_their_occurrence() -> None:
    """Items of a map and steps of alike branches are one; quick steps are left out; what took
    longest on average is first, for five minutes."""
    tally = Tally({"r1": "avatar", "r2": "order"}.get)
    tally.add([entry(0, step("resize[0]", 200)), entry(1, step("resize[12]", 400))])
    tally.add([entry(61, step("index#2/fetch#3", 1000, "r2")), entry(62, step("quick", 99))])
    tally.add([entry(63, step("lost", 5000, "r9"))])
    resize = {"job": "avatar", "step": "resize", "count": 2, "mean_ms": 300, "max_ms": 400}
    fetch = {"job": "order", "step": "index/fetch", "count": 1, "mean_ms": 1000, "max_ms": 1000}
    assert tally.slow_steps(T0 + 64_000_000, 10) == [fetch, resize]
    assert tally.slow_steps(T0 + 64_000_000, 1) == [fetch]
    assert tally.slow_steps(T0 + STEP_MINUTES * 60_000_000, 10) == [fetch]


def test_names_are_bounded() -> None:
    """A job that makes up step names does not fill the memory."""
    tally = Tally(lambda _: "job")
    tally.add(entry(0, step(f"s{chr(97 + n % 26)}{'x' * n}", 100)) for n in range(MAX_STEPS + 50))
    assert len(tally.slow_steps(T0, 10_000)) == MAX_STEPS


@pytest.mark.parametrize("ms", [99, 100])
def test_failed_try_counts_as_slow_too(ms: int) -> None:
    """What timed out is what one looks for."""
    tally = Tally(lambda _: "job")
    error = r.Error("TimeoutError", "m")
    tally.add([entry(0, r.StepFailed(run="r1", attempt=1, step="a", error=error, duration_ms=ms))])
    assert [each["max_ms"] for each in tally.slow_steps(T0, 9)] == ([100] if ms == 100 else [])
