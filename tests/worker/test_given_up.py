"""Calls that are given up in the middle of something: within locks, in races, with an attempt."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from stackshift_jobs import AsyncJobContext, Retry
from stackshift_jobs.testing import Run, Stackshift

Context = AsyncJobContext[Any]
ONCE = Retry(max_attempts=1)
THRICE = Retry(max_attempts=3, backoff="5m", jitter=0)


def steps(stackshift: Stackshift, run: Run, kind: str) -> list[str | None]:
    """The steps of the records of one kind of a run."""
    records = [record for record in stackshift.journal if record.get("run") == run.id]
    return [record.get("step") for record in records if record["kind"] == kind]


def test_limit_in_the_block_of_a_lock_is_no_change_of_the_code(stackshift: Stackshift) -> None:
    """A call that was withdrawn in a block that was left since is made and given up again."""

    @stackshift.job("h", retry=ONCE)
    async def h(ctx: Context) -> str:
        async with ctx.state.lock("k"):
            try:
                async with asyncio.timeout(60):
                    await ctx.step.wait_for_event("e")
            except TimeoutError:
                pass
        await ctx.step.sleep("later", "1h")
        return "fine"

    run = stackshift.start("h")
    stackshift.advance("1d")
    assert run.result == "fine", run.error


def test_release_that_is_given_up_keeps_what_was_recorded_in_the_block(
    stackshift: Stackshift,
) -> None:
    """Two limits around a lock are due at once: every pass sees the same of it."""
    passes: list[list[str]] = []

    @stackshift.job("h", retry=ONCE)
    async def h(ctx: Context) -> list[str]:
        seen: list[str] = []
        passes.append(seen)
        try:
            async with asyncio.timeout(20):
                try:
                    async with asyncio.timeout(10), ctx.state.lock("k"):
                        await ctx.step.wait_for_event("x")
                        seen.append("x")
                        await ctx.step.wait_for_event("y")
                except TimeoutError:
                    seen.append("inner")
        except TimeoutError:
            seen.append("outer")
        await ctx.step.sleep("later", "1h")
        return seen

    run = stackshift.start("h")
    stackshift.events.send("x")
    stackshift.call("queue.pause", queue="default")
    stackshift.advance("1m")
    stackshift.call("queue.resume", queue="default")
    stackshift.advance("1d")
    assert run.status == "completed"
    assert all(seen == run.result for seen in passes[2:])
    assert "[lock k]" not in steps(stackshift, run, "call.withdrawn")


def test_limit_that_was_left_does_not_end_the_next_attempt(stackshift: Stackshift) -> None:
    """What a failed attempt had given up is withdrawn before it is tried again."""
    tried: list[int] = []

    async def flaky() -> None:
        tried.append(1)
        if len(tried) == 1:
            raise ConnectionError("not yet")

    @stackshift.job("h", retry=THRICE)
    async def h(ctx: Context) -> str:
        async with asyncio.timeout(60):
            await ctx.step.sleep("soon", "10s")
            await ctx.step.run("flaky", flaky)
        return "fine"

    run = stackshift.start("h")
    stackshift.advance("1h")
    assert run.result == "fine", run.error
    assert len(tried) == 2


async def _in_group(ctx: Context) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await ctx.step.wait_for_event("e")

    async with asyncio.TaskGroup() as group:
        group.create_task(limited())


async def _as_completed(ctx: Context) -> None:
    for each in asyncio.as_completed([ctx.step.wait_for_event("e")], timeout=60):
        await each


async def _as_cause(ctx: Context) -> None:
    try:
        async with asyncio.timeout(60):
            await ctx.step.wait_for_event("e")
    except TimeoutError as late:
        raise ConnectionError("nobody came") from late


@pytest.mark.parametrize("limited", [_in_group, _as_completed, _as_cause])
def test_limit_that_failed_an_attempt_is_found_wherever_it_was(
    stackshift: Stackshift, limited: Any
) -> None:
    """The next attempt has its whole time again."""

    @stackshift.job("h", retry=THRICE)
    async def h(ctx: Context) -> None:
        await limited(ctx)

    run = stackshift.start("h")
    stackshift.advance("6m10s")
    assert (run.status, run.attempt) == ("waiting", 2), run.error


def test_loser_of_a_race_keeps_no_event(stackshift: Stackshift) -> None:
    """Both had come when the race began; the second goes to the next wait."""

    @stackshift.job("races", retry=ONCE)
    async def races(ctx: Context) -> Any:
        first = ctx.step.first(
            "decision", a=ctx.step.wait_for_event("e1"), b=ctx.step.wait_for_event("e2")
        )
        return (await first)[0]

    @stackshift.job("waits", retry=ONCE)
    async def waits(ctx: Context) -> Any:
        return (await ctx.step.wait_for_event("e2")).payload

    stackshift.events.send("e1", 1)
    stackshift.events.send("e2", 2)
    assert stackshift.start("races").result == "a"
    assert stackshift.start("waits").result == 2


def test_call_that_cannot_be_sent_fails_at_the_same_place_on_every_pass(
    stackshift: Stackshift,
) -> None:
    """What the daemon could not even be asked for is an error of the call, before anything else
    happens, and not only once the outcomes on record have been seen."""
    passes: list[list[str]] = []

    @stackshift.job("h", retry=ONCE)
    async def h(ctx: Context) -> list[str]:
        seen: list[str] = []
        passes.append(seen)

        async def waits() -> None:
            await ctx.step.sleep("soon", "1m")
            seen.append("soon")

        async def starts(name: str, job: str, **options: Any) -> None:
            try:
                await ctx.step.start(job, name=name, **options)
            except Exception as error:
                seen.append(f"{name}: {type(error).__name__}")

        async with asyncio.TaskGroup() as group:
            group.create_task(waits())
            group.create_task(starts("label", "h", labels={"x": "\ud800"}))
            group.create_task(starts("job", "h\ud800"))
        await ctx.step.sleep("later", "1h")
        return seen

    run = stackshift.start("h")
    stackshift.advance("1d")
    assert run.result == ["label: PayloadRefused", "job: Usage", "soon"], run.error
    assert all(seen == run.result[: len(seen)] for seen in passes)


def test_time_of_the_loop_after_a_lock_is_the_same_on_every_pass(stackshift: Stackshift) -> None:
    """`loop.time()` after the block of a lock does not tell the first pass from the others."""
    times: list[float] = []

    @stackshift.job("h", retry=ONCE)
    async def h(ctx: Context) -> None:
        async with ctx.state.lock("k"):
            await ctx.step.run("slow", slow)
        times.append(asyncio.get_running_loop().time())
        await ctx.step.sleep("later", "1h")

    async def slow() -> None:
        stackshift._bench.clock.us += 5_000_000

    stackshift.start("h")
    stackshift.advance("1d")
    assert len(times) == 2
    assert times[0] == times[1]


def test_result_of_a_step_that_outlives_its_attempt_is_recorded(stackshift: Stackshift) -> None:
    """A `def` step still runs on its thread when another branch fails the attempt: the next attempt
    finds its result."""
    began, failed = threading.Event(), threading.Event()
    calls: list[str] = []

    def slow() -> str:
        calls.append("slow")
        began.set()
        assert failed.wait(10)
        return "slow"

    @stackshift.job("h", retry=THRICE)
    async def h(ctx: Context) -> list[str]:
        async def fails() -> str:
            await ctx.step.run("begins", began.wait, 10)
            if ctx.attempt == 1:
                failed.set()
                raise ConnectionError("once")
            return "fine"

        return list(await asyncio.gather(ctx.step.run("slow", slow), fails()))

    run = stackshift.start("h")
    stackshift.advance("1h")
    assert run.result == ["slow", "fine"], run.error
    assert calls == ["slow"]
