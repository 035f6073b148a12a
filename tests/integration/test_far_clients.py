"""Clients that reach a daemon through the one that follows it, or through ssh: the same bytes."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil
import pytest

from helpers import sshd
from helpers.inner_daemon import InsideDaemon
from helpers.project import Project, environment
from helpers.project_factory import Make
from helpers.sshd import Sshd
from helpers.twins import twins
from journal.shared.memory_log import MemoryLog
from stackshift_jobs import AsyncClient, Client
from stackshift_jobs.errors import PayloadRefused

pytestmark = pytest.mark.not_via(why="it says itself where its journal is")

JOBS: Final = """
@stackshift.job("greet")
def greet(ctx):
    print("says hello")
    return ctx.step.run("hello", lambda: "hello " + ctx.payload["name"])


@stackshift.job("fails", retry=ONCE)
def fails(ctx):
    raise ValueError("no")


@stackshift.job("waits")
def waits(ctx):
    return ctx.step.wait_for_event("paid", correlation_key="o-1")
"""
SSH: Final = shutil.which("ssh")
READS: Final = [
    "runs list",
    "runs list --json",
    "runs list --status failed,completed",
    "runs show {failed} --json",
    "runs show {greeted}",
    "runs why {waiting}",
    "runs result {greeted}",
    "runs result {failed}",
    "runs logs {greeted}",
    "runs export {greeted} --format html",
    "runs count --json",
    "runs show run_00000000000000000000000000",
    "dead list",
    "jobs list",
    "jobs show greet",
    "jobs schema greet",
    "queues list --json",
    "schedules list",
    "state get here",
    "state get nowhere",
    "state list --json",
    "state locks",
    "event list --json",
    "event send",
    "start nothing",
    "start greet -F name=x --wait --timeout nonsense",
]


class Reached:
    """A daemon with some runs, and the ways in which it can be reached."""

    def __init__(self, project: Project, ways: dict[str, str], path: str) -> None:
        self.project = project
        self.ways = ways
        self._path = path

    def told(self, way: str, words: list[str]) -> tuple[int, bytes, bytes]:
        """What a command prints and its exit status, that way."""
        return self.told_at(self.ways[way], words)

    def told_at(self, place: str, words: list[str]) -> tuple[int, bytes, bytes]:
        """The same, for what `-C` takes."""
        done = subprocess.run(
            [sys.executable, "-P", "-m", "stackshift_cli", "-C", place, *words],
            capture_output=True,
            env=environment() | {"PATH": self._path, "LC_ALL": "C.UTF-8"},
            cwd="/",
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr


def ssh_here(folder: Path) -> str:
    """A PATH in which `ssh` runs on this machine what is to be run on another one, in a shell that
    knows little."""
    folder.mkdir()
    ssh = folder / "ssh"
    ssh.write_text(
        '#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\nshift 2\ncd /\n'
        'exec env -i HOME=/root PATH=/usr/bin:/bin /bin/sh -c "$*"\n'
    )
    ssh.chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def install(project: Project) -> None:
    """Put StackShift into the project's `.venv`."""
    command = project.root / ".venv" / "bin" / "stackshift"
    command.parent.mkdir(parents=True)
    paths = environment()["PYTHONPATH"]
    command.write_text(
        f'#!/bin/sh\nexport PYTHONPATH={paths}\nexec {sys.executable} -P -m stackshift_cli "$@"\n'
    )
    command.chmod(0o755)


@pytest.fixture
def reached(make_project: Make, tmp_path: Path) -> Iterator[Reached]:
    """A leader, and one that follows it."""
    log = MemoryLog()
    first, second = twins(make_project, JOBS, '[cluster]\nlisten = "127.0.0.1:0"\nlend = false\n')
    install(first)
    inside = [InsideDaemon(first, log=log, host="app-1")]
    inside.append(InsideDaemon(second, log=log, host="app-2"))
    ways = {
        "here": str(first.root),
        "follower": str(second.root),
        "ssh": f"ssh://app-1{first.root}",
    }
    yield Reached(first, ways, ssh_here(tmp_path / "bin"))
    for each in reversed(inside):
        assert each.close() is None


def test_commands_say_the_same_whichever_way(reached: Reached) -> None:
    """Byte for byte, with the same exit status: lists, objects, pages, errors."""
    project = reached.project
    greeted = project.begin("greet", {"name": "you"})
    project.finish(greeted)
    failed = project.begin("fails")
    project.finish(failed)
    waiting = project.begin("waits")
    project.until_status(waiting, "waiting")
    project.call("state.set", key="here", value={"a": [1, 2]})
    names = {"greeted": greeted, "failed": failed, "waiting": waiting}
    for line in READS:
        words = [word.format(**names) for word in line.split()]
        here = reached.told("here", words)
        assert b"Traceback" not in here[2], here
        for way in ("follower", "ssh"):
            assert reached.told(way, words) == here, (way, line)


def test_changes_take_effect_whichever_way(reached: Reached) -> None:
    """Starts, events and state."""
    for number, way in enumerate(reached.ways):
        code, out, _ = reached.told(way, ["start", "greet", "-F", f"name={way}", "--wait"])
        assert (code, out.decode().splitlines()[0]) == (0, f'"hello {way}"')
        assert reached.told(way, ["state", "increment", "n"])[1] == f"{number + 1}\n".encode()
        words = ["schedules", "add", way, "--job", "greet", "--cron", "@daily"]
        code, out, said = reached.told(way, words)
        assert (code, out) == (0, f"{way}\n".encode()), said
        code, out, said = reached.told(way, ["schedules", "list"])
        assert (code, len(out.splitlines())) == (0, number + 1), said
        assert (b"at boot" in said) == (way != "ssh")
    code, out, _ = reached.told("ssh", ["start", "waits"])
    run = out.decode().strip()
    reached.project.until_status(run, "waiting")
    words = ["event", "send", "paid", "--correlation-key", "o-1", "-p", '{"a":1}']
    assert reached.told("ssh", words)[0] == 0
    assert reached.project.finish(run)["status"] == "completed"


def test_line_for_cron_names_the_project_as_it_was_named(reached: Reached) -> None:
    """What is tried as cron would run it is about the same project, which may be elsewhere."""
    for place in reached.ways.values():
        _, _, said = reached.told_at(place, ["doctor", "--cron", "--", "stackshift runs count"])
        [line] = [line for line in said.decode().splitlines() if line.startswith("as cron: ")]
        assert line.endswith(f" -C {place} runs count")


def test_what_needs_the_files_is_refused(reached: Reached) -> None:
    """With the command to be given there."""
    for words in (["jobs", "check"], ["config", "show"], ["journal", "verify"], ["daemon", "stop"]):
        code, _, said = reached.told("ssh", words)
        assert code == 78, (words, said)
        assert b"the files of the project, which are on app-1" in said
        assert f"stackshift -C {reached.project.root}".encode() in said


def test_disk_without_room_is_no_obstacle(reached: Reached) -> None:
    """Only what ssh might say is kept in a file."""
    words = [sys.executable, "-P", "-m", "stackshift_cli", "-C", reached.ways["ssh"]]
    done = subprocess.run(
        ["sh", "-c", 'ulimit -f 0; exec "$@"', "sh", *words, "runs", "count"],
        capture_output=True,
        env=environment() | {"PATH": reached._path},
        cwd="/",
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"0\n", b"")


def test_programs_reach_it_too(reached: Reached, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocking and the async client."""
    monkeypatch.setenv("PATH", reached._path)
    with Client(reached.ways["ssh"]) as client:
        assert client.start("greet", {"name": "a"}).result(timeout=60) == "hello a"
        long = "x" * 100_000
        assert client.start("greet", {"name": long}).result(timeout=60) == f"hello {long}"
        with pytest.raises(PayloadRefused, match="1 MiB"):
            client.start("greet", {"name": "x" * 4_000_000})
        assert client.start("greet", {"name": "b"}).result(timeout=60) == "hello b"

    async def work() -> None:
        async with AsyncClient(reached.ways["ssh"]) as client:
            handle = await client.start("greet", {"name": long})
            assert await handle.result(timeout=60) == f"hello {long}"

    asyncio.run(work())


def test_what_a_daemon_says_at_its_start_is_said(make_project: Make, tmp_path: Path) -> None:
    """By the command that has woken it, from wherever."""
    project = make_project(JOBS, broken="import nothing_of_that_name\n")
    install(project)
    ways = {"here": str(project.root), "ssh": f"ssh://app-1{project.root}"}
    reached = Reached(project, ways, ssh_here(tmp_path / "bin"))
    said = {}
    for way in ways:
        _, _, lines = reached.told(way, ["start", "greet", "-F", "name=x"])
        said[way] = [line for line in lines.splitlines() if line.startswith(b"note: ")]
        assert b"started stackshiftd (pid " in lines
        assert reached.told("here", ["daemon", "stop"])[0] == 0
    assert said["ssh"] == said["here"]
    assert b"broken.py" in said["here"][0]


@pytest.mark.skipif(not sshd.IS_THERE, reason=sshd.MISSING)
def test_real_ssh(make_project: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is cut is made anew, and what may be repeated is; a daemon that is not
    there is started; who is not let in is told so by ssh."""
    server = Sshd(tmp_path / "sshd")
    server.start()
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "ssh").write_text(f'#!/bin/sh\nexec {SSH} -F {server.config} "$@"\n')
    (folder / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    project = make_project(JOBS)
    install(project)
    reached = Reached(project, {"ssh": f"ssh://gpu-1{project.root}"}, os.environ["PATH"])
    code, out, said = reached.told("ssh", ["--no-start", "start", "greet", "-F", "name=x"])
    assert (code, out) == (3, b"")
    assert f"no daemon is running for {project.data_dir}".encode() in said
    code, out, said = reached.told("ssh", ["start", "greet", "-F", "name=x", "--wait"])
    assert (code, out) == (0, b'"hello x"\n'), said
    assert b"started stackshiftd (pid " in said
    with Client(reached.ways["ssh"]) as client:
        handle = client.start("waits")
        project.until_status(handle.id, "waiting")
        for process in psutil.Process().children():
            if process.name() == "ssh":
                process.kill()
        assert client.runs.get(handle.id)["status"] == "waiting"
    project.call("daemon.stop")
    server.authorize("# nobody:")
    code, out, said = reached.told("ssh", ["runs", "list"])
    assert code == 75
    assert b"gpu-1 cannot be reached: " in said
    assert b"Permission denied" in said
    server.stop()
