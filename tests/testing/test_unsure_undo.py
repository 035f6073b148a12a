"""Undoing steps without a result: whose function was ended from outside, so that nobody knows what
it has done."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

import pytest

from stackshift_jobs import (
    AsyncJobContext,
    Cancelling,
    JobContext,
    NonRetryable,
    Retry,
    StepFailed,
    Undo,
)
from stackshift_jobs.testing import Run, Stackshift

Context = JobContext[Any]
AsyncContext = AsyncJobContext[Any]
ONCE = Retry(max_attempts=1)


def undone(run: Run) -> dict[str, bool | None]:
    """What can be undone, and whether it is."""
    return {s["name"]: s["undone"] for s in run.json["steps"] if s["undone"] is not None}


class World:
    """What the steps have done."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def undo(self, what: str) -> Any:
        """What undoes a step."""
        return lambda result: self.done.append(f"undo {what} {result!r}")

    def do(self, what: str) -> str:
        """What a step does."""
        self.done.append(what)
        return what


@pytest.fixture
def world() -> World:
    """A world in which nothing was done yet."""
    return World()


def stuck(world: World, what: str) -> Any:
    """A function that acts, and does not return before its try is over."""

    def act() -> None:
        world.do(what)
        threading.Event().wait(0.3)

    return act


@pytest.mark.parametrize("kind", ["def", "async", "def in async"])
def test_step_that_exceeds_its_timeout_is_undone(
    stackshift: Stackshift, world: World, kind: str
) -> None:
    """Its effect may have happened. What undoes it gets None, since there is no result."""
    if kind == "def":

        @stackshift.job("pays", retry=ONCE)
        def pays(ctx: Context) -> None:
            ctx.step.run("pack", world.do, "pack", undo=world.undo("pack"))
            act = stuck(world, "pay")
            ctx.step.run("pay", act, timeout="50ms", undo=world.undo("pay"))
    else:

        async def act_awaited() -> None:
            world.do("pay")
            await asyncio.sleep(30)

        @stackshift.job("pays", retry=ONCE)
        async def pays_awaited(ctx: AsyncContext) -> None:
            await ctx.step.run("pack", world.do, "pack", undo=world.undo("pack"))
            act = act_awaited if kind == "async" else stuck(world, "pay")
            await ctx.step.run("pay", act, timeout="50ms", undo=world.undo("pay"))

    run = stackshift.start("pays").finish()
    assert run.error is not None and run.error["type"] == "TimeoutError"
    assert world.done == ["pack", "pay", "undo pay None", "undo pack 'pack'"]
    assert undone(run) == {"pack": True, "pay": True}


@pytest.mark.parametrize("if_failed", [False, True])
def test_step_that_raises_says_itself_that_nothing_is_done(
    stackshift: Stackshift, world: World, if_failed: bool
) -> None:
    """It is not undone, unless its undo is for that, too; caught or not."""

    def fails(what: str) -> None:
        world.do(what)
        raise ConnectionError("gone")

    def undo(what: str) -> Any:
        return Undo(world.undo(what), if_failed=True) if if_failed else world.undo(what)

    @stackshift.job("pays", retry=Retry(max_attempts=2))
    def pays(ctx: Context) -> None:
        with contextlib.suppress(StepFailed):
            ctx.step.run("caught", fails, "caught", undo=undo("caught"))
        ctx.step.run("pay", fails, "pay", undo=undo("pay"))

    run = stackshift.start("pays").finish()
    assert run.status == "failed"
    wanted = ["undo pay None", "undo caught None"] if if_failed else []
    assert world.done == ["caught", "pay", "pay", *wanted]
    assert undone(run) == ({"caught": True, "pay": True} if if_failed else {})


def test_later_failure_does_not_make_an_earlier_try_certain(
    stackshift: Stackshift, world: World
) -> None:
    """The first try timed out; that the second says that it failed tells nothing of the first. A
    result does: that is what is undone then."""
    tries: list[int] = []

    async def act(ends: str) -> str:
        tries.append(1)
        if len(tries) == 1:
            await asyncio.sleep(30)
        if ends == "fails":
            raise NonRetryable("blocked")
        return "paid"

    @stackshift.job("pays", retry=ONCE)
    async def pays(ctx: AsyncContext) -> None:
        again = Retry(max_attempts=2)
        await ctx.step.run(
            "pay", act, ctx.payload, timeout="50ms", retry=again, undo=world.undo("pay")
        )
        raise NonRetryable("no")

    stackshift.start("pays", "fails").finish()
    assert world.done == ["undo pay None"]
    tries.clear()
    world.done.clear()
    stackshift.start("pays", "succeeds").finish()
    assert world.done == ["undo pay 'paid'"]


def test_step_that_is_given_up_is_undone(stackshift: Stackshift, world: World) -> None:
    """The handler has cancelled its task, and goes on for long."""

    async def act() -> None:
        world.do("pay")
        await asyncio.sleep(30)

    @stackshift.job("pays", retry=ONCE)
    async def pays(ctx: AsyncContext) -> None:
        pay = asyncio.create_task(ctx.step.run("pay", act, undo=world.undo("pay")))
        await ctx.step.run("look", lambda: None)
        pay.cancel()
        await ctx.step.run("note", world.do, "note", undo=world.undo("note"))
        await ctx.step.sleep("long", "9d")
        raise NonRetryable("no")

    run = stackshift.start("pays").finish()
    assert world.done == ["pay", "note", "undo note 'note'", "undo pay None"]
    assert undone(run) == {"pay": True, "note": True}


def test_step_that_is_executing_when_another_branch_fails_is_undone(
    stackshift: Stackshift, world: World
) -> None:
    """Its function is cancelled."""

    async def act() -> None:
        world.do("pay")
        await asyncio.sleep(30)

    @stackshift.job("pays", retry=ONCE)
    async def pays(ctx: AsyncContext) -> None:
        await ctx.step.run("pack", world.do, "pack", undo=world.undo("pack"))
        pay = asyncio.create_task(ctx.step.run("pay", act, undo=world.undo("pay")))
        await ctx.step.run("look", lambda: None)
        raise NonRetryable(f"no: {pay}")

    run = stackshift.start("pays").finish()
    assert world.done == ["pack", "pay", "undo pay None", "undo pack 'pack'"]
    assert undone(run) == {"pack": True, "pay": True}


def test_undo_that_cannot_do_without_a_result_says_what_may_be_done(
    stackshift: Stackshift, world: World
) -> None:
    """In the dead letter, where a person has to look."""

    async def act() -> str:
        await asyncio.sleep(30)
        return "no"

    @stackshift.job("pays", retry=ONCE)
    async def pays(ctx: AsyncContext) -> None:
        await ctx.step.run("pack", world.do, "pack", undo=world.undo("pack"))
        await ctx.step.run("pay", act, timeout="50ms", undo=Undo(lambda paid: paid[0], ONCE))

    run = stackshift.start("pays").finish()
    assert run.error is not None and run.error["type"] == "UndoFailed"
    assert "still done: pay (perhaps), pack (the run was" in run.error["message"]
    assert undone(run) == {"pack": False, "pay": False}


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("is_async", [False, True])
def test_clean_up_of_a_gentle_cancel_is_undone_too(
    stackshift: Stackshift, world: World, is_async: bool, waits: bool
) -> None:
    """If its steps can be, wherever the handler was told."""
    if is_async:

        @stackshift.job("own")
        async def own_awaited(ctx: AsyncContext) -> None:
            try:
                if waits:
                    await ctx.step.sleep("long", "1d")
                await ctx.step.run("first", cancels)
                await ctx.step.run("flight", world.do, "flight")
            except Cancelling:
                await ctx.step.run("note", world.do, "note", undo=world.undo("note"))
                raise
    else:

        @stackshift.job("own")
        def own(ctx: Context) -> None:
            try:
                if waits:
                    ctx.step.sleep("long", "1d")
                ctx.step.run("first", cancels)
                ctx.step.run("flight", world.do, "flight")
            except Cancelling:
                ctx.step.run("note", world.do, "note", undo=world.undo("note"))
                raise

    held: list[Run] = []

    def cancels() -> None:
        held.pop().cancel(gently=True)

    run = stackshift.start("own", delay="1s")
    held.append(run)
    if waits:
        stackshift.advance("2s")
        held.pop().cancel(gently=True)
    assert run.finish().status == "cancelled"
    assert world.done == ["note", "undo note 'note'"]


def test_program_that_exceeds_its_timeout_is_undone(stackshift: Stackshift, tmp_path: Any) -> None:
    """By the program that undoes it, or by the one that is made of None."""
    made = tmp_path / "made"
    given: list[Any] = []

    def undo(result: Any) -> list[str]:
        given.append(result)
        return ["rmdir", str(made)]

    @stackshift.job("makes", retry=ONCE)
    def makes(ctx: Context) -> None:
        script = f"mkdir {made}; echo; sleep 60"
        ctx.step.command("make", ["sh", "-c", script], timeout="300ms", undo=undo)

    run = stackshift.start("makes").finish()
    assert run.error is not None and run.error["type"] == "TimeoutError"
    assert given == [None]
    assert not made.exists()


@pytest.mark.parametrize("is_async", [False, True])
def test_function_that_can_be_undone_is_called_once_its_begin_is_durable(
    stackshift: Stackshift, is_async: bool
) -> None:
    """Whatever is killed from then on, it is known that it may have done something; each try."""
    seen: list[list[str]] = []

    def act() -> None:
        seen.append([record["kind"] for record in stackshift.journal][-1:])
        if len(seen) < 3:
            raise ConnectionError("gone")

    again = Retry(max_attempts=2, backoff="1s")
    if is_async:

        @stackshift.job("pays", retry=again)
        async def pays_awaited(ctx: AsyncContext) -> None:
            await ctx.step.run("pay", act, retry=again, undo=print)
    else:

        @stackshift.job("pays", retry=again)
        def pays(ctx: Context) -> None:
            ctx.step.run("pay", act, retry=again, undo=print)

    assert stackshift.start("pays").finish().status == "completed"
    assert seen == [["step.started"]] * 3


def test_race_that_a_step_has_lost_undoes_it(stackshift: Stackshift, world: World) -> None:
    """Both have acted: the winner has a result, and the loser may be done."""

    async def act() -> None:
        world.do("slow")
        await asyncio.sleep(30)

    @stackshift.job("races", retry=ONCE)
    async def races(ctx: AsyncContext) -> None:
        slow = ctx.step.run("slow", act, undo=world.undo("slow"))
        quick = ctx.step.run("quick", world.do, "quick", undo=world.undo("quick"))
        name, _ = await ctx.step.first("decision", slow=slow, quick=quick)
        raise NonRetryable(name)

    run = stackshift.start("races").finish()
    assert run.error is not None and run.error["message"] == "quick"
    assert world.done[-2:] == ["undo slow None", "undo quick 'quick'"]
    assert undone(run) == {"slow": True, "quick": True}


def test_missing_heartbeat_is_undone(stackshift: Stackshift, world: World) -> None:
    """As a timeout is."""

    @stackshift.job("pays", retry=ONCE)
    async def pays(ctx: AsyncContext) -> None:
        await ctx.step.run("pay", asyncio.sleep, 30, heartbeat="50ms", undo=world.undo("pay"))

    run = stackshift.start("pays").finish()
    assert run.error is not None and run.error["type"] == "HeartbeatTimeout"
    assert world.done == ["undo pay None"]


def test_retry_does_again_what_was_undone_without_a_result(
    stackshift: Stackshift, world: World
) -> None:
    """And undoes nothing if it completes; what it has recorded replays alike."""
    tries: list[int] = []

    async def act() -> str:
        tries.append(1)
        if len(tries) == 1:
            await asyncio.sleep(30)
        return "paid"

    @stackshift.job("pays", retry=ONCE)
    async def pays(ctx: AsyncContext) -> str:
        await ctx.step.run("pack", world.do, "pack", undo=world.undo("pack"))
        paid: str = await ctx.step.run("pay", act, timeout="80ms", undo=world.undo("pay"))
        return paid

    run = stackshift.start("pays").finish()
    assert world.done == ["pack", "undo pay None", "undo pack 'pack'"]
    run.retry()
    assert run.finish().result == "paid"
    assert world.done[3:] == ["pack"]
    stackshift.assert_replays(run)
