"""Runs that begin within their ttl and end by their deadline, or not, with a real daemon."""

from __future__ import annotations

import pytest

from helpers.project import Project
from helpers.project_factory import Make
from stackshift_jobs.errors import Usage

JOBS = """
@stackshift.job("hangs", deadline="300ms")
async def hangs(ctx):
    await ctx.step.run("hang", asyncio.sleep, 3600)


@stackshift.job("waits", deadline="300ms", retry=ONCE)
def waits(ctx):
    ctx.step.wait_for_event("never")


@stackshift.job("calls", deadline="1h")
def calls(ctx):
    ctx.step.call("waits", None)


@stackshift.job("late", queue="held", ttl="200ms")
def late(ctx):
    return 1
"""


@pytest.fixture
def project(make_project: Make) -> Project:
    """A project whose daemon runs."""
    made = make_project(JOBS)
    made.start()
    return made


def test_expired_run_is_cancelled_and_says_why(project: Project) -> None:
    """While it is known in memory, and when it is read from the journal after a restart."""
    project.call("queue.pause", queue="held")
    run = project.begin("late")
    assert project.call("run.get", run=run)["expires_at"] is not None
    ended = project.finish(run)
    assert (ended["status"], ended["why_code"], ended["attempt"]) == ("cancelled", "expired", 0)
    assert ended["expires_at"] is None
    project.kill()
    project.start()
    again = project.call("run.get", run=run)
    assert again["why"] == "cancelled: it had not begun within its ttl"
    assert again["why_code"] == "expired"


def test_ttl_passes_while_the_daemon_is_down(project: Project) -> None:
    """It is over by the time the daemon is back: it does not begin."""
    project.call("queue.pause", queue="held")
    run = project.begin("late", ttl_ms=1)
    project.kill()
    project.start()
    project.call("queue.resume", queue="held")
    assert project.finish(run)["why_code"] == "expired"
    project.verify()


@pytest.mark.parametrize("job", ["hangs", "waits"])
def test_run_fails_at_its_deadline(project: Project, job: str) -> None:
    """Executing or waiting; it is not retried, and is in the dead letter."""
    run = project.finish(project.begin(job))
    assert (run["status"], run["attempt"], run["dead"]) == ("failed", 1, True)
    assert run["error"]["type"] == "DeadlineExceeded"


def test_limits_of_a_job_are_shown(project: Project) -> None:
    """And those that it does not declare are null."""
    late, calls = (project.call("job.get", job=job) for job in ("late", "calls"))
    assert (late["ttl_ms"], late["deadline_ms"]) == (200, None)
    assert (calls["ttl_ms"], calls["deadline_ms"]) == (None, 3_600_000)


def test_start_may_say_something_else_than_its_job(project: Project) -> None:
    """And a called child has what is left of its parent's time."""
    run = project.finish(project.begin("calls", deadline_ms=100))
    assert run["error"]["type"] == "DeadlineExceeded"
    [child] = project.call("run.list", job="waits")["runs"]
    assert project.finish(child["id"])["error"]["type"] == "DeadlineExceeded"


def test_limit_of_nothing_is_refused(project: Project) -> None:
    """Nothing could begin, or end, in no time."""
    for options in ({"ttl_ms": 0}, {"deadline_ms": 0}, {"ttl_ms": -1}, {"deadline_ms": 1 << 60}):
        with pytest.raises(Usage):
            project.begin("late", **options)
    assert project.call("run.list")["runs"] == []
