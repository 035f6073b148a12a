"""`stackshift dev` with the real daemon: on a terminal, in a pipe, and however it ends."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pexpect
import pytest

from cli.conftest import Shell
from cli.render.screen import Screen
from helpers.deadline import wait_until

pytestmark = pytest.mark.not_via("follower", why="the daemon of dev leads, or says who does")

WIDTH, HEIGHT = 100, 40
JOBS = """\
import os

import stackshift_jobs as stackshift


@stackshift.job("breaks")
def breaks(ctx):
    print("about to break")
    raise stackshift.NonRetryable("no catalogue")


@stackshift.job("waits")
async def waits(ctx):
    return await ctx.step.wait_for_event("paid")


@stackshift.job("variable")
def variable(ctx):
    return os.environ.get("OF_THE_SHELL")
"""


class Dev:
    """`stackshift dev` on a terminal, and what is on that."""

    def __init__(self, shell: Shell) -> None:
        program, *rest = shell.command("dev")
        self.screen = Screen(WIDTH, HEIGHT)
        self.child: pexpect.spawn[str] = pexpect.spawn(
            program,
            rest,
            cwd=str(shell.directory),
            dimensions=(HEIGHT, WIDTH),
            encoding="utf-8",
            env={**shell.env, "TERM": "xterm-256color"},
            timeout=60,
        )

    def read(self) -> str:
        """All that is on the screen and in the scrollback now."""
        with contextlib.suppress(pexpect.TIMEOUT, pexpect.EOF):
            while True:
                self.screen.feed(self.child.read_nonblocking(65_536, timeout=0.05))
        return self.screen.text

    def until(self, *words: str) -> str:
        """The same once all of `words` are in it."""

        def there() -> str | None:
            text = self.read()
            return text if all(word in text for word in words) else None

        try:
            return wait_until(there, f"{words} on the screen") or ""
        except AssertionError as late:
            raise AssertionError(f"{late}; it shows:\n{self.screen.text}") from None

    def end(self) -> tuple[str, int | None]:
        """The last text, and the exit status, once it has ended."""
        wait_until(lambda: self.read() and not self.child.isalive(), "dev to end")
        self.child.close()
        return self.screen.text, self.child.exitstatus


@pytest.fixture
def dev(real: Shell) -> Iterator[Callable[[], Dev]]:
    """Opens `dev` in a project that has `JOBS` too."""
    (real.directory / "jobs" / "work.py").write_text(JOBS)
    opened: list[Dev] = []

    def spawn() -> Dev:
        opened.append(Dev(real))
        return opened[-1]

    yield spawn
    for each in opened:
        each.child.close(force=True)


def is_served(shell: Shell) -> bool:
    """Does a daemon serve the project?"""
    return shell("--no-start", "daemon", "status").code == 0


def test_edits_are_loaded_and_runs_are_drawn_as_they_end(
    real: Shell, dev: Callable[[], Dev]
) -> None:
    """The loop of whoever writes a job: start it, see it fail, mend it, retry it by a key; a module
    that is broken is shown, and the code from before goes on."""
    shown = dev()
    shown.until("stackshift dev", "4 jobs", "no run is under way")
    assert real("start", "hello", "-F", "name=World").code == 0
    shown.until("hello  completed in", 'result {"greeting": "Hello, World!"}')
    failed = real("start", "breaks").stdout.strip()
    shown.until(
        "error NonRetryable: no catalogue",
        "jobs/work.py:9 in breaks",
        'raise stackshift.NonRetryable("no catalogue")',
        "| about to break",
        "r retry",
    )
    file = real.directory / "jobs" / "work.py"
    file.write_text(JOBS + "def broken(:\n")
    shown.until("jobs/work.py:20: SyntaxError", ">   20 │ def broken(:", "from before goes on")
    # The line of the error is another one, so that it is not taken for the old code.
    mended = JOBS.replace(
        '    raise stackshift.NonRetryable("no catalogue")', '    return "mended"'
    )
    file.write_text(mended)
    shown.until("reloaded jobs/work.py  changed breaks, variable, waits")
    shown.child.send("r")
    shown.until(f"retry breaks {failed[-6:]}? [y/N]")
    shown.child.send("y")
    shown.until('result "mended"')
    assert is_served(real)
    shown.child.sendintr()
    text, status = shown.end()
    assert (status, "stopping; Ctrl-C again" in text) == (0, True)
    assert not is_served(real)


def test_run_that_waits_is_drawn_below_and_cancelled_by_a_key(
    real: Shell, dev: Callable[[], Dev]
) -> None:
    """Nothing of a frame is left when the terminal becomes narrower; `q` ends it."""
    shown = dev()
    shown.until("no run is under way")
    run = real("start", "waits").stdout.strip()
    shown.until("waits  waiting", "waiting for event paid", "1 waiting")
    shown.child.setwinsize(HEIGHT, 60)
    shown.screen.narrow(60)
    assert real("start", "hello").code == 0
    text = shown.until("hello  completed in")
    assert (text.count("waits  waiting"), text.count("waiting for event paid")) == (1, 1)
    shown.child.send("kc")
    shown.until(f"cancel waits {run[-6:]}? [y/N]")
    shown.child.send("y")
    shown.until("waits  cancelled in", "no run is under way")
    shown.child.send("q")
    assert shown.end()[1] == 0
    assert not is_served(real)


def test_jobs_find_the_variables_of_the_shell(real: Shell, dev: Callable[[], Dev]) -> None:
    """As whoever writes jobs expects; a daemon in the background has those that are set for it."""
    real.env["OF_THE_SHELL"] = "here"
    dev().until("no run is under way")
    assert real("start", "variable", "--wait").stdout == '"here"\n'


def test_project_that_is_served_already_is_refused(real: Shell) -> None:
    """The daemon in the background goes on."""
    assert real("daemon", "start").code == 0
    pid = json.loads(real("daemon", "status", "--json").stdout)["pid"]
    told = real("dev")
    assert told.code == 5
    assert told.stderr == (
        f"error[daemon_running]: a daemon serves the project already (pid {pid})\n"
        "hint: stackshift daemon stop, then stackshift dev\n"
    )
    assert is_served(real)


def test_settings_that_are_wrong_are_said_at_once(real: Shell) -> None:
    """As by every command that starts a daemon."""
    (real.directory / "stackshift.toml").write_text("[workers]\nslots = -1\n")
    told = real("dev")
    assert (told.code, "workers.slots" in told.stderr) == (78, True)


def has_printed(process: subprocess.Popen[bytes]) -> bool:
    """Is there something to read, within a second?"""
    assert process.stdout is not None
    return bool(select.select([process.stdout.fileno()], [], [], 1.0)[0])


def lines(process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    """The objects that `dev --json` prints; each comes within a minute, or the test fails."""
    assert process.stdout is not None
    fd, begun = process.stdout.fileno(), b""
    while True:
        assert select.select([fd], [], [], 60.0)[0], f"nothing more came after {begun!r}"
        if not (data := os.read(fd, 65_536)):
            return
        *whole, begun = (begun + data).split(b"\n")
        for line in whole:
            yield json.loads(line)


def test_pipe_gets_records_and_reloads(real: Shell) -> None:
    """`dev --json` prints an object a line; SIGINT ends it, and the daemon with it."""
    process = real.popen("dev", "--json")
    wait_until(lambda: is_served(real), "the daemon")
    # The daemon serves before dev follows it: what happens in between is not printed.
    wait_until(lambda: real("start", "hello").code == 0 and has_printed(process), "a record")
    assert real("start", "hello").code == 0
    told = lines(process)
    kinds = (line["kind"] for line in told)
    assert "run.created" in kinds
    assert "run.completed" in kinds
    hello = real.directory / "jobs" / "hello.py"
    hello.write_text(hello.read_text().replace("Hello,", "Hallo,"))
    outcome = next(line["reload"] for line in told if "reload" in line)
    assert (outcome["loaded"], outcome["jobs"]["changed"]) == (True, ["hello"])
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, b"stopping" in errors) == (0, True)
    assert not is_served(real)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_daemon_ends_with_dev_however_that_ends(real: Shell, number: signal.Signals) -> None:
    """Nobody is there to hear of reloads any more, and the project is free for the next daemon."""
    process = real.popen("dev")
    wait_until(lambda: is_served(real), "the daemon")
    process.send_signal(number)
    process.communicate(timeout=60)
    wait_until(lambda: not is_served(real), "the daemon to stop")
    assert real("start", "hello", "--wait").code == 0


def test_daemon_that_is_killed_is_said(real: Shell, dev: Callable[[], Dev]) -> None:
    """`dev` ends too, with the status for a daemon that is not there."""
    shown = dev()
    shown.until("no run is under way")
    os.kill(json.loads(real("daemon", "status", "--json").stdout)["pid"], signal.SIGKILL)
    text, status = shown.end()
    assert status == 3
    assert "error[daemon_unavailable]: the daemon has ended" in text
    assert "hint: stackshift daemon logs" in text
