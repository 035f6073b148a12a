"""One pass of a handler in which nothing happens."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from msgspec import Raw

from stackshift_jobs import AsyncJobContext, JobContext
from stackshift_jobs.registry import registry
from stackshift_jobs.testing import Stackshift
from stackshiftd.worker.frames import Execute, Recall
from stackshiftd.worker.rehearsal import Asked, Rehearsal, rehearse

Context = JobContext[Any]
AsyncContext = AsyncJobContext[Any]
DONE = Recall("run_1", "a", "run", "completed", Raw(b"1"), seq=2, at_us=1)


def rehearsed(
    stackshift: Stackshift,
    handler: Callable[..., Any],
    *recalls: Recall,
    seconds: float = 60.0,
) -> Rehearsal:
    """A rehearsal of `handler` over `recalls`."""
    stackshift.job(handler.__name__)(handler)
    order = Execute("run_1", 1, handler.__name__, "default", 1, Raw(b"{}"))
    return rehearse(registry[handler.__name__], order, list(recalls), seconds=seconds)


def forbidden() -> None:
    """The function of a step, which no rehearsal calls."""
    raise AssertionError("the function of a step was called")


def test_calls_of_each_kind_are_noted_and_not_made(stackshift: Stackshift) -> None:
    """An async handler asks for all that its branches ask for, in order."""

    async def handler(ctx: AsyncContext) -> None:
        await asyncio.gather(
            ctx.step.run("step", forbidden),
            ctx.step.sleep("sleep", "1h"),
            ctx.step.wait_for_event("event"),
            ctx.step.call("job", name="call"),
            ctx.step.start("job", name="start"),
            ctx.step.result("run_2"),
            ctx.state.set("k", 1),
            ctx.now(),
            asyncio.sleep(5),
        )

    did = rehearsed(stackshift, handler)
    assert [(asked.step, asked.kind) for asked in did.asked] == [
        ("step", "run"),
        ("sleep", "sleep"),
        ("event", "event"),
        ("call", "child"),
        ("start", "start"),
        ("result", "child"),
        ("[state.set k]", "value"),
        ("now/[now]", "value"),
    ]
    assert len(did.timers) == 1
    assert (did.unasked, did.result, did.error) == ([], None, None)
    assert (did.stopped, did.waits) == (False, False)
    assert stackshift.runs == []


@pytest.mark.parametrize("swallows", [False, True])
def test_def_handler_asks_for_one_call(stackshift: Stackshift, swallows: bool) -> None:
    """What it asks for after it has swallowed the exception that unwinds it does not count."""

    def handler(ctx: Context) -> None:
        try:
            ctx.step.run("a", forbidden)
        except BaseException:
            if not swallows:
                raise
        ctx.step.run("b", forbidden)

    did = rehearsed(stackshift, handler)
    assert did.asked == [Asked("a", "run")]


def test_items_of_a_map_in_a_def_handler_are_all_asked_for(stackshift: Stackshift) -> None:
    """None of them hides another, nor does one that waits for its next try."""

    def handler(ctx: Context) -> None:
        ctx.step.map("m", str, range(4), concurrency=2)

    waits = Recall("run_1", "m[0]", "run", "retrying", seq=2, at_us=1, tried=1, due_us=9)
    did = rehearsed(stackshift, handler, waits)
    assert sorted(asked.step for asked in did.asked) == ["m[1]", "m[2]", "m[3]"]


def test_pass_ends_as_its_handler_does(stackshift: Stackshift) -> None:
    """It returns JSON, raises, or waits for what is on record."""

    def returns(ctx: Context) -> Any:
        return {"a": ctx.step.run("a", forbidden)}

    async def raises(ctx: AsyncContext) -> Any:
        raise ValueError(await ctx.step.run("a", forbidden))

    def waits(ctx: Context) -> None:
        ctx.step.run("a", forbidden)
        ctx.step.sleep("nap", "1h")

    nap = Recall("run_1", "nap", "sleep", "waiting", seq=3, due_us=9)
    assert rehearsed(stackshift, returns, DONE).result == b'{"a":1}'
    error = rehearsed(stackshift, raises, DONE).error
    assert error is not None
    assert (error.type, error.message) == ("ValueError", "1")
    did = rehearsed(stackshift, waits, DONE, nap)
    assert (did.waits, did.asked, did.unasked) == (True, [], [])


@pytest.mark.parametrize("is_async", [False, True])
def test_calls_on_record_that_are_not_made_are_named(
    stackshift: Stackshift, is_async: bool
) -> None:
    """As after an edit of the code."""

    def handler(ctx: Context) -> None:
        ctx.step.run("b", forbidden)

    async def async_handler(ctx: AsyncContext) -> None:
        await ctx.step.run("b", forbidden)

    did = rehearsed(stackshift, async_handler if is_async else handler, DONE)
    assert (did.asked, did.unasked) == ([Asked("b", "run")], ["a"])


@pytest.mark.parametrize("is_async", [False, True])
def test_handler_that_blocks_is_left_behind_and_unwound(
    stackshift: Stackshift, is_async: bool
) -> None:
    """Its calls on `ctx` do nothing any more once it goes on."""
    release, went_on = threading.Event(), threading.Event()
    answers: list[object] = []

    def handler(ctx: Context) -> None:
        release.wait()
        try:
            answers.append(ctx.step.run("a", int))
        finally:
            went_on.set()

    async def async_handler(ctx: AsyncContext) -> None:
        release.wait()
        went_on.set()
        answers.append(await ctx.step.run("a", int))

    did = rehearsed(stackshift, async_handler if is_async else handler, seconds=0.05)
    release.set()
    assert went_on.wait(60)
    assert (did.stopped, did.asked, answers) == (True, [], [])


def test_async_handler_that_never_comes_to_rest_fails(stackshift: Stackshift) -> None:
    """After a bounded number of turns."""

    async def handler(_ctx: AsyncContext) -> None:
        while True:
            await asyncio.sleep(0)

    error = rehearsed(stackshift, handler).error
    assert error is not None
    assert error.type == "ReplayError"
