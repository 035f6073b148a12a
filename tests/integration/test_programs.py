"""What steps start has the signals that any program has."""

from __future__ import annotations

import os
import signal

import pytest

from helpers.project import Project
from helpers.project_factory import Make

JOBS = """
import asyncio
import multiprocessing
import subprocess
import time


def answer(seconds):
    time.sleep(seconds)
    return seconds


def fastest(method):
    # Leaving the block terminates the pool, and with it the other process.
    with multiprocessing.get_context(method).Pool(2) as pool:
        return next(pool.imap_unordered(answer, [0.01, 600]))


def stop(_):
    process = subprocess.Popen(["sleep", "600"])
    process.terminate()
    return process.wait()


def terminate(method):
    process = multiprocessing.get_context(method).Process(target=answer, args=(600,))
    process.start()
    process.terminate()
    process.join()
    return process.exitcode


def trap(_):
    text = "trap \\"echo cleaned; exit 3\\" TERM; kill -TERM $$; echo not stopped"
    return subprocess.run(["sh", "-c", text], stdout=subprocess.PIPE, text=True).stdout


FUNCTIONS = {"fastest": fastest, "stop": stop, "terminate": terminate, "trap": trap}


@stackshift.job("starts", retry=ONCE)
def starts(ctx):
    return ctx.step.run("start", FUNCTIONS[ctx.payload["what"]], ctx.payload.get("method"))


@stackshift.job("startsAsync", retry=ONCE)
async def starts_async(ctx):
    return await ctx.step.run("start", FUNCTIONS[ctx.payload["what"]], ctx.payload.get("method"))


@stackshift.job("commands", retry=ONCE)
def commands(ctx):
    text = "trap \\"echo cleaned; exit 0\\" TERM; kill -TERM $$; echo not stopped"
    return ctx.step.command("trap", ["sh", "-c", text])["stdout"]


@stackshift.job("waits")
def waits(ctx):
    ctx.step.run("wait", gate, "gate")
    return "done"
"""


@pytest.fixture
def project(make_project: Make) -> Project:
    """A project whose jobs start programs and processes."""
    project = make_project(JOBS)
    project.start()
    return project


@pytest.mark.parametrize("job", ["starts", "startsAsync"])
@pytest.mark.parametrize(
    ("payload", "result"),
    [
        ({"what": "stop"}, -signal.SIGTERM),
        ({"what": "trap"}, "cleaned\n"),
        ({"what": "fastest", "method": "fork"}, 0.01),
        ({"what": "fastest", "method": "spawn"}, 0.01),
        ({"what": "terminate", "method": "fork"}, -signal.SIGTERM),
        ({"what": "terminate", "method": "spawn"}, -signal.SIGTERM),
    ],
    ids=["popen", "shell trap", "fork pool", "spawn pool", "fork", "spawn"],
)
def test_what_a_step_starts_can_be_terminated(
    project: Project, job: str, payload: dict[str, str], result: object
) -> None:
    """It ignored TERM and Ctrl-C, as its worker does: pools hung, traps of shells did not run."""
    assert project.finish(project.begin(job, payload))["result"] == result


def test_program_of_a_command_can_be_terminated(project: Project) -> None:
    """The same for `step.command`."""
    assert project.finish(project.begin("commands"))["result"] == "cleaned\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_worker_disregards_signals_of_a_terminal(project: Project, number: int) -> None:
    """The daemon ends its workers itself, in good order."""
    run = project.begin("waits")
    project.at("gate")
    for pid in project.workers():
        os.kill(pid, number)
    project.open("gate")
    assert project.finish(run)["result"] == "done"
    assert project.get(run)["attempt"] == 1
    kinds = [record["kind"] for record in project.journal()]
    assert "attempt.lost" not in kinds
