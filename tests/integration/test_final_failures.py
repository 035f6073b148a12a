"""What makes no sense to try again is not tried again, whatever it is called."""

from __future__ import annotations

from collections.abc import Callable

from helpers.project import Project

JOBS = """
import stackshift_jobs as stackshift
from stackshift_jobs import NonRetryable

class Declined(NonRetryable):
    pass

def charge():
    raise Declined("the card was refused")

@stackshift.job("billing")
def billing(ctx):
    ctx.step.run("charge", charge)

@stackshift.job("compensating")
def compensating(ctx):
    try:
        ctx.step.run("charge", charge)
    except stackshift.StepFailed as failed:
        caught = failed
    ctx.step.sleep("nap", "300ms")
    raise caught
"""


def test_subclass_of_non_retryable_fails_the_run_at_once(
    make_project: Callable[..., Project],
) -> None:
    """A step that raises a subclass of `NonRetryable` ends the run with its first attempt."""
    project = make_project(JOBS)
    project.start()
    run = project.finish(project.begin("billing"))
    assert (run["status"], run["attempt"]) == ("failed", 1)
    assert run["error"]["type"] == "Declined"


def test_replayed_failure_is_as_final_as_it_was(make_project: Callable[..., Project]) -> None:
    """A failure that was caught, replayed from its record and raised then is not tried again."""
    project = make_project(JOBS)
    project.start()
    run = project.finish(project.begin("compensating"))
    assert (run["status"], run["attempt"]) == ("failed", 1)
