"""`ctx.continue_as`: a loop that lives for years, as runs that follow one another
(guarantee: continued runs)."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from stackshift_jobs import AsyncJobContext, JobContext, Retry
from stackshift_jobs.testing import Run, Stackshift

Context = JobContext[Any]
AsyncContext = AsyncJobContext[Any]
ONCE = Retry(max_attempts=1)


def define(stackshift: Stackshift, *, is_async: bool) -> None:
    """The job `count`: sleep an hour, then go on with the next number, until that is 3."""
    if is_async:

        @stackshift.job("count")
        async def count_awaited(ctx: AsyncContext) -> str:
            number = await ctx.step.run("look", lambda: ctx.payload.get("number", 0))
            await ctx.step.sleep("hour", "1h")
            if number < 3:
                await ctx.continue_as({"number": number + 1})
            return f"counted to {number}"
    else:

        @stackshift.job("count")
        def count(ctx: Context) -> str:
            number: int = ctx.step.run("look", lambda: ctx.payload.get("number", 0))
            ctx.step.sleep("hour", "1h")
            if number < 3:
                ctx.continue_as({"number": number + 1})
            return f"counted to {number}"


BOTH = pytest.mark.parametrize("is_async", [False, True])


def chain(stackshift: Stackshift, first: Run) -> list[Run]:
    """The run and those as which it has continued, in order; each names the next and the last."""
    runs = [first]
    while (following := runs[-1].json["continued_as"]) is not None:
        runs.append(stackshift.run(following))
        assert runs[-1].json["continues"] == runs[-2].id
    return runs


@BOTH
def test_run_continues_as_the_next_one(stackshift: Stackshift, is_async: bool) -> None:
    """Each run has completed, and its successor has its payload, queue, priority and labels, and
    nothing on record. The last one has the result."""
    define(stackshift, is_async=is_async)
    first = stackshift.start("count", queue="slow", priority=3, labels={"of": "ada"})
    stackshift.advance("4h")
    runs = chain(stackshift, first)
    assert [run.status for run in runs] == ["completed"] * 4
    assert [run.payload for run in runs] == [{}, {"number": 1}, {"number": 2}, {"number": 3}]
    assert [run.result for run in runs] == [None, None, None, "counted to 3"]
    assert {(run.queue, run.json["priority"], run.labels["of"]) for run in runs} == {
        ("slow", 3, "ada")
    }
    assert [run.why for run in runs] == [
        *(f"continued as {run.id}" for run in runs[1:]),
        "completed",
    ]
    assert len(runs[2].kinds) == len(runs[1].kinds)


@BOTH
@pytest.mark.parametrize("when", ["before_step", "before_record", "after_record"])
def test_loop_goes_on_after_each_crash(stackshift: Stackshift, is_async: bool, when: str) -> None:
    """Wherever the worker dies, there is one successor."""
    define(stackshift, is_async=is_async)
    with stackshift.crashing("look", when, times=3):
        first = stackshift.start("count")
        stackshift.advance("4h")
    assert [run.result for run in chain(stackshift, first)] == [None, None, None, "counted to 3"]
    assert len(stackshift.runs) == 4


@BOTH
def test_call_of_a_loop_returns_what_its_last_run_returns(
    stackshift: Stackshift, is_async: bool
) -> None:
    """And `runs why` names the run that it waits for now."""
    define(stackshift, is_async=is_async)

    @stackshift.job("asks")
    def asks(ctx: Context) -> Any:
        return ctx.step.call("count", {"number": 1})

    run = stackshift.start("asks")
    stackshift.advance("90m")
    now = stackshift.runs[-1]
    assert (now.payload, now.status) == ({"number": 2}, "waiting")
    assert run.waiting_for is not None
    assert run.waiting_for["run"] == now.id
    stackshift.advance("2h")
    assert run.result == "counted to 3"


@pytest.mark.parametrize("how", ["task group", "gather", "branch"])
def test_branch_may_continue_the_run(stackshift: Stackshift, how: str) -> None:
    """Whatever else its branches wait for is given up."""

    @stackshift.job("branches")
    async def branches(ctx: AsyncContext) -> str:
        if ctx.payload.get("again"):
            return "again"

        async def waits() -> None:
            await ctx.step.wait_for_event("never")

        async def continues() -> None:
            await ctx.step.sleep("soon", "1s")
            await ctx.continue_as({"again": True})

        if how == "task group":
            async with asyncio.TaskGroup() as group:
                group.create_task(waits())
                group.create_task(continues())
        elif how == "gather":
            await asyncio.gather(waits(), continues())
        else:
            task = asyncio.create_task(waits())
            await continues()
            await task
        return "not reached"

    run = stackshift.start("branches")
    stackshift.advance("2s")
    assert [each.result for each in chain(stackshift, run)] == [None, "again"]


def test_block_of_a_lock_is_left(stackshift: Stackshift) -> None:
    """The next run can acquire it."""

    @stackshift.job("locks")
    def locks(ctx: Context) -> str:
        with ctx.state.lock("index"):
            if not ctx.payload:
                ctx.continue_as({"again": True})
            return "held"

    runs = chain(stackshift, stackshift.start("locks"))
    assert [run.result for run in runs] == [None, "held"]


@dataclasses.dataclass
class Page:
    """The payload of a job."""

    number: int


def test_payload_of_another_type_fails_the_run(stackshift: Stackshift) -> None:
    """With the path, and for good: another attempt would ask for the same."""

    @stackshift.job("typed")
    def typed(ctx: JobContext[Page]) -> None:
        ctx.continue_as({"number": "one"})

    run = stackshift.start("typed", {"number": 1})
    assert (run.status, run.attempt) == ("failed", 1)
    assert run.error is not None
    assert run.error["type"] == "PayloadRefused"
    assert "$.number" in run.error["message"]
    assert len(stackshift.runs) == 1


def test_what_json_cannot_hold_is_refused_where_it_is_asked_for(stackshift: Stackshift) -> None:
    """The handler can catch it."""

    @stackshift.job("bytes", retry=ONCE)
    def with_bytes(ctx: Context) -> None:
        ctx.continue_as({"data": b"x"})

    run = stackshift.start("bytes")
    assert run.error is not None
    assert (run.error["type"], "$.data" in run.error["message"]) == ("PayloadRefused", True)


@BOTH
def test_handler_that_goes_on_fails_with_the_reason(stackshift: Stackshift, is_async: bool) -> None:
    """A bare `except:` must not make a run of the loop the last one in silence."""

    @stackshift.job("keeps")
    def keeps(ctx: Context) -> str:
        try:
            ctx.continue_as({})
        except BaseException:
            return "went on"

    @stackshift.job("keepsAwaited")
    async def keeps_awaited(ctx: AsyncContext) -> str:
        try:
            await ctx.continue_as({})
        except BaseException:
            return "went on"

    run = stackshift.start("keepsAwaited" if is_async else "keeps")
    assert (run.status, len(stackshift.runs)) == ("failed", 1)
    assert run.error is not None
    assert "by which ctx.continue_as ends it" in run.error["message"]


def test_continuation_that_nobody_awaits_is_named(stackshift: Stackshift) -> None:
    """It would end the loop in silence."""

    @stackshift.job("forgets")
    async def forgets(ctx: AsyncContext) -> None:
        ctx.continue_as({})  # type: ignore[unused-coroutine]

    run = stackshift.start("forgets")
    assert run.error is not None
    assert "called ctx.continue_as and never awaited it" in run.error["message"]


@BOTH
def test_step_cannot_continue_its_run(stackshift: Stackshift, is_async: bool) -> None:
    """Its result would be lost."""

    @stackshift.job("inside", retry=ONCE)
    def inside(ctx: Context) -> None:
        ctx.step.run("a", lambda: ctx.continue_as({}))

    @stackshift.job("insideAwaited", retry=ONCE)
    async def inside_awaited(ctx: AsyncContext) -> None:
        async def act() -> None:
            await ctx.continue_as({})

        await ctx.step.run("a", act)

    run = stackshift.start("insideAwaited" if is_async else "inside")
    assert (run.status, len(stackshift.runs)) == ("failed", 1)
    assert run.error is not None
    assert "inside the function of step 'a'" in run.error["message"]


def test_failure_on_the_way_out_is_a_failure(stackshift: Stackshift) -> None:
    """The run has not continued: its next attempt does."""

    @stackshift.job("stumbles", retry=Retry(max_attempts=2, backoff="1s"))
    def stumbles(ctx: Context) -> str:
        if ctx.payload:
            return "continued"
        try:
            ctx.continue_as({"again": True})
        finally:
            if ctx.attempt == 1:
                raise ValueError("while cleaning up")

    run = stackshift.start("stumbles")
    assert (run.status, len(stackshift.runs)) == ("retrying", 1)
    stackshift.advance("2s")
    assert [each.result for each in chain(stackshift, run)] == [None, "continued"]
