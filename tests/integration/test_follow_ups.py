"""Jobs that are started by the end of a run, with a real daemon (guarantee: follow-ups)."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from helpers import scenery
from helpers.deadline import wait_until
from helpers.project import REPOSITORY, Project, environment
from helpers.project_factory import Make
from stackshift_jobs.errors import BadConfiguration

JOBS = """
@stackshift.job("works", retry=ONCE, on_failure="cleans", on_success="tells")
def works(ctx):
    if ctx.payload.get("fails"):
        raise ConnectionError("broken")
    return "worked"


@stackshift.job("cleans", queue="office", priority=2)
def cleans(ctx):
    return ctx.payload


@stackshift.job("tells")
def tells(ctx):
    return ctx.payload["result"]


@stackshift.job("alone", retry=ONCE, on_failure="missing")
def alone(ctx):
    raise ValueError("alone")
"""
MISSING = """
import stackshift_jobs as stackshift


@stackshift.job("missing")
def missing(ctx):
    return ctx.payload["id"]
"""


def test_follow_up_has_the_run_object_and_is_linked(make_project: Make) -> None:
    """Both name the other; `job.get` says what follows a run."""
    project = make_project(JOBS)
    project.start()
    shown = project.call("job.get", job="works")
    assert (shown["on_failure"], shown["on_success"]) == ("cleans", "tells")
    failed = project.finish(project.begin("works", {"fails": True}))
    cleans = project.finish(failed["follow_up"])
    assert (cleans["parent"], cleans["queue"], cleans["priority"]) == (failed["id"], "office", 2)
    assert cleans["follow_up"] is None
    same = ("id", "job", "queue", "status", "attempt", "payload", "result", "error", "labels")
    for name in (*same, "created_at", "finished_at"):
        assert cleans["result"][name] == failed[name], name
    done = project.finish(project.begin("works", {}))
    assert project.finish(done["follow_up"])["result"] == "worked"
    listed = project.call("run.list", parent=failed["id"])
    assert [run["id"] for run in listed["runs"]] == [cleans["id"]]
    project.verify()


def test_follow_up_of_a_missing_job_waits_for_it(make_project: Make) -> None:
    """The check and the log name it, once for all workers, and nothing is lost."""
    project = make_project(JOBS, scenery.CONFIG.replace("processes = 1", "processes = 2"))
    problem = "on_failure of job 'alone': no job is named 'missing'"
    assert check(project).startswith(problem)
    project.start()
    failed = project.finish(project.begin("alone", {}))
    held = failed["follow_up"]
    wait_until(lambda: project.get(held)["status"] == "waiting", "it is not held")
    assert project.log().count(problem) == 1
    project.kill()
    project.write_module("later", MISSING)
    project.start()
    assert check(project) == ""
    assert project.finish(held)["result"] == failed["id"]


@pytest.mark.parametrize("option", ["on_failure", "on_success"])
def test_name_that_is_none_is_refused(make_project: Make, option: str) -> None:
    """By the check, with what a name is."""
    project = make_project(f"@stackshift.job('a', {option}='')\ndef a(ctx): pass\n")
    assert "name" in check(project)


def check(project: Project) -> str:
    """The only problem that `jobs check` reports; empty for none."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "stackshiftd.worker", "--check", str(project.root)],
        env=environment(),
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        check=False,
    )
    failed = [
        m["error"]["message"]
        for m in json.loads(done.stdout.splitlines()[-1])["modules"]
        if m["error"]
    ]
    assert done.returncode == (BadConfiguration.exit_status if failed else 0)
    assert len(failed) <= 1
    return "".join(failed)
