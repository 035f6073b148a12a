"""Runs that begin after others, with a real daemon that is killed while they wait."""

from __future__ import annotations

import pytest

from helpers.project import Project
from helpers.project_factory import Make
from stackshift_jobs.errors import NotFound, Usage

JOBS = """
@stackshift.job("works", retry=ONCE)
def works(ctx):
    while not is_open("go"):
        time.sleep(0.01)
    note("works", ctx.payload)
    if ctx.payload == "fails":
        raise ConnectionError("broken")


@stackshift.job("turns")
def turns(ctx):
    if ctx.payload < 3:
        ctx.continue_as(ctx.payload + 1)
    note("turned")


@stackshift.job("starter", retry=ONCE)
def starter(ctx):
    ctx.step.start("works", 1, after=[ctx.run_id])
"""


@pytest.fixture
def project(make_project: Make) -> Project:
    """A project whose daemon runs."""
    made = make_project(JOBS)
    made.start()
    return made


def test_line_of_runs_goes_on_after_a_kill(project: Project) -> None:
    """Each begins when the one before has ended, and says what it waits for until then."""
    runs = [project.begin("works", 0)]
    for number in range(1, 4):
        started = project.call("run.start", job="works", payload=number, after=[runs[-1]])
        assert started["status"] == "waiting"
        runs.append(started["id"])
    project.kill()
    project.start()
    why = project.call("run.why", run=runs[3])
    assert (why["why_code"], why["waiting_for"]["run"]) == ("waiting_run", runs[2])
    project.open("go")
    for run in runs:
        assert project.finish(run)["status"] == "completed"
    assert [line for line in project.witness() if line.startswith("works")] == [
        f"works {number}" for number in range(4)
    ]
    project.verify()


def test_failure_goes_down_the_line(project: Project) -> None:
    """But not to who only waits for the end; and a start after the failure fares the same."""
    project.open("go")
    first = project.begin("works", "fails")
    second = project.begin("works", 2, after=[first])
    third = project.begin("works", 3, after=[second])
    cleaner = project.begin("works", 4, after=[third, first], even_if_failed=True)
    for run, before in ((second, first), (third, second)):
        ended = project.finish(run)
        assert (ended["status"], ended["dead"], ended["attempt"]) == ("failed", True, 0)
        assert ended["error"]["type"] == "PredecessorFailed"
        assert before in ended["error"]["message"]
    assert project.finish(cleaner)["status"] == "completed"
    late = project.finish(project.begin("works", 5, after=[first]))
    assert late["error"]["type"] == "PredecessorFailed"
    assert project.call("run.retry", run=late["id"])
    assert project.finish(late["id"])["status"] == "completed"


def test_run_that_continues_as_another_has_not_ended(project: Project) -> None:
    """Whoever begins after it begins after the last of its turns, by whichever id it is named."""
    project.open("go")
    first = project.begin("turns", 0)
    project.finish(first)
    last = project.finish(project.begin("works", 1, after=[first]))
    assert last["status"] == "completed"
    assert project.witness().index("turned") < project.witness().index("works 1")


def test_bad_predecessors_are_refused(project: Project) -> None:
    """Nothing is started."""
    run = project.begin("works", 0)
    for error, params in (
        (NotFound, {"after": ["zzzzzz"]}),
        (Usage, {"after": [run], "delay_ms": 1}),
        (Usage, {"after": [run] * 101}),
        (Usage, {"even_if_failed": True}),
        (Usage, {"after": run}),
    ):
        with pytest.raises(error):
            project.call("run.start", job="works", **params)
    project.open("go")
    told = project.finish(project.begin("starter"))["error"]["message"]
    assert "wait by ctx.step.result" in told
    assert project.call("run.count")["count"] == 2
