"""Runs a test with the awaited client, on an event loop of its own and with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from sdk.fake_daemon import DEADLINE, FakeDaemon
from stackshift_jobs.client.awaited import AsyncClient
from stackshift_jobs.project.locate import Project


def run(project: Project, story: Callable[[AsyncClient], Awaitable[None]], **options: Any) -> None:
    """Run `story` with a client on an event loop of its own; fails the test after the deadline."""

    async def told() -> None:
        async with asyncio.timeout(DEADLINE), AsyncClient(project, **options) as client:
            await story(client)

    asyncio.run(told())


async def until(daemon: FakeDaemon, condition: Callable[[], bool]) -> None:
    """Wait until `condition` is true of what the daemon saw, without blocking the loop."""
    await asyncio.to_thread(daemon.wait, condition)
