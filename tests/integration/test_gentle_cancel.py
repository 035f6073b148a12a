"""Gentle cancels with real processes: the commands, and what is killed on the way."""

from __future__ import annotations

import pytest

from helpers.deadline import wait_until
from helpers.project import Project, kinds, steps
from helpers.project_factory import Make

JOBS = """
from stackshift_jobs import Cancelling

@stackshift.job("sells")
def sells(ctx):
    ctx.step.run("reserve", note, "reserved", ctx.run_id)
    try:
        ctx.step.sleep("long", "1d")
    except Cancelling:
        ctx.step.run("release", gate, ctx.payload["gate"])
        ctx.step.run("tell", note, "told", ctx.run_id)
        raise


@stackshift.job("runs")
def runs(ctx):
    ctx.step.command("forever", ["sleep", "3600"])
"""


@pytest.fixture
def shop(make_project: Make) -> Project:
    """A project with these jobs, whose daemon runs."""
    project = make_project(JOBS)
    project.start()
    return project


def test_clean_up_goes_on_after_the_daemon_was_killed(shop: Project) -> None:
    """What was recorded of it is not repeated; the handler is told at the same place."""
    run = shop.begin("sells", {"gate": "release"})
    shop.until_status(run, "waiting")
    answer = shop.call("run.cancel", run=run, gently=True, grace_ms=600_000)
    assert answer["changed"]
    assert answer["cancelling"]["reason"] == "requested"
    shop.at("release")
    shop.kill()
    shop.start()
    found = shop.get(run)
    assert found["why_code"] == "cancelling"
    assert found["cancelling"] == {
        **answer["cancelling"],
        "told_at": found["cancelling"]["told_at"],
    }
    shop.at("release", 2)
    shop.open("release")
    ended = shop.finish(run)
    assert ended["status"] == "cancelled"
    assert kinds(ended, "cancel.raised") == ["cancel.raised"]
    assert {name: step["status"] for name, step in steps(ended).items()} == {
        "reserve": "completed",
        "long": "cancelled",
        "release": "completed",
        "tell": "completed",
    }
    assert shop.witness().count(f"reserved {run}") == 1
    assert shop.witness().count(f"told {run}") == 1
    shop.verify()


def test_program_that_does_not_end_within_the_grace_is_ended(shop: Project) -> None:
    """By the supervisor of all programs; until then it is left alone."""
    run = shop.begin("runs", {})
    wait_until(lambda: "forever" in steps(shop.get(run)), "the program to run")
    shop.call("run.cancel", run=run, gently=True, grace_ms=300)
    ended = shop.finish(run)
    assert ended["status"] == "cancelled"
    assert ended["timeline"][-1]["kind"] in ("run.cancelled", "attempt.stopped")
    wait_until(
        lambda: all(q["running"] == 0 for q in shop.call("daemon.status")["queues"]),
        "the program to end",
    )
