"""Commands under a lock that are stopped and continued: by a shell, by a terminal, by a signal."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Iterator

import pexpect
import pytest

from cli.conftest import Shell
from cli.fake_daemon import FakeDaemon
from cli.live_output import read_lines
from helpers.deadline import wait_until

SECONDS = 60
STOPPED = ["sh", "-c", "echo fir''st; kill -STOP $$; echo the''n"]
"""A command that stops itself in the middle. A shell shows the command of a job that stops or goes
on, so nothing that it prints is written in it as it is printed."""


@pytest.fixture
def bash(shell: Shell) -> Iterator[pexpect.spawn[str]]:
    """A shell with job control on a terminal, which tells at once what becomes of its jobs."""
    child = pexpect.spawn(
        "bash",
        ["--norc", "--noprofile", "-i"],
        cwd=str(shell.directory),
        encoding="utf-8",
        env={**shell.env, "TERM": "dumb", "PS1": "> "},
        timeout=SECONDS,
    )
    child.sendline("set -b; stty -echo; echo rea''dy")
    child.expect("ready")
    yield child
    child.close(force=True)


def locked(shell: Shell, *command: str) -> str:
    """The line that runs `command` under the lock `k`."""
    return shlex.join(shell.command("state", "lock", "k", "--", *command))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_ends_a_command_that_is_stopped(
    shell: Shell, daemon: FakeDaemon, number: signal.Signals
) -> None:
    """Off a terminal nobody else would continue it; the lock is given back."""
    process = shell.popen(
        "state", "lock", "k", "--", "sh", "-c", "echo $$; exec sleep 600", start_new_session=True
    )
    [pid] = read_lines(process, 1)
    os.kill(int(pid), signal.SIGSTOP)
    process.send_signal(number)
    assert process.wait(SECONDS) == 128 + number
    assert daemon.locks == {}


@pytest.mark.parametrize("stop", ["STOP", "TSTP"])
@pytest.mark.usefixtures("daemon")
def test_continued_off_a_terminal_it_goes_on(shell: Shell, stop: str) -> None:
    """What continues us continues the command."""
    text = f"echo first; kill -{stop} $$; echo then"
    process = shell.popen("state", "lock", "k", "--", "sh", "-c", text, start_new_session=True)
    read_lines(process, 1)
    while process.poll() is None:  # Until it was stopped, to continue us has no effect.
        process.send_signal(signal.SIGCONT)
    assert process.communicate(timeout=SECONDS) == (b"then\n", b"")
    assert process.returncode == 0


def test_command_that_reads_in_the_background_is_a_stopped_job(
    shell: Shell, daemon: FakeDaemon, bash: pexpect.spawn[str]
) -> None:
    """So that the lock is not renewed for ever; and the job can be killed."""
    bash.sendline(locked(shell, "cat") + " &")
    bash.expect("Stopped")
    bash.sendline("kill %1")
    bash.expect("Exit 143")
    assert daemon.locks == {}


def test_closing_the_terminal_ends_a_stopped_command(
    shell: Shell, daemon: FakeDaemon, bash: pexpect.spawn[str]
) -> None:
    """The lock is given back."""
    bash.sendline(locked(shell, "cat") + " &")
    bash.expect("Stopped")
    bash.close()
    wait_until(lambda: not daemon.locks, "the lock to be given back")


@pytest.mark.parametrize("again", ["fg", "bg"])
@pytest.mark.parametrize("background", ["", " &"])
def test_stopped_job_is_continued_with_its_command(
    shell: Shell, daemon: FakeDaemon, bash: pexpect.spawn[str], background: str, again: str
) -> None:
    """Wherever it runs, and wherever it goes on."""
    bash.sendline(locked(shell, *STOPPED) + background)
    bash.expect("first")
    bash.expect("Stopped")
    bash.sendline(again)
    bash.expect("then")
    daemon.wait_for("lock.release")


def test_ctrl_z_stops_both_once(shell: Shell, daemon: FakeDaemon, bash: pexpect.spawn[str]) -> None:
    """And `fg` continues both."""
    bash.sendline(locked(shell, "sh", "-c", "echo first; read line; echo $line"))
    bash.expect("first")
    bash.sendcontrol("z")
    bash.expect("Stopped")
    bash.sendline("fg")
    bash.sendline("typed")
    bash.expect("typed")
    daemon.wait_for("lock.release")


def test_lock_lost_while_it_was_stopped_ends_the_command(
    shell: Shell, daemon: FakeDaemon, bash: pexpect.spawn[str]
) -> None:
    """As any loss does, once it goes on."""
    text = "echo first; kill -STOP $$; exec sleep 600"
    held = shell.command("state", "lock", "k", "--ttl", "1500ms", "--", "sh", "-c", text)
    bash.sendline(shlex.join(held))
    bash.expect("Stopped")
    daemon.locks.clear()
    bash.sendline("fg")
    bash.expect("lock_lost")
    bash.sendline("echo status $?")
    bash.expect("status 5")
