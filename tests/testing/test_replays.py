"""`assert_replays`: handlers that depend on what is not on record are caught, others pass."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stackshift_jobs import AsyncJobContext, JobContext, NonRetryable, Retry
from stackshift_jobs.errors import StepFailed, Usage
from stackshift_jobs.testing import Stackshift
from stackshiftd.testing.asked import TestFailure

Context = JobContext[Any]
AsyncContext = AsyncJobContext[Any]
ONCE = Retry(max_attempts=1)


class Fickle:
    """A stand-in for clocks, chance and the order of sets: another answer each time."""

    def __init__(self, *answers: Any) -> None:
        self._answers: Iterator[Any] = itertools.chain(answers, itertools.repeat(answers[-1]))

    def __call__(self) -> Any:
        """The next answer; the last one stays."""
        return next(self._answers)


def refusal(stackshift: Stackshift, job: Callable[..., Any], payload: Any = None) -> str:
    """The difference that `assert_replays` finds."""
    with pytest.raises(TestFailure) as failure:
        stackshift.assert_replays(job, payload)
    run = stackshift.runs_of(job)[0]
    start = f"{run.id} of {run.job} does not replay: "
    text = str(failure.value)
    assert text.startswith(start)
    return text.removeprefix(start)


# --- What is caught ------------------------------------------------------------------------


def test_step_whose_name_changes_is_caught(stackshift: Stackshift) -> None:
    """The message shows the place, what is asked for and what is on record."""
    name = Fickle("a", "b")

    @stackshift.job("named")
    def named(ctx: Context) -> None:
        ctx.step.run("create-user", int)
        ctx.step.run(name(), int)

    assert refusal(stackshift, named) == (
        "after step.completed create-user the handler asked for step 'b'; on record is 'a'"
    )


def test_async_step_whose_name_changes_is_caught(stackshift: Stackshift) -> None:
    """As for a `def` handler."""
    name = Fickle("a", "b")

    @stackshift.job("named")
    async def named(ctx: AsyncContext) -> None:
        await ctx.step.run("create-user", int)
        await ctx.step.run(name(), int)

    assert refusal(stackshift, named) == (
        "after step.completed create-user the handler asked for step 'b'; on record is 'a'"
    )


def test_order_that_changes_is_caught(stackshift: Stackshift) -> None:
    """As of a set of texts, in another process."""
    order = Fickle(["x", "y"], ["y", "x"])

    @stackshift.job("ordered")
    def ordered(ctx: Context) -> None:
        for each in order():
            ctx.step.run(each, int)

    assert refusal(stackshift, ordered) == (
        "after attempt.started the handler asked for step 'y'; on record is 'x'"
    )


def test_result_that_changes_is_caught(stackshift: Stackshift) -> None:
    """All calls are the same, and only what is returned differs."""
    chance = Fickle(1, 2)

    @stackshift.job("result")
    async def result(ctx: AsyncContext) -> Any:
        await ctx.step.run("a", int)
        return {"chance": chance()}

    assert refusal(stackshift, result) == (
        'after step.completed a the handler returned {"chance":2}; '
        'on record is that it returned {"chance":1}'
    )


def test_error_that_changes_is_caught(stackshift: Stackshift) -> None:
    """The whole record must lead to the recorded error."""
    text = Fickle("first", "second")

    @stackshift.job("raises", retry=ONCE)
    def raises(ctx: Context) -> None:
        ctx.step.run("a", int)
        raise ValueError(text())

    assert refusal(stackshift, raises) == (
        "after step.completed a the handler raised ValueError: second; "
        "on record is that it raised ValueError: first"
    )


def test_branch_on_the_environment_is_caught(
    stackshift: Stackshift, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that the test has driven is replayed under another setting."""

    @stackshift.job("branches")
    async def branches(ctx: AsyncContext) -> None:
        if os.environ.get("GREETING"):
            await ctx.step.run("greet", int)

    monkeypatch.setenv("GREETING", "yes")
    run = stackshift.start(branches)
    assert stackshift.assert_replays(run) == run
    monkeypatch.delenv("GREETING")
    with pytest.raises(TestFailure, match="the handler returned null; on record is 'greet'"):
        stackshift.assert_replays(run)


def test_call_of_another_kind_is_caught(stackshift: Stackshift) -> None:
    """Before it is on record by what comes next, and after that by the replay itself."""
    sleeps = Fickle(False, True)

    @stackshift.job("kinds")
    def kinds(ctx: Context) -> None:
        if sleeps():
            ctx.step.sleep("a", "1s")
        else:
            ctx.step.run("a", int)

    assert refusal(stackshift, kinds) == (
        "after attempt.started the handler asked for sleep 'a'; on record is step 'a'"
    )


def test_replay_error_of_a_pass_is_caught(stackshift: Stackshift) -> None:
    """A record of another kind than the handler now asks for."""
    sleeps = Fickle(False, False, True)

    @stackshift.job("kinds")
    def kinds(ctx: Context) -> None:
        if sleeps():
            ctx.step.sleep("a", "1s")
        else:
            ctx.step.run("a", int)

    found = refusal(stackshift, kinds)
    assert found.startswith("after step.completed a the handler raised ReplayError: 'a' is rec")


def test_items_of_a_map_that_change_are_caught(stackshift: Stackshift) -> None:
    """Even where an item is not on record yet."""
    items = Fickle([1, 2], [1, 3])

    @stackshift.job("items")
    def mapped(ctx: Context) -> Any:
        return ctx.step.map("m", str, items(), concurrency=1)

    found = refusal(stackshift, mapped)
    assert found == (
        "after step.completed m[0] the handler asked for step 'm[1]' with another item than the "
        "one on record"
    )


def test_call_that_is_left_out_is_caught(stackshift: Stackshift) -> None:
    """Everything else, and the result, is the same."""
    asks = Fickle(True, True, False)

    @stackshift.job("leaves")
    def leaves(ctx: Context) -> None:
        if asks():
            ctx.step.run("a", int)

    assert refusal(stackshift, leaves) == (
        "after step.completed a the handler did not ask for 'a', which is on record"
    )


def test_call_that_is_nowhere_on_record_is_caught(stackshift: Stackshift) -> None:
    """Beside one that is."""
    more = Fickle([], ["c"])

    @stackshift.job("more")
    async def more_of_them(ctx: AsyncContext) -> None:
        await asyncio.gather(*(ctx.step.run(name, int) for name in ["a", *more()]))

    assert refusal(stackshift, more_of_them) == (
        "after attempt.started the handler asked for step 'c', which is nowhere on record"
    )


def test_handler_that_asks_where_it_waited_is_caught(stackshift: Stackshift) -> None:
    """The record says that the run was suspended there."""
    asks = Fickle(False, False, True)

    @stackshift.job("waits")
    async def waits(ctx: AsyncContext) -> None:
        if asks():
            await ctx.step.run("a", int)
        await ctx.step.sleep("nap", "1h")

    run = stackshift.start(waits)
    with pytest.raises(TestFailure) as failure:
        stackshift.assert_replays(run)
    assert str(failure.value).endswith(
        "after wait.started nap the handler asked for step 'a'; on record is that it waits"
    )


@pytest.mark.stackshift(patience="200ms")
def test_handler_that_blocks_is_caught(stackshift: Stackshift) -> None:
    """The pass is left behind, and the test goes on."""
    blocks = Fickle(False, True)
    forever = threading.Event()

    @stackshift.job("blocks")
    def block(ctx: Context) -> None:
        ctx.step.run("a", int)
        if blocks():
            forever.wait()

    found = refusal(stackshift, block)
    forever.set()
    assert found == ("after step.completed a the handler came to no end within 0.2 s of real time")


# --- What passes ---------------------------------------------------------------------------


def test_good_def_handler_passes_without_doing_anything_again(stackshift: Stackshift) -> None:
    """Steps, retries, maps, reads, state, locks, children, events and races, and no record more."""
    did: list[str] = []

    def flaky() -> str:
        did.append("flaky")
        if did.count("flaky") < 3:
            raise ConnectionError("not yet")
        return "done"

    @stackshift.job("child")
    def child(ctx: Context) -> Any:
        return ctx.payload["n"] + 1

    @stackshift.job("good")
    def good(ctx: Context) -> list[Any]:
        out: list[Any] = [
            ctx.step.run("flaky", flaky, retry=Retry(max_attempts=3, backoff="1m")),
            ctx.step.map("m", str, list(range(12)), concurrency=3),
            str(ctx.uuid()),
        ]
        with ctx.state.lock("index", ttl="1h"):
            out.append(ctx.state.increment("counter"))
            ctx.step.sleep("nap", "10m")
        out.append(ctx.step.call("child", {"n": 1}))
        ctx.step.start("child", {"n": 2}, name="other")
        with pytest.raises(StepFailed):
            ctx.step.run("fails", int, "no number")
        ctx.events.send("answer", 7)
        out.append(ctx.step.wait_for_event("answer").payload)
        out.append(
            ctx.step.first(
                "decision",
                late=lambda: ctx.step.sleep("late", "2h"),
                soon=lambda: ctx.step.sleep("soon", "1h"),
            )
        )
        return [*out, ctx.now().isoformat()]

    run = stackshift.assert_replays(good)
    assert run.status == "completed"
    before = (len(did), len(stackshift.journal))
    stackshift.assert_replays(run)
    assert (len(did), len(stackshift.journal)) == before


def test_good_async_handler_passes_without_doing_anything_again(stackshift: Stackshift) -> None:
    """Branches, limits, timers, withdrawals, locks, children, events and races."""
    did: list[int] = []

    @stackshift.job("child")
    async def child(ctx: AsyncContext) -> Any:
        await ctx.step.sleep("nap", "1h")
        return ctx.payload["n"] + 1

    @stackshift.job("good")
    async def good(ctx: AsyncContext) -> list[Any]:
        limit = asyncio.Semaphore(2)

        async def page(number: int) -> Any:
            async with limit:
                await ctx.step.run("fetch", did.append, number)
                await asyncio.sleep(60 * number)
                async with ctx.state.lock("index", ttl="1h"):
                    return await ctx.state.increment("pages")

        out: list[Any] = [await asyncio.gather(*map(page, range(4)))]
        try:
            async with asyncio.timeout(5):
                await ctx.step.wait_for_event("never")
        except TimeoutError:
            out.append("late")
        out.append(await ctx.step.call("child", {"n": 1}))
        await ctx.events.send("answer", 7)
        out.append((await ctx.step.wait_for_event("answer")).payload)
        out.append(
            await ctx.step.first(
                "decision",
                event=ctx.step.wait_for_event("never"),
                soon=ctx.step.sleep("soon", "1h"),
            )
        )
        return [*out, (await ctx.now()).isoformat(), await ctx.step.map("m", str, [1, 2, 3])]

    run = stackshift.assert_replays(good)
    assert run.status == "completed", run.error
    before = (len(did), len(stackshift.journal))
    stackshift.assert_replays(run)
    assert (len(did), len(stackshift.journal)) == before


@pytest.mark.parametrize("when", ["before_step", "before_record", "after_record"])
def test_run_that_has_crashed_and_been_retried_passes(stackshift: Stackshift, when: str) -> None:
    """Each attempt is replayed with what was on record in it."""
    tries: list[int] = []

    def b() -> int:
        tries.append(1)
        return len(tries)

    @stackshift.job("fails", retry=Retry(max_attempts=2, backoff="1m"))
    def fails(ctx: Context) -> Any:
        ctx.step.run("a", int)
        if ctx.step.run("b", b) and ctx.attempt == 1:
            raise ValueError("once")
        return ctx.attempt

    with stackshift.crashing("a", when):
        run = stackshift.assert_replays(fails)
    assert run.status == "completed"
    assert "attempt.lost" in run.kinds


@pytest.mark.parametrize("retryable", [True, False])
def test_run_that_fails_for_good_passes(stackshift: Stackshift, retryable: bool) -> None:
    """It raises the recorded error; a call beside it that was under way is no difference."""

    @stackshift.job("fails", retry=Retry(max_attempts=2, backoff="1m"))
    async def fails(ctx: AsyncContext) -> None:
        async def bad() -> None:
            raise ValueError("no") if retryable else NonRetryable("no")

        async def slow() -> None:
            await asyncio.Event().wait()

        await asyncio.gather(ctx.step.run("slow", slow), ctx.step.run("bad", bad))

    assert stackshift.assert_replays(fails).status == "failed"


def test_run_that_waits_is_replayed_as_far_as_it_is(stackshift: Stackshift) -> None:
    """Events are for the test to send: it brings the run along, and hands it over."""

    @stackshift.job("answers")
    async def answers(ctx: AsyncContext) -> list[Any]:
        return [(await ctx.step.wait_for_event("answer")).payload for _ in range(2)]

    with pytest.raises(TestFailure, match="does not end by itself"):
        stackshift.assert_replays(answers)
    run = stackshift.start(answers)
    stackshift.events.send("answer", 1)
    assert stackshift.assert_replays(run).status == "waiting"
    stackshift.events.send("answer", 2)
    stackshift.events.send("answer", 3)
    assert stackshift.assert_replays(run).status == "completed"


def test_wait_that_times_out_and_fails_the_run_is_no_difference(stackshift: Stackshift) -> None:
    """The daemon has ended the run, not the handler."""

    @stackshift.job("late")
    def late(ctx: Context) -> None:
        ctx.step.wait_for_event("answer", timeout="1h", on_timeout="fail")

    assert stackshift.assert_replays(late).status == "failed"


def test_result_that_lands_as_its_branch_is_cancelled_is_no_difference(
    stackshift: Stackshift,
) -> None:
    """The step that ends the wait is recorded after the outcome by which it is given up."""

    async def sends(_item: int) -> None:
        stackshift.events.send("stop")

    @stackshift.job("h")
    async def h(ctx: AsyncJobContext[Any]) -> str:
        mapped = asyncio.ensure_future(ctx.step.map("item", sends, [1, 2]))
        await ctx.step.wait_for_event("stop")
        mapped.cancel()
        await asyncio.wait([mapped])
        await ctx.step.sleep("pause", "1h")
        return "stopped"

    run = stackshift.assert_replays("h")
    assert run.result == "stopped"
    kinds = run.kinds
    assert kinds.index("step.completed") > kinds.index("wait.ended")


def test_payload_and_options_are_those_of_start(stackshift: Stackshift) -> None:
    """And make no sense for a run that exists."""

    @stackshift.job("echo")
    def echo(ctx: Context) -> Any:
        return json.dumps(ctx.payload)

    run = stackshift.assert_replays("echo", {"n": 1}, labels={"color": "red"})
    assert (run.result, run.labels) == ('{"n": 1}', {"color": "red"})
    with pytest.raises(Usage, match="either a run, or a job"):
        stackshift.assert_replays(run, {"n": 1})
