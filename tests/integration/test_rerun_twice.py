"""Runs that are retried again and again: what they carry along, and what their followers see."""

from __future__ import annotations

import json
from itertools import pairwise

from helpers.deadline import SECONDS
from helpers.project import Project, kinds
from helpers.project_factory import Make

JOBS = """
@stackshift.job("steps", retry=ONCE)
def steps(ctx):
    ctx.step.run("first", lambda: "a" * 1000)
    ctx.step.run("second", lambda: "b" * 1000)
    return "done"


@stackshift.job("fails", retry=ONCE)
def fails(ctx):
    if not is_open("mended"):
        raise ConnectionError("broken")
    return "mended"
"""


def last_retry_bytes(project: Project) -> int:
    """The size of the newest `run.retried`."""
    return max(
        (record["seq"], len(json.dumps(record)))
        for record in project.journal()
        if record["kind"] == "run.retried"
    )[1]


def test_each_retry_holds_what_came_before_it_once(make_project: Make) -> None:
    """Each retry of a completed run contains its earlier records once: the journal grows by what
    happened, and does not double."""
    project = make_project(JOBS)
    project.start()
    run = project.finish(project.begin("steps"))["id"]
    sizes: list[int] = []
    for _ in range(7):
        project.call("run.retry", run=run, from_step="second")
        seen = project.finish(run)
        assert seen["result"] == "done"
        sizes.append(last_retry_bytes(project))
    growth = [after - before for before, after in pairwise(sizes)]
    assert max(growth) < 2 * min(growth)
    assert kinds(seen, "run.retried") == ["run.retried"] * 7


def test_follower_of_a_retried_run_sees_it_to_its_end(make_project: Make) -> None:
    """A feed that begins at the first record continues beyond the failure that was retried, and
    ends with the run."""
    project = make_project(JOBS)
    project.start()
    run = project.finish(project.begin("fails"))["id"]
    project.open("mended")
    project.call("run.retry", run=run)
    seen = project.finish(run)
    with project.connect() as connection:
        connection.call("feed.open", {"run": run}, timeout=SECONDS)
        told: list[str] = []
        while True:
            method, params = next(connection.notifications(timeout=SECONDS))
            if method == "feed.end":
                break
            told.append(params["record"]["kind"])
    assert told == kinds(seen)
    assert params["run"]["status"] == "completed"
