"""Runs that a person moves, with a real daemon that is killed in between."""

from __future__ import annotations

import pytest

from helpers.project import Project
from helpers.project_factory import Make
from stackshift_jobs.errors import Conflict, NotFound, Usage

JOBS = """
@stackshift.job("quick")
def quick(ctx):
    return ctx.queue


@stackshift.job("fails", retry=Retry(max_attempts=2, backoff="1h"))
def fails(ctx):
    if ctx.attempt == 1:
        raise ConnectionError("again")
    return ctx.attempt


@stackshift.job("stepFails")
def step_fails(ctx):
    return ctx.step.run("try", tried, retry=Retry(max_attempts=2, backoff="1h"))


def tried():
    note("tried")
    if noted("tried") == 1:
        raise ConnectionError("again")
    return "at the second try"
"""


@pytest.fixture
def project(make_project: Make) -> Project:
    """A project whose daemon runs."""
    made = make_project(JOBS)
    made.start()
    return made


def test_moved_run_keeps_its_new_time_and_place(project: Project) -> None:
    """Across a kill; moved to now, it runs."""
    run = project.begin("quick", delay_ms=3_600_000)
    reply = project.call("run.move", run=run, delay_ms=7_200_000, queue="night", priority=3)
    assert (reply["changed"], reply["status"]) == (True, "scheduled")
    project.kill()
    project.start()
    shown = project.call("run.get", run=run)
    assert (shown["queue"], shown["priority"]) == ("night", 3)
    assert shown["scheduled_at"] == reply["scheduled_at"]
    assert project.call("run.move", run=run, now=True)["status"] == "queued"
    ended = project.finish(run)
    assert (ended["result"], ended["queue"], ended["priority"]) == ("night", "night", 3)
    with pytest.raises(Conflict, match="is completed"):
        project.call("run.move", run=run, now=True)
    project.verify()


@pytest.mark.parametrize(("job", "result"), [("fails", 2), ("stepFails", "at the second try")])
def test_backoff_is_cut_short(project: Project, job: str, result: object) -> None:
    """That of an attempt, and that of a step whose handler has left memory."""
    run = project.begin(job)
    project.until_status(run, "retrying")
    assert project.call("run.move", run=run, now=True)["changed"]
    assert project.finish(run)["result"] == result


def test_reused_run_keeps_its_time_and_says_so(project: Project) -> None:
    """Only if another time was asked for, and only while it has not begun."""
    start = {"job": "quick", "idempotency_key": "k"}
    first = project.call("run.start", **start, delay_ms=3_600_000)
    due = project.call("run.get", run=first["id"])["scheduled_at"]
    again = project.call("run.start", **start, delay_ms=60_000)
    assert (again["reused"], again["kept_scheduled_at"]) == (True, due)
    assert "kept_scheduled_at" not in project.call("run.start", **start)
    assert "kept_scheduled_at" not in project.call("run.start", **start, scheduled_at=due)
    project.call("run.move", run=first["id"], now=True)
    project.finish(first["id"])
    assert "kept_scheduled_at" not in project.call("run.start", **start, delay_ms=60_000)


def test_bad_moves_are_refused(project: Project) -> None:
    """Nothing is changed by them."""
    run = project.begin("quick", delay_ms=3_600_000)
    seq = project.journal()[-1]["seq"]
    for error, params in (
        (Usage, {}),
        (Usage, {"now": True, "delay_ms": 1}),
        (Usage, {"priority": 10_000_000}),
        (Usage, {"queue": ""}),
        (Usage, {"delay_ms": -1}),
    ):
        with pytest.raises(error):
            project.call("run.move", run=run, **params)
    with pytest.raises(NotFound):
        project.call("run.move", run="zzzzzz", now=True)
    assert project.journal()[-1]["seq"] == seq
