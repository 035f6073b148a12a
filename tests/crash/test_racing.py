"""Many at once, while workers and daemon are killed under them: one key is one run, one increment
is one increment.

The short form lets 64 runs increment 60 times each over 12 kills, the long one
(`STACKSHIFT_LONG=1`) 1,000 times each over as many kills as it takes seconds.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial

from helpers.deadline import SECONDS, wait_until
from helpers.project import Project, environment
from helpers.project_factory import Make
from stackshift_jobs.errors import DaemonUnavailable

LONG = os.environ.get("STACKSHIFT_LONG") == "1"
RACERS = 64
TIMES = 1000 if LONG else 60
KILLS = 60 if LONG else 12

JOBS = f"""
@stackshift.job("counts", retry=ONCE)
def counts(ctx):
    for _ in range({TIMES}):
        ctx.state.increment("count")
    return ctx.state.increment("counted by threads", by=ctx.payload["times"])


@stackshift.job("countsAsync", retry=ONCE)
async def counts_async(ctx):
    for _ in range({TIMES}):
        await ctx.state.increment("count")
    return await ctx.state.increment("counted by tasks", by=ctx.payload["times"])
"""
TWO = """\
[workers]
processes = 2
slots = 32
grace = "1s"
inherit_env = ["PYTHONPATH"]
"""


def counted(project: Project) -> int:
    """How far they are; -1 where nobody answers."""
    with suppress(DaemonUnavailable):
        entry = project.call("state.get", key="count")
        return int(entry["value"]) if entry else 0
    return -1


def reached(project: Project, mark: int) -> bool:
    """Has the counter reached `mark`?"""
    return counted(project) >= mark


def test_many_processes_that_start_with_one_key_get_one_run(make_project: Make) -> None:
    """64 commands at once, with no daemon running: one of them starts it, one run comes of all."""
    project = make_project(JOBS, TWO)
    one = [
        sys.executable,
        "-m",
        "stackshift_cli",
        "start",
        "counts",
        "-p",
        '{"times": 0}',
        "--idempotency-key",
        "the only one",
        "-q",
    ]
    racing = [
        subprocess.Popen(
            one,
            cwd=project.root,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(RACERS)
    ]
    told = [process.communicate(timeout=4 * SECONDS) for process in racing]

    assert [process.returncode for process in racing] == [0] * RACERS, told
    assert len({out.strip() for out, _ in told}) == 1
    runs = project.call("run.list", job="counts")["runs"]
    assert [run["id"] for run in runs] == [told[0][0].strip()]


def test_increments_of_handlers_are_counted_once_under_kills(make_project: Make) -> None:
    """64 handlers increment one counter while a worker or the daemon is killed again and again."""
    project = make_project(JOBS, TWO)
    project.start()
    started = [
        project.begin(
            "countsAsync" if index % 2 else "counts",
            {"times": TIMES},
            idempotency_key=f"racer {index}",
        )
        for index in range(RACERS)
    ]
    whole = RACERS * TIMES
    for kill in range(1, KILLS + 1):
        mark = whole * kill // (KILLS + 1)
        wait_until(partial(reached, project, mark), f"{mark} increments", 10 * SECONDS)
        if kill % 3:
            # After the last kill there may be none yet that serves.
            workers = wait_until(project.workers, "a worker to serve")
            with suppress(ProcessLookupError):
                os.kill(workers[kill % 2 - 1], signal.SIGKILL)
        else:
            project.kill()
            project.start()

    ended = [project.finish(run, 10 * SECONDS) for run in started]
    assert [run["status"] for run in ended] == ["completed"] * RACERS
    assert counted(project) == whole
    halves = [
        project.call("state.get", key=f"counted by {kind}")["value"]
        for kind in ("threads", "tasks")
    ]
    assert halves == [whole // 2] * 2
    versions = [
        record["version"]
        for record in project.journal()
        if record["kind"] == "state.set" and record["key"] == "count"
    ]
    assert versions == list(range(1, whole + 1)), "each is one record, in one order"
    project.verify()


def test_result_of_a_racer_names_what_it_saw(make_project: Make) -> None:
    """Increments answer every caller with another number: none is returned twice."""
    project = make_project(JOBS, TWO)
    project.start()
    runs = [project.begin("counts", {"times": 1}) for _ in range(8)]
    seen = sorted(project.finish(run)["result"] for run in runs)

    assert seen == list(range(1, 9))
