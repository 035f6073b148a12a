"""A cable to a server of this machine that a test can cut: then nothing passes, and nobody is told,
as when it is pulled."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable


class Cable:
    """Listens at `port` of the address `host`, and passes what comes on to `to`, both on this
    machine."""

    def __init__(self, to: int, host: str = "127.0.0.1") -> None:
        self._to = to
        self._is_whole = threading.Event()
        self._is_whole.set()
        self._ends: set[socket.socket] = set()
        self._server = socket.create_server((host, 0))
        self.port: int = self._server.getsockname()[1]
        self._start(self._accept)

    def cut(self) -> None:
        """Let nothing pass. Who connects now is not answered."""
        self._is_whole.clear()

    def mend(self) -> None:
        """Let what has waited pass."""
        self._is_whole.set()

    def close(self) -> None:
        """End all connections."""
        self._server.close()
        self._is_whole.set()
        for end in list(self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _start(self, work: Callable[[], None]) -> None:
        threading.Thread(target=work, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # It was closed.
            while True:
                here, _ = self._server.accept()
                self._start(lambda here=here: self._join(here))  # type: ignore[misc]

    def _join(self, here: socket.socket) -> None:
        self._is_whole.wait()
        with contextlib.suppress(OSError), here:
            there = socket.create_connection(("127.0.0.1", self._to))
            with there:
                self._ends |= {here, there}
                back = threading.Thread(target=self._pass, args=(there, here), daemon=True)
                back.start()
                self._pass(here, there)
                back.join()
                self._ends -= {here, there}

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self._is_whole.wait()
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
