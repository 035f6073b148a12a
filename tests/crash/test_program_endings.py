"""However an execution ends, and whatever its step has started: never two copies, and none left.

(guarantee: programs)
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from helpers.deadline import wait_until
from helpers.inner_daemon import InsideDaemon
from helpers.processes import alive, wait_gone
from helpers.project import Project, kinds
from helpers.project_factory import Make

COPY = '''
"""One copy of a program. Each of its keys has a lock: who finds it taken is the second at once."""

import fcntl
import os
import signal
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def note(*words):
    fd = os.open(os.path.join(ROOT, "witness.txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(fd, (" ".join(map(str, words)) + "\\n").encode())
    os.close(fd)


def copy(key):
    lock = os.open(os.path.join(ROOT, f"lock-{key}"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        note("two", key)
    note("copy", key, os.getpid())
    while not os.path.exists(os.path.join(ROOT, "gates", "go")):
        time.sleep(0.005)


if __name__ == "__main__":
    key, *how = sys.argv[1:]
    if "deaf" in how:
        signal.signal(signal.SIGTERM, lambda *_: note("TERM", os.getpid()))
    if "parent" in how:
        own_session = "setsid" in how
        deaf = ["deaf"] if "deaf" in how else []
        subprocess.Popen([sys.executable, __file__, "child", *deaf], start_new_session=own_session)
    copy(key)
'''
JOBS = """
import multiprocessing
import subprocess
import sys

from jobs import _copy

MANY = Retry(max_attempts=100, backoff="10ms", jitter=0.0)


def tool(*how):
    return [sys.executable, _copy.__file__, "main", *how]


def popen():
    return subprocess.Popen(tool("parent")).wait()


def pool():
    with multiprocessing.Pool(2) as processes:
        processes.map(_copy.copy, ["main", "child"], chunksize=1)


def command(ctx):
    ctx.step.command("tool", tool("parent"))


async def awaited(ctx):
    await ctx.step.command("tool", tool("parent"))


def deaf(ctx):
    ctx.step.command("tool", tool("parent", "deaf"))


async def deaf_awaited(ctx):
    await ctx.step.command("tool", tool("parent", "deaf"))


def setsid(ctx):
    ctx.step.command("tool", tool("parent", "setsid"))


def popen_in_a_step(ctx):
    ctx.step.run("tool", popen)


async def popen_awaited(ctx):
    await ctx.step.run("tool", popen)


def pool_in_a_step(ctx):
    ctx.step.run("tool", pool)


def popen_deaf(ctx):
    ctx.step.run("tool", subprocess.call, tool("parent", "deaf"))


def timed_out(ctx):
    ctx.step.command("tool", tool("parent"), timeout="500ms", retry=MANY)


async def timed_out_awaited(ctx):
    await ctx.step.command("tool", tool("parent", "deaf", "setsid"), timeout="500ms", retry=MANY)


HANDLERS = (
    command, awaited, deaf, deaf_awaited, setsid, popen_in_a_step, popen_awaited, pool_in_a_step,
    popen_deaf, timed_out, timed_out_awaited,
)
for handler in HANDLERS:
    stackshift.job(handler.__name__, handler, retry=ONCE)
    stackshift.job(handler.__name__ + "_timed", handler, retry=MANY, timeout="500ms")
"""
STARTS = [
    "command",
    "awaited",
    "deaf",
    "deaf_awaited",
    "setsid",
    "popen_in_a_step",
    "popen_awaited",
    "pool_in_a_step",
]
FEW = ["command", "deaf_awaited", "setsid", "pool_in_a_step"]
"""For an ending that takes its time."""
CONFIG = """\
[workers]
processes = 2
slots = 4
grace = "500ms"
inherit_env = ["PYTHONPATH"]
"""


class Copies:
    """The copies that the run of a project has started, by what they have noted."""

    def __init__(self, project: Project) -> None:
        self._project = project

    def of(self, key: str) -> list[int]:
        """Ids of the copies with this key, in order."""
        told = [line.split() for line in self._project.witness()]
        return [int(words[2]) for words in told if words[:2] == ["copy", key]]

    @property
    def all(self) -> list[int]:
        """Ids of all copies."""
        return [pid for key in ("main", "child") for pid in self.of(key)]

    def wait_for(self, times: int) -> list[int]:
        """Returns all copies once each has been started so many times."""
        wait_until(
            lambda: all(len(self.of(key)) >= times for key in ("main", "child")),
            f"{times} copies of each",
        )
        return self.all

    def check(self) -> None:
        """Fails if a copy has found another one at work, or was asked to end more than once."""
        told = self._project.witness()
        assert [line for line in told if line.startswith("two")] == []
        asked = [line for line in told if line.startswith("TERM")]
        assert len(asked) == len(set(asked))


@pytest.fixture
def project(make_project: Make) -> Project:
    """A project whose jobs start copies; its daemon is not started yet."""
    project = make_project(JOBS, CONFIG)
    (project.root / "jobs" / "_copy.py").write_text(COPY)
    return project


def runs_on(project: Project, run: str, copies: Copies, first: list[int]) -> None:
    """The step is run again, when nothing of its first program is left; and then completes."""
    copies.wait_for(2)
    assert not any(map(alive, first))
    project.open("go")
    assert project.finish(run)["status"] == "completed"
    copies.check()
    wait_gone(copies.all, "copies")


def both_workers(project: Project) -> list[int]:
    """The workers, once both serve."""
    wait_until(lambda: len(project.workers()) == 2, "both workers")
    return project.workers()


def has_stopped(project: Project, run: str) -> bool:
    """Are the slot and the locks of the cancelled run given back?"""
    return "attempt.stopped" in kinds(project.get(run))


def kill_worker(project: Project) -> None:
    """SIGKILL all workers."""
    for pid in project.workers():
        os.kill(pid, signal.SIGKILL)


def restart(project: Project) -> None:
    """Stop the daemon in good order, and start it again."""
    assert project.stop() == 0
    assert not any(map(alive, Copies(project).all))
    project.start()


def kill_daemon(project: Project) -> None:
    """SIGKILL the daemon, and start it again at once."""
    project.kill()
    project.start()


def kill_everything(project: Project) -> None:
    """SIGKILL the warden, the daemon and so the workers, and start a daemon again at once."""
    assert project.daemon is not None
    for pid in (*wardens(project.root), project.daemon.pid):
        os.kill(pid, signal.SIGKILL)
    project.ended()
    project.start()


def wardens(root: Path) -> list[int]:
    """The wardens of the project at `root`."""
    lock = str(root / ".stackshift" / "warden.lock")
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if lock in (process.info["cmdline"] or ())
    ]


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("end", [kill_worker, restart, kill_daemon, kill_everything])
def test_step_runs_again_only_when_its_first_program_is_gone(
    project: Project, start: str, end: Callable[[Project], None]
) -> None:
    """After the death of its worker, a stop, and the death of the daemon or of all at once."""
    project.start()
    copies = Copies(project)
    run = project.begin(start)
    first = copies.wait_for(1)
    end(project)
    runs_on(project, run, copies, first)


@pytest.mark.parametrize("start", FEW)
def test_worker_that_falls_silent_is_lost_with_its_programs(project: Project, start: str) -> None:
    """It is stopped, and so can end nothing itself."""
    (project.root / "stackshift.toml").write_text(CONFIG + 'heartbeat = "3s"\n')
    daemon = InsideDaemon(project)
    try:
        copies = Copies(project)
        run = project.begin(start)
        first = copies.wait_for(1)
        for pid in project.workers():
            os.kill(pid, signal.SIGSTOP)
        runs_on(project, run, copies, first)
    finally:
        daemon.close()


@pytest.mark.parametrize("start", STARTS)
def test_attempt_that_is_out_of_time_ends_its_programs_before_the_next(
    project: Project, start: str
) -> None:
    """Time and again."""
    project.start()
    copies = Copies(project)
    run = project.begin(f"{start}_timed")
    runs_on(project, run, copies, copies.wait_for(1))


@pytest.mark.parametrize("start", ["timed_out", "timed_out_awaited"])
def test_step_that_is_out_of_time_ends_its_program_before_its_next_try(
    project: Project, start: str
) -> None:
    """Without an end of the attempt, and of the worker."""
    project.start()
    before = both_workers(project)
    copies = Copies(project)
    run = project.begin(start)
    runs_on(project, run, copies, copies.wait_for(1))
    assert project.workers() == before
    assert kinds(project.get(run), "attempt.started", "attempt.resumed") == ["attempt.started"]


@pytest.mark.parametrize("start", STARTS)
def test_cancelled_run_has_stopped_when_its_programs_have(project: Project, start: str) -> None:
    """The slot and the locks are given back then and not before; a run that is retried at once
    begins only then."""
    project.start()
    copies = Copies(project)
    run = project.begin(start)
    first = copies.wait_for(1)
    project.call("run.cancel", run=run)
    wait_until(lambda: has_stopped(project, run), "the handler to stop")
    assert not any(map(alive, first))
    project.call("run.retry", run=run)
    second = copies.wait_for(2)[-1:]
    project.call("run.cancel", run=run)
    project.call("run.retry", run=run)
    copies.wait_for(3)
    assert not any(map(alive, second))
    project.open("go")
    assert project.finish(run)["status"] == "completed"
    copies.check()


@pytest.mark.parametrize("start", ["deaf", "deaf_awaited"])
def test_program_that_ignores_term_costs_its_worker_nothing(project: Project, start: str) -> None:
    """It is killed at the end of the grace; other runs in the worker do not notice."""
    project.start()
    before = both_workers(project)
    copies = Copies(project)
    run = project.begin(start)
    first = copies.wait_for(1)
    project.call("run.cancel", run=run)
    wait_gone(first, "programs")
    wait_until(lambda: has_stopped(project, run), "the handler to stop")
    assert project.workers() == before


def test_stop_puts_a_run_back_when_nothing_of_it_is_left(project: Project) -> None:
    """By then its worker has been killed, and what its step had started: another daemon could go
    on from the record."""
    project.start()
    project.begin("popen_deaf")
    first = Copies(project).wait_for(1)
    assert project.daemon is not None
    project.daemon.terminate()
    wait_until(
        lambda: any(record["kind"] == "attempt.lost" for record in project.journal()),
        "the run to be put back",
    )
    assert not any(map(alive, first))
    assert project.ended() == 0


@pytest.mark.parametrize("start", STARTS)
def test_daemon_that_is_killed_and_not_started_again_leaves_nothing(
    project: Project, start: str
) -> None:
    """Its warden ends what its workers have started, and then itself."""
    project.start()
    project.begin(start)
    first = Copies(project).wait_for(1)
    project.kill()
    wait_gone(first, "programs")
    wait_until(lambda: not wardens(project.root), "the warden to end")


def test_daemon_that_stops_dismisses_its_warden(project: Project) -> None:
    """It does not stay behind."""
    project.start()
    assert len(wardens(project.root)) == 1
    project.stop()
    assert wardens(project.root) == []
