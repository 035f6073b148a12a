"""A `ctx` that is kept where runs share it, as in `self.ctx` of one object for all, is that of the
run that began last. No other run records anything by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stackshift_jobs import AsyncJobContext, JobContext, Retry
from stackshift_jobs.testing import Run, Stackshift

THRICE = Retry(max_attempts=3)


def assert_refused(run: Run) -> None:
    """It has failed at once, and says what to do."""
    assert run.error is not None
    assert run.error["type"] == "ReplayError"
    assert "the ctx of another run" in run.error["message"]
    assert "; hint: keep ctx in variables of the handler" in run.error["message"]
    assert run.attempt == 1


def test_context_of_another_run_is_refused_in_an_async_handler(stackshift: Stackshift) -> None:
    """The step was recorded for the other run."""
    kept: list[AsyncJobContext[Any]] = []

    @stackshift.job("keeps")
    async def keeps(ctx: AsyncJobContext[Any]) -> str:
        kept.append(ctx)
        await ctx.step.wait_for_event("end")
        return "ended"

    @stackshift.job("uses", retry=THRICE)
    async def uses(_ctx: AsyncJobContext[Any]) -> None:
        await kept[-1].step.run("act", str)

    other = stackshift.start("keeps")
    assert_refused(stackshift.start("uses"))
    stackshift.events.send("end")
    assert other.finish().result == "ended"
    assert list(other.steps) == ["end"]


def _write(ctx: JobContext[Any]) -> None:
    ctx.state.set("key", 1)


def _step(ctx: JobContext[Any]) -> None:
    ctx.step.run("act", str)


@pytest.mark.parametrize("call", [_write, _step])
@pytest.mark.parametrize("in_step", [False, True])
def test_context_of_another_run_is_refused_in_a_def_handler(
    stackshift: Stackshift, call: Callable[[Any], None], in_step: bool
) -> None:
    """And in the functions of its steps."""
    kept: list[JobContext[Any]] = []

    @stackshift.job("keeps")
    def keeps(ctx: JobContext[Any]) -> str:
        kept.append(ctx)
        ctx.step.wait_for_event("end")
        return "ended"

    @stackshift.job("uses", retry=THRICE)
    def uses(ctx: JobContext[Any]) -> None:
        if in_step:
            ctx.step.run("uses", call, kept[-1])
        else:
            call(kept[-1])

    other = stackshift.start("keeps")
    assert_refused(stackshift.start("uses"))
    assert stackshift.state.get("key", None) is None
    stackshift.events.send("end")
    assert other.finish().result == "ended"
    assert list(other.steps) == ["end"]
