"""A start whose key belongs to a failed run retries it, if it is told to."""

from __future__ import annotations

import pytest

from helpers.project import Project
from helpers.project_factory import Make
from stackshift_jobs.errors import Conflict, Usage

JOBS = """
@stackshift.job("nightly", retry=ONCE)
def nightly(ctx):
    ctx.step.run("dump", lambda: note("dump", ctx.run_id))
    if not is_open("mended"):
        raise ConnectionError("broken")
    return ctx.attempt


@stackshift.job("starter", retry=ONCE)
def starter(ctx):
    ctx.step.start("nightly", {}, idempotency_key="k", retry_failed=True)
"""
KEYED = {"job": "nightly", "idempotency_key": "2026-11-22"}


@pytest.fixture
def project(make_project: Make) -> Project:
    """A project whose daemon runs."""
    made = make_project(JOBS)
    made.start()
    return made


@pytest.mark.parametrize("left", [False, True])
def test_failed_run_is_retried_from_its_steps(project: Project, left: bool) -> None:
    """In the dead letter or no longer there; once it has completed, it is reused as it is."""
    run = project.finish(project.call("run.start", **KEYED, retry_failed=True)["id"])["id"]
    if left:
        project.call("dead.discard", runs=[run])
        project.kill()
        project.start()
    plain = project.call("run.start", **KEYED)
    assert (plain["id"], plain["status"]) == (run, "failed")
    dry = project.call("run.start", **KEYED, retry_failed=True, dry_run=True)
    assert (dry["retried"], dry["run"]["id"]) == (True, run)
    project.open("mended")
    again = project.call("run.start", **KEYED, retry_failed=True, full=True)
    assert (again["id"], again["reused"], again["retried"]) == (run, True, True)
    assert (again["status"], again["run"]["status"]) == ("queued", "queued")
    assert project.finish(run)["result"] == 2
    assert project.witness().count(f"dump {run}") == 1
    last = project.call("run.start", **KEYED, retry_failed=True)
    assert (last["status"], last.get("retried")) == ("completed", None)
    project.verify()


def test_other_payload_is_a_conflict_and_not_a_retry(project: Project) -> None:
    """The key stands for other work."""
    run = project.finish(project.call("run.start", **KEYED)["id"])["id"]
    with pytest.raises(Conflict, match="a different payload"):
        project.call("run.start", **KEYED, payload={"n": 1}, retry_failed=True)
    assert project.call("run.get", run=run)["status"] == "failed"


def test_it_needs_a_key_and_a_client(project: Project) -> None:
    """Without a key there is nothing to retry; and a handler's start happens once."""
    with pytest.raises(Usage, match="without an idempotency_key"):
        project.call("run.start", job="nightly", retry_failed=True)
    run = project.finish(project.begin("starter"))
    assert "cannot be used in a handler" in run["error"]["message"]
