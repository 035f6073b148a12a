"""What a run prints while one machine leads and then another: all of it is shown, in order."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

import pytest

from helpers.deadline import SECONDS, wait_until
from helpers.inner_daemon import InsideDaemon
from helpers.project import Project, environment
from helpers.project_factory import Make
from helpers.twins import twins
from journal.shared.memory_log import MemoryLog
from stackshift_jobs.errors import DaemonUnavailable, Usage

pytestmark = pytest.mark.not_via(why="it says itself where its journal is")

JOBS: Final = """
def say(text):
    print(text)


@stackshift.job("talks", retry=Retry(max_attempts=5, backoff="10ms"))
def talks(ctx):
    print("begins")
    ctx.step.run("first", say, "in first")
    print("goes on")
    ctx.step.run("gate 1", gate, "1")
    ctx.step.run("second", say, "in second")
    print("nearly there")
    ctx.step.run("gate 2", gate, "2")
    print("ends")


@stackshift.job("quiet")
def quiet(ctx):
    print("here")
"""
CONFIG: Final = """
[workers]
processes = 1
slots = 2
grace = "1s"
[cluster]
listen = "127.0.0.1:0"
lend = false
"""
ALL: Final = ["begins", "in first", "goes on", "in second", "nearly there", "ends"]

"""What the handler prints in each pass, and what its steps print once."""


class Pair:
    """Two machines with workers of their own, of which the first one leads."""

    def __init__(self, make: Make) -> None:
        self.log = MemoryLog()
        self.projects = dict(enumerate(twins(make, JOBS, CONFIG), 1))
        self.inside: dict[int, InsideDaemon] = {}
        for number in self.projects:
            self.start(number)

    def start(self, number: int) -> None:
        """Start the daemon of a machine."""
        project = self.projects[number]
        self.inside[number] = InsideDaemon(project, log=self.log, host=f"app-{number}")
        with suppress(DaemonUnavailable):  # A connection to the one before it is opened again.
            project.call("daemon.status")

    def stop(self, number: int) -> Project:
        """Stop it; returns the other one, which leads."""
        assert self.inside.pop(number).close() is None
        other = self.projects[3 - number]
        wait_until(lambda: leads(other), "the other one to lead")
        return other

    def close(self) -> None:
        """End both."""
        for _, each in sorted(self.inside.items(), reverse=True):
            assert each.close() is None


def leads(project: Project) -> bool:
    """Does its daemon lead? A takeover breaks the connections of its clients."""
    try:
        return bool(project.call("daemon.status")["role"] == "leads")
    except DaemonUnavailable:
        return False


@pytest.fixture
def pair(make_project: Make) -> Iterator[Pair]:
    """Both run."""
    made = Pair(make_project)
    yield made
    made.close()


def messages(page: dict[str, Any]) -> list[str]:
    """What the lines of a page say."""
    return [line["message"] for line in page["lines"]]


def pages(project: Project, run: str, **params: Any) -> tuple[list[str], set[str]]:
    """The whole log, page by page; and the machines that did not answer."""
    told: list[str] = []
    missing: set[str] = set()
    after: Any = 0
    while True:
        page = project.call("run.logs", run=run, after=after, **params)
        told += messages(page)
        missing.update(page["elsewhere"])
        after = page["next"]
        if not page["more"]:
            return told, missing


def talked(pair: Pair) -> tuple[Project, str]:
    """The run, as it began on app-1, went on on app-2, and ended on app-1, which leads."""
    first, second = pair.projects.values()
    run = first.begin("talks")
    first.at("1")
    assert pair.stop(1) is second
    first.at("1", times=2)
    first.open("1")
    first.at("2")
    pair.start(1)
    assert pair.stop(2) is first
    first.at("2", times=2)
    first.open("2")
    assert first.finish(run)["status"] == "completed"
    return first, run


def test_output_of_all_machines_is_shown_in_order(pair: Pair) -> None:
    """Each line once, in pages of any length; what the handler prints in each pass is no second
    line; of one step, too."""
    leader, run = talked(pair)
    pair.start(2)
    # Until the others have heard of it, which takes a second, it cannot be asked.
    wait_until(lambda: not pages(leader, run)[1], "app-2 to answer")
    for limit in (1, 2, 3, 1000):
        assert pages(leader, run, limit=limit) == (ALL, set())
    assert pages(pair.projects[2], run) == (ALL, set())
    assert pages(leader, run, step="second") == (["in second"], set())
    assert pages(leader, run, attempt=2) == ([], set())


def test_machine_that_is_gone_is_named_and_shown_when_it_is_back(pair: Pair) -> None:
    """What it alone has is missing; who follows the log gets it later, and nothing twice."""
    leader, run = talked(pair)
    found = leader.call("run.logs", run=run)
    assert (messages(found), found["elsewhere"], found["more"]) == (
        ["begins", "in first", "goes on", "nearly there", "ends"],
        ["app-2"],
        False,
    )
    pair.start(2)

    def rest() -> list[str]:
        return messages(leader.call("run.logs", run=run, after=found["next"]))

    assert "in second" in wait_until(rest, "app-2 to answer")


def test_output_is_followed_while_the_lead_moves(pair: Pair) -> None:
    """By one who asks either machine: a place in the log of both stays what it is."""
    first, second = pair.projects.values()
    run = first.begin("talks")
    first.at("1")
    began = wait_until(
        lambda: (page := first.call("run.logs", run=run))["lines"][2:] and page, "its first lines"
    )
    assert messages(began) == ALL[:3]
    pair.stop(1)
    first.at("1", times=2)
    pair.start(1)
    wait_until(lambda: not pages(second, run)[1], "app-1 to answer")
    first.open("1")
    first.open("2")
    second.finish(run)
    told, after = messages(began), began["next"]
    while (page := second.call("run.logs", run=run, after=after))["more"] or page["lines"]:
        told += messages(page)
        after = page["next"]
    assert told == ALL


def test_run_of_one_machine_asks_nobody(pair: Pair) -> None:
    """Whoever has led since it was created."""
    first, _ = pair.projects.values()
    run = first.begin("quiet")
    first.finish(run)
    found = first.call("run.logs", run=run)
    assert (messages(found), found["elsewhere"]) == (["here"], [])
    assert messages(first.call("run.logs", run=run, after=1)) == []


def test_exec_does_not_succeed_without_the_output_of_a_machine(pair: Pair) -> None:
    """Who wants what a program prints is told that some is missing, with status 74, and by whom."""
    first, second = pair.projects.values()
    script = f"echo ran >> {first.root}/ran; until [ -e {first.root}/on ]; do sleep 0.01; done"
    words = ("exec", "--", "sh", "-c", f"echo begins; {script}; echo ends")
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "stackshift_cli", *words],
        cwd=second.root,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begins\n"
        pair.stop(1)
        (first.root / "on").touch()
        out, err = process.communicate(timeout=SECONDS)
    assert (first.root / "ran").read_text() == "ran\nran\n"
    assert out.splitlines() == ["begins", "ends"]
    assert "error[output_cut]: the program succeeded" in err
    assert "what it printed on app-1 is missing" in err
    assert process.returncode == 74


def test_follower_answers_for_its_own_file_alone(pair: Pair) -> None:
    """Only what is the id of a run; a file that is not there is empty."""
    _, second = pair.projects.values()
    nobody = f"run_{'0' * 26}"
    found = second.call("run.logs_here", run=nobody)
    assert found == {"lines": [], "next": 0, "more": False}
    until = "2026-05-06T09:00:00Z"
    found = second.call("run.printed_here", run=nobody, attempt=1, until=until)
    assert found == {"printed": []}
    with pytest.raises(Usage, match="not the id of a run"):
        second.call("run.logs_here", run="../../daemon")
