"""`top` on a terminal: keys, sizes, restarts, and a terminal that is as it was afterwards."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator

import pexpect
import pytest

from cli.conftest import Shell, Transcript
from cli.fake_daemon import FakeDaemon, run_id
from cli.top.scenes import ACTIVITY, STATUS, serve
from cli.top.screen import Shown
from helpers.deadline import wait_until

LEFT = "\x1b[?25h\x1b[?1049l"
"""The cursor is back, and so is the screen from before."""
Open = Callable[..., Shown]


@pytest.fixture
def top(shell: Shell, daemon: FakeDaemon) -> Iterator[Open]:
    """Opens a terminal with `stackshift top` in it, or another program."""
    serve(daemon)
    opened: list[Shown] = []

    def spawn(*argv: str, cells: int = 80, lines: int = 24, **env: str) -> Shown:
        program, *rest = argv or shell.command("top")
        child = pexpect.spawn(
            program,
            rest,
            cwd=str(shell.directory),
            dimensions=(lines, cells),
            encoding="utf-8",
            env={**shell.env, "TERM": "xterm-256color", "PS1": "ready$ ", **env},
            timeout=60,
        )
        opened.append(Shown(child))
        return opened[-1]

    yield spawn
    for shown in opened:
        shown.child.close(force=True)


def ended(shown: Shown) -> tuple[str, int | None, int | None]:
    """The last that was sent, the exit status and the signal, once the program has ended."""
    wait_until(lambda: not shown.child.isalive(), "top to end")
    sent = shown.read()
    shown.child.close()
    return sent, shown.child.exitstatus, shown.child.signalstatus


def modes(shown: Shown) -> list[object]:
    """The modes of the terminal."""
    import termios

    return termios.tcgetattr(shown.child.child_fd)


def test_keys_select_open_filter_and_cancel(top: Open, daemon: FakeDaemon) -> None:
    """As a person uses it; nothing is cancelled before the `y`."""
    shown = top()
    text = shown.until_shown("resizeAvatar", "q quit", "12.1 starts/s", "nightlyReport query")
    keys = "↑↓ move  enter open  d dead letter  / filter  r retry  c cancel  ? keys  q quit"
    assert text.splitlines()[-1] == keys
    shown.press("/sync")
    shown.until(lambda text: "syncCustomer" in text and "cleanUp" not in text, "the filter")
    shown.press("\rc")
    shown.until_shown("cancel syncCustomer 000003? [y/N]")
    assert daemon.asked("run.cancel") == 0
    daemon.answers["run.cancel"] = lambda params: {"id": params["run"], "changed": True}
    shown.press("y")
    shown.until_shown("000003 cancelled")
    assert daemon.params("run.cancel") == {"run": run_id(3)}
    shown.press("d")
    shown.press("\x1b")
    shown.until_shown("chargeCard", "CardDeclined")
    shown.press("q")
    sent, status, _ = ended(shown)
    assert sent.endswith(LEFT)
    assert status == 0


def test_few_bytes_and_few_requests(top: Open, daemon: FakeDaemon) -> None:
    """Two requests at a time, and only lines that have changed are sent again."""
    shown = top()
    shown.until_shown("resizeAvatar")
    before, asked = len(shown.read()), daemon.asked("daemon.activity")
    daemon.wait_for("daemon.activity", asked + 2)
    shown.press("j")
    shown.until(lambda _: len(shown.sent) > before, "the selection to move")
    assert shown.sent.count("/srv/shop") == 1
    assert shown.sent.count("12.1 starts/s") == 1
    status, listed = daemon.asked("leader.status"), daemon.asked("daemon.activity")
    assert abs(status - listed) <= 1
    assert len(daemon.requests) == status + listed


def test_frame_follows_the_size_of_the_terminal(top: Open) -> None:
    """Everything is drawn anew, and nothing is wider than the terminal."""
    shown = top()
    shown.until_shown("nightlyReport query")
    shown.child.setwinsize(12, 50)
    lines = shown.until(lambda text: len(text.splitlines()) == 12, "twelve lines").splitlines()
    assert max(map(len, lines)) <= 50
    shown.child.setwinsize(40, 120)
    shown.until(lambda text: len(text.splitlines()) == 40, "forty lines")


@pytest.mark.parametrize(
    ("how", "status"),
    [
        (lambda child: child.sendintr(), 130),
        (lambda child: child.kill(signal.SIGTERM), 143),
        (lambda child: child.kill(signal.SIGHUP), 129),
        (lambda child: child.send("q"), 0),
    ],
    ids=["ctrl-c", "sigterm", "sighup", "q"],
)
def test_terminal_is_restored(
    top: Open, how: Callable[[pexpect.spawn[str]], None], status: int
) -> None:
    """However it ends: cursor, screen and modes are as they were, and nothing else is printed."""
    shown = top()
    before = modes(shown)
    shown.until_shown("q quit")
    during = modes(shown)
    how(shown.child)
    sent, code, _ = ended_with_modes(shown, before)
    assert (during != before, code) == (True, status)
    assert sent.endswith(LEFT)
    assert "Traceback" not in sent


def ended_with_modes(shown: Shown, before: list[object]) -> tuple[str, int | None, int | None]:
    """Like `ended`, once the terminal's modes are `before`."""
    wait_until(lambda: modes(shown) == before, "the modes to be restored")
    return ended(shown)


def test_stopped_top_gives_the_terminal_back_and_draws_again(top: Open, shell: Shell) -> None:
    """Ctrl-Z leaves the screen, `fg` enters it; the shell's terminal is in order in between."""
    shown = top("sh", "-i")
    shown.child.expect_exact("ready$ ")
    shown.child.sendline(" ".join(shell.command("top")))
    shown.until_shown("q quit")
    shown.child.send("\x1a")
    shown.until(lambda _: "topped" in shown.sent.rpartition(LEFT)[2], "the shell to say so")
    shown.child.sendline("echo in between")
    shown.until(lambda _: "\nin between" in shown.sent.replace("\r", ""), "the shell's echo")
    stopped = len(shown.sent)
    shown.child.sendline("fg")
    shown.until(lambda _: "q quit" in shown.sent[stopped:], "the screen to be drawn again")
    shown.press("q")
    shown.until(lambda _: shown.sent.rstrip().endswith("ready$"), "the shell's prompt")
    shown.child.sendline("exit")


def test_terminal_that_goes_away_ends_it(top: Open) -> None:
    """Nothing is left running when a window is closed."""
    shown = top()
    shown.until_shown("q quit")
    shown.child.close(force=False)
    wait_until(lambda: not shown.child.isalive(), "top to end")


def test_terminal_that_cannot_move_its_cursor_is_refused(top: Open) -> None:
    """Such as that of an editor; it would show only escapes."""
    sent, status, _ = ended(top(TERM="dumb"))
    assert "error[usage]: top needs a terminal whose cursor can be moved" in sent
    assert ("\x1b" in sent, status) == (False, 2)


def test_without_colour_the_selection_is_marked(top: Open) -> None:
    """By a character beside the run."""
    shown = top(NO_COLOR="1")
    shown.until_shown("●>  000001")
    shown.press("j")
    shown.until_shown("●>  000002")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", shown.sent)


def test_it_goes_on_while_the_daemon_restarts(top: Open, daemon: FakeDaemon) -> None:
    """It says that the daemon is gone, keeps what it knows, and goes on by itself."""
    shown = top()
    shown.until_shown("resizeAvatar")
    daemon.stop()
    text = shown.until_shown("the daemon is gone; waiting for it to come back")
    assert "resizeAvatar" in text
    shown.press("j")
    later = STATUS | {"version": "0.2.0"}
    daemon.answers["leader.status"] = lambda _: later
    daemon.start()
    shown.until(lambda text: "0.2.0" in text and "gone" not in text, "the new daemon")
    shown.press("q")
    assert ended(shown)[1] == 0


def test_once_prints_a_frame_and_json_an_object(shell: Shell, daemon: FakeDaemon) -> None:
    """For scripts: no terminal, no escapes; without `--once` it is refused there."""
    serve(daemon)
    told = shell("top", "--once")
    assert (told.stderr, told.code, "\x1b" in told.stdout) == ("", 0, False)
    assert all(word in told.stdout for word in ("12.1 starts/s", "cleanUp", "media", "1m01s"))
    assert "q quit" not in told.stdout
    given = json.loads(shell("top", "--once", "--json").stdout)
    assert given == ACTIVITY | {"daemon": STATUS}
    refused = "error[usage]: top needs a terminal\nhint: stackshift top --once prints one frame\n"
    assert shell("top") == Transcript("", refused, 2)
