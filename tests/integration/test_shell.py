"""`stackshift` as shells and cron call it, with the real daemon behind it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from helpers import via
from helpers.deadline import wait_until
from helpers.processes import alive, serving, working_in
from helpers.project import Project
from helpers.project_factory import Make
from stackshift_jobs.project.discovery import read_daemon

JOBS = """
@stackshift.job("resizeAvatar")
def resize_avatar(ctx):
    image = ctx.step.run("download", lambda: ctx.payload["imageId"].upper())
    return {"image": image, "sizes": ctx.step.map("resize", lambda size: size, [64, 256])}


@stackshift.job("fails", retry=ONCE)
def fails(ctx):
    raise ValueError("no good")


@stackshift.job("held")
def held(ctx):
    ctx.step.run("held", gate, "go")
    return "went"
"""
PROGRAM = Path(sys.executable).parent / "stackshift"
RESULT = {"image": "IMG_123", "sizes": [64, 256]}
SECONDS = 60
RACERS = 4


class Told(NamedTuple):
    """What a command printed and how it ended."""

    stdout: str
    stderr: str
    code: int


class Cron:
    """Runs shell commands as cron does: from `/`, with nothing but HOME and PATH. `ROOT` in a
    command is the project's directory."""

    def __init__(self, project: Project, home: Path) -> None:
        self.project = project
        home.mkdir()
        self.env = {"HOME": str(home), "PATH": f"{PROGRAM.parent}:{os.defpath}"}
        self.env |= via.added()

    def script(self, command: str) -> list[str]:
        """The command line of a shell that runs `command`."""
        return ["/bin/sh", "-c", command.replace("ROOT", shlex.quote(str(self.project.root)))]

    def __call__(self, command: str) -> Told:
        done = subprocess.run(
            self.script(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd="/",
            env=self.env,
            timeout=SECONDS,
            check=False,
        )
        return Told(done.stdout.decode(), done.stderr.decode(), done.returncode)

    def popen(self, command: str) -> subprocess.Popen[bytes]:
        """Run it beside the test."""
        return subprocess.Popen(
            self.script(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env=self.env,
        )


@pytest.fixture
def project(make_project: Make) -> Iterator[Project]:
    """A project whose daemon is down, with a payload in a file."""
    made = make_project(JOBS)
    (made.root / "payload.json").write_text('{"imageId": "img_123"}')
    yield made


@pytest.fixture
def cron(project: Project, tmp_path: Path) -> Cron:
    """A shell without an environment."""
    return Cron(project, tmp_path / "home")


def daemons(project: Project) -> int:
    """How many daemons run for the project."""
    return len(set(serving(project.root)) - set(project.workers()))


def test_start_from_cron_starts_the_daemon_and_prints_the_result(
    project: Project, cron: Cron
) -> None:
    """With the daemon down, without a terminal and an environment: the result on stdout, exit 0;
    the daemon stays, and the next command finds it."""
    start = "stackshift -C ROOT start resizeAvatar -p @ROOT/payload.json --wait"
    told = cron(start)
    assert (told.code, json.loads(told.stdout)) == (0, RESULT), told.stderr
    assert told.stdout.count("\n") == 1
    first = read_daemon(project.data_dir)
    assert first is not None and alive(first.pid)
    again = cron(start)
    assert (again.code, json.loads(again.stdout)) == (0, RESULT)
    assert read_daemon(project.data_dir) == first
    assert daemons(project) == via.DAEMONS


def test_no_start_leaves_the_daemon_down(project: Project, cron: Cron) -> None:
    """`--no-start`, and its variable, exit 3 and start nothing."""
    for command in (
        "stackshift -C ROOT --no-start start resizeAvatar -p @ROOT/payload.json --wait",
        "STACKSHIFT_NO_START=1 stackshift -C ROOT runs list",
    ):
        told = cron(command)
        assert (told.stdout, told.code) == ("", 3)
        assert "error[daemon_unavailable]" in told.stderr
        assert "Traceback" not in told.stderr
    assert working_in(project.root) == []


def test_start_in_a_pipe(project: Project, cron: Cron) -> None:
    """The payload comes from a pipe and the result goes into one."""
    project.start()
    told = cron("cat ROOT/payload.json | stackshift -C ROOT start resizeAvatar -p - --wait | cat")
    assert (told.code, json.loads(told.stdout)) == (0, RESULT)
    told = cron("stackshift -C ROOT start resizeAvatar -p @ROOT/payload.json | cat")
    assert project.finish(told.stdout.strip())["result"] == RESULT


def test_project_is_found_from_its_directory_and_by_variable(project: Project, cron: Cron) -> None:
    """In the project's directory nothing needs to be said; elsewhere a variable says it."""
    project.start()
    told = cron("cd ROOT/jobs && stackshift start resizeAvatar -p @../payload.json --wait")
    assert (told.code, json.loads(told.stdout)) == (0, RESULT)
    told = cron("STACKSHIFT_PROJECT=ROOT stackshift runs list --json")
    assert [run["status"] for run in json.loads(told.stdout)] == ["completed"]


def test_failed_run_and_refused_starts_have_their_exit_codes(project: Project, cron: Cron) -> None:
    """1 for a failed run, 4 for an unknown job, 5 for a key with another payload, 6 for a payload
    that is none."""
    project.start()
    told = cron("stackshift -C ROOT start fails --wait")
    assert (told.stdout, told.code) == ("", 1)
    assert "ValueError: no good" in told.stderr
    assert cron("stackshift -C ROOT start nobody").code == 4
    keyed = "stackshift -C ROOT start resizeAvatar --idempotency-key k -F imageId="
    first, second = cron(keyed + "a"), cron(keyed + "a")
    assert first.stdout == second.stdout and first.code == second.code == 0
    other = cron(keyed + "b")
    assert (other.stdout, other.code) == ("", 5)
    assert first.stdout.strip() in other.stderr
    assert cron("stackshift -C ROOT start resizeAvatar -p '{\"a\":NaN}'").code == 6


def test_payload_over_the_limit_is_named_with_its_size(project: Project, cron: Cron) -> None:
    """Also if the request is so long that the daemon does not read it to its end."""
    for size, said in (
        (1_100_000, "the payload is 1,100,012 bytes of JSON, the limit is 1 MiB"),
        (1_200_000, "the request is 1,200,045 bytes of JSON, the limit of a payload is 1 MiB"),
    ):
        (project.root / "big.json").write_text(json.dumps({"imageId": "x" * (size - 2)}))
        told = cron("stackshift -C ROOT start resizeAvatar -p @ROOT/big.json -q")
        assert (told.stdout, told.code) == ("", 6)
        assert told.stderr.splitlines() == [
            f"error[payload_refused]: {said}",
            "hint: store it elsewhere and pass its location, or raise [limits] payload",
        ]


def test_start_after_the_daemon_was_killed(project: Project, cron: Cron) -> None:
    """What a killed daemon left behind is told from one that runs; a new one is started."""
    project.start()
    run = project.begin("held")
    project.at("go")
    project.kill()
    told = cron("stackshift -C ROOT start resizeAvatar -p @ROOT/payload.json --wait")
    assert (told.code, json.loads(told.stdout)) == (0, RESULT), told.stderr
    project.open("go")
    assert project.finish(run)["result"] == "went"


def test_commands_that_start_the_daemon_at_once_share_one(project: Project, cron: Cron) -> None:
    """Several commands find no daemon at the same moment: one is started, and all succeed."""
    command = "stackshift -C ROOT start resizeAvatar -p @ROOT/payload.json --wait"
    started = [cron.popen(command) for _ in range(RACERS)]
    for process in started:
        out, err = process.communicate(timeout=SECONDS)
        assert (process.returncode, out and json.loads(out)) == (0, RESULT), err
    # A daemon that came second has said so, but its process may still be ending.
    wait_until(lambda: daemons(project) <= via.DAEMONS, "the other daemons to end")
    assert daemons(project) == via.DAEMONS
    assert len(project.call("run.list")["runs"]) == RACERS


def test_start_while_the_daemon_is_stopping_gets_a_daemon(project: Project, cron: Cron) -> None:
    """A command that meets a daemon on its way out waits for it and starts the next."""
    project.start()
    project.begin("held")
    project.at("go")
    daemon = project.daemon
    assert daemon is not None
    daemon.terminate()
    told = cron("stackshift -C ROOT start resizeAvatar -p @ROOT/payload.json --wait")
    project.ended()
    assert (told.code, told.stdout and json.loads(told.stdout)) == (0, RESULT), told.stderr


def test_tail_goes_on_across_a_restart(project: Project, cron: Cron) -> None:
    """`runs tail RUN` outlives a killed daemon: each record once, and the run's exit code."""
    project.start()
    run = project.begin("held")
    project.at("go")
    with cron.popen(f"exec stackshift -C ROOT runs tail {run} --json") as tail:
        assert tail.stdout is not None and tail.stderr is not None
        lines = [tail.stdout.readline()]
        project.kill()
        project.start()
        project.open("go")
        seen = project.finish(run)
        lines += tail.stdout.readlines()
        wait_until(lambda: tail.poll() is not None, "tail to end")
        assert tail.returncode == 0, tail.stderr.read()
    *records, ended = map(json.loads, lines)
    assert [each["seq"] for each in records] == [each["seq"] for each in seen["timeline"]]
    assert (ended["run"]["id"], ended["run"]["status"], ended["exit"]) == (run, "completed", 0)
