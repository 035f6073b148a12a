"""How runs with branches, races and timers are shown: `steps[]`, `why`, `waiting_for`."""

from __future__ import annotations

import asyncio
from typing import Any

from stackshift_jobs import AsyncJobContext
from stackshift_jobs.testing import Stackshift

Context = AsyncJobContext[Any]


def test_steps_have_their_whole_identities(stackshift: Stackshift) -> None:
    """The branch is part of the name; a wait that was given up is cancelled."""

    @stackshift.job("pages")
    async def pages(ctx: Context) -> None:
        async def index(page: int) -> None:
            await ctx.step.run("fetch", lambda: page)
            if page == 2:
                await ctx.step.sleep("rest", "1h")

        tasks = [asyncio.create_task(index(page)) for page in (1, 2)]
        await ctx.step.sleep("main", "1m")
        tasks[1].cancel()

    run = stackshift.start("pages").finish()
    assert {name: step.status for name, step in run.steps.items()} == {
        "index/fetch": "completed",
        "index#2/fetch": "completed",
        "main": "completed",
        "index#2/rest": "cancelled",
    }


def test_timer_of_asyncio_is_why_a_run_sleeps(stackshift: Stackshift) -> None:
    """The sentence says until when, and that the timer is asyncio's; the kind is that of a
    sleep."""

    @stackshift.job("naps")
    async def naps(_ctx: Context) -> None:
        async def index() -> None:
            async with asyncio.timeout(7200):
                await asyncio.sleep(3600)

        await asyncio.create_task(index())

    run = stackshift.start("naps")
    assert run.why_code == "sleeping"
    assert run.why == (
        "sleeping until 2026-01-05T10:00:00Z (1h00m left), by asyncio's timer of 1h00m (and 1 more)"
    )
    assert run.waiting_for is not None
    assert (run.waiting_for["kind"], run.waiting_for["step"]) == ("sleep", "index/[timer 1h00m]")


def test_limit_of_asyncio_does_not_hide_what_is_waited_for(stackshift: Stackshift) -> None:
    """`asyncio.timeout` around a wait: the wait is named first, then the timer."""

    @stackshift.job("limited")
    async def limited(ctx: Context) -> None:
        async with asyncio.timeout(3600):
            await ctx.step.wait_for_event("paid", correlation_key="o:1")

    run = stackshift.start("limited")
    assert run.why_code == "waiting_event"
    assert run.why == (
        "waiting for event paid [o:1]; "
        "asyncio's timer of 1h00m ends at 2026-01-05T10:00:00Z (1h00m left)"
    )
