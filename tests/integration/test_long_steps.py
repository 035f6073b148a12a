"""Steps that run for long: checkpoints, heartbeats, and what a person sees of them, with a real
daemon (guarantee: checkpoints)."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from helpers import scenery
from helpers.deadline import wait_until
from helpers.project import Project, kinds
from helpers.project_factory import Make

JOBS = """
import asyncio
import threading

step = stackshift.step
QUICK = Retry(max_attempts=3, backoff="10ms", jitter=0.0)


def rows():
    start = step.last or 0
    note("begins", start, step.try_number)
    for row in range(start + 1, 9):
        assert step.checkpoint(row).recorded
        note("row", row)
        if row == 4:
            gate("at-4")
    return start


async def arows():
    start = step.last or 0
    note("begins", start, step.try_number)
    for row in range(start + 1, 9):
        assert await step.checkpoint(row)
        note("row", row)
        if row == 4:
            await agate("at-4")
    return start


@stackshift.job("rows")
def rows_job(ctx):
    return ctx.step.run("rows", rows)


@stackshift.job("arows")
async def arows_job(ctx):
    return await ctx.step.run("rows", arows)


@stackshift.job("trows")
async def trows_job(ctx):
    return await ctx.step.run("rows", rows)


def silent():
    if step.try_number == 1:
        step.checkpoint({"page": 7})
        gate("silent")
        note("heard")
        step.heartbeat()
        note("never")
    return step.last


async def asilent():
    if step.try_number == 1:
        step.checkpoint({"page": 7})
        try:
            await asyncio.sleep(3600)
        finally:
            note("heard")
    return step.last


@stackshift.job("silent")
def silent_job(ctx):
    return ctx.step.run("wait", silent, heartbeat="300ms", retry=QUICK)


@stackshift.job("asilent")
async def asilent_job(ctx):
    return await ctx.step.run("wait", asilent, heartbeat="300ms", retry=QUICK)


@stackshift.job("tsilent")
async def tsilent_job(ctx):
    return await ctx.step.run("wait", silent, heartbeat="300ms", retry=QUICK)


@stackshift.job("beats")
def beats(ctx):
    def work():
        def beat():
            for _ in range(60):
                step.heartbeat()
                time.sleep(0.01)
        thread = threading.Thread(target=beat)
        thread.start()
        thread.join()
        return step.try_number
    return ctx.step.run("work", work, heartbeat="400ms", retry=QUICK)


@stackshift.job("attempts", retry=FAST)
def attempts(ctx):
    def work():
        last = step.last
        step.checkpoint((last or 0) + 1)
        if last != 2:
            raise ConnectionError("again")
        return [last, step.try_number]
    return ctx.step.run("work", work)


@stackshift.job("flood", retry=FAST)
def flood(ctx):
    def work():
        last = step.last
        if last is None:
            for row in range(2_000):
                step.checkpoint(row)
            raise ConnectionError("again")
        return last
    return ctx.step.run("work", work)


@stackshift.job("cancelled")
def cancelled(ctx):
    def work():
        note("works")
        while True:
            time.sleep(0.01)
            try:
                step.heartbeat()
            except Exception:
                note("swallowed")
    return ctx.step.run("work", work)


@stackshift.job("misused", retry=ONCE)
def misused(ctx):
    step.checkpoint(1)


@stackshift.job("refused", retry=ONCE)
def refused(ctx):
    return ctx.step.run("work", lambda: step.checkpoint({"rows": {1, 2}}))


@stackshift.job("program", retry=FAST)
def program(ctx):
    script = '''
    row=$(stackshift checkpoint || echo 0)
    echo "$STACKSHIFT_TRY $row"
    stackshift checkpoint 41
    stackshift heartbeat
    [ "$row" = 41 ]
    '''
    return ctx.step.command("load", ["sh", "-c", script])["stdout"]


@stackshift.job("quiet", retry=ONCE)
def quiet(ctx):
    return ctx.step.command("wait", ["sleep", "3600"], heartbeat="300ms")


@stackshift.job("aquiet", retry=ONCE)
async def aquiet(ctx):
    return await ctx.step.command("wait", ["sleep", "3600"], heartbeat="300ms")


@stackshift.job("prints")
def prints(ctx):
    script = "for n in $(seq 25); do echo $n; sleep 0.1; done"
    beats = {"heartbeat": "2s", "output_beats": True}
    ctx.step.command("program", ["sh", "-c", script], **beats)
    def work():
        for n in range(25):
            print(n)
            time.sleep(0.1)
        return step.try_number
    return ctx.step.run("function", work, retry=QUICK, **beats)
"""


CONFIG = scenery.CONFIG.replace('grace = "1s"', 'grace = "30s"')
"""So long that a function which was left behind hears of it before its worker is replaced."""


@pytest.fixture
def project(make_project: Make) -> Project:
    """A project with these jobs, whose daemon runs."""
    made = make_project(JOBS, CONFIG)
    made.start()
    return made


def reached(project: Project, *words: object) -> None:
    """Wait until a function has noted this."""
    line = " ".join(map(str, words))
    wait_until(lambda: line in project.witness(), f"{line!r} was not noted")


def only_step(run: dict[str, Any]) -> dict[str, Any]:
    """The one step of a run."""
    [step] = run["steps"]
    return dict(step)


@pytest.mark.parametrize("job", ["rows", "arows", "trows"])
@pytest.mark.parametrize("killed", ["worker", "daemon"])
def test_next_try_goes_on_from_what_was_acknowledged(
    project: Project, job: str, killed: str
) -> None:
    """A `def` function, an `async def` one, and a `def` one of an `async def` handler."""
    run = project.begin(job)
    reached(project, "row", 4)
    if killed == "worker":
        os.kill(project.workers()[0], signal.SIGKILL)
    else:
        project.kill()
        project.start()
    reached(project, "begins", 4, 2)
    assert project.finish(run)["result"] == 4
    rows = [line for line in project.witness() if line.startswith("row")]
    assert rows == [f"row {row}" for row in range(1, 9)]
    project.verify()


@pytest.mark.parametrize("job", ["silent", "asilent", "tsilent"])
def test_function_that_does_not_beat_is_stopped_and_tried_again(project: Project, job: str) -> None:
    """Its try fails in its own words; the next one has what it had done; the function hears of it
    at its next beat."""
    begun = project.begin(job)
    wait_until(lambda: "step.failed" in kinds(project.get(begun)), "its try does not fail")
    project.open("silent")
    reached(project, "heard")
    run = project.finish(begun)
    assert run["result"] == {"page": 7}
    failed = [r for r in run["timeline"] if r["kind"] == "step.failed"]
    assert [each["error"]["type"] for each in failed] == ["HeartbeatTimeout"]
    words = "step 'wait' has not beaten for 300ms, its heartbeat"
    assert failed[0]["error"]["message"] == words
    assert "never" not in project.witness()


def test_beats_of_threads_keep_a_step_alive(project: Project) -> None:
    """It runs for longer than its heartbeat, in one try."""
    assert project.finish(project.begin("beats"))["result"] == 1


def test_checkpoint_is_kept_over_attempts(project: Project) -> None:
    """The tries are counted over them."""
    assert project.finish(project.begin("attempts"))["result"] == [2, 3]


def test_flood_of_checkpoints_is_bounded_and_its_last_is_kept(project: Project) -> None:
    """Ten are recorded at once, then one a second, and the last one before the failure."""
    run = project.finish(project.begin("flood"))
    assert run["result"] == 1_999
    recorded = [r for r in run["timeline"] if r["kind"] == "step.checkpointed"]
    assert [r["value"] for r in recorded[:10]] == list(range(10))
    assert recorded[-1]["value"] == 1_999
    assert len(recorded) < 100


def test_cancelled_function_ends_at_its_next_beat(project: Project) -> None:
    """Although it catches every `Exception`: the worker need not be replaced."""
    run = project.begin("cancelled")
    reached(project, "works")
    [worker] = project.call("daemon.status")["workers"]
    project.call("run.cancel", run=run)
    project.finish(run)
    wait_until(
        lambda: project.get(run)["timeline"][-1]["kind"] == "attempt.stopped", "it does not stop"
    )
    assert [each["pid"] for each in project.call("daemon.status")["workers"]] == [worker["pid"]]
    assert "swallowed" not in project.witness()


def test_handler_itself_has_no_checkpoint(project: Project) -> None:
    """It would be taken for a recorded call."""
    error = project.finish(project.begin("misused"))["error"]
    assert error["type"] == "Usage"
    assert "outside of a step's function" in error["message"]


def test_checkpoint_that_json_cannot_hold_fails_the_step(project: Project) -> None:
    """The path is named."""
    error = project.finish(project.begin("refused"))["error"]
    assert (error["type"], "$.rows" in error["message"]) == ("PayloadRefused", True)


def test_program_has_checkpoints_and_beats(project: Project) -> None:
    """By commands, and the next attempt's program goes on from there."""
    assert project.finish(project.begin("program"))["result"] == "2 41\n"


@pytest.mark.parametrize("job", ["quiet", "aquiet"])
def test_silent_program_is_ended(project: Project, job: str) -> None:
    """With the whole of its group, and its step fails."""
    error = project.finish(project.begin(job))["error"]
    assert error["type"] == "HeartbeatTimeout"


def test_output_is_a_beat_where_that_is_asked_for(project: Project) -> None:
    """That of a program, and what a function prints."""
    assert project.finish(project.begin("prints"))["result"] == 1


def test_people_see_checkpoint_and_last_beat(project: Project) -> None:
    """In `steps[]`, and in the sentence of `runs why`."""
    run = project.begin("rows")
    reached(project, "row", 4)
    shown = wait_until(
        lambda: (step := only_step(project.get(run)))["last_beat_at"] and step, "no beat"
    )
    assert (shown["checkpoint"], shown["status"]) == (4, "running")
    assert shown["checkpoint_at"] is not None
    assert "; step rows: last beat " in project.call("run.why", run=run)["why"]
    project.open("at-4")
    project.finish(run)
    shown = only_step(project.get(run))
    assert [shown[name] for name in ("checkpoint", "checkpoint_at", "last_beat_at")] == [None] * 3


def test_retry_of_a_failed_run_goes_on_from_the_checkpoint(project: Project) -> None:
    """A fork does too; both begin afresh from a step that is named."""
    run = project.begin("rows")
    reached(project, "row", 4)
    project.call("run.cancel", run=run)
    project.open("at-4")
    wait_until(
        lambda: project.get(run)["timeline"][-1]["kind"] == "attempt.stopped", "it does not stop"
    )
    fork = project.call("run.fork", run=run)["id"]
    assert project.finish(fork)["result"] in (4, 5)
    project.call("run.retry", run=run, from_step="rows")
    assert project.finish(run)["result"] == 0
