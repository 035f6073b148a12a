"""A process that the function of a step forks ends where its copy of the function does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from helpers.project import Project

JOBS = """
import os
import sys


def parent(child):
    pid = os.fork()
    if pid == 0:
        return child()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def returns():
    print("from the copy")
    return "copy"


def raises():
    raise ValueError("in the copy")


WAYS = {"exits": lambda: sys.exit(7), "raises": raises, "returns": returns}


@stackshift.job("forks", retry=ONCE)
def forks(ctx):
    return ctx.step.run("fork", parent, WAYS[ctx.payload["way"]])


@stackshift.job("forksAsync", retry=ONCE)
async def forks_async(ctx):
    return await ctx.step.run("fork", parent, WAYS[ctx.payload["way"]])


@stackshift.job("forksOnLoop", retry=ONCE)
async def forks_on_loop(ctx):
    async def fork():
        return parent(WAYS[ctx.payload["way"]])
    return await ctx.step.run("fork", fork)


@stackshift.job("handlerForks", retry=ONCE)
def handler_forks(ctx):
    return parent(WAYS[ctx.payload["way"]])


@stackshift.job("calls", retry=ONCE)
def calls(ctx):
    status = ctx.step.run("fork", parent, lambda: ctx.state.set("by", "the copy"))
    return [status, ctx.state.get("by"), ctx.state.increment("by parent")]
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """One daemon for all of these."""
    made = Project(tmp_path_factory.mktemp("copies") / "p", {"story": JOBS})
    made.start()
    yield made
    made.close()


@pytest.mark.parametrize("job", ["forks", "forksAsync", "forksOnLoop", "handlerForks"])
@pytest.mark.parametrize(("way", "status"), [("exits", 7), ("raises", 1), ("returns", 0)])
def test_copy_that_leaves_its_function_ends(
    project: Project, job: str, way: str, status: int
) -> None:
    """It stayed for ever, and its parent with it: there is no loop in it to report an end to."""
    run = project.begin(job, {"way": way})
    assert project.finish(run)["result"] == status
    printed = [each["message"] for each in project.call("run.logs", run=run)["lines"]]
    assert way != "returns" or printed == ["from the copy"]
    assert way != "raises" or printed[-1] == "ValueError: in the copy"


def test_copy_calls_nothing_on_ctx(project: Project) -> None:
    """It wrote to the connection of its worker, and took the number of another call."""
    made = project.finish(project.begin("calls"))
    assert made["result"] == [1, None, 1]
