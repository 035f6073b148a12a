"""The command line with the daemon that it is for, from an empty directory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.conftest import PROGRAMS, Shell
from cli.reading import read_lines


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Shell]:
    """`stackshift` in a project made by `init`; its daemon is stopped at the end."""
    home, root = tmp_path / "home", tmp_path / "shop"
    home.mkdir()
    root.mkdir()
    shell = Shell(root, home)
    paths = shell.env["PYTHONPATH"].split(os.pathsep)
    shell.env["PYTHONPATH"] = os.pathsep.join(p for p in paths if p != str(PROGRAMS))
    assert shell("init").code == 0
    yield shell
    shell("daemon", "stop")
    shell.close()


def test_project_made_by_init_runs_as_it_stands(real: Shell) -> None:
    """`init`, `jobs check`, `start --wait`, `runs list|show`: the first five minutes."""
    assert real("jobs", "check") == ("ok\tjobs.hello\thello\n", "", 0)
    told = real("start", "hello", "-F", "name=World", "--wait")
    assert (told.stdout, told.code) == ('{"greeting":"Hello, World!"}\n', 0)
    assert told.stderr.startswith("started stackshiftd (pid ")
    (listed,) = real("runs", "list").stdout.splitlines()
    assert listed.split("\t")[1:5] == ["completed", "hello", "default", "1"]
    kinds = [line.split("\t")[2] for line in real("runs", "show", "@last").stdout.splitlines()]
    assert kinds[0] == "run.created"
    assert kinds[-1] == "run.completed"
    assert real("journal", "verify").code == 0


def test_killed_daemon_is_started_again_and_its_follower_misses_nothing(real: Shell) -> None:
    """`kill -9`, and the next command brings it back; `runs tail` shows each record once."""
    assert real("start", "hello", "--wait").code == 0
    tail = real.popen("runs", "tail", "--since", "1h")
    seen = _up_to_the_end_of_a_run(tail)
    pid = json.loads(real("daemon", "status", "--json").stdout)["pid"]
    os.kill(pid, signal.SIGKILL)
    assert real("start", "hello", "--wait").code == 0
    seen += _up_to_the_end_of_a_run(tail)
    tail.send_signal(signal.SIGINT)
    tail.communicate(timeout=20)
    kinds = [line.split("\t")[2] for line in seen]
    assert (kinds.count("run.created"), kinds.count("run.completed")) == (2, 2)
    seqs = [int(line.split("\t")[0]) for line in seen]
    assert seqs == sorted(set(seqs))


def _up_to_the_end_of_a_run(tail: subprocess.Popen[bytes]) -> list[str]:
    lines = read_lines(tail, 1)
    while "run.completed" not in lines[-1]:
        lines += read_lines(tail, 1)
    return lines


def test_key_and_payload_decide_what_a_start_is(real: Shell) -> None:
    """The same again is the same run; another payload is a conflict, with the difference."""
    first = real("start", "hello", "--idempotency-key", "k")
    again = real("start", "hello", "--idempotency-key", "k")
    assert again.stdout == first.stdout
    told = real("start", "hello", "--idempotency-key", "k", "-F", "name=x")
    assert (told.stdout, told.code) == ("", 5)
    assert '  $.name: absent → "x"' in told.stderr


def test_job_that_does_not_exist_is_exit_4_with_a_near_name(real: Shell) -> None:
    """The daemon knows the jobs."""
    told = real("start", "helo")
    assert (told.stdout, told.code) == ("", 4)
    assert "did you mean hello?" in told.stderr
