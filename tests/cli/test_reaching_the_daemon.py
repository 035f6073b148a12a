"""Which daemon a command reaches, whatever became of the files by which it finds it."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cli.conftest import Shell
from cli.fake_daemon import FakeDaemon
from helpers.deadline import wait_until
from helpers.processes import alive
from stackshift_cli.arguments import Given, Globals
from stackshift_cli.daemon import silence
from stackshift_cli.daemon.connection import Connection
from stackshift_cli.daemon.session import Session
from stackshift_cli.verbs import daemon as daemon_verbs
from stackshift_jobs.programs import processes
from stackshift_jobs.project.discovery import DAEMON_FILE, DaemonInfo, socket_address
from stackshift_jobs.wire.unavailable import BROKEN, NOT_LISTENING, NOT_RUNNING, unavailable


def status(shell: Shell) -> Any:
    """What the daemon says of itself; it runs."""
    told = shell("daemon", "status", "--json")
    assert told.code == 0, told.stderr
    return json.loads(told.stdout)


@pytest.mark.not_via(why="what is copied is a copy of the journal, which stays one")
@pytest.mark.parametrize("how", ["-a", "-al"], ids=["copied", "linked"])
def test_copy_of_a_project_has_a_daemon_of_its_own(real: Shell, tmp_path: Path, how: str) -> None:
    """It is not the original's: neither starts, nor changes, nor stops anything there. (guarantee:
    one daemon)"""
    original = real.directory
    real("state", "set", "owner", "original")
    pid = status(real)["pid"]
    copy = tmp_path / "shop-test"
    subprocess.run(["cp", how, original, copy], check=True)
    real.directory = copy
    told = real("daemon", "status")
    assert (told.stdout, told.code) == ("", 3)
    assert told.stderr.startswith(f"error[daemon_unavailable]: no daemon is running for {copy}")
    assert real("daemon", "stop").stderr == "no daemon is running\n"
    if how == "-a":  # The other shares the original's files, which its daemon has locked.
        assert real("state", "set", "owner", "copy", "-q").code == 0
        assert status(real)["pid"] != pid
        assert status(real)["project"] == str(copy)
        assert real("daemon", "stop").code == 0
    real.directory = original
    assert real("state", "get", "owner").stdout == '"original"\n'
    assert status(real)["pid"] == pid


@pytest.mark.parametrize("name", ["shop", "l" * 120], ids=["short path", "long path"])
def test_daemon_listens_again_when_its_files_were_removed(real: Shell, name: str) -> None:
    """Socket, its directory in `/tmp`, and `daemon.json`: commands wait for that moment, and reach
    the same daemon. (guarantee: one daemon)"""
    real.directory = real.directory.rename(real.directory.with_name(name))
    data_dir = real.directory / ".stackshift"
    assert real("daemon", "start").code == 0
    daemon = status(real)
    socket = Path(socket_address(data_dir))
    assert (socket.parent == data_dir) == (name == "shop")
    for missing in (socket, data_dir / DAEMON_FILE):
        missing.unlink()
        if socket.parent != data_dir and missing == socket:
            socket.parent.rmdir()
        told = real("start", "hello", "--wait")
        assert (told.code, json.loads(told.stdout)) == (0, {"greeting": "Hello, World!"})
        assert status(real)["pid"] == daemon["pid"]
    assert status(real)["uptime_ms"] > daemon["uptime_ms"]
    socket.unlink()
    assert real("daemon", "stop").stderr == f"stopped stackshiftd (pid {daemon['pid']})\n"
    assert not alive(daemon["pid"])
    assert not socket.exists()
    assert not (data_dir / DAEMON_FILE).exists()


def test_restart_finds_a_daemon_whose_socket_was_removed(real: Shell) -> None:
    """It neither hangs nor starts a second one."""
    real("daemon", "start")
    before = status(real)["pid"]
    Path(socket_address(real.directory / ".stackshift")).unlink()
    told = real("daemon", "restart")
    assert told.stderr.startswith(f"stopped stackshiftd (pid {before})\nstarted stackshiftd (pid ")
    assert not alive(before)
    assert status(real)["pid"] != before


def test_what_is_put_in_the_place_of_the_socket_is_replaced(real: Shell) -> None:
    """A file there is not the daemon's, and is not connected to."""
    real("daemon", "start")
    before = status(real)["pid"]
    socket = Path(socket_address(real.directory / ".stackshift"))
    socket.unlink()
    socket.write_text("not a socket")
    wait_until(socket.is_socket, "the daemon to listen again")
    assert status(real)["pid"] == before


@pytest.fixture
def lock(shell: Shell) -> int:
    """The lock on the journal, which a process that works on it holds."""
    folder = shell.directory / ".stackshift" / "journal"
    folder.mkdir(mode=0o700, parents=True)
    folder.parent.chmod(0o700)
    (folder.parent / "lock").write_text("4711\n")
    fd = os.open(folder, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def test_process_that_holds_the_project_and_does_not_listen_is_told(
    shell: Shell, lock: int
) -> None:
    """It is not called gone, and no other is started beside it; as soon as it is, one is."""
    for line in ("daemon status", "runs list --no-start"):
        told = shell.run(line)
        first, hint = told.stderr.splitlines()
        holds = f"process 4711 holds {shell.directory}/.stackshift and does not listen"
        assert first.startswith(f"error[daemon_unavailable]: {holds}")
        assert (told.stdout, told.code, "kill 4711" in hint) == ("", 3, True)
    waiting = shell.popen("daemon", "start", "--json")
    daemon = FakeDaemon(shell.directory / ".stackshift").start()
    try:
        out, _ = waiting.communicate(timeout=60)
    finally:
        daemon.stop()
        os.close(lock)
    assert json.loads(out) == {"pid": daemon.pid, "started": False, "failed_modules": []}


def test_stop_does_not_wait_for_a_process_of_elsewhere(shell: Shell, lock: int) -> None:
    """The id of a daemon in a container is another process here: 1 always runs."""
    daemon = FakeDaemon(shell.directory / ".stackshift")
    daemon.pid = 1
    daemon.start()
    stopping = shell.popen("daemon", "stop")
    assert daemon.stopped.wait(60)
    os.close(lock)
    _, err = stopping.communicate(timeout=60)
    assert (err.decode(), stopping.returncode) == ("stopped stackshiftd (pid 1)\n", 0)


@pytest.mark.not_via(why="what is moved is the project of the daemon's own machine")
def test_project_that_was_moved_has_a_new_daemon_at_once(real: Shell) -> None:
    """No command is lost to the one that still answers for a moment: it is waited for. (guarantee:
    one daemon)"""
    assert real("start", "hello", "--wait").code == 0
    before = status(real)["pid"]
    real.directory = real.directory.rename(real.directory.with_name("moved"))
    told = real("start", "hello", "--wait")
    assert (told.code, json.loads(told.stdout)) == (0, {"greeting": "Hello, World!"})
    assert "started stackshiftd (pid " in told.stderr
    found = status(real)
    assert (found["project"], found["pid"] != before) == (str(real.directory), True)
    assert len(real("runs", "list").stdout.splitlines()) == 2


class Attentive(Session):
    """A session that soon says that the daemon is silent, and then continues its process."""

    def __init__(self, directory: Path, pid: int) -> None:
        super().__init__(Globals(project=str(directory)), silent_seconds=0.01)
        self.said: list[str] = []
        self._pid = pid

    def say(self, text: str) -> None:
        self.said.append(text)
        os.kill(self._pid, signal.SIGCONT)


@pytest.mark.not_via(why="the process at the other end is the daemon's own")
def test_daemon_that_was_stopped_by_a_signal_is_told_and_waited_for(real: Shell) -> None:
    """For a request that waits for something by nature too: its daemon cannot answer. As soon as
    the process is continued it does."""
    assert real("daemon", "start").code == 0
    pid = status(real)["pid"]
    said = [
        f"the daemon (pid {pid}) is stopped and cannot answer; waiting",
        f"hint: kill -CONT {pid} continues it",
    ]
    for method, is_unbounded in (("run.count", False), ("daemon.preflight", True)):
        session = Attentive(real.directory, pid)
        session.connection()
        os.kill(pid, signal.SIGSTOP)
        session.wait(method) if is_unbounded else session.call(method)
        assert session.said == said
        session.hang_up()


def test_daemon_that_is_silent_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that runs may be busy; of a request that waits by nature nothing is to be said. Where no
    process is seen, none is named."""
    monkeypatch.setattr(processes, "is_stopped", lambda _pid: False)
    assert silence.notice(4711, "run.list", 5.0) == [
        "the daemon (pid 4711) has not answered for 5 s; waiting",
        "hint: stackshift daemon logs shows what it does; Ctrl-C ends the wait",
    ]
    assert silence.notice(0, "run.list", 5.0)[0] == "the daemon has not answered for 5 s; waiting"
    assert silence.notice(4711, "run.wait", 5.0) == []
    for method, caution in (("run.list", ""), ("run.start", "; the request may still take effect")):
        bad = silence.given_up(4711, method, 60.0)
        assert bad.message == f"the daemon (pid 4711) did not answer within 60 s{caution}"
        assert "kill -9 4711" in bad.hint
        assert (bad.exit_status, bad.fields["reason"]) == (3, "no_answer")


class Turns:
    """Stands in for a look at the world: each call takes the next of `turns`, and raises it if it
    is an error. The last one stays."""

    def __init__(self, *turns: Any) -> None:
        self.turns = list(turns)

    def __call__(self, *_: object) -> Any:
        turn = self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]
        if isinstance(turn, Exception):
            raise turn
        return turn


def test_stop_of_a_daemon_that_is_stopping_waits_for_its_end(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes no connections any more, and drops those that it has not answered; only when the
    lock is free is it true that no daemon is running."""
    silent, gone = unavailable("", NOT_LISTENING), unavailable("", NOT_RUNNING)
    opening = Turns(silent, silent, unavailable("", BROKEN), silent, gone)
    monkeypatch.setattr(Connection, "open", opening)
    session = Session(Globals(project=str(shell.directory)))
    assert daemon_verbs.stop(session, Given({"drain": False})) == 0
    assert opening.turns == [gone]


def test_stop_is_over_when_the_lock_is_free_or_the_next_daemon_has_it(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not when the process that it was told of is not there."""
    session = Session(Globals(project=str(shell.directory)))
    before, after = (DaemonInfo(7, "/s", "1", 1, at) for at in ("then", "now"))
    for held, found in (
        (Turns(True, True, True, False), Turns({before}, {before}, set())),
        (Turns(True), Turns({before}, set(), set(), {after})),
        (Turns(True), Turns({before}, {before, after})),
    ):
        monkeypatch.setattr(daemon_verbs, "is_held", held)
        monkeypatch.setattr(daemon_verbs, "announcements", found)
        daemon_verbs._until_gone(session, {before}, 0)
        assert (len(held.turns), len(found.turns)) == (1, 1)
