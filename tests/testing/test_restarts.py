"""After a restart, the state is what the journal says, which is everything."""

from __future__ import annotations

from typing import Any

import pytest

from stackshift_jobs import AsyncJobContext, JobContext, Retry
from stackshift_jobs.testing import Stackshift

Context = JobContext[Any]


@pytest.fixture
def jobs(stackshift: Stackshift) -> list[str]:
    """Defines jobs that wait; the list shows what their steps have done."""
    done: list[str] = []

    @stackshift.job("waits")
    def waits(ctx: Context) -> str:
        ctx.step.run("before", done.append, "before")
        ctx.step.sleep("pause", "1h")
        ctx.step.run("after", done.append, "after")
        return f"{ctx.now():%H:%M}"

    @stackshift.job("calls")
    async def calls(ctx: AsyncJobContext[Any]) -> Any:
        return await ctx.step.call("waits")

    @stackshift.job(
        "fails", retry=Retry(max_attempts=2, backoff="2h", max_backoff="1d", jitter=0.0)
    )
    def fails(_ctx: Context) -> None:
        raise ValueError("no good")

    return done


def test_everything_goes_on_after_a_restart(stackshift: Stackshift, jobs: list[str]) -> None:
    """Waits, children, retries and finished steps survive; nothing is done twice."""
    child, parent, failing = (stackshift.start(job) for job in ("waits", "calls", "fails"))
    late = stackshift.start("waits", delay="30m")
    before = [run.json for run in stackshift.runs]
    stackshift.restart()
    assert [run.json for run in stackshift.runs] == before
    stackshift.advance("90m")
    assert (child.result, parent.result, late.result) == ("10:00", "10:00", "10:30")
    assert (failing.status, failing.attempt) == ("retrying", 1)
    stackshift.restart()
    stackshift.advance("30m")
    assert (failing.status, failing.attempt) == ("failed", 2)
    stackshift.restart()
    assert [run.status for run in stackshift.runs] == [
        "completed",
        "completed",
        "completed",
        "failed",
        "completed",
    ]
    assert jobs == ["before", "before", "before", "after", "after", "after"]


@pytest.mark.usefixtures("jobs")
def test_what_came_due_while_it_was_down_happens_at_once(stackshift: Stackshift) -> None:
    """What came due meanwhile happens late, but never early."""
    run = stackshift.start("waits")
    stackshift.restart(down_for="59m")
    assert run.status == "waiting"
    stackshift.restart(down_for="3h")
    assert (run.status, run.result) == ("completed", "12:59")
    assert f"{stackshift.now:%H:%M}" == "12:59"


@pytest.mark.usefixtures("jobs")
def test_keys_are_known_after_a_restart(stackshift: Stackshift) -> None:
    """An idempotency key still finds its run."""
    run = stackshift.start("waits", idempotency_key="k").finish()
    stackshift.restart()
    again = stackshift.start("waits", idempotency_key="k")
    assert (again, again.reused) == (run, True)


@pytest.mark.stackshift(schedules=True)
def test_missed_tick_is_caught_up(stackshift: Stackshift) -> None:
    """A missed tick starts one run, as the job's `catch_up` says."""

    @stackshift.job("hourly", schedule="@hourly", catch_up="once")
    def hourly(ctx: Context) -> str:
        assert ctx.scheduled_at is not None
        return f"{ctx.scheduled_at:%H:%M}"

    stackshift.advance("1h")
    stackshift.restart(down_for="3h30m")
    stackshift.advance("1h")
    assert [run.result for run in stackshift.runs] == ["10:00", "13:00", "14:00"]


@pytest.mark.usefixtures("jobs")
def test_journal_shows_every_record(stackshift: Stackshift) -> None:
    """Each record appears once, in order, even after a restart."""
    run = stackshift.start("waits")
    stackshift.state.set("color", "blue")
    stackshift.restart()
    records = stackshift.journal
    assert [record["seq"] for record in records] == list(range(1, len(records) + 1))
    assert [record for record in records if record.get("run") == run.id] == run.timeline
    kinds = [record["kind"] for record in records]
    assert kinds.count("journal.opened") == 2
    assert kinds.count("state.set") == 1


def test_restart_and_crash_together(stackshift: Stackshift, jobs: list[str]) -> None:
    """A run that lost its worker and then its daemon is still in the same attempt."""
    with stackshift.crashing("before", "after_record"):
        run = stackshift.start("waits")
    stackshift.restart()
    with stackshift.crashing("after", "before_record"):
        run.finish()
    assert (run.status, run.attempt) == ("completed", 1)
    assert jobs == ["before", "after", "after"]
