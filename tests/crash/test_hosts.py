"""Hosts behind a real ssh are killed, cut off and frozen under load; no promise is broken.

Where root may make namespaces, a host has a network and a user of its own. The short form does each
once, the long one (`STACKSHIFT_LONG=1`) 100 times.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

import psutil
import pytest

from helpers import scenery
from helpers.deadline import wait_until
from helpers.ledger import Ledger
from helpers.other_machine import missing
from helpers.processes import wait_gone, working_in
from helpers.project import Project
from helpers.project_factory import Make
from helpers.sshd import IS_THERE, MISSING, Sshd
from stackshift_jobs.errors import DaemonUnavailable

pytestmark = pytest.mark.skipif(not IS_THERE, reason=MISSING)

TIMES: Final = 100 if os.environ.get("STACKSHIFT_LONG") == "1" else 1
RUNS: Final = 6
"""Runs that are started before each blow."""
FROZEN_SECONDS: Final = 20.0
CUT_SECONDS: Final = 10.0
"""Shorter than either side waits for the other."""

JOBS = """
import fcntl
import threading

# Of threads, since a lock of a file is its process's; and not `flock`, which a program that another
# thread is starting holds as well, until it has begun.
here = threading.Lock()


def step(run_id, name):
    note(run_id, name)
    return name


def pay(run_id):
    note(run_id, "pay")
    if not here.acquire(blocking=False):
        note("two holders in one worker:", run_id)
        return
    try:
        with open(ROOT / "till", "w") as till:
            try:
                fcntl.lockf(till, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                note("two holders:", run_id)
            time.sleep(0.005)
    finally:
        here.release()


@stackshift.job("order", queue="gpu", retry=Retry(max_attempts=1000, backoff="10ms", factor=1))
def order(ctx):
    ctx.step.run("reserve", step, ctx.run_id, "reserve")
    with ctx.state.lock("till", ttl="1m"):
        ctx.step.run("pay", pay, ctx.run_id)
        ctx.state.increment("orders")
    ctx.step.command("ship", ["sh", "-c", "exec sleep 0.2"])
    ctx.step.run("tell", step, ctx.run_id, "tell")
    return ctx.payload["n"]
"""


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory that another user can enter, and write into what is made in it."""
    with tempfile.TemporaryDirectory(prefix="stackshift-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder).resolve()


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    """A server that runs."""
    server = Sshd(tmp_path / "sshd", apart=not missing())
    server.start()
    yield server
    server.stop()


class Far:
    """A project whose workers are behind ssh, and what there is of them."""

    def __init__(self, make: Make, sshd: Sshd) -> None:
        self.project = make(
            JOBS,
            '[workers]\nprocesses = 1\nslots = 8\ngrace = "1s"\ninherit_env = ["PYTHONPATH"]\n'
            '[queues.gpu]\nhosts = ["gpu-1"]\nprocesses = 2\n'
            f'[hosts.gpu-1]\ncommand = ["ssh", "-F", "{sshd.config}", "gpu-1"]\n'
            f'python = "{sshd.python}"\ncode = "{sshd.root.parent}/p0"\n',
        )
        self.sshd = sshd
        for name in (scenery.WITNESS, "till"):  # which another user is to write
            (self.project.root / name).touch()
            (self.project.root / name).chmod(0o666)

    def keepers(self) -> list[psutil.Process]:
        """The keepers on the host."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if "stackshiftd.keeper" in process.cmdline():
                    cache = process.environ().get("XDG_CACHE_HOME", "")
                    if cache == str(self.sshd.cache):
                        found.append(process)
        return found

    def workers(self) -> list[psutil.Process]:
        """The workers that they keep."""
        found = []
        for keeper in self.keepers():
            with suppress(psutil.Error):
                found += [child for child in keeper.children() if "--fd" in child.cmdline()]
        return found

    def wait_gone(self) -> None:
        """Returns when nothing is left there of what was ever seen."""
        wait_until(lambda: not self.keepers(), "all keepers to end")
        # By where they are: in a long test, their numbers are others' by now.
        root = self.project.root
        wait_until(lambda: not working_in(root), f"workers and programs to end: {working_in(root)}")

    def clients(self) -> list[psutil.Process]:
        """The ssh processes of the daemon."""
        assert self.project.daemon is not None
        children = psutil.Process(self.project.daemon.pid).children()
        return [child for child in children if child.name() == "ssh"]


def kill_client(far: Far, random: Random) -> None:
    """The connection is cut on our side."""
    random.choice(far.clients()).kill()


def kill_worker(far: Far, random: Random) -> None:
    """The worker dies, its keeper lives."""
    random.choice(far.workers()).kill()


def kill_keeper(far: Far, random: Random) -> None:
    """The far end dies at once."""
    random.choice(far.keepers()).kill()


def kill_daemon(far: Far, _random: Random) -> None:
    """The next daemon goes on."""
    far.project.kill()
    far.project.start()


def freeze(far: Far, random: Random) -> None:
    """One end stands still for longer than it is waited for, as a machine that is suspended."""
    keeper = random.choice(far.keepers())
    frozen = [keeper, *keeper.children(recursive=True)]
    for process in frozen:
        process.suspend()
    until = time.monotonic() + FROZEN_SECONDS
    wait_until(lambda: time.monotonic() > until, "the host to be given up", FROZEN_SECONDS + 5)
    for process in frozen:
        with suppress(psutil.NoSuchProcess):
            process.resume()
    wait_gone([process.pid for process in frozen], "what was frozen")


def cut_off(far: Far, _random: Random) -> None:
    """Nothing gets through for a while."""
    machine = far.sshd.machine
    assert machine is not None
    machine.cut()
    until = time.monotonic() + CUT_SECONDS
    wait_until(lambda: time.monotonic() > until, "some time to pass")
    machine.join()


BLOWS: dict[str, Callable[[Far, Random], None]] = {
    each.__name__: each
    for each in (kill_client, kill_worker, kill_keeper, kill_daemon, freeze, cut_off)
}


@pytest.mark.parametrize("blow", BLOWS)
def test_no_promise_is_broken_whatever_happens_to_hosts(
    make_project: Make, sshd: Sshd, blow: str
) -> None:
    """Acknowledged starts complete, recorded steps do not run again, state is exact, a lock has one
    holder, and no program outlives its worker."""
    if blow == "cut_off" and missing():
        pytest.skip(missing())
    seed = int(os.environ.get("STACKSHIFT_SEED", "0")) or Random().randrange(1 << 30)
    print(f"STACKSHIFT_SEED={seed}")
    random = Random(seed)
    far = Far(make_project, sshd)
    project = far.project
    project.start()
    ledger = Ledger(project)
    runs: list[str] = []
    for _ in range(TIMES):
        reached = len(project.witness()) + random.randrange(2 * RUNS)
        runs += [begin(project, len(runs) + n) for n in range(RUNS)]
        wait_until(partial(has_noted, project, reached), "some steps to run")
        wait_until(far.workers, "a worker on the host")
        ledger.read()
        BLOWS[blow](far, random)
    results = [project.finish(run)["result"] for run in runs]
    assert results == list(range(len(runs)))
    assert project.call("state.get", key="orders")["value"] == len(runs)
    ledger.read()
    assert ledger.faults == []
    recorded = Counter(step for _, step in ledger.completed)
    assert recorded == dict.fromkeys(("reserve", "pay", "ship", "tell"), len(runs))
    if blow != "freeze":  # One that is frozen holds what it held.
        assert [line for line in project.witness() if line.startswith("two")] == []
    assert project.stop() == 0
    far.wait_gone()
    project.verify()


def has_noted(project: Project, least: int) -> bool:
    """Have so many steps begun?"""
    return len(project.witness()) >= least


def begin(project: Project, number: int) -> str:
    """Start a run, in whatever state the daemon is."""

    def begun() -> Any:
        with suppress(DaemonUnavailable):
            return project.begin("order", {"n": number}, idempotency_key=f"order:{number}")
        return None

    return str(wait_until(begun, "a start to be acknowledged"))
