"""Processes that tests start: whose they are, and that none of them is left behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from helpers.deadline import wait_until


def alive(pid: int) -> bool:
    """Does the process run? One that has ended and was not waited for does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def wait_gone(pids: Iterable[int], what: str) -> None:
    """Returns when none of `pids` runs any more."""
    pids = list(pids)
    wait_until(lambda: not any(map(alive, pids)), f"{what} to end: {pids}")


def working_in(root: Path) -> list[int]:
    """Processes of the project at `root`: they work in it, or their command line names it."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if process.cwd() == str(root) or str(root) in process.cmdline():
                found.append(process.pid)
    return found


def serving(root: Path) -> list[int]:
    """The daemon of the project at `root`, its workers, and whatever else it started of its own."""
    found = []
    for pid in working_in(root):
        with suppress(psutil.Error):
            if any("stackshiftd" in word for word in psutil.Process(pid).cmdline()):
                found.append(pid)
    return found


def clear(root: Path) -> list[int]:
    """Kill what still works in `root`, which only this test knows; the ids of what had to be."""
    left = working_in(root)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_gone(left, "leftovers")
    return left
