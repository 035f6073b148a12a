"""Starting, stopping and asking the daemon; a program of the tests stands in for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.conftest import Shell
from cli.fake_daemon import T0, FakeDaemon, run_id
from cli.live_output import read_lines
from helpers.processes import wait_gone


@pytest.fixture
def stopped_after(shell: Shell) -> Iterator[None]:
    """Stop the daemon that the test started, if any."""
    yield
    shell("daemon", "stop")


@pytest.mark.usefixtures("stopped_after")
def test_command_that_needs_the_daemon_starts_it_and_says_so_once(shell: Shell) -> None:
    """The first command starts it, the second one finds it; stdout is the id alone."""
    told = shell("start", "hello")
    pid = json.loads((shell.directory / ".stackshift/daemon.json").read_text())["pid"]
    assert told == (f"{run_id(1)}\n", f"started stackshiftd (pid {pid})\n", 0)
    assert shell("runs", "list", "--json").stderr == ""


@pytest.mark.usefixtures("stopped_after")
def test_started_daemon_outlives_its_terminal(shell: Shell) -> None:
    """It has its own session and none of our descriptors, and writes to its log."""
    shell("start", "hello", "-q")
    info = json.loads((shell.directory / ".stackshift/daemon.json").read_text())
    assert os.getsid(info["pid"]) == info["pid"]
    log = shell.directory / ".stackshift/daemon.log"
    assert log.stat().st_mode & 0o777 == 0o600
    assert log.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("how", ["option", "variable"])
def test_no_start_is_exit_3(shell: Shell, how: str) -> None:
    """`--no-start` and `STACKSHIFT_NO_START=1` do not start it."""
    args = ["--no-start"] if how == "option" else []
    told = shell("start", "hello", *args, **({} if args else {"STACKSHIFT_NO_START": "1"}))
    assert (told.stdout, told.code) == ("", 3)
    assert told.stderr.startswith("error[daemon_unavailable]: no daemon is running")
    assert "hint: stackshift daemon start" in told.stderr
    assert not (shell.directory / ".stackshift").exists()


def test_daemon_that_refuses_to_start_says_why(shell: Shell) -> None:
    """The error in the daemon's ready line is reported, with its own status."""
    told = shell("start", "hello", FAKE_DAEMON="refuses")
    assert told == ("", "error[configuration]: slots: 0 is too few\nhint: 1\n", 78)


def test_daemon_that_dies_is_explained_by_its_log(shell: Shell) -> None:
    """It exited without a ready line: the end of its log is shown, exit 3."""
    told = shell("start", "hello", "--json", FAKE_DAEMON="dies")
    assert told.code == 3
    assert "the daemon exited before it was ready: RuntimeError: no good" in told.stderr
    assert json.loads(told.stderr.splitlines()[-1])["error"]["log"] == [
        "starting",
        "RuntimeError: no good",
    ]


def test_loser_of_a_race_uses_the_winners_daemon(shell: Shell) -> None:
    """Two commands start a daemon at once: the second one's exits with `daemon_running`, and its
    command connects to the first one's, which may take a moment to appear."""
    losing = subprocess.Popen(
        shell.command("start", "hello"),
        env=shell.env | {"FAKE_DAEMON": "loses"},
        cwd=shell.directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    winner = FakeDaemon(shell.directory / ".stackshift").start()
    try:
        out, err = losing.communicate(timeout=60)
    finally:
        winner.stop()
    assert (out.decode(), err, losing.returncode) == (f"{run_id(1)}\n", b"", 0)


@pytest.mark.usefixtures("stopped_after")
def test_stale_daemon_file_is_no_daemon(shell: Shell) -> None:
    """A daemon that was killed leaves its file; another one is started."""
    first = json.loads(shell("daemon", "start", "--json").stdout)
    os.kill(first["pid"], signal.SIGKILL)
    # Until it is gone, its socket still takes connections.
    wait_gone([first["pid"]], "the daemon")
    told = shell("start", "hello")
    assert told.code == 0
    assert told.stderr.startswith("started stackshiftd (pid ")


@pytest.mark.usefixtures("stopped_after")
def test_start_stop_restart_and_status(shell: Shell) -> None:
    """Each says what it did; repeating it is not an error."""
    pid = json.loads(shell("daemon", "start", "--json").stdout)["pid"]
    again = shell("daemon", "start")
    assert again == ("", f"stackshiftd is already running (pid {pid})\n", 0)
    status = json.loads(shell("daemon", "status", "--json").stdout)
    assert (status["pid"], status["queues"][0]["name"]) == (pid, "default")
    told = shell("daemon", "restart")
    assert told.stderr.startswith(f"stopped stackshiftd (pid {pid})\nstarted stackshiftd (pid ")
    assert shell("daemon", "stop").stderr.startswith("stopped stackshiftd (pid ")
    assert shell("daemon", "stop") == ("", "no daemon is running\n", 0)
    assert json.loads(shell("daemon", "stop", "--json").stdout) == {"pid": None, "stopped": False}


def test_start_says_that_only_reads_are_served(shell: Shell, daemon: FakeDaemon) -> None:
    """Of the daemon that it starts or finds, as every command does that has started one."""
    why = "/d is on a file system that is read-only"
    facts = daemon.on_daemon_status({}) | {"mode": "read_only", "read_only_because": why}
    daemon.answers["daemon.status"] = lambda _params: facts
    told = shell("daemon", "start")
    running = f"stackshiftd is already running (pid {daemon.pid})"
    assert told == ("", f"{running}\nnote: only reads are served: {why}\n", 0)


@pytest.mark.usefixtures("stopped_after")
def test_restart_with_wrong_settings_stops_nothing(shell: Shell) -> None:
    """Settings that the new daemon would refuse are refused while the old one is still running."""
    pid = json.loads(shell("daemon", "start", "--json").stdout)["pid"]
    file = shell.directory / "stackshift.toml"
    file.write_text("[workers]\nslot = 3\n")
    told = shell("daemon", "restart")
    assert (told.stdout, told.code) == ("", 78)
    assert told.stderr.startswith("error[configuration]: ")
    file.write_text("")
    assert json.loads(shell("daemon", "status", "--json").stdout)["pid"] == pid


@pytest.mark.usefixtures("stopped_after")
@pytest.mark.parametrize(
    ("settings", "mode", "said"),
    [
        (
            '[workers]\npython = "/no/such/python"\n',
            0o755,
            "/no/such/python does not exist",
        ),
        ('[workers]\npython = "stackshift.toml"\n', 0o755, "stackshift.toml cannot be executed"),
        ("", 0o777, "can be changed by other users"),
        (
            '[project]\nenv_file = ".env"\n',
            0o755,
            "/.env cannot be read: No such file or directory\n",
        ),
    ],
)
def test_restart_that_the_new_daemon_would_refuse_stops_nothing(
    shell: Shell, settings: str, mode: int, said: str
) -> None:
    """Workers without an interpreter or their variables, and code that others can change: the old
    one goes on."""
    assert shell("daemon", "start").code == 0
    (shell.directory / "stackshift.toml").write_text(settings)
    (shell.directory / "jobs").mkdir(exist_ok=True)
    (shell.directory / "jobs").chmod(mode)
    told = shell("daemon", "restart")
    assert (told.code, said in told.stderr, "stopped" in told.stderr) == (78, True, False)
    assert shell("daemon", "status", "--json").code == 0


def test_status_starts_nothing(shell: Shell) -> None:
    """No daemon: exit 3."""
    told = shell("daemon", "status")
    assert (told.stdout, told.code) == ("", 3)
    assert not (shell.directory / ".stackshift").exists()


@pytest.mark.usefixtures("daemon")
def test_status_in_a_pipe_is_a_line_a_field(shell: Shell) -> None:
    """`name TAB value`."""
    fields = dict(line.split("\t") for line in shell("daemon", "status").stdout.splitlines())
    assert fields["uptime_ms"] == "61000"
    assert json.loads(fields["workers"])[0]["id"] == "w1"


def test_stop_drains(shell: Shell) -> None:
    """`--drain` is sent to the daemon."""
    other = subprocess.Popen(["sleep", "1000"])
    daemon = FakeDaemon(shell.directory / ".stackshift")
    daemon.pid = other.pid
    daemon.start()
    other.kill()
    other.wait()
    assert shell("daemon", "stop", "--drain").stderr == f"stopped stackshiftd (pid {other.pid})\n"
    assert daemon.params("daemon.stop") == {"drain": True}
    daemon.stop()


def test_daemon_of_another_version_can_be_stopped(shell: Shell) -> None:
    """A daemon with another protocol is ended by a signal, so that `daemon restart` works."""
    shell.env["FAKE_DAEMON"] = "speaks otherwise"
    other = shell.popen("daemon", "run")
    assert read_lines(other, 1) == ["in the foreground"]
    assert "hint: stackshift daemon restart" in shell("daemon", "start").stderr
    told = shell("daemon", "stop")
    assert told == ("", f"stopped stackshiftd (pid {other.pid})\n", 0)
    assert other.wait() == -signal.SIGTERM


def test_daemon_run_is_the_daemon(shell: Shell) -> None:
    """`daemon run` becomes the daemon in the foreground, with the same process id."""
    running = shell.popen("daemon", "run")
    assert read_lines(running, 1) == ["in the foreground"]
    info = json.loads((shell.directory / ".stackshift/daemon.json").read_text())
    assert info["pid"] == running.pid
    shell("daemon", "stop")
    running.communicate(timeout=60)
    assert running.returncode == 0


def test_logs_are_the_last_lines(shell: Shell) -> None:
    """`-n` lines, escaped; nothing if there is no log."""
    assert shell("daemon", "logs") == ("", "", 0)
    log = _log(shell, "".join(f"line {n}\n" for n in range(100)) + "\x1b[2J\n")
    assert shell("daemon", "logs", "-n", "2").stdout == "line 99\n\\x1b[2J\n"
    assert len(shell("daemon", "logs").stdout.splitlines()) == 50
    assert json.loads(shell("daemon", "logs", "-n", "1", "--json").stdout) == {"line": "\x1b[2J"}
    assert log.exists()


def test_logs_follow(shell: Shell) -> None:
    """`-f` keeps printing whole lines; Ctrl-C ends it."""
    log = _log(shell, "one\n")
    following = shell.popen("daemon", "logs", "-f")
    assert read_lines(following, 1) == ["one"]
    with log.open("a") as file:
        file.write("two\nthr")
        file.flush()
        assert read_lines(following, 1) == ["two"]
        file.write("ee\n")
    assert read_lines(following, 1) == ["three"]
    following.send_signal(signal.SIGINT)
    assert following.communicate(timeout=60) == (b"", b"")
    assert following.returncode == 130


def _log(shell: Shell, text: str) -> Path:
    log = shell.directory / ".stackshift/daemon.log"
    log.parent.mkdir(mode=0o700)
    log.write_text(text)
    return log


def test_clock_that_stands_still_is_said_and_set_back(shell: Shell, daemon: FakeDaemon) -> None:
    """The time is on stdout; what is wrong with it, and what to do, on stderr. Setting it back asks
    first, and is refused where nobody can be asked."""
    assert shell("daemon", "clock") == (f"{T0}\n", "", 0)
    daemon.ahead_ms = 3_600_000
    still = "it is 1h00m ahead of the system clock and stands still until then: no timer fires"
    hint = "hint: stackshift daemon clock --set-back"
    assert shell("daemon", "clock") == (f"{T0}\n", f"{still}\n{hint}\n", 0)
    assert json.loads(shell("daemon", "clock", "--json").stdout)["ahead_ms"] == 3_600_000
    refused = shell("daemon", "clock", "--set-back")
    assert (refused.stdout, refused.code) == ("", 2)
    assert refused.stderr.startswith("error[usage]: set daemon time back by 1h00m: ")
    assert daemon.ahead_ms == 3_600_000
    told = shell("daemon", "clock", "--set-back", "-y")
    assert told == (f"{T0}\n", "set back to the system clock\n", 0)
    assert shell("daemon", "clock", "--set-back") == (f"{T0}\n", "", 0)
