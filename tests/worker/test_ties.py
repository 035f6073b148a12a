"""What is due at the same time ends in the order in which it was begun, as in plain asyncio."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stackshift_jobs import AsyncJobContext
from stackshift_jobs.testing import Stackshift

Context = AsyncJobContext[Any]
NAMES = ["x", "y", "a", "m"]
WHEN = "2026-03-01T00:00:00Z"


async def by_step(ctx: Context, name: str) -> None:
    """A durable sleep."""
    await ctx.step.sleep(name, "1h")


async def by_date(ctx: Context, name: str) -> None:
    """A durable sleep until a time."""
    await ctx.step.sleep_until(name, WHEN)


async def by_asyncio(_ctx: Context, _name: str) -> None:
    """A sleep of asyncio."""
    await asyncio.sleep(3600)


async def by_limit(ctx: Context, name: str) -> None:
    """The limit of a wait."""
    await ctx.step.wait_for_event(name, timeout="1h", on_timeout="continue")


async def by_timeout(ctx: Context, name: str) -> None:
    """A time limit of asyncio."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3600):
            await ctx.step.wait_for_event(name)


@pytest.mark.parametrize("wait", [by_step, by_date, by_asyncio, by_limit, by_timeout])
def test_waits_that_are_due_at_once_end_as_they_were_begun(
    stackshift: Stackshift, wait: Any
) -> None:
    """They ended in the order of their names, with `#2` before the first."""

    @stackshift.job("ties")
    async def ties(ctx: Context) -> list[str]:
        ended = []

        async def one(name: str) -> None:
            await wait(ctx, name)
            ended.append(name)

        await asyncio.gather(*map(one, NAMES))
        return ended

    run = stackshift.start("ties").finish()
    assert run.result == NAMES
    stackshift.assert_replays(run)
