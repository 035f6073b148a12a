"""Commands under a lock whose `stackshift` is killed."""

from __future__ import annotations

import os
import signal

import psutil
import pytest

from cli.conftest import Shell
from cli.fake_daemon import FakeDaemon
from cli.live_output import read_lines
from helpers.deadline import wait_until
from helpers.processes import alive, wait_gone
from stackshift_jobs.programs.processes import LOCK_VARIABLE, ON_LINUX

TWO = "sleep 600 & echo $$ $!; wait"
"""A command of two processes, which prints their ids."""


def wardens(shell: Shell) -> list[psutil.Process]:
    """The wardens of commands that this test has started."""
    found = []
    for process in psutil.process_iter():
        try:
            if "stackshift_jobs.programs.warden" in process.cmdline() and (
                process.environ().get("HOME") == shell.env["HOME"]
            ):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.usefixtures("daemon")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGUSR1])
def test_killed_holder_does_not_leave_its_command_running(
    shell: Shell, number: signal.Signals
) -> None:
    """The next holder would work beside it; all of its processes end, and the warden with them.
    Where no marks are seen, the documentation says what happens. (guarantee: locks)"""
    holder = shell.popen("state", "lock", "k", "--", "sh", "-c", TWO)
    pids = [int(word) for word in read_lines(holder, 1)[0].split()]
    holder.send_signal(number)
    holder.wait(60)
    if ON_LINUX:
        wait_gone(pids, "the command")
        wait_until(lambda: not wardens(shell), "the warden to end")
    for pid in filter(alive, pids):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.usefixtures("daemon")
def test_command_that_does_not_heed_is_killed_after_the_grace(shell: Shell) -> None:
    """TERM first, as when the lock is lost, so that it can tidy up."""
    tidy = "trap 'echo tidy' TERM; echo $$; while :; do sleep 600; done"
    holder = shell.popen("state", "lock", "k", "--", "sh", "-c", tidy)
    [pid] = map(int, read_lines(holder, 1))
    holder.kill()
    if ON_LINUX:
        assert read_lines(holder, 1) == ["tidy"]
        wait_gone([pid], "the command")
    else:
        os.kill(pid, signal.SIGKILL)


def test_what_a_command_leaves_in_the_background_goes_on(shell: Shell, daemon: FakeDaemon) -> None:
    """It has ended by itself, and the lock was released: the warden has nothing to do with that."""
    left = "sleep 600 >/dev/null 2>&1 & echo $!"
    told = shell("state", "lock", "k", "--", "sh", "-c", left)
    assert (told.code, daemon.locks) == (0, {})
    wait_until(lambda: not wardens(shell), "the warden to end")
    assert alive(int(told.stdout))
    os.kill(int(told.stdout), signal.SIGKILL)


@pytest.mark.usefixtures("daemon")
def test_mark_is_the_commands_own(shell: Shell) -> None:
    """A lock within a lock: each warden ends its own, and neither is in the way of the other."""
    inner = shell.command("state", "lock", "in", "--", "sh", "-c", f"echo ${LOCK_VARIABLE}; {TWO}")
    holder = shell.popen("state", "lock", "out", "--", *inner)
    mark, pids = read_lines(holder, 2)
    children = psutil.Process(holder.pid).children()
    [outer] = (each for each in children if each.cmdline() == inner)
    assert mark and outer.environ()[LOCK_VARIABLE] != mark
    holder.kill()
    if ON_LINUX:
        wait_gone([outer.pid, *map(int, pids.split())], "both commands")
        wait_until(lambda: not wardens(shell), "both wardens to end")
    for pid in filter(alive, map(int, pids.split())):
        os.kill(pid, signal.SIGKILL)
