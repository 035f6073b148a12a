"""Daemons in two directories share a journal in PostgreSQL, as on two machines. Under load the one
that leads is killed, is stopped or stands still, and the other one takes over; no promise is
broken.

The short form does each a few times, the long one (`STACKSHIFT_LONG=1`) 100 times.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

import psutil
import pytest

from helpers.cable import Cable
from helpers.deadline import wait_until
from helpers.ledger import Ledger
from helpers.postgres import Postgres
from helpers.postgres_server import database as database
from helpers.project import Project
from helpers.project_factory import Make
from helpers.twins import twins
from stackshift_cli.daemon.connection import Connection
from stackshift_jobs.errors import (
    DaemonUnavailable,
    DatabaseUnavailable,
    Fenced,
    HostUnreachable,
    StackshiftError,
)

TIMES: Final = 100 if os.environ.get("STACKSHIFT_LONG") == "1" else 3
RUNS: Final = 6
"""Runs that are started before each blow."""

JOBS = """
def step(run_id, name):
    note(run_id, name)
    return name


@stackshift.job("order", retry=Retry(max_attempts=1000, backoff="10ms", factor=1))
def order(ctx):
    ctx.step.run("reserve", step, ctx.run_id, "reserve")
    with ctx.state.lock("till", ttl="1m"):
        ctx.step.run("pay", step, ctx.run_id, "pay")
        ctx.state.increment("orders")
    ctx.step.command("ship", ["sleep", "0.05"])
    ctx.step.run("tell", step, ctx.run_id, "tell")
    return ctx.payload["n"]
"""


class Pair:
    """One project in two directories, which share a witness; `leader` serves."""

    def __init__(self, make: Make, database: Postgres, name: str) -> None:
        config = (
            f'[project]\nname = "{name}"\n[workers]\nprocesses = 2\nslots = 4\ngrace = "1s"\n'
            'inherit_env = ["PYTHONPATH"]\n'
        )
        self.leader, self.other = self.first, _ = twins(make, JOBS, config)
        self.cables: dict[Project, Cable] = {}
        for number, project in enumerate((self.leader, self.other), 1):
            cable = self.cables[project] = Cable(database.port)
            url = database.url.replace(str(database.port), str(cable.port))
            with (project.root / "stackshift.toml").open("a") as file:
                file.write(
                    f'[journal]\nurl = "{url}"\nlease = "1s"\nsegment_size = "64KiB"\n'
                    f'[cluster]\nhost = "app-{number}"\nlisten = "127.0.0.1:0"\n'
                )
        self.leader.start()
        told = self.other.start()
        assert "follows" in told["notes"][0], told

    def taken_over(self) -> Project:
        """Wait until the other one leads; returns the one that led."""

        def leads() -> bool:
            with suppress(DaemonUnavailable):
                return bool(self.other.call("daemon.status")["role"] == "leads")
            return False

        wait_until(leads, "the follower to lead")
        self.leader, self.other = self.other, self.leader
        return self.other

    def begin(self, number: int) -> str:
        """Start a run, in whatever state the two are, by the daemon of either machine."""

        def begun() -> Any:
            for project in (self.leader, self.other)[:: 1 if number % 2 else -1]:
                with suppress(DaemonUnavailable, DatabaseUnavailable, HostUnreachable, Fenced):
                    key = f"order:{number}"
                    return project.begin("order", {"n": number}, idempotency_key=key)
            return None

        return str(wait_until(begun, "a start to be acknowledged"))


def hand_over(pair: Pair) -> None:
    """In good order, and the old leader goes on as a follower."""
    pair.other.call("cluster.handover")
    old = pair.taken_over()
    wait_until(partial(follows, old), "the old leader to follow")


def kill(pair: Pair) -> None:
    """The machine is gone: the daemon and its workers with it."""
    pair.leader.kill()
    pair.taken_over().start()


def stop(pair: Pair) -> None:
    """In good order."""
    assert pair.leader.stop() == 0
    pair.taken_over().start()


def cut_off(pair: Pair) -> None:
    """The leader cannot reach the database, and goes on for a while; then it can again."""
    cable = pair.cables[pair.leader]
    cable.cut()
    old = pair.taken_over()
    cable.mend()
    wait_until(partial(follows, old), "the one that was cut off to follow")


def lose_follower(pair: Pair) -> None:
    """Nobody notices but who looks for it."""
    pair.other.kill()
    pair.other.start()


def freeze(pair: Pair) -> None:
    """The machine stands still until another one leads; then it goes on, and follows that one."""
    assert pair.leader.daemon is not None
    daemon = psutil.Process(pair.leader.daemon.pid)
    frozen = [daemon, *daemon.children(recursive=True)]
    for process in frozen:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    old = pair.taken_over()
    for process in frozen:
        with suppress(psutil.NoSuchProcess):
            process.resume()
    wait_until(partial(follows, old), "the one that stood still to follow")


def follows(project: Project) -> bool:
    """Does its daemon serve, and follow another?"""
    with suppress(DaemonUnavailable, DatabaseUnavailable, Fenced):
        return bool(project.call("daemon.status")["role"] == "follows")
    return False


class Reader(threading.Thread):
    """Increments a counter on one machine and reads it on the other, in turns. `stale` are the
    reads that were behind what had been acknowledged before they were asked for."""

    def __init__(self, pair: Pair) -> None:
        super().__init__(daemon=True)
        self._projects = pair.leader, pair.other
        self._over = threading.Event()
        self.reads = 0
        self.stale: list[str] = []

    def run(self) -> None:
        """Until `stop`."""
        acknowledged = 0
        while not self._over.is_set():
            for here, there in (self._projects, self._projects[::-1]):
                made = self._asked(here, "state.increment")
                acknowledged = max(acknowledged, made["value"] if made is not None else 0)
                found = self._asked(there, "state.get")
                if found is not None:
                    self.reads += 1
                    if (found["value"] or 0) < acknowledged:
                        self.stale.append(f"{found['value']} after {acknowledged}")

    def stop(self) -> None:
        """Stop, and wait for the last answer."""
        self._over.set()
        self.join()

    def _asked(self, project: Project, method: str) -> Any:
        try:
            with Connection.open(project.data_dir) as connection:
                return connection.call(method, {"key": "reads"}, timeout=2.0)
        except (StackshiftError, TimeoutError):
            return None


BLOWS: dict[str, Callable[[Pair], None]] = {
    each.__name__: each for each in (kill, stop, freeze, cut_off, lose_follower, hand_over)
}


@pytest.mark.parametrize("blow", BLOWS)
def test_no_promise_is_broken_whoever_leads(
    make_project: Make, database: Postgres, tmp_path: Path, blow: str
) -> None:
    """Acknowledged starts complete, recorded steps are recorded once and do not run again, state is
    exact, and both directories are copies of the same (guarantee: shared journal)."""
    seed = int(os.environ.get("STACKSHIFT_SEED", "0")) or Random().randrange(1 << 30)
    print(f"STACKSHIFT_SEED={seed}")
    random = Random(seed)
    pair = Pair(make_project, database, f"{tmp_path.name}-{seed}")
    runs: list[str] = []
    reader = Reader(pair)
    reader.start()
    ledgers = {each: Ledger(each, pair.first) for each in (pair.leader, pair.other)}
    for _ in range(TIMES):
        reached = len(pair.first.witness()) + random.randrange(2 * RUNS)
        runs += [pair.begin(len(runs) + number) for number in range(RUNS)]
        wait_until(partial(has_noted, pair.first, reached), "some steps to run")
        ledgers[pair.leader].read()
        BLOWS[blow](pair)
        ledgers[pair.leader].read()
    reader.stop()
    print(f"{reader.reads} reads")
    assert reader.stale == []
    results = [pair.leader.finish(run)["result"] for run in runs]
    assert results == list(range(len(runs)))
    assert pair.leader.call("state.get", key="orders")["value"] == len(runs)
    last = ledgers[pair.leader]
    last.read()
    noted = last.faults
    if blow == "freeze":
        # What was about to begin when it stood still may begin when it goes on. Nothing comes of
        # that.
        noted = [fault for fault in noted if not fault.startswith("ran again")]
    assert noted == []
    recorded = Counter(step for _, step in last.completed)
    assert recorded == dict.fromkeys(("reserve", "pay", "ship", "tell"), len(runs))
    assert pair.leader.stop() == 0
    pair.taken_over()
    assert pair.leader.stop() == 0
    for project in (pair.leader, pair.other):
        project.verify()
        pair.cables[project].close()
    longer, shorter = (bytes_of(project) for project in (pair.leader, pair.other))
    assert longer.startswith(shorter)


def test_idle_leader_that_was_cut_off_tells_nothing_old(
    make_project: Make, database: Postgres, tmp_path: Path
) -> None:
    """Nothing that it appends could tell it that another one leads."""
    pair = Pair(make_project, database, tmp_path.name)
    reads, acknowledged = 0, 0
    for _ in range(TIMES):
        wait_until(partial(follows, pair.other), "one to follow")
        cable = pair.cables[pair.leader]
        cable.cut()
        old = pair.taken_over()
        for _ in range(20):
            acknowledged = pair.leader.call("state.increment", key="reads")["value"]
            with suppress(StackshiftError, TimeoutError):
                with Connection.open(old.data_dir) as connection:
                    found = connection.call("state.get", {"key": "reads"}, timeout=0.05)
                reads += 1
                assert found is not None and found["value"] == acknowledged
        cable.mend()
        wait_until(partial(follows, old), "the one that was cut off to follow")
    print(f"{reads} reads were answered")
    for project in (pair.leader, pair.other):
        project.close()
        pair.cables[project].close()


def has_noted(project: Project, least: int) -> bool:
    """Have so many steps begun?"""
    return len(project.witness()) >= least


def bytes_of(project: Project) -> bytes:
    """The files of its journal."""
    folder = project.data_dir / "journal"
    return b"".join(file.read_bytes() for file in sorted(folder.iterdir()))
