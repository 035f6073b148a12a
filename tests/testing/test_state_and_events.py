"""State, locks and events in a test: as in a daemon, but by the test's clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import stackshift_jobs
from stackshift_jobs import AsyncJobContext, JobContext
from stackshift_jobs.errors import Conflict, LockHeld, LockLost
from stackshift_jobs.testing import Stackshift

Context = JobContext[Any]
AsyncContext = AsyncJobContext[Any]


@stackshift_jobs.job("waits")
def waits(ctx: Context) -> Any:
    """Wait for an event; the payload is the `on_timeout`."""
    event = ctx.step.wait_for_event(
        "email.verified", correlation_key="user:1", timeout="24h", on_timeout=ctx.payload
    )
    return {"payload": event.payload, "timed_out": event.timed_out}


@stackshift_jobs.job("waitsAsync")
async def waits_async(ctx: AsyncContext) -> Any:
    """The same as `waits`, awaited."""
    event = await ctx.step.wait_for_event(
        "email.verified", correlation_key="user:1", timeout="24h", on_timeout=ctx.payload
    )
    return {"payload": event.payload, "timed_out": event.timed_out}


@stackshift_jobs.job("counts")
def counts(ctx: Context) -> Any:
    """Write state before a pause, and read it afterwards."""
    for _ in range(3):
        ctx.state.increment("hits")
    ctx.state.set("last", ctx.run_id, ttl="1h")
    ctx.step.sleep("pause", "1m")
    return ctx.state.get("hits")


@stackshift_jobs.job("locks")
def locks(ctx: Context) -> str:
    """Hold a lock for ten minutes; return the time at the end."""
    with ctx.state.lock("index"):
        ctx.step.sleep("work", "10m")
    return f"{ctx.now():%H:%M}"


BOTH = pytest.mark.parametrize("job", ["waits", "waitsAsync"])


def test_wait_for_an_entry_moves_the_clock(stackshift: Stackshift) -> None:
    """To the write, or to the end of the wait."""

    @stackshift.job("setsLater")
    def sets_later(ctx: Context) -> None:
        ctx.step.sleep("a while", "10m")
        ctx.state.set("ready", 1)

    began = stackshift.now
    stackshift.start("setsLater")
    assert stackshift.state.get("ready", wait="1h") == 1
    assert stackshift.now - began == timedelta(minutes=10)
    assert stackshift.state.get("never", "none", wait="1h") == "none"
    assert stackshift.now - began == timedelta(minutes=70)


@BOTH
def test_event_resumes_the_run_that_waits(stackshift: Stackshift, job: str) -> None:
    """The run resumes at once, and the answer says which runs were resumed."""
    run = stackshift.start(job, "fail")
    assert run.waiting_for is not None
    assert run.waiting_for["kind"] == "event"
    assert run.waiting_for["until"] == "2026-01-06T09:00:00.000000Z"
    other = stackshift.events.send("email.verified", {"n": 1}, correlation_key="user:2")
    assert (run.status, other.resumed) == ("waiting", [])
    sent = stackshift.events.send("email.verified", {"n": 2}, correlation_key="user:1")
    assert sent.resumed == [run.id]
    assert run.result == {"payload": {"n": 2}, "timed_out": False}


@BOTH
def test_event_that_came_before_is_kept_for_its_wait(stackshift: Stackshift, job: str) -> None:
    """An event without a waiting run is kept for one until it expires."""
    sent = stackshift.events.send("email.verified", 1, correlation_key="user:1", ttl="1h")
    assert sent.kept_until == datetime(2026, 1, 5, 10, tzinfo=UTC)
    assert stackshift.start(job, "fail").result == {"payload": 1, "timed_out": False}
    stackshift.events.send("email.verified", 2, correlation_key="user:1", ttl="1h")
    stackshift.advance("1h")
    assert stackshift.start(job, "fail").status == "waiting"


@BOTH
@pytest.mark.parametrize(
    ("on_timeout", "status"),
    [("fail", "failed"), ("continue", "completed"), ("cancel", "cancelled")],
)
def test_wait_times_out_at_its_time(
    stackshift: Stackshift, job: str, on_timeout: str, status: str
) -> None:
    """A wait times out at its time, and then does what its `on_timeout` says."""
    run = stackshift.start(job, on_timeout)
    stackshift.advance("23h59m")
    assert run.status == "waiting"
    stackshift.advance("24h")
    assert run.status == status
    assert run.json["finished_at"] == "2026-01-06T09:00:00.000000Z"
    if on_timeout == "fail":
        assert run.error is not None
        assert run.error["type"] == "TimeoutError"
    if on_timeout == "continue":
        assert run.result == {"payload": None, "timed_out": True}


def test_state_is_read_and_written_by_tests_and_jobs_alike(stackshift: Stackshift) -> None:
    """Versions, conditions and expiry work, by the test's clock."""
    stackshift.state.set("hits", 10)
    run = stackshift.start("counts")
    assert stackshift.state.get("hits") == 13
    assert stackshift.state.get("last") == run.id
    entry = stackshift.state.entry("last")
    assert entry is not None
    assert (entry.version, entry.updated_by) == (1, run.id)
    with pytest.raises(Conflict):
        stackshift.state.set("hits", 0, if_version=1)
    stackshift.advance("59m")
    assert run.result == 13
    assert stackshift.state.get("last") == run.id
    stackshift.advance("1m")
    assert stackshift.state.get("last", "gone") == "gone"
    later = stackshift.start("counts", delay="1h")
    assert [each.kind for each in stackshift.state.history("hits")] == [
        "incremented",
        "incremented",
        "incremented",
        "set",
    ]
    assert [each.key for each in stackshift.state.list()] == ["hits"]
    assert stackshift_jobs.state.get("hits") == 13
    assert later.status == "scheduled"  # to look moves no clock


@pytest.mark.parametrize("when", ["before_record", "after_record"])
@pytest.mark.parametrize("which", ["", "#2", "#3"])
def test_write_of_a_run_happens_once_though_its_worker_dies(
    stackshift: Stackshift, which: str, when: str
) -> None:
    """A write happens exactly once, whether the worker dies before or after its record."""
    with stackshift.crashing(f"[state.increment hits]{which}", when):
        run = stackshift.start("counts")
    assert "attempt.lost" in run.kinds
    assert run.finish().result == 3
    stackshift.restart()
    assert stackshift.state.get("hits") == 3


@pytest.mark.parametrize("when", ["before_record", "after_record"])
def test_event_of_a_run_is_sent_once_though_its_worker_dies(
    stackshift: Stackshift, when: str
) -> None:
    """The event and the fact that this run has sent it are a single record."""

    @stackshift.job("sends")
    async def sends(ctx: AsyncContext) -> Any:
        return (await ctx.events.send("ready", ctx.payload)).resumed

    @stackshift.job("listens")
    def listens(ctx: Context) -> Any:
        return ctx.step.wait_for_event("ready").payload

    listening = stackshift.start("listens")
    with stackshift.crashing("[event.send ready]", when):
        run = stackshift.start("sends", 7)
    assert (run.result, listening.result) == ([listening.id], 7)
    assert stackshift.call("event.list")["events"] == []


def test_runs_that_want_one_lock_take_turns(stackshift: Stackshift) -> None:
    """They get the lock in the order in which they asked, as the clock moves."""
    first, second, third = (stackshift.start("locks") for _ in range(3))
    assert second.waiting_for is not None
    assert (second.waiting_for["kind"], second.waiting_for["lock"]) == ("lock", "index")
    assert second.waiting_for["owner"] == first.id
    stackshift.restart()
    stackshift.advance("30m")
    assert [run.result for run in (first, second, third)] == ["09:10", "09:20", "09:30"]


def test_test_waits_for_a_lock_by_its_own_clock(stackshift: Stackshift) -> None:
    """It waits at most as long as it says, and no longer than necessary."""
    run = stackshift.start("locks")
    with pytest.raises(LockHeld), stackshift.state.lock("index", ttl="1m"):
        pytest.fail("not reached")
    with pytest.raises(LockHeld), stackshift.state.lock("index", ttl="1m", wait="4m"):
        pytest.fail("not reached")
    assert f"{stackshift.now:%H:%M}" == "09:04"
    with stackshift.state.lock("index", ttl="1m", wait="1h") as lock:
        assert f"{stackshift.now:%H:%M}" == "09:10"
        assert run.status == "completed"
        assert lock.expires_at == datetime(2026, 1, 5, 9, 11, tzinfo=UTC)
        waiting = stackshift.start("locks")
        assert waiting.status == "waiting"
    assert waiting.finish().result == "09:20"


def test_lock_of_a_test_runs_out(stackshift: Stackshift) -> None:
    """The run that waits for it then gets it, and the test is told that its lock expired."""
    with pytest.raises(LockLost), stackshift.state.lock("index", ttl="1m"):
        run = stackshift.start("locks")
        stackshift.advance("1m")
        assert run.steps["[lock index]"].status == "completed"
    assert run.finish().status == "completed"
