"""Workers are killed under their runs: the runs resume, and a run that kills workers is
identified."""

from __future__ import annotations

import os
import shlex
import signal
import sys

import pytest

from helpers import processes, scenery
from helpers.deadline import wait_until
from helpers.processes import wait_gone
from helpers.project import Project, kinds
from helpers.project_factory import Make

JOBS = """
import signal


@stackshift.job("steps", retry=ONCE)
def steps(ctx):
    ctx.step.run("before", note, "before", ctx.run_id)
    ctx.step.run("held", gate, ctx.payload["gate"])
    child = ctx.step.start("quick", name="child")
    ctx.step.run("after", note, "after", ctx.run_id)
    return [ctx.attempt, child]


@stackshift.job("stepsAsync", retry=ONCE)
async def steps_async(ctx):
    await ctx.step.run("before", note, "before", ctx.run_id)
    await ctx.step.run("held", agate, ctx.payload["gate"])
    child = await ctx.step.start("quick", name="child")
    await ctx.step.run("after", note, "after", ctx.run_id)
    return [ctx.attempt, child]


@stackshift.job("quick")
def quick(ctx):
    return "quick"


@stackshift.job("poison")
def poison(ctx):
    note("swallowed", ctx.run_id, noted("bystander"))
    while not is_open("bystanders-in") and not noted("died"):
        time.sleep(0.005)
    note("died")
    os.kill(os.getpid(), signal.SIGKILL)


@stackshift.job("leaves")
def leaves(ctx):
    os._exit(3)


@stackshift.job("progresses")
def progresses(ctx):
    for i in range(6):
        ctx.step.run(f"step-{i}", note, "step", ctx.run_id, i)
        if noted("step", ctx.run_id, i) == 1 and noted("last", ctx.run_id, i) == 0:
            note("last", ctx.run_id, i)
            os.kill(os.getpid(), signal.SIGKILL)
    return "through"


@stackshift.job("bystander", retry=ONCE)
def bystander(ctx):
    note("bystander")
    gate("bystanders")
    return ctx.attempt
"""
TWO = """\
[workers]
processes = 2
slots = 4
grace = "1s"
inherit_env = ["PYTHONPATH"]
"""


def kill_workers(project: Project) -> None:
    """SIGKILL every worker, and wait until the daemon has new ones."""
    before = project.workers()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_gone(before, "workers")

    def replaced() -> bool:
        now = project.workers()
        return len(now) == len(before) and not set(before) & set(now)

    wait_until(replaced, "new workers")


@pytest.mark.parametrize(
    ("job", "manner"), [("poison", "(signal 9)"), ("leaves", "(exit status 3)")]
)
def test_lost_attempt_says_how_its_worker_ended(make_project: Make, job: str, manner: str) -> None:
    """By which signal, or with which status: in each loss, and in the error that ends the run."""
    project = make_project(JOBS)
    project.start()
    project.open("bystanders-in")
    run = project.finish(project.begin(job))
    lost = [each["reason"] for each in run["timeline"] if each["kind"] == "attempt.lost"]
    assert lost == [f"the worker process died {manner}"] * len(lost)
    assert len(lost) > 2
    assert run["error"]["type"] == "WorkerDied"
    assert run["error"]["message"].endswith(manner)


def test_run_goes_on_from_its_record_when_its_worker_is_killed(make_project: Make) -> None:
    """Recorded steps are not run again, the step under way is, and no attempt is used up; a child
    is started once."""
    project = make_project(JOBS)
    project.start()
    runs = [project.begin(job, {"gate": f"at-{job}"}) for job in ("steps", "stepsAsync")]
    for times in (1, 2, 3):
        project.at("at-steps", times)
        project.at("at-stepsAsync", times)
        if times < 3:
            kill_workers(project)
    project.open("at-steps")
    project.open("at-stepsAsync")
    for run in runs:
        seen = project.finish(run)
        assert (seen["status"], seen["result"][0]) == ("completed", 1)
        assert kinds(seen, "attempt.lost") == ["attempt.lost"] * 2
        told = project.witness()
        assert [told.count(f"{x} {run}") for x in ("before", "after")] == [1, 1]
    children = project.call("run.list", job="quick")["runs"]
    assert sorted(child["parent"] for child in children) == sorted(runs)


def test_run_that_kills_its_workers_fails_as_poisonous_and_harms_no_other(
    make_project: Make,
) -> None:
    """After three deaths it is tried alone, then it has failed; the runs beside it complete, their
    attempts not used up."""
    project = make_project(JOBS, TWO)
    project.start()
    others = [project.begin("bystander") for _ in range(4)]
    wait_until(lambda: project.witness().count("bystander") == 4, "the others to run")
    poison = project.begin("poison")
    project.open("bystanders-in")
    seen = project.finish(poison)
    assert seen["status"] == "failed"
    assert seen["timeline"][-1]["reason"] == "poisonous"
    assert seen["error"]["type"] == "WorkerDied"
    assert kinds(seen, "attempt.lost") == ["attempt.lost"] * 4
    assert seen["attempt"] == 1
    project.open("bystanders")
    for other in others:
        ended = project.finish(other)
        assert (ended["status"], ended["result"]) == ("completed", 1)
    # Alone on its last try: in that worker nothing else was executing.
    last = seen["timeline"][-3]
    assert last["kind"] == "attempt.resumed"
    here = {
        run["id"]
        for run in map(project.get, others)
        for record in run["timeline"]
        if record.get("worker") == last["worker"] and record["seq"] < last["seq"]
    }
    assert here == set() or all_ended_before(project, others, last)


def all_ended_before(project: Project, runs: list[str], last: dict[str, object]) -> bool:
    """Had each of `runs` left the worker of `last` when that record was written?"""
    seq = int(str(last["seq"]))
    for run in map(project.get, runs):
        place = None
        for record in run["timeline"]:
            if record["seq"] > seq:
                break
            if record["kind"] in ("attempt.started", "attempt.resumed"):
                place = record["worker"]
            elif record["kind"] in ("attempt.lost", "run.completed"):
                place = None
        if place == last["worker"]:
            return False
    return True


def test_run_that_records_something_between_deaths_is_not_poisonous(make_project: Make) -> None:
    """A worker that dies after each new step is bad luck, not poison: the run gets through."""
    project = make_project(JOBS, TWO)
    project.start()
    seen = project.finish(project.begin("progresses"))
    assert (seen["status"], seen["result"]) == ("completed", "through")
    assert kinds(seen, "attempt.lost") == ["attempt.lost"] * 6
    told = [line for line in project.witness() if line.startswith(f"step {seen['id']}")]
    assert len(told) == 6


def test_worker_that_cannot_start_is_tried_again(make_project: Make) -> None:
    """A daemon whose workers die at import serves, says so, and recovers when they start again."""
    project = make_project(JOBS)
    bad = project.write_module("bad", "import os\nos._exit(3)\n")
    project.start()
    assert project.workers() == []
    bad.unlink()
    wait_until(lambda: len(project.workers()) == 1, "a worker to start")
    assert project.finish(project.begin("quick"))["result"] == "quick"


def test_worker_whose_interpreter_was_away_for_a_while_comes_back(make_project: Make) -> None:
    """A worker that cannot even be executed is started again until it can: an environment that is
    being rebuilt does not leave the daemon without workers for good."""
    project = make_project(JOBS, scenery.CONFIG + 'python = "interpreter"\n')
    interpreter = project.root / "interpreter"
    interpreter.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    interpreter.chmod(0o700)
    project.start()
    [worker] = project.workers()
    interpreter.rename(project.root / "away")
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: "a worker cannot be started" in project.log(), "a failed start")
    run = project.begin("quick")
    (project.root / "away").rename(interpreter)
    assert project.finish(run)["result"] == "quick"


FORKING = """
import multiprocessing


@stackshift.job("forks", retry=ONCE)
def forks(ctx):
    ctx.step.run("before", note, "before", ctx.run_id)

    def work():
        if noted("died"):
            return "again"
        note("died")
        multiprocessing.get_context("fork").Process(target=gate, args=("never",)).start()
        os._exit(9)
    return ctx.step.run("work", work)
"""


def test_death_of_a_worker_is_noticed_though_a_forked_process_lives(make_project: Make) -> None:
    """The child of a step holds the worker's socket open, so the end of that says nothing; it ends
    with the worker, and what the worker had sent counts."""
    # Without a heartbeat in time, only the end of the process can tell.
    project = make_project(FORKING, scenery.CONFIG + 'heartbeat = "1h"\n')
    project.start()
    run = project.finish(project.begin("forks"))
    assert (run["status"], run["result"]) == ("completed", "again")
    lost = [each["reason"] for each in run["timeline"] if each["kind"] == "attempt.lost"]
    assert lost == ["the worker process died (exit status 9)"]
    assert project.witness().count(f"before {run['id']}") == 1
    assert len(processes.serving(project.root)) == 1 + len(project.workers())


NEIGHBOURS = """
import signal


@stackshift.job("long", retry=ONCE)
def long(ctx):
    note("long")
    gate("long")
    return ctx.attempt


@stackshift.job("kills", retry=ONCE)
def kills(ctx):
    note("kills")
    # Until the other one is in this worker too, if it is to die with it.
    while noted("kills") <= 3 and noted("long") < noted("kills"):
        time.sleep(0.005)
    if noted("kills") == 4:
        gate("fourth")
    os.kill(os.getpid(), signal.SIGKILL)


@stackshift.job("quick")
def quick(ctx):
    return "quick"
"""


def test_runs_that_are_tried_alone_keep_nobody_waiting(make_project: Make) -> None:
    """Each gets a worker of its own, even where the project has a single one; the innocent
    neighbour of a run that kills its workers completes, and the extra workers end."""
    project = make_project(NEIGHBOURS)
    project.start()
    [_] = project.workers()
    innocent = project.begin("long")
    wait_until(lambda: "long" in project.witness(), "the innocent run")
    guilty = project.begin("kills")
    project.at("fourth")
    # Not its arrivals at the gate: a worker may have died between the note and the gate.
    wait_until(lambda: project.witness().count("long") == 4, "the fourth try of the innocent run")
    told = project.call("run.why", run=innocent)
    assert told["why_code"] == "running_alone"
    assert "3 workers died while executing it" in told["why"]
    assert project.call("run.why", run=guilty)["why_code"] == "running_alone"
    spares = [w for w in project.call("daemon.status")["workers"] if w["status"] == "spare"]
    assert [spare["running"] for spare in spares] == [1, 1]
    quick = project.begin("quick")
    assert project.finish(quick)["result"] == "quick"
    project.open("fourth")
    failed = project.finish(guilty)
    assert failed["timeline"][-1]["reason"] == "poisonous"
    assert project.get(innocent)["status"] == "running"
    assert project.finish(project.begin("quick"))["result"] == "quick"
    project.open("long")
    seen = project.finish(innocent)
    assert (seen["status"], seen["result"]) == ("completed", 1)
    assert kinds(seen, "attempt.lost") == ["attempt.lost"] * 3
    wait_until(
        lambda: [w["status"] for w in project.call("daemon.status")["workers"]] == ["serving"],
        "the extra workers to end",
    )
