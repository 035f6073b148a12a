"""What runs of one process must not share of asyncio: the tasks of a loop, and modules' locks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from stackshift_jobs import AsyncJobContext, Retry
from stackshift_jobs.testing import Run, Stackshift

Context = AsyncJobContext[Any]
ONCE = Retry(max_attempts=1)


def test_function_that_cancels_all_tasks_cancels_its_own(stackshift: Stackshift) -> None:
    """As programs do that shut down. The functions of other steps and of other runs go on."""

    begun, ends = asyncio.Event(), asyncio.Event()

    async def shuts_down() -> int:
        await begun.wait()
        left = asyncio.create_task(asyncio.sleep(3600))
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        ends.set()
        assert left.cancelled()
        return len(others)

    async def goes_on() -> str:
        begun.set()
        await ends.wait()
        return "went on"

    @stackshift.job("shutsDown", retry=ONCE)
    async def job(ctx: Context) -> Any:
        return await asyncio.gather(
            ctx.step.run("beside", goes_on, retry=ONCE), ctx.step.run("all", shuts_down)
        )

    assert stackshift.start("shutsDown").finish().result == ["went on", 1]


def test_loop_of_a_function_in_a_thread_has_all_its_tasks(stackshift: Stackshift) -> None:
    """`asyncio.run` itself cancels all that are left."""

    async def program() -> int:
        asyncio.get_running_loop().create_task(asyncio.sleep(3600))
        return len(asyncio.all_tasks())

    @stackshift.job("program")
    async def job(ctx: Context) -> int:
        return await ctx.step.run("program", lambda: asyncio.run(program()))

    assert stackshift.start("program").finish().result == 2


@pytest.mark.parametrize(
    "kind", [asyncio.Lock, asyncio.Event, asyncio.Condition, asyncio.Semaphore, asyncio.Queue]
)
def test_lock_that_a_module_has_made_is_refused_with_what_to_do(
    stackshift: Stackshift, kind: Any
) -> None:
    """A second pass would have failed with `… is bound to a different event loop`, three times."""
    shared = kind()

    async def wait() -> None:
        match shared:
            case asyncio.Condition():
                async with shared:
                    await shared.wait()
            case asyncio.Event():
                await shared.wait()
            case asyncio.Queue():
                await shared.get()
            case _:
                async with shared, shared:
                    pass

    @stackshift.job("shares")
    async def shares(ctx: Context) -> None:
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(wait())
            await ctx.step.sleep("a while", "1h")
            waiting.cancel()

    run = stackshift.start("shares")
    stackshift.advance("2h")
    assert run.status == "failed"
    assert_refused(run, kind)


def assert_refused(run: Run, kind: type) -> None:
    """The run has failed at once, and its error says what to do."""
    assert run.error is not None
    assert run.error["type"] == "InsideHandler"
    assert (
        f"an asyncio.{kind.__name__} that was made outside of the handler" in run.error["message"]
    )
    assert "; hint: make it in the handler" in run.error["message"]
    assert run.attempt == 1


async def enter(lock: Any) -> None:
    async with lock:
        pass


async def pass_through(queue: asyncio.Queue[int]) -> None:
    queue.put_nowait(1)
    assert await queue.get() == 1


async def wait_once(event: asyncio.Event) -> None:
    event.set()
    await event.wait()


WITHOUT_WAITING: dict[type, Callable[[Any], Awaitable[None]]] = {
    asyncio.Lock: enter,
    asyncio.Condition: enter,
    asyncio.Semaphore: enter,
    asyncio.BoundedSemaphore: enter,
    asyncio.Event: wait_once,
    asyncio.Queue: pass_through,
    asyncio.PriorityQueue: pass_through,
}


@pytest.mark.parametrize("kind", WITHOUT_WAITING, ids=lambda kind: kind.__name__)
def test_lock_of_a_module_is_refused_at_its_first_use(stackshift: Stackshift, kind: Any) -> None:
    """It worked as long as nobody had to wait for it: in every test, and not under load."""
    shared = kind()

    @stackshift.job("uses")
    async def uses(_ctx: Context) -> None:
        await WITHOUT_WAITING[kind](shared)

    assert_refused(stackshift.start("uses"), kind)


@pytest.mark.parametrize("kind", WITHOUT_WAITING, ids=lambda kind: kind.__name__)
def test_lock_that_a_handler_makes_is_its_own(stackshift: Stackshift, kind: Any) -> None:
    """On each pass a new one; and that of a module is one for the functions of steps."""
    shared = kind()

    @stackshift.job("uses")
    async def uses(ctx: Context) -> str:
        own = kind()
        await WITHOUT_WAITING[kind](own)
        await ctx.step.sleep("a while", "1h")
        await WITHOUT_WAITING[kind](own)
        await ctx.step.run("shared", WITHOUT_WAITING[kind], shared)
        return "used"

    run = stackshift.start("uses")
    stackshift.advance("2h")
    assert run.finish().result == "used"


def test_lock_kept_from_an_earlier_pass_is_refused(stackshift: Stackshift) -> None:
    """A dictionary of locks that a module has, filled when one is needed, outlives passes."""
    made: dict[str, asyncio.Lock] = {}

    @stackshift.job("keeps")
    async def keeps(ctx: Context) -> None:
        async with made.setdefault("one", asyncio.Lock()):
            await ctx.step.sleep("a while", "1h")

    run = stackshift.start("keeps")
    stackshift.advance("2h")
    assert run.status == "failed"
    assert_refused(run, asyncio.Lock)
