"""Timeouts and cancels: what is asked to stop does, what will not is ended, no other suffers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from helpers.deadline import wait_until
from helpers.project import Project, kinds, steps
from helpers.project_factory import Make

JOBS = """
@stackshift.job("asyncSlow", timeout="200ms", retry=ONCE)
async def async_slow(ctx):
    try:
        await ctx.step.run("busy", asyncio.sleep, 3600)
    finally:
        note("left", ctx.run_id)


@stackshift.job("syncPolite", timeout="200ms", retry=ONCE)
def sync_polite(ctx):
    for i in range(100_000):
        ctx.step.run(f"turn-{i}", time.sleep, 0.02)


@stackshift.job("waitsLonger", timeout="400ms", retry=ONCE)
def waits_longer(ctx):
    ctx.step.sleep("nap", "600ms")
    return "in time"


@stackshift.job("asyncStep")
async def async_step(ctx):
    try:
        await ctx.step.run("slow", asyncio.sleep, 3600, timeout="100ms")
    except stackshift.StepFailed as failed:
        return failed.type


@stackshift.job("syncStep")
def sync_step(ctx):
    try:
        ctx.step.run("slow", gate, ctx.payload["gate"], timeout="100ms")
    except stackshift.StepFailed as failed:
        return failed.type


@stackshift.job("mixedStep")
async def mixed_step(ctx):
    try:
        await ctx.step.run("slow", gate, ctx.payload["gate"], timeout="100ms")
    except stackshift.StepFailed as failed:
        return failed.type


@stackshift.job("deaf", timeout="200ms", retry=ONCE)
def deaf(ctx):
    gate(ctx.payload["gate"])


@stackshift.job("neighbour", retry=ONCE)
def neighbour(ctx):
    ctx.step.run("first", note, "first", ctx.run_id)
    ctx.step.run("second", gate, ctx.payload["gate"])
    return ctx.attempt


@stackshift.job("syncHeld")
def sync_held(ctx):
    ctx.step.run("held", gate, ctx.payload["gate"])
    ctx.step.run("next", note, "next", ctx.run_id)


@stackshift.job("asyncHeld")
async def async_held(ctx):
    try:
        await agate(ctx.payload["gate"])
    finally:
        note("left", ctx.run_id)


@stackshift.job("sleeper")
def sleeper(ctx):
    ctx.step.sleep("nap", "1h")


@stackshift.job("parentOf")
async def parent_of(ctx):
    await ctx.step.call(ctx.payload["job"], ctx.payload["payload"])


@stackshift.job("quick")
def quick(ctx):
    return "quick"
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """One daemon for tests that leave its worker as it was."""
    project = Project(tmp_path_factory.mktemp("stopping") / "p", {"story": JOBS})
    project.start()
    yield project
    project.close()


def idle(project: Project) -> bool:
    """Does no handler hold a slot?"""
    return all(queue["running"] == 0 for queue in project.call("daemon.status")["queues"])


@pytest.mark.parametrize("job", ["asyncSlow", "syncPolite"])
def test_attempt_past_its_timeout_fails_and_its_worker_stays(shared: Project, job: str) -> None:
    """A handler that can be stopped is; the run has failed with `TimeoutError`."""
    before = shared.workers()
    run = shared.finish(shared.begin(job))
    assert (run["status"], run["error"]["type"]) == ("failed", "TimeoutError")
    wait_until(lambda: idle(shared), "the slot to be given back")
    if job == "asyncSlow":
        assert shared.witness().count(f"left {run['id']}") == 1
    assert shared.workers() == before


def test_timeout_does_not_count_waits(shared: Project) -> None:
    """An attempt may wait for longer than it may run."""
    assert shared.finish(shared.begin("waitsLonger"))["result"] == "in time"


def test_async_step_past_its_timeout_is_cancelled(shared: Project) -> None:
    """An `async def` step is cancelled at its timeout; its worker goes on."""
    before = shared.workers()
    run = shared.finish(shared.begin("asyncStep"))
    assert run["result"] == "TimeoutError"
    assert shared.workers() == before


@pytest.mark.parametrize("job", ["syncStep", "mixedStep"])
def test_def_step_past_its_timeout_fails_though_its_function_stays(
    make_project: Make, job: str
) -> None:
    """A `def` step that does not come back is recorded as failed at its timeout, and its worker is
    replaced after the grace; the handler goes on from that record."""
    project = make_project(JOBS)
    project.start()
    before = project.workers()
    run = project.begin(job, {"gate": "never"})
    wait_until(lambda: "step.failed" in kinds(project.get(run)), "the timeout to be recorded")
    seen = project.finish(run)
    assert (seen["result"], seen["attempt"]) == ("TimeoutError", 1)
    assert steps(seen)["slow"]["error"]["type"] == "TimeoutError"
    wait_until(lambda: project.workers() and project.workers() != before, "a new worker")


def test_def_step_that_comes_back_late_keeps_its_recorded_timeout(make_project: Make) -> None:
    """What the function returns after its timeout changes nothing."""
    project = make_project(JOBS)
    project.start()
    run = project.begin("syncStep", {"gate": "late"})
    wait_until(lambda: "step.failed" in kinds(project.get(run)), "the timeout to be recorded")
    project.open("late")
    seen = project.finish(run)
    assert (seen["result"], seen["attempt"]) == ("TimeoutError", 1)
    assert kinds(seen, "step.completed", "step.failed") == ["step.failed"]


def test_deaf_handler_costs_its_worker_and_its_neighbours_nothing(make_project: Make) -> None:
    """A handler that ignores its timeout is killed with its worker; other runs in it go on from
    their recorded steps, without having used up an attempt."""
    project = make_project(JOBS)
    project.start()
    [before] = project.workers()
    other = project.begin("neighbour", {"gate": "other"})
    project.at("other")
    deaf = project.begin("deaf", {"gate": "never"})
    assert project.finish(deaf)["error"]["type"] == "TimeoutError"
    wait_until(lambda: project.workers() not in ([], [before]), "the worker to be replaced")
    project.open("other")
    seen = project.finish(other)
    assert (seen["status"], seen["result"]) == ("completed", 1)
    assert project.witness().count(f"first {other}") == 1
    assert "attempt.failed" not in kinds(seen)


def test_cancel_is_final_while_a_def_handler_still_runs(shared: Project) -> None:
    """A cancelled run is so at once; what its handler does afterwards is not recorded, and its slot
    is given back when it has stopped."""
    run = shared.begin("syncHeld", {"gate": "cancel-sync"})
    shared.at("cancel-sync")
    assert shared.call("run.cancel", run=run)["changed"] is True
    assert shared.get(run)["status"] == "cancelled"
    assert not idle(shared)
    shared.open("cancel-sync")
    wait_until(lambda: idle(shared), "the handler to stop")
    seen = shared.get(run)
    assert kinds(seen)[-2:] == ["run.cancelled", "attempt.stopped"]
    assert "step.completed" not in kinds(seen)
    assert f"next {run}" not in shared.witness()


def test_cancel_stops_an_async_handler(shared: Project) -> None:
    """The tasks of a cancelled `async def` handler are cancelled, and their `finally` runs."""
    run = shared.begin("asyncHeld", {"gate": "cancel-async"})
    shared.at("cancel-async")
    shared.call("run.cancel", run=run)
    wait_until(lambda: f"left {run}" in shared.witness(), "the handler to leave")
    wait_until(lambda: idle(shared), "the slot to be given back")
    assert shared.get(run)["status"] == "cancelled"


def test_cancel_of_a_sleeping_and_of_a_scheduled_run(shared: Project) -> None:
    """What does not run is cancelled without a handler."""
    asleep = shared.begin("sleeper")
    shared.until_status(asleep, "waiting")
    later = shared.begin("quick", delay_ms=3_600_000)
    for run in (asleep, later):
        assert shared.call("run.cancel", run=run)["changed"] is True
        assert shared.finish(run)["status"] == "cancelled"


@pytest.mark.parametrize("job", ["sleeper", "asyncHeld"])
def test_cancel_of_a_parent_cancels_what_it_calls(shared: Project, job: str) -> None:
    """A child that waits or runs is cancelled with the parent that called it."""
    parent = shared.begin("parentOf", {"job": job, "payload": {"gate": "never-opened"}})
    shared.until_status(parent, "waiting")
    [child] = [
        run["id"] for run in shared.call("run.list", job=job)["runs"] if run["parent"] == parent
    ]
    shared.until_status(child, "waiting" if job == "sleeper" else "running")
    shared.call("run.cancel", run=parent)
    assert shared.finish(child)["status"] == "cancelled"
    assert shared.finish(parent)["status"] == "cancelled"
    wait_until(lambda: idle(shared), "the slots to be given back")


def test_cancel_of_a_finished_run_changes_nothing(shared: Project) -> None:
    """It is told that it was finished before, and stays as it was."""
    run = shared.finish(shared.begin("quick"))["id"]
    told = shared.call("run.cancel", run=run)
    assert told == {"id": run, "status": "completed", "changed": False}
    assert shared.get(run)["result"] == "quick"
