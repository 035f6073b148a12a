"""Projects, a fake daemon, and the command line as a user's shell runs it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cli.fake_daemon import FakeDaemon
from helpers import via

REPOSITORY = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "programs"
SECONDS = 60


class Transcript(NamedTuple):
    """What a command printed, and its exit status."""

    stdout: str
    stderr: str
    code: int


class Shell:
    """Runs `stackshift` in a project's directory, in a clean environment."""

    def __init__(self, directory: Path, home: Path) -> None:
        self.directory = directory
        self._beside: list[subprocess.Popen[bytes]] = []
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
            "PYTHONPATH": os.pathsep.join([str(PROGRAMS), *via.sources()]),
        }
        if via.VIA == "ssh":  # A fake daemon has no journal, and nobody follows it.
            self.env |= via.variables()

    def command(self, *args: str) -> list[str]:
        """The command line of `stackshift ARGS`."""
        return [sys.executable, "-P", "-m", "stackshift_cli", *args]

    def __call__(self, *args: str, stdin: str | bytes = "", **env: str) -> Transcript:
        """Run `stackshift ARGS` to its end, with `stdin` as its input and `env` added."""
        data = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            self.command(*args),
            input=data,
            capture_output=True,
            cwd=self.directory,
            env=self.env | env,
            timeout=SECONDS,
            check=False,
        )
        return Transcript(done.stdout.decode(), done.stderr.decode(), done.returncode)

    def run(self, line: str) -> Transcript:
        """Run `stackshift LINE` to its end; a line is split as a shell does."""
        return self(*shlex.split(line))

    def popen_with_input(self, *args: str) -> subprocess.Popen[bytes]:
        """Start `stackshift ARGS` with a pipe as its standard input."""
        return self.popen(*args, stdin=subprocess.PIPE)

    def popen(
        self, *args: str, stdin: int = subprocess.DEVNULL, **options: Any
    ) -> subprocess.Popen[bytes]:
        """Start `stackshift ARGS`; it is killed at the end of the test at the latest."""
        process = subprocess.Popen(
            self.command(*args),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.directory,
            env=self.env,
            **options,
        )
        self._beside.append(process)
        return process

    def close(self) -> None:
        """Kill the processes that are still running."""
        for process in self._beside:
            process.kill()
            process.communicate()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with an empty `stackshift.toml`."""
    root = tmp_path / "shop"
    root.mkdir()
    (root / "stackshift.toml").touch()
    return root


@pytest.fixture
def shell(project: Path, tmp_path: Path) -> Iterator[Shell]:
    """Runs `stackshift` in the project's directory."""
    home = tmp_path / "home"
    home.mkdir()
    made = Shell(project, home)
    yield made
    made.close()


@pytest.fixture
def daemon(project: Path) -> Iterator[FakeDaemon]:
    """A fake daemon that serves the project."""
    fake = FakeDaemon(project / ".stackshift").start()
    yield fake
    fake.stop()


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Shell]:
    """`stackshift` in a project made by `init`; its daemon is stopped at the end."""
    home, root = tmp_path / "home", tmp_path / "shop"
    home.mkdir()
    root.mkdir()
    shell = Shell(root, home)
    paths = shell.env["PYTHONPATH"].split(os.pathsep)
    shell.env["PYTHONPATH"] = os.pathsep.join(p for p in paths if p != str(PROGRAMS))
    shell.env |= via.variables()
    assert shell("init").code == 0
    yield shell
    shell("daemon", "stop")
    shell.close()
