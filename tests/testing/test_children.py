"""Calls of other jobs that take too long, and children that end with their parent."""

from __future__ import annotations

from typing import Any

import pytest

from stackshift_jobs import AsyncJobContext, JobContext, Retry
from stackshift_jobs.testing import Run, Stackshift

Context = JobContext[Any]
AsyncContext = AsyncJobContext[Any]
ONCE = Retry(max_attempts=1)
BOTH = pytest.mark.parametrize("job", ["asks", "asksAwaited"])


@pytest.fixture(autouse=True)
def jobs(stackshift: Stackshift) -> None:
    """`asks` and `asksAwaited` call `slow`, which takes an hour."""

    @stackshift.job("slow")
    def slow(ctx: Context) -> str:
        ctx.step.sleep("hour", "1h")
        return "slow"

    @stackshift.job("asks")
    def asks(ctx: Context) -> list[Any]:
        told = ctx.step.call("slow", timeout="10m", **ctx.payload)
        return [told, ctx.step.run("after", lambda: "went on")]

    @stackshift.job("asksAwaited")
    async def asks_awaited(ctx: AsyncContext) -> list[Any]:
        told = await ctx.step.call("slow", timeout="10m", **ctx.payload)
        return [told, await ctx.step.run("after", lambda: "went on")]


def child_of(stackshift: Stackshift, run: Run) -> Run:
    """The one run that `run` has started."""
    (child,) = (each for each in stackshift.runs if each.json["parent"] == run.id)
    return child


@BOTH
def test_call_that_is_late_fails_the_run(stackshift: Stackshift, job: str) -> None:
    """Unless it is told otherwise; the child is cancelled."""
    run = stackshift.start(job)
    assert run.waiting_for is not None
    assert run.waiting_for["until"] == "2026-01-05T09:10:00.000000Z"
    assert "until 2026-01-05T09:10:00Z" in run.why
    stackshift.advance("10m")
    assert (run.status, run.attempt) == ("failed", 1)
    assert run.error is not None
    child = child_of(stackshift, run)
    assert run.error["message"] == f"'slow' waited for {child.id}, which had not ended in time"
    assert child.status == "cancelled"


@BOTH
def test_handler_may_go_on_without_the_result(stackshift: Stackshift, job: str) -> None:
    """It gets None, on every pass; the timeline says that the call timed out."""
    run = stackshift.start(job, {"on_timeout": "continue"})
    stackshift.advance("10m")
    assert (run.status, run.result) == ("completed", [None, "went on"])
    step = run.json["steps"][0]
    child = child_of(stackshift, run)
    assert (step["name"], step["status"], step["child"]) == ("slow", "completed", child.id)
    assert step["detail"].startswith("timed out")
    assert child.status == "cancelled"


@BOTH
def test_run_may_be_cancelled_with_a_late_child(stackshift: Stackshift, job: str) -> None:
    """Both are, at that time."""
    run = stackshift.start(job, {"on_timeout": "cancel"})
    stackshift.advance("10m")
    assert {each.status for each in stackshift.runs} == {"cancelled"}
    assert run.why == "cancelled: its wait timed out"


@pytest.mark.parametrize("option", [{"on_timeout": "wait"}, {"timeout": "soon"}])
def test_limit_that_makes_no_sense_is_refused(stackshift: Stackshift, option: Any) -> None:
    """Nothing is started."""

    @stackshift.job("wrong", retry=ONCE)
    def wrong(ctx: Context) -> Any:
        return ctx.step.call("wrong", **option)

    run = stackshift.start("wrong")
    assert run.error is not None
    assert (run.error["type"], len(stackshift.runs)) == ("Usage", 1)


def test_wait_for_a_result_may_be_limited(stackshift: Stackshift) -> None:
    """The run that was waited for goes on."""

    @stackshift.job("looks")
    async def looks(ctx: AsyncContext) -> Any:
        started = await ctx.step.start("slow")
        first = await ctx.step.result(started, timeout="1m", on_timeout="continue")
        return [first, await ctx.step.result(started, name="again")]

    run = stackshift.start("looks")
    stackshift.advance("2h")
    assert run.result == [None, "slow"]
    assert [step["child"] is not None for step in run.json["steps"]] == [True] * 3


@pytest.mark.parametrize("when", ["cancel", "leave"])
def test_child_ends_with_its_parent_or_is_left(stackshift: Stackshift, when: Any) -> None:
    """When the parent has completed."""

    @stackshift.job("leaves")
    def leaves(ctx: Context) -> str:
        return ctx.step.start("slow", when_parent_ends=when)

    run = stackshift.start("leaves")
    assert run.status == "completed"
    stackshift.advance("2h")
    child = child_of(stackshift, run)
    assert child.status == ("cancelled" if when == "cancel" else "completed")


def test_other_word_for_the_end_of_a_parent_is_refused(stackshift: Stackshift) -> None:
    """With those that there are."""

    @stackshift.job("leaves", retry=ONCE)
    def leaves(ctx: Context) -> str:
        return ctx.step.start("leaves", when_parent_ends="abandon")  # type: ignore[arg-type]

    run = stackshift.start("leaves")
    assert run.error is not None
    assert run.error["message"] == "when_parent_ends cannot be 'abandon'; hint: cancel or leave"
