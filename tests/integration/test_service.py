"""The daemon as a service: what it reports to the service manager that has started it."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from helpers import full_daemon
from helpers.deadline import SECONDS
from helpers.project_factory import Make

JOBS = """
@stackshift.job("held")
def held(ctx):
    ctx.step.run("held", gate, ctx.payload["gate"])


@stackshift.job("sees")
def sees(ctx):
    import os

    return sorted(name for name in os.environ if name.startswith(("NOTIFY", "WATCHDOG")))
"""
CONFIG = """\
[workers]
processes = 1
grace = "5s"
inherit_env = ["*"]
"""


class Listener:
    """A service manager's socket: keeps what it is told."""

    def __init__(self, path: Path) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(str(path))
        self._sock.settimeout(SECONDS)

    def until(self, wanted: str) -> list[str]:
        """Everything up to the first message with the line `wanted`."""
        heard: list[str] = []
        deadline = time.monotonic() + SECONDS
        while wanted not in heard:
            assert time.monotonic() < deadline, f"{wanted} did not come: {heard[-20:]}"
            heard += self._sock.recv(65_536).decode().splitlines()
        return heard

    def close(self) -> None:
        self._sock.close()


@pytest.fixture
def listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Listener:
    """The socket of a service manager that wants to hear from the daemon every 20 ms."""
    path = tmp_path / "notify"
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    monkeypatch.setenv("WATCHDOG_USEC", "40000")
    return Listener(path)


def test_service_manager_hears_ready_alive_and_stopping(
    make_project: Make, listener: Listener
) -> None:
    """READY comes once clients can connect, then a beat again and again; at SIGTERM, STOPPING; and
    beats go on until the runs have ended."""
    project = make_project(JOBS, config=CONFIG)
    project.start()
    heard = listener.until("READY=1")
    assert "STOPPING=1" not in heard
    assert project.call("daemon.status")["mode"] == "serving"
    listener.until("WATCHDOG=1")
    listener.until("WATCHDOG=1")
    project.begin("held", {"gate": "g"})
    project.at("g")
    assert project.daemon is not None
    project.daemon.send_signal(signal.SIGTERM)
    assert "READY=1" not in listener.until("STOPPING=1")
    listener.until("WATCHDOG=1")
    project.open("g")
    assert project.ended() == 0
    listener.close()


def test_draining_daemon_is_not_stopping_yet(make_project: Make, listener: Listener) -> None:
    """Waiting for runs may take longer than a service manager's patience, which begins with
    STOPPING."""
    project = make_project(JOBS, config=CONFIG)
    project.start()
    project.begin("held", {"gate": "g"})
    project.at("g")
    project.call("daemon.stop", drain=True)
    heard = listener.until("STATUS=waiting until running attempts have ended")
    heard += listener.until("WATCHDOG=1")
    assert "STOPPING=1" not in heard
    project.open("g")
    listener.until("STOPPING=1")
    assert project.ended() == 0
    listener.close()


@pytest.mark.not_via(why="a copy of the journal is not served from a full disk")
def test_daemon_that_starts_over_is_not_stopping(make_project: Make, listener: Listener) -> None:
    """One that was started on a full disk and finds room is replaced in the same process. After
    STOPPING, the service manager would kill that."""
    project = make_project(JOBS, config=CONFIG)
    project.start()
    assert project.stop() == 0
    listener.until("STOPPING=1")
    full = project.root / "full"
    full.touch()
    project.start(full_daemon.program(project, full))
    listener.until("READY=1")
    full.unlink()
    assert "STOPPING=1" not in listener.until("READY=1")
    assert project.call("daemon.status")["mode"] == "serving"
    listener.close()


def test_jobs_do_not_see_the_service_managers_socket(
    make_project: Make, listener: Listener
) -> None:
    """A program of a job must not report in the daemon's place, whatever it inherits."""
    project = make_project(JOBS, config=CONFIG)
    project.start()
    assert project.finish(project.begin("sees"))["result"] == []
    assert os.environ["NOTIFY_SOCKET"]
    listener.close()


def test_absent_service_manager_stops_nothing(
    make_project: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody listens the daemon serves all the same."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    project = make_project(JOBS, config=CONFIG)
    project.start()
    assert project.stop() == 0
