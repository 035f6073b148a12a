"""A daemon that is killed again and again, while a loop of runs continues and continues
(guarantee: continued runs)."""

from __future__ import annotations

from helpers.deadline import wait_until
from helpers.project import Project
from helpers.project_factory import Make, make_project  # noqa: F401

LAST = 60
KILLS = 6

JOBS = f"""
@stackshift.job("loop")
def loop(ctx):
    number = ctx.payload.get("number", 0)
    ctx.step.run("note", note, "turn", number)
    if number < {LAST}:
        ctx.continue_as({{"number": number + 1}})
    return "turned"


@stackshift.job("asks")
async def asks(ctx):
    return await ctx.step.call("loop", {{}})
"""


def test_loop_that_is_killed_goes_on_as_one_loop(make_project: Make) -> None:  # noqa: F811
    """Each number has one run, each run names the one before and the one after it, and the parent
    gets what the last one returned. A retry of an earlier one is refused, and its start by the key
    of the first one leads to that."""
    project = make_project(JOBS)
    project.start()
    parent = project.begin("asks")
    first = project.begin("loop", idempotency_key="the loop")
    for kill in range(1, KILLS + 1):
        turns = kill * LAST // (KILLS + 1)
        wait_until(lambda turns=turns: project.witness().count(f"turn {turns}") >= 2, "no turn")  # type: ignore[misc]
        project.kill()
        project.start()
    assert project.finish(parent)["result"] == "turned"
    assert project.begin("loop", idempotency_key="the loop") == first
    runs = [project.get(first)]
    while (following := runs[-1]["continued_as"]) is not None:
        runs.append(project.finish(following))
        assert runs[-1]["continues"] == runs[-2]["id"]
    assert [run["payload"].get("number", 0) for run in runs] == list(range(LAST + 1))
    assert {run["status"] for run in runs} == {"completed"}
    assert runs[-1]["result"] == "turned"
    assert _count(project) == 1 + 2 * (LAST + 1)


def _count(project: Project) -> int:
    listed = project.call("run.list", limit=1000)
    return len(listed["runs"])
