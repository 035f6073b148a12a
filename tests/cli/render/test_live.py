"""The live picture on a pseudo-terminal: what is on the screen, and what is left above it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

from cli.conftest import Shell
from cli.fake_daemon import FakeDaemon, log_line, record, run_object
from cli.render.screen import Screen

STEPS = 60


class Follower:
    """`runs tail @last` on a terminal, and the screen that it draws on."""

    def __init__(self, shell: Shell, width: int, height: int) -> None:
        program, *rest = shell.command("runs", "tail", "@last")
        self.screen = Screen(width, height)
        self.child: pexpect.spawn[str] = pexpect.spawn(
            program,
            rest,
            cwd=str(shell.directory),
            dimensions=(height, width),
            encoding="utf-8",
            env={**shell.env, "TERM": "xterm-256color"},
            timeout=60,
        )

    def expect(self, text: str) -> None:
        """Read until `text` has been printed."""
        self.child.expect_exact(text)
        self.screen.feed(str(self.child.before) + text)

    def resize(self, width: int) -> None:
        """Make the terminal narrower, between two frames."""
        self.child.setwinsize(self.screen.height, width)
        self.screen.narrow(width)

    def end(self) -> str:
        """Read to the end; all that is on the screen and in the scrollback then."""
        self.child.expect(pexpect.EOF)
        self.screen.feed(str(self.child.before))
        self.child.close()
        return self.screen.text


@pytest.fixture
def run(daemon: FakeDaemon) -> dict[str, Any]:
    """A run that has just been dispatched."""
    made = daemon.add(run_object(1, status="running", result=None, why="running in worker w1"))
    step = {"run": made["id"], "attempt": 1}
    daemon.append(record(0, "run.created", made["id"]), record(0, "attempt.started", **step))
    return made


@pytest.fixture
def follow(shell: Shell) -> Iterator[Any]:
    """Starts followers, and ends them."""
    made: list[Follower] = []

    def start(width: int, height: int) -> Follower:
        made.append(Follower(shell, width, height))
        return made[-1]

    yield start
    for each in made:
        each.child.close(force=True)


def done(run: dict[str, Any], number: int) -> dict[str, Any]:
    """A step of the run completes."""
    step = {"step": f"page-{number:02d}", "duration_ms": 900, "attempt": 1}
    return record(number + 1, "step.completed", run["id"], **step)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40)])
def test_run_with_more_rows_than_lines_shows_what_is_new(
    follow: Any, run: dict[str, Any], daemon: FakeDaemon, width: int, height: int
) -> None:
    """The newest rows, the reason and the newest line of the log are seen while the run goes on;
    in the end one frame is left, which fits too."""
    follower = follow(width, height)
    follower.expect("running in worker w1")
    daemon.append(*(done(run, number) for number in range(STEPS)))
    daemon.logs.append(log_line("of the log"))
    follower.expect("page-59")
    follower.expect("running in worker w1")
    follower.expect("of the log")
    shown = follower.screen.text
    assert len(shown.splitlines()) <= height
    assert " done " in shown
    assert "page-00" not in shown
    daemon.finish(run, 70, result="fine")
    text = follower.end()
    assert text.count("hello  completed in 1m10s") == 1
    assert "hello  running" not in text
    assert text.count("page-59") == 1
    assert text.count("STEP") == 1
    assert text.rstrip().endswith('result "fine"')
    assert len(text.rstrip().splitlines()) < height


def test_one_frame_is_left_after_a_resize(
    follow: Any, run: dict[str, Any], daemon: FakeDaemon
) -> None:
    """The terminal breaks the lines of the frame that it shows; all of them are erased."""
    follower = follow(100, 30)
    follower.expect("running in worker w1")
    daemon.append(*(done(run, number) for number in range(8)))
    follower.expect("page-07")
    follower.expect("running in worker w1")
    follower.resize(60)
    daemon.append(done(run, 8))
    follower.expect("page-08")
    follower.expect("running in worker w1")
    daemon.finish(run, 12, result="fine")
    text = follower.end()
    assert text.count("STEP") == 1, text
    assert text.count("page-07") == 1, text
    assert max(map(len, text.splitlines())) <= 60


def test_enter_below_the_picture_leaves_one_frame(
    follow: Any, run: dict[str, Any], daemon: FakeDaemon
) -> None:
    """The terminal does not show what is typed, which would push the picture down; afterwards it
    does again."""
    follower = follow(80, 24)
    follower.expect("running in worker w1")
    follower.child.send("\n\n")
    daemon.append(done(run, 1))
    follower.expect("page-01")
    follower.expect("running in worker w1")
    daemon.finish(run, 12, result="fine")
    text = follower.end()
    assert "hello  running" not in text
    assert text.count("STEP") == 1, text


def test_picture_leaves_the_terminal_to_whoever_stops_it(
    follow: Any, run: dict[str, Any], daemon: FakeDaemon
) -> None:
    """Ctrl-Z erases the frame and shows the cursor. Afterwards the frame is drawn again, further
    down. (As there is no shell to return to, the system does not stop the follower in between.)"""
    follower = follow(80, 24)
    follower.expect("running in worker w1")
    follower.child.sendcontrol("z")
    follower.expect("\x1b[?25h")
    follower.expect("\x1b[?25l")
    assert "STEP" not in follower.screen.text
    daemon.append(done(run, 1))
    follower.expect("page-01")
    assert not follower.child.getecho()
    daemon.finish(run, 12, result="fine")
    text = follower.end()
    assert text.count("STEP") == 1, text
    assert "hello  running" not in text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.usefixtures("run")
def test_terminal_shows_what_is_typed_after_a_signal(follow: Any, number: int) -> None:
    """However the follower ends, the shell after it is not left with a terminal without echo."""
    follower = follow(80, 24)
    follower.expect("running in worker w1")
    assert not follower.child.getecho()
    # Keeps the terminal as it is when the follower has left it.
    with Path(os.ttyname(follower.child.child_fd)).open("rb", buffering=0):
        follower.child.kill(number)
        follower.child.wait()
        assert follower.child.getecho()


def test_no_tick_while_a_step_is_tried_again(
    follow: Any, run: dict[str, Any], daemon: FakeDaemon
) -> None:
    """From the end of the backoff until the outcome, the live picture says that the step runs."""
    error = {"type": "TimeoutError", "message": "late", "traceback": ""}
    retry: dict[str, Any] = {"error": error, "retry_at": "2026-05-06T09:00:03.000000Z"}
    step: dict[str, Any] = {"run": run["id"], "attempt": 1}
    follower = follow(80, 24)
    follower.expect("running in worker w1")
    daemon.append(
        record(1, "step.failed", **step, step="fetch", duration_ms=900, **retry),
        record(1, "attempt.suspended", **step),
    )
    follower.expect("↻")
    daemon.append(record(3, "wait.ended", run["id"], step="fetch"))
    follower.expect("● \x1b[0mfetch")
    daemon.append(record(3, "attempt.resumed", **step))
    daemon.append(record(4, "step.completed", **step, step="fetch", duration_ms=900))
    follower.expect("fetch")
    daemon.finish(run, 5)
    text = follower.end()
    assert "✓ fetch" in text
    assert "try 2" in text
