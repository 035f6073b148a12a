"""A daemon that starts from a snapshot is the daemon that made it."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.deadline import wait_until
from helpers.project import Project, kinds, steps
from helpers.project_factory import Make
from stackshift_jobs.errors import Busy, Conflict

JOBS = """
@stackshift.job("quick")
def quick(ctx):
    return ctx.step.run("one", lambda: ctx.payload.get("n"))


@stackshift.job("naps")
def naps(ctx):
    ctx.step.run("before", note, "before", ctx.run_id)
    ctx.step.sleep("nap", "1500ms")
    return "rested"


@stackshift.job("parent")
def parent(ctx):
    return ctx.step.call("naps", name="child")


@stackshift.job("held")
def held(ctx):
    ctx.step.run("before", note, "before", ctx.run_id)
    ctx.step.run("held", gate, "step")
    return ctx.attempt


@stackshift.job("fails", retry=ONCE)
def fails(ctx):
    ctx.step.run("good", note, "good", ctx.run_id)
    if not is_open("mended"):
        raise ConnectionError("broken")
    return "mended"


@stackshift.job("big")
def big(ctx):
    return ctx.step.run("much", lambda: "x" * 100_000)
"""
SMALL_SEGMENTS = """\
[journal]
segment_size = "8KiB"
[workers]
processes = 1
slots = 16
grace = "1s"
inherit_env = ["PYTHONPATH"]
"""


def populate(project: Project) -> dict[str, str]:
    """One run of each kind that a snapshot has to hold."""
    runs = {
        "done": project.finish(project.begin("quick", {"n": 7}, idempotency_key="key"))["id"],
        "big": project.finish(project.begin("big"))["id"],
        "dead": project.finish(project.begin("fails"))["id"],
        "cancelled": project.begin("quick", delay_ms=3_600_000),
        "parent": project.begin("parent"),
        "naps": project.begin("naps"),
        "held": project.begin("held"),
        "later": project.begin("quick", {"n": 8}, delay_ms=2500),
    }
    project.call("run.cancel", run=runs["cancelled"])
    project.until_status(runs["parent"], "waiting")
    project.until_status(runs["naps"], "waiting")
    project.at("step")
    return runs


def compacted(project: Project) -> bool:
    """Has a snapshot been made now? There may be one under way."""
    try:
        return bool(project.call("journal.compact")["seq"])
    except Busy:
        return False


def told(project: Project) -> dict[str, Any]:
    """What lists and timelines say of runs that do not move."""
    return {
        run["id"]: project.get(run["id"])
        for run in project.call("run.list", limit=1000)["runs"]
        if run["status"] in ("completed", "failed", "cancelled")
    }


@pytest.mark.parametrize("ending", ["kill", "stop"])
def test_state_from_a_snapshot_is_the_state_it_was_made_of(make_project: Make, ending: str) -> None:
    """After compaction and a kill, keys conflict as before, waits end, finished runs are listed in
    full, the dead can be retried, and executing runs resume after their last record."""
    project = make_project(JOBS)
    project.start()
    runs = populate(project)
    before = told(project)
    made = project.call("journal.compact")
    assert project.call("journal.stats")["snapshot"]["seq"] == made["seq"]
    if ending == "kill":
        project.kill()
    else:
        project.stop()
    project.verify()
    project.start()
    after = told(project)
    assert {run: after.get(run) for run in before} == before
    assert steps(project.get(runs["big"]))["much"]["result"] == "x" * 100_000
    again = {"job": "quick", "payload": {"n": 7}, "idempotency_key": "key"}
    assert project.call("run.start", **again)["id"] == runs["done"]
    with pytest.raises(Conflict) as refused:
        project.call("run.start", **again | {"payload": {"n": 1}})
    assert refused.value.owner == runs["done"]
    project.at("step", times=2)
    project.open("step")
    assert project.finish(runs["held"])["result"] == 1
    assert project.finish(runs["naps"])["result"] == "rested"
    assert project.finish(runs["parent"])["result"] == "rested"
    assert project.finish(runs["later"])["result"] == 8
    project.open("mended")
    project.call("run.retry", run=runs["dead"])
    assert project.finish(runs["dead"])["result"] == "mended"
    witness = project.witness()
    assert witness.count(f"good {runs['dead']}") == 1
    assert witness.count(f"before {runs['held']}") == witness.count(f"before {runs['naps']}") == 1
    assert project.stop() == 0
    project.verify()


def test_snapshots_are_made_by_themselves_and_carry_on(make_project: Make) -> None:
    """Sealed segments are folded into snapshots while runs execute; a daemon killed in between has
    every run and every key."""
    project = make_project(JOBS, SMALL_SEGMENTS)
    project.start()
    owners: dict[str, str] = {}
    for life in range(3):
        for n in range(30):
            key = f"key-{life}-{n}"
            owners[key] = project.begin("quick", {"n": n}, idempotency_key=key)
        for key in list(owners)[-5:]:
            project.finish(owners[key])
        project.kill()
        project.start()
    wait_until(lambda: compacted(project), "a compaction of our own")
    project.kill()
    project.start()
    assert project.call("journal.stats")["snapshot"] is not None
    for key, run in owners.items():
        payload = {"n": int(key.split("-")[2])}
        told = project.call("run.start", job="quick", payload=payload, idempotency_key=key)
        assert (told["id"], told["reused"]) == (run, True)
        seen = project.finish(run)
        assert seen["result"] == payload["n"]
        assert kinds(seen)[0] == "run.created"
    project.verify()


def test_compaction_that_is_cut_off_leaves_the_journal_as_it_was(make_project: Make) -> None:
    """A daemon killed while its snapshot is written starts from what there is, and can make one."""
    project = make_project(JOBS)
    project.start()
    runs = populate(project)
    with project.connect() as connection:
        connection.send("journal.compact")
        project.kill()
    project.verify()
    project.start()
    project.open("step")
    assert project.finish(runs["held"])["result"] == 1
    assert project.call("journal.compact")["seq"] > 0
    project.verify()
