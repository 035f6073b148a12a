"""Unique keys with a real daemon: the requests, the jobs' own keys, handlers, and kills."""

from __future__ import annotations

import pytest

from helpers.deadline import wait_until
from helpers.project import Project
from helpers.project_factory import Make
from stackshift_jobs.errors import Conflict, PayloadRefused, Usage

JOBS = """
@stackshift.job("backup", unique="backup:{disk}", retry=ONCE)
def backup(ctx):
    note("began", ctx.run_id)
    while not is_open("disk"):
        time.sleep(0.01)
    note("ended", ctx.run_id)
    return ctx.run_id


@stackshift.job("attaches", unique="one", on_duplicate="attach")
def attaches(ctx):
    ctx.step.wait_for_event("go")
    return ctx.payload


@stackshift.job("starter")
def starter(ctx):
    try:
        ctx.step.start("backup", {"disk": "sda"})
    except stackshift.Conflict as conflict:
        refused = conflict.owner
    newer = ctx.step.start("backup", {"disk": "sda"}, name="newer", on_duplicate="replace")
    return [refused, newer]
"""
DISK = {"disk": "sda"}


@pytest.fixture
def project(make_project: Make) -> Project:
    """A project whose daemon runs."""
    made = make_project(JOBS)
    made.start()
    return made


def began(project: Project, run: str) -> None:
    """Wait until the handler of the run has begun."""
    wait_until(lambda: f"began {run}" in project.witness(), "the handler to begin")


def test_key_of_the_job_is_held_across_a_kill(project: Project) -> None:
    """The duplicate is refused before and after, naming the run; the key is shown, and free once
    the run has completed."""
    run = project.begin("backup", DISK)
    began(project, run)
    project.kill()
    project.start()
    with pytest.raises(Conflict, match="unique key 'backup:sda'") as refused:
        project.begin("backup", DISK)
    assert refused.value.owner == run
    assert project.call("run.get", run=run)["unique"] == "backup:sda"
    other = project.begin("backup", {"disk": "sdb"})
    project.open("disk")
    assert project.finish(run)["result"] == run
    assert project.call("run.get", run=run)["unique"] == "backup:sda"
    project.finish(other)
    project.finish(project.begin("backup", DISK))
    project.verify()


def test_replacement_begins_when_the_replaced_handler_has_stopped(project: Project) -> None:
    """The answer names what was cancelled; nothing of the old run happens after the new began."""
    old = project.begin("backup", DISK)
    began(project, old)
    reply = project.call("run.start", job="backup", payload=DISK, on_duplicate="replace")
    assert reply["replaced"] == [old]
    gone = project.call("run.get", run=old)
    assert gone["status"] == "cancelled"
    assert gone["why"] == "cancelled: replaced by a start with its unique key"
    new = reply["id"]
    waits = project.call("run.why", run=new)
    assert (waits["why_code"], waits["waiting_for"]["run"]) == ("unique_busy", old)
    project.open("disk")
    assert project.finish(new)["status"] == "completed"
    notes = [line for line in project.witness() if line.split()[0] in ("began", "ended")]
    assert notes.index(f"ended {old}") < notes.index(f"began {new}")


def test_attached_start_gets_the_run_and_its_result(project: Project) -> None:
    """With `full` too; its idempotency key leads to that run ever after."""
    first = project.call("run.start", job="attaches", payload=1)
    again = project.call("run.start", job="attaches", payload=2, full=True, idempotency_key="k")
    assert (again["id"], again["reused"], again["attached"]) == (first["id"], True, True)
    assert again["run"]["payload"] == 1
    dry = project.call("run.start", job="attaches", dry_run=True)
    assert (dry["attached"], dry["run"]["id"]) == (True, first["id"])
    project.call("event.send", name="go")
    assert project.finish(first["id"])["result"] == 1
    project.kill()
    project.start()
    late = project.call("run.start", job="attaches", payload=2, idempotency_key="k")
    assert (late["id"], late["reused"], late["status"]) == (first["id"], True, "completed")
    batch = project.call("run.start_many", runs=[{"job": "attaches"}, {"job": "attaches"}])
    assert [result.get("attached") for result in batch["results"]] == [None, True]


def test_queued_duplicates_follow_each_other(project: Project) -> None:
    """One after the other, also when the daemon is killed in between."""
    runs = [
        project.call("run.start", job="backup", payload=DISK, on_duplicate="queue")["id"]
        for _ in range(4)
    ]
    began(project, runs[0])
    project.kill()
    project.start()
    project.open("disk")
    for run in runs:
        assert project.finish(run)["status"] == "completed"
    ends = [line for line in project.witness() if line.startswith("ended")]
    assert [line.split()[1] for line in ends] == runs


def test_handler_learns_who_has_the_key(project: Project) -> None:
    """And may replace that run."""
    old = project.begin("backup", DISK)
    began(project, old)
    project.open("disk")
    project.finish(old)
    held = project.begin("attaches", unique="backup:sda")
    refused, newer = project.finish(project.begin("starter"))["result"]
    assert refused == held
    assert project.call("run.get", run=held)["status"] == "cancelled"
    assert project.finish(newer)["status"] == "completed"


def test_bad_keys_and_words_are_refused(project: Project) -> None:
    """With the option, and what it may be; nothing is started."""
    for error, options in (
        (Usage, {"job": "attaches", "on_duplicate": "ignore"}),
        (Usage, {"job": "starter", "on_duplicate": "attach"}),
        (Usage, {"job": "attaches", "unique": ""}),
        (Usage, {"job": "attaches", "unique": "a\n"}),
        (PayloadRefused, {"job": "backup", "payload": {}}),
    ):
        with pytest.raises(error):
            project.call("run.start", **options)
    assert project.call("run.list")["runs"] == []
