"""A worker that falls silent is lost; what it says afterwards changes nothing."""

from __future__ import annotations

import os
import signal

import pytest

from helpers.deadline import wait_until
from helpers.inner_daemon import InsideDaemon
from helpers.processes import wait_gone
from helpers.project import kinds
from helpers.project_factory import Make
from stackshiftd.shell.tuning import Tuning

JOBS = """
def held(run_id):
    pid = os.getpid()
    note("in", run_id, pid)
    while not is_open(f"pass-{pid}"):
        time.sleep(0.005)
    note("out", run_id, pid)
    return pid


@stackshift.job("held", retry=ONCE)
def held_job(ctx):
    return ctx.step.run("held", held, ctx.run_id)


@stackshift.job("heldAsync", retry=ONCE)
async def held_async(ctx):
    return await ctx.step.run("held", held, ctx.run_id)
"""
TWO = """\
[workers]
processes = 2
slots = 4
grace = "1s"
heartbeat = "3s"
inherit_env = ["PYTHONPATH"]
"""
SILENCE = Tuning(kill_delay=3.0)


@pytest.mark.parametrize("job", ["held", "heldAsync"])
def test_result_of_a_worker_that_was_given_up_changes_nothing(make_project: Make, job: str) -> None:
    """A worker stopped past its heartbeat loses its run. Continued before it is killed, it delivers
    its result, which is ignored. The run completes once, elsewhere."""
    project = make_project(JOBS, TWO)
    daemon = InsideDaemon(project, SILENCE)
    try:
        run = project.begin(job)

        def inside(number: int) -> int:
            told = [line for line in project.witness() if line.startswith(f"in {run} ")]
            return int(told[number - 1].split()[2]) if len(told) >= number else 0

        first = wait_until(lambda: inside(1), "the first worker to be in the step")
        os.kill(first, signal.SIGSTOP)
        second = wait_until(lambda: inside(2), "another worker to be in the step")
        assert second != first
        project.open(f"pass-{first}")
        os.kill(first, signal.SIGCONT)
        wait_until(lambda: f"out {run} {first}" in project.witness(), "the late result")
        wait_gone([first], "the worker that was given up")
        seen = project.get(run)
        assert seen["status"] == "running"
        assert kinds(seen, "step.completed", "attempt.lost") == ["attempt.lost"]
        project.open(f"pass-{second}")
        seen = project.finish(run)
        assert (seen["status"], seen["result"], seen["attempt"]) == ("completed", second, 1)
        assert kinds(seen).count("step.completed") == 1
    finally:
        assert daemon.close() is None
    project.verify()
