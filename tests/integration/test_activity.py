"""What a real daemon says is going on: `daemon.activity`, and `top` on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import pexpect
import pytest

from cli.top.screen import Shown
from helpers import scenery
from helpers.deadline import wait_until
from helpers.project import Project, environment
from helpers.project_factory import Make
from stackshift_jobs.errors import Usage

JOBS = """
@stackshift.job("works", queue="media")
def works(ctx):
    ctx.step.run("first", lambda: __import__("time").sleep(0.12))
    ctx.step.run("gated", gate, ctx.payload["gate"])


@stackshift.job("naps")
def naps(ctx):
    ctx.step.sleep("nap", "1h")


@stackshift.job("breaks")
def breaks(ctx):
    raise stackshift.NonRetryable("broken")
"""


@pytest.fixture
def project(make_project: Make) -> Iterator[Project]:
    """A project whose daemon runs."""
    made = make_project(JOBS, scenery.CONFIG)
    made.start()
    yield made


def activity(project: Project, **params: Any) -> Any:
    """The answer to `daemon.activity`."""
    return project.call("daemon.activity", **params)


def test_activity_is_counts_runs_rates_and_slow_steps(project: Project) -> None:
    """Unfinished runs, running ones first, each with its reason; the dead letter by itself; and a
    filter by any of job, queue, status and id."""
    naps = [project.begin("naps") for _ in range(3)]
    for run in naps:
        project.until_status(run, "waiting")
    later = project.begin("naps", delay_ms=3_600_000)
    broken = project.begin("breaks")
    project.finish(broken)
    works = project.begin("works", {"gate": "g"})
    project.at("g")
    told = wait_until(
        lambda: (found := activity(project))["runs"][0]["step"] == "gated" and found,
        "the step to be recorded as started",
    )
    assert told["counts"] == {
        "running": 1,
        "retrying": 0,
        "waiting": 3,
        "queued": 0,
        "scheduled": 1,
    }
    assert [run["id"] for run in told["runs"]] == [works, *naps, later]
    assert told["matches"] == 5
    assert all(run["why"] for run in told["runs"])
    assert told["runs"][0]["worker"] in {
        worker["id"] for worker in project.call("daemon.status")["workers"]
    }
    assert told["runs"][1]["worker"] is None
    assert [(slow["job"], slow["step"]) for slow in told["slow_steps"]] == [("works", "first")]
    assert set(told["rates"]) == {"started", "steps", "ended", "failed"}
    short = activity(project, limit=2)
    assert ([run["id"] for run in short["runs"]], short["matches"]) == ([works, naps[0]], 5)
    for text in ("media", "works", "running", works[-6:]):
        assert [run["id"] for run in activity(project, filter=text)["runs"]] == [works]
    [dead] = activity(project, dead=True)["runs"]
    assert (dead["id"], dead["error"]["message"]) == (broken, "broken")
    with pytest.raises(Usage):
        activity(project, limit=0)
    project.open("g")
    project.finish(works)
    wait_until(lambda: activity(project)["rates"]["ended"] > 0, "the end to be counted")


def test_top_goes_on_over_a_killed_daemon(project: Project) -> None:
    """With the real daemon: its runs are shown, one is cancelled by keys, and after `kill -9` and a
    start the screen goes on by itself."""
    run = project.begin("naps")
    project.until_status(run, "waiting")
    child = pexpect.spawn(
        sys.executable,
        ["-P", "-m", "stackshift_cli", "top"],
        cwd=str(project.root),
        env={**environment(), "TERM": "xterm", "LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"]},
        dimensions=(24, 80),
        encoding="utf-8",
    )
    shown = Shown(child)
    try:
        shown.until_shown("naps", "1 waiting", run[-6:])
        project.kill()
        shown.until_shown("the daemon is gone", "naps")
        project.start()
        shown.until(lambda text: "1 waiting" in text and "gone" not in text, "the new daemon")
        shown.press("c")
        shown.until_shown("cancel naps", "[y/N]")
        shown.press("y")
        shown.until_shown("0 waiting", "no run is unfinished")
        assert project.finish(run)["status"] == "cancelled"
        shown.press("q")
        wait_until(lambda: not child.isalive(), "top to end")
    finally:
        child.close(force=True)
