"""What would become of runs in flight is said before other code gets them."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.project import Project
from helpers.project_factory import Make

HEAD = "from jobs._scenery import *\n\n"
ORDER = """
@stackshift.job("order")
def order(ctx):
    ctx.step.run("charge", note, "charge")
    ctx.step.wait_for_event("approve")
    ctx.step.run("ship", note, "ship")
    return 1


@stackshift.job("branches")
async def branches(ctx):
    import asyncio
    async def pay():
        await ctx.step.run("charge", note, "charge in a branch")
        await ctx.step.wait_for_event("approve")
    await asyncio.gather(pay(), pay())
"""


@pytest.fixture
def project(make_project: Make) -> Project:
    """A run of each job, which waits."""
    made = make_project(ORDER)
    made.start()
    for job in ("order", "branches"):
        made.until_status(made.begin(job), "waiting")
    return made


def edit(project: Project, *changes: tuple[str, str]) -> None:
    text = ORDER
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    project.write_module("story", HEAD + text)


def found(report: dict[str, Any]) -> list[tuple[str, str, str, int]]:
    return sorted(
        (each["job"], each["kind"], each["about"], each["count"]) for each in report["findings"]
    )


def test_runs_that_go_on_are_counted_and_no_step_is_run(project: Project) -> None:
    """Also with a step that is new, and one that is moved behind the wait."""
    edit(
        project,
        (
            '    ctx.step.wait_for_event("approve")\n    ctx',
            '    ctx.step.run("new", note, "new")\n    ctx.step.wait_for_event("approve")\n    ctx',
        ),
    )
    before = project.witness()
    told = project.call("daemon.preflight")
    assert told == {
        "failed_modules": [],
        "in_flight": {"in_flight": 2, "go_on": 2, "unchecked": 0, "findings": []},
    }
    assert project.witness() == before
    assert project.call("daemon.status")["changed_files"] == ["jobs/story.py"]


@pytest.mark.parametrize(
    ("changes", "findings"),
    [
        ([('"approve")\n    ctx', '"agree")\n    ctx')], [("order", "wait_gone", "approve", 1)]),
        (
            [('run("charge", note, "charge")', 'run("bill", note, "bill")')],
            [("order", "unused", "charge", 1)],
        ),
        (
            [("await asyncio.gather(pay(), pay())", "await pay()")],
            [
                ("branches", "again", "pay#2/charge", 1),
                ("branches", "again", "pay/charge", 1),
            ],
        ),
        (
            [('@stackshift.job("order")', '@stackshift.job("orders")')],
            [("order", "fails", "NotFound: the code has no job 'order'", 1)],
        ),
        (
            [('ctx.step.run("charge", note, "charge")', 'ctx.step.sleep("charge", "1s")')],
            [
                (
                    "order",
                    "fails",
                    "ReplayError: 'charge' is recorded as a step; the code now asks for a sleep; "
                    "hint: give the new call another name",
                    1,
                )
            ],
        ),
        (
            [('    ctx.step.run("charge", note, "charge")', "    import time; time.sleep(60)")],
            [("order", "stopped", "", 1)],
        ),
    ],
    ids=["wait gone", "renamed", "moved", "job gone", "other kind", "blocks"],
)
def test_what_would_not_go_on_is_named(
    project: Project, changes: list[tuple[str, str]], findings: list[tuple[str, str, str, int]]
) -> None:
    """With the call that it is about, by job; a strict reload is refused for it, and the code from
    before goes on."""
    edit(project, *changes)
    report = project.call("daemon.preflight")["in_flight"]
    assert found(report) == findings
    assert report["go_on"] == 1
    told = project.call("daemon.reload", strict=True)
    assert (told["loaded"], found(told["in_flight"])) == (False, findings)
    [order] = [run for run in project.call("run.list")["runs"] if run["job"] == "order"]
    project.call("event.send", name="approve")
    assert project.finish(order["id"])["result"] == 1


def test_reload_warns_and_loads(project: Project) -> None:
    """Unless it is strict: whoever edits may mean it."""
    edit(project, ('"approve")\n    ctx', '"agree")\n    ctx'))
    told = project.call("daemon.reload")
    assert (told["loaded"], told["in_flight"]["go_on"]) == (True, 1)
    assert found(told["in_flight"]) == [("order", "wait_gone", "approve", 1)]
    assert "1 runs of order in flight: wait_gone approve" in project.log()


def test_some_runs_can_be_asked_for(project: Project) -> None:
    """As `runs replay RUN --check` does; a finished one has nothing to go on with."""
    edit(project, ('"approve")\n    ctx', '"agree")\n    ctx'))
    [branches] = [run for run in project.call("run.list")["runs"] if run["job"] == "branches"]
    report = project.call("daemon.preflight", runs=[branches["id"]])["in_flight"]
    assert (report["in_flight"], report["go_on"]) == (1, 1)


def test_handler_that_ends_the_process_harms_no_run(project: Project) -> None:
    """The worker on trial dies; the reload fails with a sentence, and the old workers go on."""
    edit(project, ('    ctx.step.run("charge", note, "charge")', "    import os; os._exit(3)"))
    report = project.call("daemon.preflight")["in_flight"]
    assert report["unchecked"] >= 1
    with pytest.raises(Exception, match="ended in a handler"):
        project.call("daemon.reload")
    assert project.call("daemon.status")["workers"][0]["status"] == "serving"
