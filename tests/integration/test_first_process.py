"""The daemon as the first process of a container, which has all orphans as its children."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from helpers.deadline import wait_until
from helpers.project import environment

PROGRAM = """
import ctypes, os, signal, subprocess, sys
from stackshiftd.first_process import fork_from_first_process

if sys.platform == "linux":  # Elsewhere orphans go to the system's own first process.
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
status = fork_from_first_process()
if status is not None:
    sys.exit(status)
leaves = "trap '' HUP; sleep 0.01 & echo $!; exit 7"
left = [subprocess.run(["sh", "-c", leaves], stdout=subprocess.PIPE) for _ in range(3)]
print(os.getpid(), *(each.returncode for each in left), flush=True)
print(*(int(each.stdout) for each in left), flush=True)
sys.exit(int(sys.stdin.readline()))
"""


@pytest.fixture
def first() -> Iterator[subprocess.Popen[str]]:
    """Stands in for process 1; its child is the daemon."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        yield process
        process.kill()


def numbers(first: subprocess.Popen[str]) -> list[int]:
    """The next line that the daemon prints."""
    assert first.stdout is not None
    return [int(word) for word in first.stdout.readline().split()]


def test_orphans_are_waited_for_and_ones_own_children_keep_their_status(
    first: subprocess.Popen[str],
) -> None:
    """What commands leave in the background ends without leaving zombies; what the daemon itself
    starts is waited for by the daemon; and the first process ends with its status."""
    daemon, *statuses = numbers(first)
    assert daemon != first.pid
    assert statuses == [7, 7, 7]
    orphans = numbers(first)
    wait_until(lambda: not any(map(psutil.pid_exists, orphans)), f"{orphans} to be waited for")
    first.communicate("5\n", timeout=60)
    assert first.returncode == 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_reach_the_daemon(first: subprocess.Popen[str], number: signal.Signals) -> None:
    """A container ends by a SIGTERM to its first process, for which no signal has a default."""
    daemon = numbers(first)[0]
    first.send_signal(number)
    first.wait(60)
    expected = 1 if number == signal.SIGINT else 128 + number
    assert first.returncode in (expected, 128 + number)
    assert not psutil.pid_exists(daemon)
