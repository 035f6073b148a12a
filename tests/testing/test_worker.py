"""Handlers behave in a test as they do in a worker."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from typing import Any

import pytest

from stackshift_jobs import AsyncJobContext, JobContext, Retry, StepFailed, registry
from stackshift_jobs.testing import Stackshift
from stackshiftd.testing import bench
from stackshiftd.testing.fixture import opened

Context = JobContext[Any]
AsyncContext = AsyncJobContext[Any]
ONCE = Retry(max_attempts=1)


def test_values_go_through_json(stackshift: Stackshift) -> None:
    """A tuple is a list even on the first pass, and a value that is not JSON fails its step."""

    @stackshift.job("shapes", retry=ONCE)
    def shapes(ctx: Context) -> Any:
        pair: Any = ctx.step.run("pair", lambda: (1, {2: "two"}))
        assert pair == [1, {"2": "two"}]
        return ctx.step.run("set", lambda: {1, 2})

    run = stackshift.start("shapes")
    assert run.steps["pair"].result == [1, {"2": "two"}]
    assert run.status == "failed"
    assert run.steps["set"].status == "failed"


def test_handler_that_does_not_survive_replay_fails(stackshift: Stackshift) -> None:
    """Every wait suspends and replays the handler, even the shortest."""
    passes: list[int] = []

    @stackshift.job("swallows", retry=ONCE)
    def swallows(ctx: Context) -> None:
        passes.append(1)
        try:
            ctx.step.sleep("moment", "1ms")
        except BaseException:
            return

    @stackshift.job("naps")
    def naps(ctx: Context) -> int:
        passes.append(1)
        ctx.step.sleep("moment", "1ms")
        return len(passes)

    run = stackshift.start("swallows").finish()
    assert run.error is not None
    assert run.error["type"] == "ReplayError"
    passes.clear()
    assert stackshift.start("naps").finish().result == 2


@pytest.mark.parametrize("is_async", [False, True])
def test_timeout_of_a_step_counts_real_time(stackshift: Stackshift, is_async: bool) -> None:
    """A function that takes too long fails with `TimeoutError`, and its worker is replaced."""
    ends = threading.Event()

    def slow() -> None:
        ends.wait(30)

    if is_async:

        @stackshift.job("slow")
        async def awaits(ctx: AsyncContext) -> str:
            try:
                await ctx.step.run("slow", asyncio.sleep, 30, timeout="50ms")
            except StepFailed as failed:
                return failed.type
            return "not reached"
    else:

        @stackshift.job("slow")
        def blocks(ctx: Context) -> str:
            try:
                ctx.step.run("slow", slow, timeout="50ms")
            except StepFailed as failed:
                return failed.type
            return "not reached"

    @stackshift.job("quick")
    def quick(_ctx: Context) -> str:
        return "yes"

    ending = threading.Timer(0.3, ends.set)
    ending.start()
    assert stackshift.start("slow").finish().result == "TimeoutError"
    assert stackshift.start("quick").result == "yes"
    ending.join()


def test_programs_and_threads_may_be_used(stackshift: Stackshift) -> None:
    """`step.command` runs programs, and a map runs on threads."""
    seen: set[str] = set()

    def note(number: int) -> int:
        seen.add(threading.current_thread().name)
        return number * 2

    @stackshift.job("mixed")
    def mixed(ctx: Context) -> Any:
        told = ctx.step.command("say", [sys.executable, "-c", "print('said')"])
        ctx.progress(1, 2, "half")
        return [told["stdout"].strip(), *ctx.step.map("double", note, range(5))]

    assert stackshift.start("mixed").result == ["said", 0, 2, 4, 6, 8]
    assert threading.current_thread().name not in seen


def test_run_may_cancel_itself(stackshift: Stackshift) -> None:
    """A run that cancels itself through the client, in a step, ends there."""
    reached: list[str] = []

    @stackshift.job("quits")
    def quits(ctx: Context) -> None:
        ctx.step.run("quit", lambda: stackshift.run(ctx.run_id).cancel())
        reached.append("on")

    @stackshift.job("lives")
    def lives(_ctx: Context) -> str:
        return "yes"

    assert stackshift.start("quits").status == "cancelled"
    assert reached == []
    assert stackshift.start("lives").result == "yes"


def test_output_is_pytest_s_to_capture(
    stackshift: Stackshift, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """What handlers print and log is captured by pytest."""

    @stackshift.job("talks")
    def talks(ctx: Context) -> None:
        print("printed")
        ctx.log.warning("logged for %s", ctx.run_id)

    run = stackshift.start("talks")
    assert capsys.readouterr().out == "printed\n"
    assert f"logged for {run.id}" in caplog.text


def test_fixture_works_in_a_test_that_has_a_loop(stackshift: Stackshift) -> None:
    """The fixture's own loops are on other threads."""

    @stackshift.job("doubles")
    async def doubles(ctx: AsyncContext) -> int:
        await asyncio.sleep(0)
        return int(ctx.payload) * 2

    async def main() -> Any:
        return stackshift.start("doubles", 21).result

    assert asyncio.run(main()) == 42


def test_job_that_starts_itself_without_end_fails_the_test(
    stackshift: Stackshift, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No time passes between its runs, so waiting for it would never end."""
    monkeypatch.setattr(bench, "MAX_RECORDS", 100)

    @stackshift.job("again")
    def again(ctx: Context) -> None:
        ctx.step.start("again")

    with pytest.raises(AssertionError, match="does a job start itself"):
        stackshift.start("again")


def test_code_may_change_in_a_test(stackshift: Stackshift) -> None:
    """A run in progress continues with the new code; what is recorded stays."""

    def version(number: int) -> None:
        @stackshift.job("changes")
        def changes(ctx: Context) -> list[int]:
            first = ctx.step.run("first", lambda: number)
            ctx.step.sleep("pause", "1h")
            return [first, ctx.step.run("second", lambda: number)]

    version(1)
    run = stackshift.start("changes")
    version(2)
    assert run.finish().result == [1, 2]


def test_nothing_is_left_behind() -> None:
    """After a test no thread is left, and the SDK's functions have no client any more."""
    before = set(threading.enumerate())
    for _ in range(3):
        with opened(None, own_module=__name__, own_jobs={}) as stackshift:

            @stackshift.job("works")
            def works(ctx: Context) -> list[int]:
                ctx.step.sleep("pause", "1h")
                return ctx.step.map("each", lambda n: n, [1, 2, 3])

            assert stackshift.start(works).finish().result == [1, 2, 3]
    until = time.monotonic() + 10
    while set(threading.enumerate()) - before and time.monotonic() < until:
        threading.Event().wait(0.01)
    assert set(threading.enumerate()) <= before
    assert "works" not in registry.registry
