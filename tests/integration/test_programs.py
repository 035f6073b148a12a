"""What steps start: its signals, its output, its environment. How it ends is in
`crash/test_program_endings.py`."""

from __future__ import annotations

import os
import signal

import pytest

from helpers import scenery
from helpers.deadline import wait_until
from helpers.processes import alive
from helpers.project import Project
from helpers.project_factory import Make
from stackshift_jobs.programs.processes import (
    PROGRAM_VARIABLE,
    WORKER_VARIABLE,
    ProcessGroup,
    project_mark,
)

JOBS = """
import asyncio
import contextlib
import multiprocessing
import subprocess
import threading
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


@stackshift.job("speaks", retry=ONCE)
def speaks(ctx):
    return ctx.step.command("speak", ["sh", "speak.sh"], stdin="in")


@stackshift.job("speaksAsync", retry=ONCE)
async def speaks_async(ctx):
    return await ctx.step.command("speak", ["sh", "speak.sh"], stdin="in")


@stackshift.job("floods", retry=ONCE)
def floods(ctx):
    return len(ctx.step.command("flood", ["seq", "1000000"])["stdout"])


@stackshift.job("looks", retry=ONCE)
async def looks(ctx):
    told = await ctx.step.command("look", ["env"], env={"MINE": "1", "HOME": "/elsewhere"})
    here = await ctx.step.command("where", ["pwd"], cwd="jobs")
    return [told["stdout"], here["stdout"]]


@stackshift.job("refused", retry=FAST)
async def refused(ctx):
    await ctx.step.command("list", "ls -l")


@stackshift.job("gives-up", retry=ONCE)
async def gives_up(ctx):
    long = asyncio.create_task(ctx.step.command("long", ["sh", "-c", "echo $$; exec sleep 600"]))
    await ctx.step.run("until", gate, "given up")
    long.cancel()
    try:
        await long
    except asyncio.CancelledError:
        return "given up"


@stackshift.job("threads", retry=ONCE)
def threads(ctx):
    def work():
        try:
            ctx.step.command("long", ["sh", "-c", "echo $$; exec sleep 600"])
        finally:
            note("left")
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


DEAF = ["sh", "-c", "trap : TERM; echo $$; while :; do sleep 600; done"]


@stackshift.job("leaves", retry=ONCE)
def leaves(ctx):
    def work():
        with contextlib.suppress(BaseException):
            ctx.step.command("long", DEAF)
    threading.Thread(target=work).start()
    ctx.step.run("until", gate, "left")
    return "left"


@stackshift.job("leavesAsync", retry=ONCE)
async def leaves_async(ctx):
    task = asyncio.create_task(ctx.step.command("long", DEAF))
    await ctx.step.run("until", gate, "left")
    return "left"


@stackshift.job("waits")
def waits(ctx):
    ctx.step.run("wait", gate, "gate")
    return "done"
"""


SPEAK = r"""
echo out; printf 'b\303\266r\n\377' >&2; printf half
while test ! -e gates/speak; do sleep 0.01; done
echo " whole"; cat
"""


@pytest.fixture
def project(make_project: Make) -> Project:
    """A project whose jobs start programs and processes."""
    project = make_project(JOBS)
    (project.root / "speak.sh").write_text(SPEAK)
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


def lines(project: Project, run: str) -> list[tuple[str, str, str]]:
    """`(step, stream, message)` of each line in the log of a run."""
    found = project.call("run.logs", run=run)["lines"]
    return [(line["step"], line["stream"], line["message"]) for line in found]


@pytest.mark.parametrize("job", ["speaks", "speaksAsync"])
def test_output_is_in_the_log_of_the_run_as_it_comes(project: Project, job: str) -> None:
    """Under its step and stream, while the program runs, also what is not a whole line yet; what is
    not UTF-8 is escaped. The result has the same, as text."""
    run = project.begin(job)
    ended = {("speak", "stdout", "out"), ("speak", "stderr", "bör"), ("speak", "stderr", "\\xff")}
    begun = ended | {("speak", "stdout", "half")}
    wait_until(lambda: set(lines(project, run)) == begun, "the first lines")
    project.open("speak")
    result = project.finish(run)["result"]
    assert result == {"exit_code": 0, "stdout": "out\nhalf whole\nin", "stderr": "bör\n\ufffd"}
    rest = {("speak", "stdout", "half whole"), ("speak", "stdout", "in")}
    assert set(lines(project, run)) == ended | rest


def test_long_output_is_bounded_everywhere(project: Project) -> None:
    """In the result, and in the log, whose last line says so."""
    run = project.finish(project.begin("floods"))
    assert run["result"] == 64 * 1024
    assert (project.data_dir / "logs" / f"{run['id']}.jsonl").stat().st_size < (1 << 20) + 1000


def test_program_has_the_environment_of_workers_and_its_own(project: Project) -> None:
    """Of which its own takes precedence; marks say whose it is, and it runs in the project."""
    run = project.finish(project.begin("looks"))
    told, where = run["result"]
    variables = dict(line.split("=", 1) for line in told.splitlines())
    assert (variables["MINE"], variables["HOME"]) == ("1", "/elsewhere")
    assert variables[PROGRAM_VARIABLE].startswith(f"{run['id']}/")
    assert variables[WORKER_VARIABLE].startswith(project_mark(project.data_dir))
    assert where.strip() == str(project.root / "jobs")


def test_what_is_not_a_command_fails_the_run_at_once(project: Project) -> None:
    """With a message for whoever wrote it."""
    run = project.finish(project.begin("refused"))
    assert (run["status"], run["attempt"]) == ("failed", 1)
    assert "list of a program and its arguments" in run["error"]["message"]


def test_program_and_its_group_are_on_record_while_it_runs(project: Project) -> None:
    """A daemon that finds the record can tell whether the program still runs."""
    run = project.begin("gives-up")
    project.at("given up")
    [pid] = [int(message) for _, _, message in wait_until(lambda: lines(project, run), "a line")]
    recorded = [x for x in project.journal() if x["kind"] == "step.started" and "program" in x]
    assert [x["step"] for x in recorded] == ["long"]
    assert ProcessGroup(recorded[0]["program"]["group"], recorded[0]["program"]["started"]).is_led
    assert recorded[0]["program"]["group"] == pid
    project.open("given up")
    assert project.finish(run)["result"] == "given up"
    assert not alive(pid)


def test_program_started_on_a_thread_of_the_handler_is_one_of_the_run(project: Project) -> None:
    """Its output is in the log, and it ends with the run."""
    run = project.begin("threads")
    [(step, _, pid)] = wait_until(lambda: lines(project, run), "a line")
    assert step == "long"
    project.call("run.cancel", run=run)
    wait_until(lambda: "left" in project.witness(), "the step to be left")
    assert not alive(int(pid))


@pytest.mark.parametrize("job", ["leaves", "leavesAsync"])
def test_run_ends_when_the_programs_its_handler_left_have(make_project: Make, job: str) -> None:
    """Those of a thread or a task that nobody waited for; here they have to be killed, which takes
    longer than the worker waits for the task."""
    project = make_project(JOBS, scenery.CONFIG.replace('"1s"', '"2s"'))
    project.start()
    run = project.begin(job)
    project.at("left")
    [(_, _, pid)] = wait_until(lambda: lines(project, run), "a line")
    project.open("left")
    assert project.finish(run)["result"] == "left"
    assert not alive(int(pid))
