"""Processes that the tests of this folder start, and none of which is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers.deadline import wait_until
from helpers.tools import python, ready

Begin = Callable[..., "subprocess.Popen[bytes]"]


def pid_in(path: Path) -> int:
    """The process id in a file that `tools.ready` writes."""
    wait_until(path.exists, f"a process to write {path.name}")
    return int(path.read_text())


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Starts `code` in a session of its own; returns when it has begun. `env` is added to the
    environment."""
    begun: list[subprocess.Popen[bytes]] = []

    def start(code: str = "", env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        at = tmp_path / f"begun-{len(begun)}"
        process = subprocess.Popen(
            python(f"{code}\n{ready(at)}\ntime.sleep(600)"),
            env=os.environ | (env or {}),
            start_new_session=True,
        )
        begun.append(process)
        pid_in(at)
        return process

    yield start
    for process in begun:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def leftovers() -> Iterator[list[int]]:
    """Ids of processes that are killed at the end of the test, whatever became of it."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
