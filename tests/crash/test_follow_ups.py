"""A daemon that is killed again and again, while runs end and start what follows them
(guarantee: follow-ups)."""

from __future__ import annotations

from collections import Counter

from helpers.deadline import wait_until
from helpers.project import Project
from helpers.project_factory import Make, make_project  # noqa: F401

RUNS = 60
KILLS = 6

JOBS = """
@stackshift.job("works", retry=ONCE, on_failure="cleans", on_success="tells")
def works(ctx):
    ctx.step.run("note", note, "works", ctx.payload["number"])
    if ctx.payload["number"] % 2:
        raise NonRetryable("odd")


@stackshift.job("cleans", on_failure="cleans", on_success="tells")
def cleans(ctx):
    return ctx.payload["id"]


@stackshift.job("tells", on_success="tells")
def tells(ctx):
    return ctx.payload["id"]
"""


def test_every_end_has_one_follow_up_whatever_is_killed(make_project: Make) -> None:  # noqa: F811
    """Each run has exactly one, which has its id, names it as its parent and is not followed."""
    project = make_project(JOBS)
    project.start()
    runs = [project.begin("works", {"number": number}) for number in range(RUNS)]
    for kill in range(1, KILLS + 1):
        share = kill * RUNS // (KILLS + 1)
        wait_until(lambda share=share: len(project.witness()) >= share, "nothing works")  # type: ignore[misc]
        project.kill()
        project.start()
    for number, run in enumerate(runs):
        ended = project.finish(run)
        following = project.finish(ended["follow_up"])
        assert following["job"] == ("cleans" if number % 2 else "tells")
        assert (following["result"], following["parent"]) == (run, run)
        assert following["follow_up"] is None
    assert _jobs(project) == {"works": RUNS, "cleans": RUNS // 2, "tells": RUNS // 2}
    project.verify()


def _jobs(project: Project) -> Counter[str]:
    return Counter(run["job"] for run in project.call("run.list", limit=1000)["runs"])
