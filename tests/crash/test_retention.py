"""Retention removes segments of the journal, and nothing that an unfinished run needs."""

from __future__ import annotations

from contextlib import suppress

import pytest

from helpers.deadline import wait_until
from helpers.project import Project, kinds, steps
from helpers.project_factory import Make
from stackshift_jobs.errors import Busy, Conflict, LockHeld, NotFound

JOBS = """
@stackshift.job("quick")
def quick(ctx):
    return "q" * 3000


@stackshift.job("naps")
def naps(ctx):
    text = ctx.step.run("big", lambda: "b" * 6000)
    ctx.step.sleep("nap", "2s")
    ctx.step.run("held", gate, "step")
    return len(ctx.payload["text"]) + len(text)


@stackshift.job("fails", retry=ONCE)
def fails(ctx):
    if not is_open("mended"):
        raise ConnectionError("broken")
    return len(ctx.payload["text"])
"""
CONFIG = """\
[journal]
segment_size = "16KiB"
retention = "0s"
[workers]
processes = 1
slots = 16
grace = "1s"
inherit_env = ["PYTHONPATH"]
"""


def trimmed(project: Project, beyond: int, *, asked: bool = False) -> bool:
    """Write on; are the records up to `beyond` gone? `asked`: compact each time, where otherwise
    the daemon does so by itself, with a pause of 10 s."""
    for _ in range(10):
        project.finish(project.begin("quick"))
    if asked:
        with suppress(Busy):
            project.call("journal.compact")
    return bool(project.call("journal.stats")["first_seq"] > beyond)


@pytest.mark.parametrize("killed", [False, True])
def test_a_run_whose_first_segments_are_gone_goes_on(make_project: Make, killed: bool) -> None:
    """A run that waits, and one in the dead letter, have their payloads, results and timelines in
    the snapshot: they can continue, also after a restart, and nothing else is held up."""
    project = make_project(JOBS, CONFIG)
    project.start()
    payload = {"text": "z" * 5000}
    waits = project.begin("naps", payload)
    dead = project.finish(project.begin("fails", payload))["id"]
    project.until_status(waits, "waiting", "running")
    last = project.call("journal.stats")["last_seq"]
    wait_until(lambda: trimmed(project, last), "the segments to be removed")
    if killed:
        project.kill()
        project.start()
    assert project.get(dead)["payload"] == payload
    project.open("mended")
    project.call("run.retry", run=dead)
    assert project.call("run.wait", run=dead, timeout_ms=60_000)["result"] == 5000
    project.at("step")
    seen = project.get(waits)
    assert kinds(seen)[0] == "run.created"
    assert steps(seen)["big"]["result"] == "b" * 6000
    project.open("step")
    assert project.call("run.wait", run=waits, timeout_ms=60_000)["result"] == 11_000
    assert project.call("run.wait", run=project.begin("quick"))["status"] == "completed"


@pytest.mark.parametrize("killed", [False, True])
def test_keys_state_and_events_outlive_their_records(make_project: Make, killed: bool) -> None:
    """Long after the run and all records of it are gone, its key starts nothing; state entries,
    kept events and their keys are what they were."""
    project = make_project(JOBS, CONFIG)
    project.start()
    run = project.finish(project.begin("quick", {"n": 1}, idempotency_key="once"))["id"]
    entry = project.call("state.set", key="banner", value={"text": "hello"})
    sent = project.call("event.send", name="paid", payload={"n": 7}, idempotency_key="evt")
    lock = project.call("lock.acquire", key="deploy", ttl_ms=3_600_000, asker="a", holder="me")
    last = project.call("journal.stats")["last_seq"]
    wait_until(lambda: trimmed(project, last, asked=True), "the segments to be removed")
    if killed:
        project.kill()
        project.start()

    with pytest.raises(NotFound):
        project.get(run)
    again = project.call(
        "run.start", job="quick", payload={"n": 1.0}, idempotency_key="once", full=True
    )
    assert (again["id"], again["reused"], again["run"]["why_code"]) == (run, True, "removed")
    with pytest.raises(Conflict) as refused:
        project.begin("quick", {"n": 2}, idempotency_key="once")
    assert (refused.value.owner, refused.value.difference) == (run, ["$.n: 1 → 2"])
    assert "runs show" not in refused.value.hint

    assert project.call("state.get", key="banner") == entry
    assert project.call("state.set", key="banner", value=2)["version"] == 2
    assert project.call("event.list")["events"][0]["id"] == sent["id"]
    twice = project.call("event.send", name="paid", payload={"n": 7}, idempotency_key="evt")
    assert (twice["id"], twice["reused"], twice["kept_until"]) == (
        sent["id"],
        True,
        sent["kept_until"],
    )
    with pytest.raises(LockHeld):
        project.call("lock.acquire", key="deploy", ttl_ms=1000, asker="b")
    project.call("lock.release", key="deploy", token=lock["token"])
    later = project.call("lock.acquire", key="deploy", ttl_ms=1000, asker="b")
    assert later["token"] > lock["token"]
