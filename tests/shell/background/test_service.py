"""How the service manager is addressed, and how often it hears from the daemon."""

from __future__ import annotations

import os
import socket
import sys
import threading
from pathlib import Path

import pytest

from stackshiftd.shell.background.service import Service


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({"WATCHDOG_USEC": "60000000"}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": str(10**18)}, 3600.0),
        ({}, None),
    ],
)
def test_beat_is_due_twice_in_the_patience_of_the_watchdog(
    variables: dict[str, str], seconds: float | None
) -> None:
    """Only if the watchdog is meant for this process, and never rarer than each hour."""
    assert Service({"NOTIFY_SOCKET": "/run/notify", **variables}).beat_seconds == seconds
    assert Service(variables).beat_seconds is None


def test_socket_in_the_abstract_namespace_is_reached() -> None:
    """systemd writes its first byte, which is 0, as @; only Linux has such names."""
    if sys.platform != "linux":
        return
    name = f"stackshift-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{name}")
        Service({"NOTIFY_SOCKET": f"@{name}"}).ready(Path("/srv/shop"))
        said = listener.recv(1000).decode().splitlines()
    assert said == ["READY=1", "STATUS=serving /srv/shop", f"MAINPID={os.getpid()}"]


def test_nothing_is_sent_and_nothing_fails_without_a_service_manager(tmp_path: Path) -> None:
    """Neither without a socket nor with one that nobody reads."""
    for variables in ({}, {"NOTIFY_SOCKET": str(tmp_path / "nobody")}):
        service = Service(variables)
        service.ready(tmp_path)
        service.alive()
        service.stopping()


def test_what_is_said_once_is_not_lost_among_beats(tmp_path: Path) -> None:
    """A queue that beats have filled has room again once its reader goes on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        service = Service({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        for _ in range(1000):
            service.alive()
        heard: list[bytes] = []

        def listen() -> None:
            while not heard or heard[-1].startswith(b"WATCHDOG"):
                heard.append(listener.recv(4096))

        listener.settimeout(10)
        reader = threading.Thread(target=listen)
        reader.start()
        service.stopping()
        reader.join()
    assert heard[-1].startswith(b"STOPPING=1")
