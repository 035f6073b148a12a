"""Standard input and output, joined to the daemon's socket: what is at the other end of
`-C ssh://HOST/DIRECTORY` (`stackshift_jobs.wire.ssh`)."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import Final

_CHUNK: Final = 1 << 16


def splice(sock: socket.socket) -> None:
    """Join them, until the daemon or whoever has called has gone. Ends this process: a thread of it
    may be waiting for what will not come any more."""
    threading.Thread(target=_to_daemon, args=(sock,), daemon=True).start()
    with contextlib.suppress(OSError):
        while data := sock.recv(_CHUNK):
            write_all(data)
    os._exit(0)


def write_all(data: bytes) -> None:
    """Write `data` to standard output. Raises `OSError`."""
    while data:
        data = data[os.write(1, data) :]


def _to_daemon(sock: socket.socket) -> None:
    """Requests that have arrived take effect, also if the caller has gone since."""
    while data := _read_input():
        try:
            sock.sendall(data)
        except OSError:
            return  # It has refused to hear more. What it has said of that is still passed on.
    os._exit(0)


def _read_input() -> bytes:
    with contextlib.suppress(OSError):
        return os.read(0, _CHUNK)
    return b""
