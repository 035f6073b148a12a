"""What the service manager that started the daemon hears from it: ready, alive, stopping.

This is systemd's protocol (sd_notify(3)), which others speak too: datagrams of `NAME=value` lines
to the socket named by NOTIFY_SOCKET. Without that variable nothing is sent. Whether anybody listens
is never known, and nothing here fails for it: a daemon that serves matters more than its reports.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Final

SOCKET_VARIABLE: Final = "NOTIFY_SOCKET"
_SLOWEST_SECONDS: Final = 3600.0
_PATIENCE_SECONDS: Final = 1.0
"""How long what is said only once waits for room in the queue of the service manager, which beats
may have filled if that has been busy."""


class Service:
    """Reports to the service manager that `environ` names, if it names one."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        env = os.environ if environ is None else environ
        self._address = env.get(SOCKET_VARIABLE, "")
        self.beat_seconds = _beat_seconds(env) if self._address else None
        """How often `alive` is due: twice in the time after which the service manager restarts the
        daemon. None if it does not watch."""

    def ready(self, root: os.PathLike[str]) -> None:
        """The daemon serves the project `root`."""
        self._send(f"READY=1\nSTATUS=serving {os.fspath(root)}\nMAINPID={os.getpid()}")

    def alive(self) -> None:
        """The daemon's loop turns."""
        self._send("WATCHDOG=1", patience_seconds=0.0)

    def draining(self) -> None:
        """The daemon stops once the running attempts have ended, however long that takes. Not
        `STOPPING`, after which the service manager would kill it when its patience ends."""
        self._send("STATUS=waiting until running attempts have ended")

    def stopping(self) -> None:
        """The daemon ends within its grace."""
        self._send("STOPPING=1\nSTATUS=stopping")

    def _send(self, text: str, patience_seconds: float = _PATIENCE_SECONDS) -> None:
        if not self._address:
            return
        # A name in Linux's abstract namespace is written with @ for its first byte, which is 0.
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(patience_seconds)
                sock.connect(address)
                sock.send(text.encode("utf-8", "backslashreplace"))
        except OSError:
            # It is restarting, or its queue is full. A beat that is lost is followed by another.
            return


def _beat_seconds(env: Mapping[str, str]) -> float | None:
    pid, text = env.get("WATCHDOG_PID", ""), env.get("WATCHDOG_USEC", "")
    if not text.isdigit() or int(text) == 0 or (pid and pid != str(os.getpid())):
        return None
    return min(int(text) / 2_000_000, _SLOWEST_SECONDS)
