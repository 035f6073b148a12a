"""What an execution leaves in memory when it has ended: nothing, and at once."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from helpers.deadline import wait_until
from stackshift_jobs import AsyncJobContext
from stackshift_jobs.testing import Stackshift
from stackshiftd.worker.execution import Execution
from stackshiftd.worker.looped import LoopedExecution
from stackshiftd.worker.threaded import ThreadedExecution


def executions() -> list[Execution]:
    # Not `isinstance`, which asks the object for its class, and some in tests refuse that.
    return [each for each in gc.get_objects() if issubclass(type(each), Execution)]


@pytest.mark.parametrize(("ending", "status"), [("return", "completed"), ("wait", "waiting")])
def test_execution_is_freed_without_the_garbage_collector(
    stackshift: Stackshift, ending: str, status: str
) -> None:
    """An execution that has ended is part of no reference cycle, which the collector would have to
    find at the cost of a step or more."""

    async def double(number: int) -> int:
        return 2 * number

    @stackshift.job("one")
    async def one(ctx: AsyncJobContext[Any]) -> int:
        made = await ctx.step.run("double", double, 21)
        if ending == "wait":
            await ctx.step.wait_for_event("never")
        return made

    earlier = {id(each) for each in executions()}
    gc.disable()
    try:
        run = stackshift.start("one")
        assert run.status == status
        # Its worker may be about to let go of it: it is another thread.
        wait_until(lambda: {id(each) for each in executions()} <= earlier, "it to be freed")
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", [LoopedExecution, ThreadedExecution])
def test_executions_have_no_dict(kind: type[Execution]) -> None:
    """Their attributes are too many for the fast way to those in a dict, and each step needs them
    a hundred times."""
    assert kind.__dictoffset__ == 0
