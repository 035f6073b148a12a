"""The daemon is killed at random moments, again and again; nothing that was promised is lost
(guarantee: durable acknowledgement).

The short form kills it 15 times, the long one (`STACKSHIFT_LONG=1`) 200 times.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from helpers.deadline import wait_until
from helpers.ledger import Ledger
from helpers.processes import serving, wait_gone
from helpers.project import Json, Project
from helpers.project_factory import Make
from stackshift_cli.daemon.connection import Connection
from stackshift_jobs.errors import StackshiftError

KILLS = 200 if os.environ.get("STACKSHIFT_LONG") == "1" else 15
STEPS = 20
KEYS = 8

JOBS = f"""
KILLS = {KILLS}


def step(run_id, name):
    note(run_id, name)
    time.sleep(0.002)
    return name


def kills():
    try:
        return int((ROOT / "kills").read_text() or 0)
    except FileNotFoundError:
        return 0


def paced(run_id, i):
    # In step with the kills, so that each of them finds the run somewhere else.
    while kills() * {STEPS} < i * KILLS:
        time.sleep(0.005)
    return step(run_id, f"step-{{i}}")


@stackshift.job("long")
def long(ctx):
    for i in range({STEPS}):
        ctx.step.run(f"step-{{i}}", paced, ctx.run_id, i)
    return "long"


@stackshift.job("longAsync")
async def long_async(ctx):
    for i in range({STEPS}):
        await ctx.step.run(f"step-{{i}}", paced, ctx.run_id, i)
        if i % 4 == 0:
            await ctx.step.sleep(f"nap-{{i}}", "20ms")
    return "long"


@stackshift.job("short")
def short(ctx):
    for name in ("a", "b", "c"):
        ctx.step.run(name, step, ctx.run_id, name)
    return ctx.payload


@stackshift.job("starts")
def starts(ctx):
    ctx.step.run("a", step, ctx.run_id, "a")
    child = ctx.step.start("short", {{"of": ctx.run_id}})
    ctx.step.run("b", step, ctx.run_id, "b")
    ctx.step.sleep("nap", "150ms")
    ctx.step.result(child)
    return child
"""


class Starter(threading.Thread):
    """A client that starts runs as fast as it is answered, until the daemon is gone; it remembers
    what was acknowledged."""

    def __init__(self, data_dir: Path, life: int, acknowledged: dict[str, str]) -> None:
        super().__init__(name=f"starter-{life}", daemon=True)
        self._data_dir = data_dir
        self._life = life
        self._acknowledged = acknowledged
        self.keyed: list[tuple[str, str]] = []

    def run(self) -> None:
        """Start runs until the daemon is gone, and note the acknowledged ones."""
        with suppress(StackshiftError, TimeoutError), Connection.open(self._data_dir) as daemon:
            for number in range(10):
                job = "starts" if number % 3 == 0 else "short"
                told = daemon.call("run.start", {"job": job, "payload": {"n": number}}, 20)
                self._acknowledged[told["id"]] = job
                key = f"key-{(self._life + number) % KEYS}"
                params = {"job": "short", "payload": {"key": key}, "idempotency_key": key}
                told = daemon.call("run.start", params, 20)
                self._acknowledged[told["id"]] = "short"
                self.keyed.append((key, told["id"]))


def live_and_die(project: Project, random: Random, starter: Starter) -> None:
    """Start the daemon and kill it: sometimes before it is ready, else soon after."""
    process, ready = project.launch()
    try:
        if random.random() < 0.25:
            select.select([ready], [], [], random.uniform(0.0, 0.5))
        else:
            assert os.read(ready, 4096), project.log()[-2000:]
            starter.start()
            with suppress(subprocess.TimeoutExpired):
                process.wait(random.uniform(0.0, 0.2))  # it does not end by itself, but by a bug
    finally:
        os.close(ready)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, project.log()[-2000:]
    if starter.ident is not None:
        starter.join()


def test_runs_complete_however_often_the_daemon_is_killed(make_project: Make) -> None:
    """Every acknowledged start exists and completes; every step ran, and none ran after it was
    recorded; a key made one run; the journal is whole."""
    seed = int(os.environ.get("STACKSHIFT_SEED", "0")) or Random().randrange(1 << 30)
    print(f"STACKSHIFT_SEED={seed}")
    random = Random(seed)
    project = make_project(JOBS)
    project.start()
    acknowledged = {project.begin(job): job for job in ("long", "longAsync")}
    keyed: list[tuple[str, str]] = []
    ledger = Ledger(project)
    project.kill()
    for life in range(KILLS):
        ledger.check()
        (project.root / "kills").write_text(str(life))
        starter = Starter(project.data_dir, life, acknowledged)
        live_and_die(project, random, starter)
        wait_until(lambda: not serving(project.root), "workers to die with their daemon")
        keyed += starter.keyed
    (project.root / "kills").write_text(str(KILLS))
    ledger.check()
    project.verify()
    project.start()
    finished = {run: project.finish(run, 60) for run in acknowledged}
    check_outcome(project, finished, acknowledged)
    check_keys(project, keyed)
    assert project.stop() == 0
    ledger.check()
    project.verify()
    assert len(acknowledged) > KILLS


def check_outcome(project: Project, finished: dict[str, Json], jobs: dict[str, str]) -> None:
    """All completed; each step on record once, and run at least once; each child started once."""
    witnessed = Counter(tuple(line.split()) for line in project.witness())
    records = project.journal()
    recorded = Counter(
        (record["run"], record["step"]) for record in records if record["kind"] == "step.completed"
    )
    assert set(recorded.values()) == {1}
    for run, seen in finished.items():
        assert seen["status"] == "completed", (run, seen["error"])
        assert seen["job"] == jobs[run]
        due = {
            "long": [f"step-{i}" for i in range(STEPS)],
            "longAsync": [f"step-{i}" for i in range(STEPS)],
            "starts": ["a", "b"],
        }.get(jobs[run], ["a", "b", "c"])
        for name in due:
            assert recorded[run, name] == 1, (run, name)
            assert witnessed[run, name] >= 1, (run, name)
    children = Counter(
        record["parent"]
        for record in records
        if record["kind"] == "run.created" and record.get("parent")
    )
    for run, job in jobs.items():
        if job == "starts":
            assert children[run] == 1, run
            assert finished[run]["result"] in {record.get("run") for record in records}


def check_keys(project: Project, keyed: list[tuple[str, str]]) -> None:
    """One run for each key, in the clients' answers, in the journal, and now."""
    owners = dict(keyed)
    assert [run for key, run in keyed if owners[key] != run] == []
    created = Counter(
        record["key"]
        for record in project.journal()
        if record["kind"] == "run.created" and record.get("key")
    )
    assert set(created.values()) <= {1}
    for key, owner in owners.items():
        told = project.call("run.start", job="short", payload={"key": key}, idempotency_key=key)
        assert (told["id"], told["reused"]) == (owner, True)


def test_workers_die_with_their_daemon(make_project: Make) -> None:
    """When the daemon is killed its workers end, also one whose handlers never come back."""
    project = make_project(JOBS + BUSY)
    project.start()
    project.begin("busy")
    project.begin("busyAsync")
    project.at("busy")
    workers = project.workers()
    daemon = project.daemon
    assert daemon is not None
    daemon.kill()
    daemon.wait()
    wait_gone(workers, "workers")


BUSY = """

@stackshift.job("busy")
def busy(ctx):
    gate("busy")


@stackshift.job("busyAsync")
async def busy_async(ctx):
    time.sleep(3600)
"""


@pytest.mark.parametrize("when", ["waiting", "retrying", "scheduled"])
def test_what_is_due_later_outlives_a_kill(make_project: Make, when: str) -> None:
    """A sleep, a backoff and a delayed start continue after a kill, and end at their time."""
    project = make_project(DUE_LATER)
    project.start()
    if when == "scheduled":
        run = project.begin("naps", {}, delay_ms=8000)
    else:
        run = project.begin("naps" if when == "waiting" else "fails")
    project.until_status(run, when)
    project.kill()
    project.start()
    assert project.get(run)["status"] == when
    seen = project.finish(run)
    assert seen["result"] == "done"


DUE_LATER = """
@stackshift.job("naps")
def naps(ctx):
    ctx.step.sleep("nap", "8s")
    return "done"


@stackshift.job("fails", retry=Retry(max_attempts=2, backoff="8s"))
def fails(ctx):
    if ctx.attempt == 1:
        raise ConnectionError("once")
    return "done"
"""
