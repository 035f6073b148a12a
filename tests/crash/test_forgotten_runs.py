"""No run stays `running` with nobody working on it, whatever its worker has lost.

(guarantee: nothing forgotten)
"""

from __future__ import annotations

import pytest

from helpers import scenery
from helpers.deadline import wait_until
from helpers.project import kinds
from helpers.project_factory import Make

JOB = """

@stackshift.job("short", retry=ONCE)
def short(ctx):
    ctx.step.run("before", note, "before", ctx.run_id)
    return "done"


@stackshift.job("shortAsync", retry=ONCE)
async def short_async(ctx):
    await ctx.step.run("before", note, "before", ctx.run_id)
    return "done"


@stackshift.job("blocks", retry=ONCE)
async def blocks(ctx):
    note("blocks")
    gate("blocks")  # Not awaited: the loop of the worker stands still.
    return "done"
"""
ORDER_LOST = """
from stackshiftd.worker.process import Worker

execute = Worker._execute


def forgetting(worker, order):
    if noted("forgotten"):
        return execute(worker, order)
    note("forgotten")
    worker._orders += 1


Worker._execute = forgetting
"""
END_LOST = """
from stackshiftd.core.commands import CompleteRun
from stackshiftd.worker.pipe import Pipe


def losing(deliver):
    def delivered(pipe, frame):
        if isinstance(frame, CompleteRun) and not noted("forgotten"):
            note("forgotten")
        else:
            deliver(pipe, frame)
    return delivered


Pipe.send, Pipe.post, Pipe.hand_over = map(losing, (Pipe.send, Pipe.post, Pipe.hand_over))
"""
THREAD_LOST = """
from stackshiftd.worker.threaded import Threads

submit = Threads.submit


def losing(threads, execution, port, pipe):
    if noted("forgotten"):
        submit(threads, execution, port, pipe)
    note("forgotten")


Threads.submit = losing
"""
BEATS = """
from stackshiftd.worker.process import Worker

known = Worker._known


def counted(worker):
    note("beat")
    return known(worker)


Worker._known = counted
"""
PROGRAM = """
from pathlib import Path
from stackshiftd.worker.process import Worker

known = Worker._known
is_first = not Path("first").exists()


def hiding(worker):
    found = known(worker)
    return [] if is_first and Path("first").exists() else found


Worker._known = hiding
SCRIPT = "if [ -e first ]; then kill -0 $(cat first) && echo two || echo one; exit; fi; "


@stackshift.job("program", retry=ONCE)
def program(ctx):
    script = SCRIPT + "echo $$ > next; mv next first; exec sleep 600"
    return ctx.step.command("long", ["sh", "-c", script])["stdout"].strip()
"""
SHORT = scenery.CONFIG + 'heartbeat = "3s"\n'


@pytest.mark.parametrize(
    ("job", "fault"),
    [
        ("short", ORDER_LOST),
        ("shortAsync", ORDER_LOST),
        ("short", END_LOST),
        ("shortAsync", END_LOST),
        ("short", THREAD_LOST),
    ],
    ids=["order", "order-async", "end", "end-async", "thread"],
)
def test_run_that_its_worker_has_forgotten_resumes(
    make_project: Make, job: str, fault: str
) -> None:
    """In the same attempt, with the steps that it has recorded."""
    project = make_project(fault + JOB, SHORT)
    project.start()
    [worker] = project.workers()
    run = project.finish(project.begin(job))
    assert (run["status"], run["result"], run["attempt"]) == ("completed", "done", 1)
    lost = [each["reason"] for each in run["timeline"] if each["kind"] == "attempt.lost"]
    assert lost == ["its worker does not execute it"]
    assert project.witness().count(f"before {run['id']}") == 1
    assert project.workers() == [worker]


def test_run_whose_order_waits_for_a_blocked_loop_is_not_lost(make_project: Make) -> None:
    """Its worker does not know of it yet, and beats all the same."""
    project = make_project(BEATS + JOB, SHORT)
    project.start()
    blocking = project.begin("blocks")
    project.at("blocks")
    waiting = [project.begin(job) for job in ("short", "shortAsync")]
    for run in waiting:
        project.until_status(run, "running")
    seen = project.witness().count("beat")
    wait_until(lambda: project.witness().count("beat") >= seen + 4, "four beats")
    project.open("blocks")
    for ended in map(project.finish, (blocking, *waiting)):
        assert ended["result"] == "done"
        assert kinds(ended, "attempt.lost") == []


def test_program_of_a_run_that_its_worker_has_forgotten_ends_before_the_next(
    make_project: Make,
) -> None:
    """The worker is replaced: only that ends what it has started."""
    project = make_project(PROGRAM, SHORT)
    project.start()
    [worker] = project.workers()
    run = project.finish(project.begin("program"))
    assert (run["status"], run["result"], run["attempt"]) == ("completed", "one", 1)
    assert worker not in project.workers()
