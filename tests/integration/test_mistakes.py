"""Mistakes in job modules that are told, not guessed around."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.project import Project
from stackshift_jobs.errors import BadConfiguration

FORGOTTEN = """
import stackshift_jobs as stackshift

async def give():
    return 1

@stackshift.job("forgotten")
async def forgotten(ctx):
    ctx.step.run("charge", give)
    return "done"
"""


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_step_that_is_never_awaited_fails_the_run(make_project: Callable[..., Project]) -> None:
    """A handler that forgets an `await` does not complete as if the step had run."""
    project = make_project(FORGOTTEN)
    project.start()
    run = project.finish(project.begin("forgotten"))
    assert (run["status"], run["attempt"]) == ("failed", 1)
    assert "charge" in run["error"]["message"]


def test_name_of_two_jobs_starts_neither(make_project: Callable[..., Project]) -> None:
    """Which of two jobs of one name is meant is not for the order of file names to say."""
    one = 'import stackshift_jobs as s\n@s.job("hello")\ndef hello(ctx):\n    return 1\n'
    project = make_project(one, another=one)
    project.start()
    with pytest.raises(BadConfiguration, match="two jobs are named") as refused:
        project.begin("hello")
    files = sorted(Path(module["file"]).name for module in refused.value.fields["failed_modules"])
    assert files == ["another.py", "story.py"]


def test_refused_start_names_the_module_that_is_about_its_job(
    make_project: Callable[..., Project],
) -> None:
    """Not the first of those that failed, which may be about another job; of other names, those
    like it are asked for."""
    one = 'import stackshift_jobs as s\n@s.job("hello")\ndef hello(ctx):\n    return 1\n'
    slow = 'import stackshift_jobs as s\n@s.job("slow", timeout="fast")\ndef slow(ctx): ...\n'
    fine = 'import stackshift_jobs as s\n@s.job("report")\ndef report(ctx): ...\n'
    project = make_project(one, another=one, aslow=slow, fine=fine)
    project.start()
    with pytest.raises(BadConfiguration, match=r"aslow\.py:\d: the timeout of job 'slow': 'fast'"):
        project.begin("slow")
    with pytest.raises(BadConfiguration, match=r"\.py:\d: two jobs are named 'hello'"):
        project.begin("hello")
    with pytest.raises(BadConfiguration) as refused:
        project.begin("reprot")
    assert refused.value.hint == "did you mean report?"


MISUSED = """
import stackshift_jobs as stackshift

@stackshift.job("badly_named")
def badly_named(ctx):
    ctx.step.run("a[1]", int)

@stackshift.job("client_in_handler")
def client_in_handler(ctx):
    stackshift.start("badly_named")
"""


@pytest.mark.parametrize(
    ("job", "error"), [("badly_named", "Usage"), ("client_in_handler", "InsideHandler")]
)
def test_call_that_can_never_work_is_not_tried_again(
    make_project: Callable[..., Project], job: str, error: str
) -> None:
    """The mistake is in the code: the first attempt ends the run, and says what is wrong."""
    project = make_project(MISUSED)
    project.start()
    run = project.finish(project.begin(job))
    assert (run["status"], run["attempt"], run["error"]["type"]) == ("failed", 1, error)


REFUSED = """
import stackshift_jobs as stackshift
from stackshift_jobs import Conflict, NotFound

@stackshift.job("quick")
def quick(ctx):
    return 1

@stackshift.job("catches")
async def catches(ctx):
    told = []
    try:
        await ctx.step.start("quick", {"n": 2}, idempotency_key="mine")
    except Conflict as conflict:
        told += [conflict.owner, conflict.hint != ""]
    try:
        await ctx.step.start("nowhere", name="nowhere")
    except NotFound as missing:
        told.append(str(missing))
    await ctx.step.wait_for_event("go")
    return told
"""


def test_refused_start_is_refused_on_every_later_pass(make_project: Callable[..., Project]) -> None:
    """The handler took the branch of a conflict and of a job that is not there; it takes it again,
    although the key is free by then and the daemon was killed meanwhile."""
    project = make_project(REFUSED)
    project.start()
    # The key lives as long as its run has not finished, and no longer.
    owner = project.begin(
        "quick", {"n": 1}, idempotency_key="mine", idempotency_ttl_ms=0, delay_ms=3_600_000
    )
    run = project.begin("catches")
    project.until_status(run, "waiting")
    project.call("run.cancel", run=owner)
    project.kill()
    project.start()
    project.call("event.send", name="go")
    made = project.finish(run)
    assert made["result"] == [owner, True, "no job is named 'nowhere'"], made["error"]
    assert [each["kind"] for each in made["timeline"]].count("call.refused") == 2
