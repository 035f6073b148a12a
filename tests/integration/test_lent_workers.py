"""Workers that a machine lends to the daemon that leads: one that follows, and `worker join`."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from typing import Final

import psutil
import pytest

from helpers.deadline import SECONDS, wait_until
from helpers.inner_daemon import InsideDaemon
from helpers.processes import wait_gone
from helpers.project import Project, kinds
from helpers.project_factory import Make
from helpers.twins import twins
from journal.shared.memory_log import MemoryLog
from stackshift_jobs.errors import BadConfiguration, Conflict, DaemonUnavailable
from stackshift_jobs.project.config import load_config
from stackshiftd.core.state.state import MAX_DEATHS
from stackshiftd.shell.cluster.joining import Joined
from stackshiftd.shell.cluster.opening import Offer

pytestmark = pytest.mark.not_via(why="it says itself where its journal is")

JOBS: Final = """
@stackshift.job("held", retry=Retry(max_attempts=5, backoff="10ms"))
def held(ctx):
    print("it holds")
    ctx.step.run("first", note, "first", ctx.run_id)
    ctx.step.run("held", gate, ctx.payload["gate"])
    ctx.step.run("next", note, "next", ctx.run_id)
    return os.getpid()


@stackshift.job("program", retry=Retry(max_attempts=5, backoff="10ms"))
def program(ctx):
    if is_open("mended"):
        return "mended"
    ctx.step.command("long", ["sh", "-c", f"echo $$ > {ROOT}/program-{ctx.attempt}; sleep 600"])


@stackshift.job("fragile")
def fragile(ctx):
    note("fragile")
    if noted("fragile") <= DEATHS:
        os.kill(os.getpid(), 9)
    gate("alone")


@stackshift.job("heavy", queue="gpu")
async def heavy(ctx):
    await ctx.step.run("held", agate, ctx.payload["gate"])
    return os.getpid()
""".replace("DEATHS", str(MAX_DEATHS))
CONFIG: Final = """
[workers]
grace = "1s"
hosts = []
slots = 2
[cluster]
listen = "127.0.0.1:0"
"""
"""Nobody has workers but those who lend some: so a run shows by whom it is executed."""


class Machines:
    """`app-1` leads and has no workers; `app-2` follows, and lends one."""

    def __init__(
        self,
        make: Make,
        lent: str = "processes = 1\nslots = 2\n",
        more: str = "",
        queues: str = "",
    ) -> None:
        self.log = MemoryLog()
        self.first, self.second = twins(make, JOBS, queues + CONFIG)
        settings = self.second.root / "stackshift.toml"
        text = settings.read_text().replace("hosts = []\nslots = 2\n", lent)
        settings.write_text(text + more)
        self.inside = {1: InsideDaemon(self.first, log=self.log, host="app-1")}
        self.follow()

    def follow(self) -> None:
        """Have `app-2` follow."""
        self.inside[2] = InsideDaemon(self.second, log=self.log, host="app-2")

    @property
    def lent(self) -> list[str]:
        """The workers that serve the leader, by name."""
        hosts = self.first.call("daemon.status")["hosts"]
        return [worker for host in hosts for worker in host["workers"]]

    def worker(self) -> psutil.Process:
        """The process of the worker that is lent."""

        def found() -> psutil.Process | None:
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    parent = process.parent()
                    above = parent.cmdline() if parent is not None else []
                    if "--fd" in process.cmdline() and "stackshiftd.keeper" in above:
                        return process
            return None

        return wait_until(found, "a worker that is lent") or psutil.Process()

    def close(self) -> None:
        """End both."""
        for _, each in sorted(self.inside.items(), reverse=True):
            assert each.close() is None


@pytest.fixture
def machines(make_project: Make) -> Iterator[Machines]:
    """Two of them."""
    made = Machines(make_project)
    yield made
    made.close()


def lines(project: Project, run: str) -> list[str]:
    """What is in the run's log."""
    return [line["message"] for line in project.call("run.logs", run=run)["lines"]]


def role(project: Project) -> str:
    """What its daemon says that it does; a broken connection is opened again."""
    try:
        return str(project.call("daemon.status")["role"])
    except DaemonUnavailable:
        return ""


def test_follower_executes_runs_of_the_leader(machines: Machines) -> None:
    """Their steps are recorded and their output is kept by the leader."""
    run = machines.second.begin("held", {"gate": "g"})
    machines.first.at("g")
    assert machines.first.get(run)["status"] == "running"
    assert [name.partition("/")[0] for name in machines.lent] == ["app-2"]
    worker = machines.worker()
    machines.first.open("g")
    ended = machines.first.finish(run)
    assert ended["result"] == worker.pid
    assert lines(machines.first, run) == ["it holds"]
    assert machines.first.call("run.logs", run=run)["elsewhere"] == []


def test_worker_that_dies_is_replaced_by_the_next_one(machines: Machines) -> None:
    """Its run resumes there; a recorded step does not run again."""
    run = machines.first.begin("held", {"gate": "g"})
    machines.first.at("g")
    killed = machines.worker()
    killed.kill()
    machines.first.at("g", times=2)
    machines.first.open("g")
    ended = machines.first.finish(run)
    assert ended["result"] != killed.pid
    assert machines.first.witness().count(f"first {run}") == 1
    assert "attempt.lost" in kinds(ended)


def test_keeper_that_dies_takes_its_worker_with_it(machines: Machines) -> None:
    """And is no fault of the run."""
    run = machines.first.begin("held", {"gate": "g"})
    machines.first.at("g")
    worker = machines.worker()
    keeper = worker.parent()
    assert keeper is not None
    keeper.kill()
    wait_gone([worker.pid], "the worker")
    machines.first.at("g", times=2)
    machines.first.open("g")
    assert machines.first.finish(run)["attempt"] == 1


def test_follower_that_stops_hands_its_runs_back(machines: Machines) -> None:
    """They wait for workers, in the same attempt; one that is about to end may do so before."""
    run = machines.first.begin("held", {"gate": "g"})
    machines.first.at("g")
    machines.first.open("g")
    other = machines.first.begin("program")
    program = machines.first.root / "program-1"
    wait_until(lambda: program.exists() and program.read_text(), "the program to run")
    pid = int(program.read_text())
    assert machines.inside.pop(2).close() is None
    wait_gone([pid], "the program")
    waits = machines.first.get(other)
    assert (waits["status"], waits["attempt"]) == ("queued", 1)
    assert machines.lent == []
    machines.first.open("mended")
    machines.follow()
    assert machines.first.finish(other)["result"] == "mended"
    assert machines.first.finish(run)["status"] == "completed"


def test_machine_that_takes_over_has_ended_what_it_had_lent(machines: Machines) -> None:
    """Before its own workers get the runs: there are never two copies of a program."""
    run = machines.first.begin("program")
    program = machines.first.root / "program-1"
    wait_until(lambda: program.exists() and program.read_text(), "the program to run")
    pid = int(program.read_text())
    lent = machines.worker()
    assert machines.inside.pop(1).close() is None
    wait_until(lambda: role(machines.second) == "leads", "the follower to lead")
    assert not psutil.pid_exists(pid)
    assert not psutil.pid_exists(lent.pid)
    machines.first.open("mended")
    assert machines.second.finish(run)["result"] == "mended"


def test_output_is_where_the_leader_was(machines: Machines) -> None:
    """Not on the machine that has lent the worker."""
    run = machines.first.begin("held", {"gate": "g"})
    machines.first.at("g")
    machines.first.open("g")
    machines.first.finish(run)
    assert machines.inside.pop(1).close() is None
    wait_until(lambda: role(machines.second) == "leads", "the follower to lead")
    found = machines.second.call("run.logs", run=run)
    assert (found["lines"], found["elsewhere"]) == ([], ["app-1"])


def test_worker_takes_as_much_as_its_machine_says(make_project: Make) -> None:
    """And not what the leader's settings say."""
    machines = Machines(make_project, lent="processes = 1\nslots = 1\n")
    first = machines.first.begin("held", {"gate": "g"})
    second = machines.first.begin("held", {"gate": "h"})
    machines.first.at("g")
    assert machines.first.get(second)["status"] == "queued"
    machines.first.open("g")
    machines.first.at("h")
    machines.first.open("h")
    assert machines.first.finish(first)["result"] == machines.first.finish(second)["result"]
    machines.close()


def test_machine_that_lends_none(make_project: Make) -> None:
    """`[cluster] lend = false`: runs wait, and why is said."""
    machines = Machines(make_project, lent="processes = 1\n", more="lend = false\n")
    run = machines.first.begin("held", {"gate": "g"})
    assert machines.first.call("run.why", run=run)["why_code"] == "no_worker"
    assert machines.lent == []
    machines.close()


def test_other_code_gets_no_work(machines: Machines) -> None:
    """The directory of the leader decides; which machine has other code is told."""
    wait_until(lambda: machines.lent, "a worker to be lent")
    module = machines.second.root / "jobs" / "story.py"
    text = module.read_text()
    assert machines.inside.pop(2).close() is None
    module.write_text(text + "\n@stackshift.job('new')\ndef new(ctx):\n    return 2\n")
    module.write_text(module.read_text().replace('print("it holds")', 'print("it held")'))
    machines.follow()

    def trouble() -> str:
        hosts = machines.first.call("daemon.status")["hosts"]
        return str(hosts[0]["problem"]) if hosts and hosts[0]["problem"] else ""

    said = wait_until(trouble, "the other code to be found")
    assert said == "its code of fragile and 3 more is not that of the project"
    run = machines.first.begin("held", {"gate": "g"})
    why = machines.first.call("run.why", run=run)
    assert (why["why_code"], said in why["why"]) == ("host_unreachable", True)
    module.write_text(text)
    machines.first.at("g")
    machines.first.open("g")
    assert machines.first.finish(run)["status"] == "completed"


def test_run_that_kills_its_worker_is_tried_alone(machines: Machines) -> None:
    """In a worker that has joined, where there is no other."""
    run = machines.first.begin("fragile")
    machines.first.at("alone")
    assert machines.first.call("run.why", run=run)["why_code"] == "running_alone"
    machines.first.open("alone")
    ended = machines.first.finish(run)
    assert ended["status"] == "completed"
    assert kinds(ended, "attempt.lost") == ["attempt.lost"] * MAX_DEATHS


class Joiner:
    """What `worker join` runs, in a thread."""

    def __init__(self, machines: Machines, host: str, *offers: Offer) -> None:
        self._config = load_config(machines.second.root)
        self._log = machines.log
        self._host = host
        self._offers = offers
        self._joined: Joined | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        self._outcome: Future[None] = Future()
        threading.Thread(target=self._run, name="joiner", daemon=True).start()
        wait_until(lambda: self._ready.is_set() or self._outcome.done(), "the machine to join")

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as raised:  # whatever it is, the test is told
            self._outcome.set_exception(raised)
        else:
            self._outcome.set_result(None)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._joined = Joined(self._config, self._log, self._host, self._offers)
        await self._joined.serve(self._ready.set)

    def close(self) -> None:
        """Leave; raises what it has ended with."""
        if not self._outcome.done():
            assert self._loop is not None and self._joined is not None
            self._loop.call_soon_threadsafe(self._joined.stop)
        self._outcome.result(SECONDS)


def test_machine_joins_with_workers_alone(make_project: Make) -> None:
    """As a member without a daemon, for the queue that it names; it leaves no trace."""
    machines = Machines(make_project, more="lend = false\n", queues="[queues.gpu]\nhosts = []\n")
    run = machines.first.begin("heavy", {"gate": "g"})
    assert machines.first.call("run.why", run=run)["why_code"] == "no_worker"
    joiner = Joiner(machines, "pod-7", Offer("gpu", 1))
    machines.first.at("g")
    members = {m["host"]: m["role"] for m in machines.first.call("cluster.status")["members"]}
    assert members == {"app-1": "leads", "app-2": "follows", "pod-7": "workers"}
    [worker] = machines.lent
    assert worker.startswith("pod-7/w")
    with pytest.raises(Conflict, match="pod-7"):
        Joiner(machines, "pod-7", Offer("gpu", 1)).close()
    machines.first.open("g")
    machines.first.finish(run)
    joiner.close()
    assert machines.lent == []
    hosts = [member["host"] for member in machines.first.call("cluster.status")["members"]]
    assert hosts == ["app-1", "app-2"]
    machines.close()


def test_machine_follows_the_lead(make_project: Make) -> None:
    """Its workers serve whoever leads; what they held resumes there."""
    machines = Machines(make_project, lent="hosts = []\n")
    joiner = Joiner(machines, "pod-7", Offer("", 2))
    run = machines.first.begin("held", {"gate": "g"})
    machines.first.at("g")
    assert machines.inside.pop(1).close() is None
    wait_until(lambda: role(machines.second) == "leads", "the follower to lead")
    machines.first.at("g", times=2)
    machines.first.open("g")
    assert machines.second.finish(run)["status"] == "completed"
    assert machines.first.witness().count(f"first {run}") == 1
    joiner.close()
    machines.close()


def test_queue_without_workers_of_its_own_takes_none(
    make_project: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """And says what to set."""
    machines = Machines(make_project, lent="hosts = []\n")
    joiner = Joiner(machines, "pod-7", Offer("gpu", 1))
    wait_until(lambda: "queue gpu has no workers of its own" in caplog.text, "the refusal")
    assert machines.lent == []
    joiner.close()
    machines.close()


def test_nobody_joins_what_is_not_there(make_project: Make) -> None:
    """A journal has to be there first."""
    machines = Machines(make_project, lent="hosts = []\n")
    machines.log, log = MemoryLog(), machines.log
    with pytest.raises(BadConfiguration, match="no journal of this project yet"):
        Joiner(machines, "pod-7", Offer("", 1)).close()
    machines.log = log
    machines.close()


def test_project_of_one_machine_takes_no_workers(make_project: Make) -> None:
    """Its journal is in files; what else there is, is said."""
    project = make_project(JOBS)
    told = subprocess.run(
        [sys.executable, "-P", "-m", "stackshift_cli", "worker", "join"],
        cwd=project.root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 78
    assert "is in files" in told.stderr
    assert "[hosts.NAME]" in told.stderr
