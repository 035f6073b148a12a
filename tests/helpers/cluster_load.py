"""Two machines under load that share a journal in a database, and what must hold whatever happens
to them and to the database."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

import psutil

from helpers.cable import Cable
from helpers.deadline import SECONDS, wait_until
from helpers.ledger import Ledger
from helpers.processes import wait_gone
from helpers.project import Project, environment
from helpers.project_factory import Make
from helpers.switch import Plugged, Switch
from helpers.twins import twin, twins
from stackshift_cli.daemon.connection import Connection
from stackshift_jobs.errors import (
    DaemonUnavailable,
    DatabaseUnavailable,
    Fenced,
    HostUnreachable,
    StackshiftError,
)

TIMES: Final = 100 if os.environ.get("STACKSHIFT_LONG") == "1" else 3
MINUTES: Final = float(os.environ.get("STACKSHIFT_MINUTES", "inf"))
"""How long blows are dealt at most, each kind of them; `pytest -rP` shows how many that were."""
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

    def __init__(
        self,
        make: Make,
        ports: list[int],
        name: str,
        *,
        lease: str = "1s",
        apart: bool = False,
        switch: Switch | None = None,
    ) -> None:
        """`ports` are those of the servers of one database on this machine. With `apart`, the two
        have no workers, and all runs are executed by `pod`, a third machine without a daemon; if
        there is a `switch`, that has a network of its own."""
        workers = "hosts = []\n" if apart else ""
        config = (
            f'[project]\nname = "{name}"\n[workers]\nprocesses = 2\nslots = 4\ngrace = "1s"\n'
            f'inherit_env = ["PYTHONPATH"]\n{workers}'
        )
        self.leader, self.other = self.first, _ = twins(make, JOBS, config)
        self.pod: Pod | None = None
        self._switch = switch
        here = "127.0.0.1" if switch is None else switch.address
        self.cables: dict[Project, list[Cable]] = {}
        for number, project in enumerate((self.leader, self.other), 1):
            self.cables[project] = [Cable(port) for port in ports]
            places = ",".join(f"127.0.0.1:{cable.port}" for cable in self.cables[project])
            url = f"postgresql://postgres@{places}/postgres"
            with (project.root / "stackshift.toml").open("a") as file:
                file.write(
                    f'[journal]\nurl = "{url}"\nlease = "{lease}"\nsegment_size = "64KiB"\n'
                    f'[cluster]\nhost = "app-{number}"\nlisten = "{here}:0"\n'
                )
        self.leader.start()
        told = self.other.start()
        assert "follows" in told["notes"][0], told
        if apart:
            self._cable = Cable(ports[0], here)
            place = twin(self.first, make, JOBS, config.replace(workers, "")).root
            with (place / "stackshift.toml").open("a") as file:
                url = f"postgresql://postgres@{here}:{self._cable.port}/postgres"
                file.write(f'[journal]\nurl = "{url}"\n')
            self.add_pod(place)

    def add_pod(self, place: Path) -> None:
        """Have a new pod serve the leader."""
        self.pod = Pod(place, self._switch.plug() if self._switch is not None else None)
        wait_until(partial(self.pod.serves, self.leader), f"{self.pod.name} to serve")

    def taken_over(self) -> Project:
        """Wait until the other one leads; returns the one that led."""

        def leads() -> bool:
            with suppress(DaemonUnavailable):
                return bool(self.other.call("daemon.status")["role"] == "leads")
            return False

        wait_until(leads, "the follower to lead")
        self.leader, self.other = self.other, self.leader
        return self.other

    def settled(self) -> bool:
        """Wait until one leads and the other one follows, whichever that is; true."""

        def roles() -> list[str]:
            found = []
            for project in (self.leader, self.other):
                try:
                    found.append(str(project.call("daemon.status")["role"]))
                except StackshiftError:
                    return []
            return found if sorted(found) == ["follows", "leads"] else []

        if wait_until(roles, "one to lead and one to follow") == ["follows", "leads"]:
            self.leader, self.other = self.other, self.leader
        return True

    def begin(self, number: int) -> str:
        """Start a run, in whatever state the two are, by the daemon of either machine."""

        def begun() -> Any:
            for project in (self.leader, self.other)[:: 1 if number % 2 else -1]:
                with suppress(DaemonUnavailable, DatabaseUnavailable, HostUnreachable, Fenced):
                    key = f"order:{number}"
                    return project.begin("order", {"n": number}, idempotency_key=key)
            return None

        return str(wait_until(begun, "a start to be acknowledged"))

    def finish(self, run: str) -> Any:
        """Wait for the end of a run, also where the daemon has no database yet; its result."""

        def ended() -> Any:
            with suppress(DaemonUnavailable, DatabaseUnavailable, HostUnreachable, Fenced):
                return [self.leader.finish(run)["result"]]
            return None

        [result] = wait_until(ended, "a run to end")
        return result

    def close(self) -> None:
        """Take the pod and the cables away."""
        if self.pod is not None:
            self.pod.leave()
            self._cable.close()
        for cables in self.cables.values():
            for cable in cables:
                cable.close()


class Pod:
    """A machine without a daemon, whose workers serve the one that leads. `root` is the directory
    of the project there, `network` its own if it has one."""

    _numbers = itertools.count(1)

    def __init__(self, root: Path, network: Plugged | None = None) -> None:
        self.root, self.network = root, network
        self.name = f"pod-{next(self._numbers)}"
        words = ["-m", "stackshift_cli", "worker", "join", "--host", self.name]
        command = [sys.executable, "-P", *words]
        with (root / f"{self.name}.log").open("wb") as log:
            self._joined = subprocess.Popen(
                command if network is None else network.inside(command),
                cwd=root,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def serves(self, leader: Project) -> bool | None:
        """Has the leader workers of it? None if it cannot say."""
        with suppress(DaemonUnavailable, DatabaseUnavailable, Fenced):
            hosts = leader.call("daemon.status")["hosts"]
            return any(each["name"] == self.name and each["workers"] for each in hosts)
        return None

    def processes(self) -> list[psutil.Process]:
        """All of the machine."""
        joined = psutil.Process(self._joined.pid)
        return [joined, *joined.children(recursive=True)]

    def kill(self) -> None:
        """All of it at once."""
        killed = self.processes()
        for process in killed:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._joined.wait()
        wait_gone([process.pid for process in killed], "the machine to be gone")

    def leave(self) -> None:
        """In good order."""
        self._joined.terminate()
        assert self._joined.wait(SECONDS) == 0
        if self.network is not None:
            self.network.remove()


def follows(project: Project) -> bool:
    """Does its daemon serve, and follow another?"""
    with suppress(DaemonUnavailable, DatabaseUnavailable, Fenced):
        return bool(project.call("daemon.status")["role"] == "follows")
    return False


class Reader(threading.Thread):
    """Increments a counter on one machine and reads it on the other, in turns. `stale` are the
    reads that were behind what had been acknowledged before they were asked for, and
    `acknowledged_at` the times of what was acknowledged."""

    def __init__(self, pair: Pair) -> None:
        super().__init__(daemon=True)
        self._projects = pair.leader, pair.other
        self._over = threading.Event()
        self.reads = 0
        self.stale: list[str] = []
        self.acknowledged_at: list[float] = []

    def run(self) -> None:
        """Until `stop`."""
        acknowledged = 0
        while not self._over.is_set():
            for here, there in (self._projects, self._projects[::-1]):
                made = self._asked(here, "state.increment")
                if made is not None:
                    acknowledged = max(acknowledged, made["value"])
                    self.acknowledged_at.append(time.monotonic())
                found = self._asked(there, "state.get")
                if found is not None:
                    self.reads += 1
                    if (found["value"] or 0) < acknowledged:
                        self.stale.append(f"{found['value']} after {acknowledged}")

    def pause(self, since: float, until: float) -> float:
        """The longest time, of what lies between the two, in which nothing was acknowledged: in
        seconds, as somebody sees it who gives each request 2 s."""
        times = self.acknowledged_at
        gaps = itertools.pairwise(times)
        return max((b - a for a, b in gaps if b > since and a < until), default=0.0)

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


def keep_promises(pair: Pair, blow: Callable[[Pair], None], *, may_begin_again: bool) -> None:
    """Deal `blow` again and again. Acknowledged starts complete, recorded steps are recorded once
    and do not run again (unless `may_begin_again`), state is exact, no read is behind what was
    acknowledged before it, and both directories are copies of the same."""
    seed = int(os.environ.get("STACKSHIFT_SEED", "0")) or Random().randrange(1 << 30)
    print(f"STACKSHIFT_SEED={seed}")
    random = Random(seed)
    runs: list[str] = []
    reader = Reader(pair)
    reader.start()
    ledgers = {each: Ledger(each, pair.first) for each in (pair.leader, pair.other)}
    blows: list[tuple[float, float]] = []
    until = time.monotonic() + 60 * MINUTES
    while len(blows) < TIMES and time.monotonic() < until:
        reached = len(pair.first.witness()) + random.randrange(2 * RUNS)
        runs += [pair.begin(len(runs) + number) for number in range(RUNS)]
        wait_until(partial(has_noted, pair.first, reached), "some steps to run")
        ledgers[pair.leader].read()
        began = time.monotonic()
        blow(pair)
        blows.append((began, time.monotonic()))
        ledgers[pair.leader].read()
    wait_until(lambda: reader.acknowledged_at[-1:] > [blows[-1][1]], "the last pause to end")
    reader.stop()
    assert reader.stale == []
    results = [pair.finish(run) for run in runs]
    assert results == list(range(len(runs)))
    assert pair.leader.call("state.get", key="orders")["value"] == len(runs)
    last = ledgers[pair.leader]
    last.read()
    noted = last.faults
    if may_begin_again:
        noted = [fault for fault in noted if not fault.startswith("ran again")]
    assert noted == []
    recorded = Counter(step for _, step in last.completed)
    assert recorded == dict.fromkeys(("reserve", "pay", "ship", "tell"), len(runs))
    assert pair.leader.stop() == 0
    pair.taken_over()
    assert pair.leader.stop() == 0
    for project in (pair.leader, pair.other):
        project.verify()
    pair.close()
    longer, shorter = (bytes_of(project) for project in (pair.leader, pair.other))
    assert longer.startswith(shorter)
    pauses = sorted(reader.pause(*each) for each in blows)
    p50, p99 = (pauses[round(part * (len(pauses) - 1))] for part in (0.5, 0.99))
    print(
        f"{len(blows)} blows: {len(runs)} starts acknowledged, all completed, no step recorded "
        f"twice; {len(reader.acknowledged_at)} increments acknowledged, {reader.reads} reads, none "
        f"stale; longest pause p50 {p50:.2f} s, p99 {p99:.2f} s, max {pauses[-1]:.2f} s"
    )


def has_noted(project: Project, least: int) -> bool:
    """Have so many steps begun?"""
    return len(project.witness()) >= least


def bytes_of(project: Project) -> bytes:
    """The files of its journal."""
    folder = project.data_dir / "journal"
    return b"".join(file.read_bytes() for file in sorted(folder.iterdir()))
