"""The clock moves when the test says so, and what is due happens at its own time."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import stackshift_jobs
from stackshift_jobs import AsyncJobContext, CancelRun, JobContext, Retry, RetryAfter
from stackshift_jobs.errors import Usage
from stackshift_jobs.testing import Stackshift
from stackshiftd.testing.fixture import opened

Context = JobContext[Any]


@stackshift_jobs.job("naps")
def naps(ctx: Context) -> list[str]:
    """Sleep several times; return the times in between."""
    times = [f"{ctx.now():%H:%M:%S}"]
    for minutes in ctx.payload["minutes"]:
        ctx.step.sleep("nap", minutes * 60)
        times.append(f"{ctx.now():%H:%M:%S}")
    return times


@stackshift_jobs.job("ticks", schedule="0 12 * * *", timezone="Europe/Berlin")
def ticks(ctx: Context) -> str:
    """Return the tick that started the run."""
    assert ctx.scheduled_at is not None
    return ctx.scheduled_at.isoformat()


@stackshift_jobs.job("opens", retry=Retry(max_attempts=1))
def opens(ctx: Context) -> str:
    """Try again at noon, once; then look every hour, three times at most."""
    if ctx.attempt == 1:
        raise RetryAfter(at="2026-01-05T12:00:00Z", counts=False)
    if ctx.attempt < 4:
        raise RetryAfter("1h", counts=False)
    raise CancelRun("closed on Mondays")


def test_run_is_tried_again_at_the_time_that_it_asks_for(stackshift: Stackshift) -> None:
    """At that very time of the test's clock, without using up its one attempt."""
    run = stackshift.start("opens")
    stackshift.advance("2h59m")
    assert (run.status, run.attempt) == ("retrying", 1)
    stackshift.advance("1m")
    assert (run.status, run.attempt) == ("retrying", 2)
    stackshift.advance("2h")
    assert (run.status, run.attempt) == ("cancelled", 4)
    assert run.why == "cancelled: closed on Mondays"


def test_test_begins_at_a_time_that_is_always_the_same(stackshift: Stackshift) -> None:
    """The start time is fixed, and only the test moves the clock."""
    assert stackshift.now == datetime(2026, 1, 5, 9, tzinfo=UTC)
    stackshift.start("naps", {"minutes": []})
    assert stackshift.now == datetime(2026, 1, 5, 9, tzinfo=UTC)
    stackshift.advance(timedelta(days=1))
    stackshift.advance(0.5)
    assert stackshift.now == datetime(2026, 1, 6, 9, 0, 0, 500_000, tzinfo=UTC)


@pytest.mark.stackshift(now="2027-02-28T12:00:00+01:00")
def test_test_may_begin_at_another_time(stackshift: Stackshift) -> None:
    """The marker's `now` sets the start time."""
    assert stackshift.now == datetime(2027, 2, 28, 11, tzinfo=UTC)
    run = stackshift.start("naps", {"minutes": []})
    assert run.result == ["11:00:00"]
    assert run.json["created_at"] == "2027-02-28T11:00:00.000000Z"
    assert stackshift.run(run.id[-4:]) == run


def test_each_thing_happens_at_its_own_time(stackshift: Stackshift) -> None:
    """Things happen at their own times, not at the end of the advance; due runs take turns."""
    run = stackshift.start("naps", {"minutes": [10, 20, 5]})
    other = stackshift.start("naps", {"minutes": [15]})
    stackshift.advance("24h")
    assert run.result == ["09:00:00", "09:10:00", "09:30:00", "09:35:00"]
    assert other.result == ["09:00:00", "09:15:00"]
    ended = [record["at"] for each in (other, run) for record in each.timeline[-1:]]
    assert ended == sorted(ended)


def test_sleeping_for_years_takes_no_time(stackshift: Stackshift) -> None:
    """Advancing the clock costs what happens meanwhile, not the length of time."""
    began = time.monotonic()
    run = stackshift.start("naps", {"minutes": [60 * 24 * 365] * 5})
    stackshift.advance_to(datetime(2031, 6, 1, tzinfo=UTC))
    assert run.status == "completed"
    assert stackshift.now.year == 2031
    assert time.monotonic() - began < 60


def test_time_does_not_go_back(stackshift: Stackshift) -> None:
    """A time in the past and a negative duration are both refused."""
    stackshift.advance_to("2026-01-05T10:00:00Z")
    with pytest.raises(Usage, match="is in the past"):
        stackshift.advance_to("2026-01-05T09:59:59Z")
    with pytest.raises(Usage):
        stackshift.advance(-1)
    assert stackshift.now.hour == 10


def test_delayed_run_is_scheduled_until_it_is_due(stackshift: Stackshift) -> None:
    """A run may be delayed by a duration or to a time."""
    late = stackshift.start("naps", {"minutes": []}, delay="1h")
    later = stackshift.start("naps", {"minutes": []}, scheduled_at="2026-01-05T11:30:00Z")
    assert (late.status, later.status) == ("scheduled", "scheduled")
    stackshift.advance("1h")
    assert (late.result, later.status) == (["10:00:00"], "scheduled")
    assert later.finish().result == ["11:30:00"]


def test_schedules_are_at_rest(stackshift: Stackshift) -> None:
    """By default, schedules start nothing: a test of one job does not test all others."""
    stackshift.advance("7d")
    assert stackshift.runs == []
    assert stackshift.call("schedule.list")["schedules"] == []


@pytest.mark.stackshift(schedules=True, now="2026-03-28T00:00:00Z")
def test_schedules_tick_where_a_test_asks_for_it(stackshift: Stackshift) -> None:
    """Ticks are at noon in Berlin, where the clocks change on the second day."""
    stackshift.advance("2d")
    assert [run.result for run in stackshift.runs_of("ticks")] == [
        "2026-03-28T11:00:00+00:00",
        "2026-03-29T10:00:00+00:00",
    ]


@pytest.mark.stackshift(schedules=True)
def test_job_of_a_test_has_its_schedule_too(stackshift: Stackshift) -> None:
    """Its schedule counts from when the test defines it."""

    @stackshift.job("often", schedule="@every 30m")
    def often(ctx: Context) -> None:
        """Nothing."""

    stackshift.advance("2h")
    assert len(stackshift.runs_of(often)) == 4


def test_durations_of_steps_are_of_the_same_clock(stackshift: Stackshift) -> None:
    """A step takes no time by the test's clock; its real duration would differ each time."""

    @stackshift.job("works")
    def works(ctx: Context) -> None:
        ctx.step.run("sum", lambda: sum(range(100_000)))

    run = stackshift.start("works")
    assert run.steps["sum"].duration_ms == 0
    assert run.json["duration_ms"] == 0


def test_story_is_the_same_each_time() -> None:
    """Ids, jitter, order and times are the same: two runs of a test have equal records."""
    first, second = _told(), _told()
    assert first == second
    assert len(first) > 20


def _told() -> list[dict[str, Any]]:
    with opened(None, own_module=__name__, own_jobs={}) as stackshift:

        @stackshift.job("flaky", retry=Retry(max_attempts=4, backoff="1m", jitter=0.5))
        def flaky(ctx: Context) -> None:
            ctx.step.run("call", lambda: 1 / 0)

        @stackshift.job("parent")
        async def parent(ctx: AsyncJobContext[Any]) -> None:
            for minutes in range(3):
                await ctx.step.start("flaky", name=f"child-{minutes}")
                await ctx.step.sleep("pause", minutes * 60)

        stackshift.start("parent")
        stackshift.advance("1h")
        told = [record for run in stackshift.runs for record in run.timeline]
        assert {run.status for run in stackshift.runs} == {"completed", "failed"}
    return told
