"""What a type checker knows of jobs: `make types` judges this file as much as pytest does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_type

from stackshift_jobs import AsyncJobContext, JobContext, Retry
from stackshift_jobs.testing import Stackshift


def test_decorated_handler_keeps_its_type(stackshift: Stackshift) -> None:
    """With options and without, `def` and `async def`; a handler that is passed does, too."""

    @stackshift.job
    def bare(_ctx: JobContext[Any]) -> int:
        return 1

    @stackshift.job("named", retry=Retry(max_attempts=1), schedule="@daily")
    def named(_ctx: JobContext[Any]) -> int:
        return 2

    @stackshift.job(queue="media")
    async def awaits(_ctx: AsyncJobContext[Any]) -> int:
        return 3

    passed = stackshift.job("passed", lambda _ctx: 4)

    async def checked(ctx: JobContext[Any], async_ctx: AsyncJobContext[Any]) -> None:
        assert_type(bare(ctx), int)
        assert_type(named(ctx), int)
        assert_type(await awaits(async_ctx), int)

    assert callable(checked)
    assert_type(passed, Callable[[Any], int])
    assert [stackshift.start(job).finish().result for job in (bare, named, passed)] == [1, 2, 4]
