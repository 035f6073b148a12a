"""Checkpoints and heartbeats under the fixture (guarantee: checkpoints)."""

from __future__ import annotations

from typing import Any

import pytest

import stackshift_jobs
from stackshift_jobs import AsyncJobContext, JobContext, Retry
from stackshift_jobs.testing import Stackshift

ROWS = 5


def load() -> list[int]:
    """Rows from where an earlier try was."""
    start = stackshift_jobs.step.last or 0
    for row in range(start, ROWS):
        stackshift_jobs.step.checkpoint(row + 1)
    return [start, stackshift_jobs.step.try_number]


@pytest.mark.parametrize("kind", ["def", "async def", "def in async def"])
def test_worker_may_die_after_any_checkpoint(stackshift: Stackshift, kind: str) -> None:
    """The next try goes on from the last one that is on record, and knows which try it is."""

    def work() -> list[int]:
        start = stackshift_jobs.step.last or 0
        stackshift_jobs.step.checkpoint(start + 1)
        return [start, stackshift_jobs.step.try_number]

    @stackshift.job("def")
    def def_job(ctx: JobContext[Any]) -> Any:
        return ctx.step.run("load", work)

    @stackshift.job("async def")
    async def async_job(ctx: AsyncJobContext[Any]) -> Any:
        async def awork() -> list[int]:
            start = stackshift_jobs.step.last or 0
            assert await stackshift_jobs.step.checkpoint(start + 1)
            return [start, stackshift_jobs.step.try_number]

        return await ctx.step.run("load", awork)

    @stackshift.job("def in async def")
    async def mixed_job(ctx: AsyncJobContext[Any]) -> Any:
        return await ctx.step.run("load", work)

    with stackshift.crashing("load", "before_record", times=ROWS):
        run = stackshift.start(kind)
    assert run.result == [ROWS, ROWS + 1]


def test_function_called_by_a_test_has_no_step() -> None:
    """Outside of any handler, all of it does nothing."""
    assert load() == [0, 1]
    step = stackshift_jobs.step
    step.heartbeat()
    assert (step.last, step.try_number, step.checkpoint(1).recorded) == (None, 1, False)


def test_test_sees_the_checkpoint_of_a_step(stackshift: Stackshift) -> None:
    """Until the step has a result."""

    @stackshift.job("loads")
    def loads(ctx: JobContext[Any]) -> Any:
        def work() -> Any:
            stackshift_jobs.step.checkpoint({"row": 7})
            if stackshift_jobs.step.try_number == 1:
                raise ConnectionError("down")
            return stackshift_jobs.step.last

        return ctx.step.run("load", work, retry=Retry(max_attempts=2, backoff="1h"))

    run = stackshift.start("loads")
    assert run.steps["load"].checkpoint == {"row": 7}
    stackshift.advance("2h")
    assert (run.result, run.steps["load"].checkpoint) == ({"row": 7}, None)
