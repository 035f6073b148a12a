"""What is special about `async def` handlers: tasks, gather, and the identity of calls."""

from __future__ import annotations

import asyncio
from typing import Any

from sdk.handler.passes import Ended, Record, play_async
from stackshift_jobs import AsyncJobContext, ChildFailed, StepFailed
from stackshift_jobs.errors import ReplayError

Context = AsyncJobContext[Any]


def test_gathered_steps_of_one_name_keep_their_identity() -> None:
    """A step gets its identity when `run` is called, not when its task runs."""
    record = Record()

    async def fetch(n: int) -> int:
        for _ in range(5 - n):  # the first one called is the last one done
            await asyncio.sleep(0)
        return n

    async def handler(ctx: Context) -> list[int]:
        return await asyncio.gather(*[ctx.step.run("page", fetch, n) for n in range(5)])

    assert play_async(handler, record) == Ended([0, 1, 2, 3, 4])
    assert [record.recorded_calls[f"page#{n + 1}" if n else "page"].body for n in range(5)] == [
        b"%d" % n for n in range(5)
    ]
    assert play_async(handler, record) == Ended([0, 1, 2, 3, 4])
    assert len(record.calls()) == 5


def test_steps_awaited_in_another_order_than_called_keep_their_identity() -> None:
    """The second one that is called is `page#2`, whenever it is awaited."""
    record = Record()

    async def handler(ctx: Context) -> list[int]:
        first = ctx.step.run("page", lambda: 1)
        second = ctx.step.run("page", lambda: 2)
        return [await second, await first]

    assert play_async(handler, record) == play_async(handler, record) == Ended([2, 1])
    assert record.recorded_calls["page"].body == b"1"


def test_branches_with_names_of_their_own_are_fine() -> None:
    """Each task counts its own occurrences."""
    record = Record()

    async def handler(ctx: Context) -> Any:
        async def branch(name: str) -> list[int]:
            return [await ctx.step.run(name, lambda n=n: n) for n in range(2)]

        return await asyncio.gather(branch("a"), branch("b"))

    assert play_async(handler, record) == play_async(handler, record) == Ended([[0, 1], [0, 1]])
    assert sorted(record.recorded_calls) == ["a", "a#2", "b", "b#2"]


def test_async_and_plain_functions_are_steps() -> None:
    """Both are recorded in the same way."""
    record = Record()

    async def slow() -> tuple[int, int]:
        await asyncio.sleep(0)
        return (1, 2)

    async def handler(ctx: Context) -> Any:
        return [await ctx.step.run("a", slow), await ctx.step.run("b", lambda: (3,))]

    assert play_async(handler, record) == play_async(handler, record) == Ended([[1, 2], [3]])


def test_pass_ends_when_every_branch_waits() -> None:
    """Nothing of it remains; the next pass continues with what has arrived."""
    record = Record()

    async def handler(ctx: Context) -> Any:
        return await asyncio.gather(
            ctx.step.sleep("nap", "1h"), ctx.step.call("resize"), ctx.step.run("a", lambda: 1)
        )

    assert play_async(handler, record) == Ended(parked=("nap", "resize"))
    record.ends("resize", 7)
    assert play_async(handler, record) == Ended(parked=("nap",))
    record.ends("nap")
    assert play_async(handler, record) == Ended([None, 7, 1])
    assert record.calls() == ["a"]
    assert sorted(record.kinds()) == ["RecordResult", "Sleep", "StartChild"]


def test_failures_replay_alike() -> None:
    """Failures of steps and of children are the same on every pass."""
    record = Record()
    causes: list[BaseException | None] = []

    async def act() -> None:
        raise OSError("no route")

    async def handler(ctx: Context) -> Any:
        try:
            await ctx.step.run("a", act)
        except StepFailed as failed:
            causes.append(failed.__cause__)
        return await ctx.step.result("run_2")

    assert play_async(handler, record) == Ended(parked=("result",))
    record.ends("result", status="cancelled")
    ended = play_async(handler, record)
    assert isinstance(ended.error, ChildFailed)
    assert isinstance(causes[0], OSError)
    assert causes[1] is None
    assert record.calls() == ["a"]


def test_cancelled_step_has_not_failed() -> None:
    """A pass that is dropped records nothing further."""
    record = Record()

    async def act() -> None:
        raise asyncio.CancelledError

    async def handler(ctx: Context) -> Any:
        try:
            await ctx.step.run("a", act)
        except asyncio.CancelledError:
            return "cancelled"

    assert play_async(handler, record) == Ended("cancelled")
    assert record.told == []


def test_reads_are_awaited_and_replay() -> None:
    """They behave like those of a `def` handler, and are recorded under the same names."""
    record = Record()

    async def handler(ctx: Context) -> Any:
        await ctx.progress(1)
        return [await ctx.now(), await ctx.uuid(), ctx.step.key("a")]

    first, second = play_async(handler, record), play_async(handler, record)
    assert first == second
    assert list(record.recorded_calls) == ["[now]", "[uuid]"]
    assert record.progress == [1]


def test_step_inside_a_step_is_refused() -> None:
    """Also in a task that the step's function creates."""
    record = Record()

    async def handler(ctx: Context) -> Any:
        async def outer() -> Any:
            return await asyncio.ensure_future(inner())

        async def inner() -> Any:
            return await ctx.step.run("inner", int)

        return await ctx.step.run("outer", outer)

    ended = play_async(handler, record)
    assert isinstance(ended.error, StepFailed)
    assert isinstance(ended.error.__cause__, ReplayError)
    assert record.calls() == ["outer"]
