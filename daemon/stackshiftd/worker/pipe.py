"""The worker's end of the socket pair: read on the loop, written from any thread.

Frames sent on the loop's thread in one turn leave in one write. Writers wait for room in the
socket: a worker that is ahead of the daemon waits, it does not pile up memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import threading
from collections.abc import Callable
from typing import Final

import msgspec

from stackshiftd.worker.frames import Frame, encode

READ_BYTES: Final = 1 << 18


class Pipe:
    """`on_line` gets each line; `on_closed` is called once when the daemon is gone."""

    def __init__(
        self,
        sock: socket.socket,
        on_line: Callable[[bytes], None],
        on_closed: Callable[[], None],
    ) -> None:
        self._sock = sock
        self._on_line = on_line
        self._on_closed = on_closed
        self._rest = b""
        self._gathered: list[bytes] = []
        self._lock = threading.Lock()
        self._handed: list[bytes] = []
        self._handing = threading.Lock()
        self._writable = select.poll()
        self._writable.register(sock.fileno(), select.POLLOUT)
        self._loop: asyncio.AbstractEventLoop | None = None

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read on `loop` from now on."""
        self._loop = loop
        loop.add_reader(self._sock.fileno(), self._readable)

    def post(self, frame: Frame | msgspec.Struct) -> None:
        """Send from the loop's thread, together with all that this turn sends."""
        assert self._loop is not None
        if not self._gathered:
            self._loop.call_soon(self._flush)
        self._gathered.append(encode(frame))

    def send(self, frame: Frame | msgspec.Struct) -> None:
        """Send from any thread, at once."""
        self._write(encode(frame) + b"\n")

    def hand_over(self, frame: Frame | msgspec.Struct) -> None:
        """Send from any thread, by way of the loop's: what many threads say at a time leaves in one
        write, and none of them gives up the interpreter for it."""
        assert self._loop is not None
        line = encode(frame)
        with self._handing:
            self._handed.append(line)
            first = len(self._handed) == 1
        if first:
            self._loop.call_soon_threadsafe(self._flush_handed)

    def _flush_handed(self) -> None:
        with self._handing:
            handed, self._handed = self._handed, []
        handed.append(b"")
        self._write(b"\n".join(handed))

    def _flush(self) -> None:
        gathered, self._gathered = self._gathered, []
        gathered.append(b"")
        self._write(b"\n".join(gathered))

    def _write(self, data: bytes) -> None:
        # A daemon that is gone is noticed by the reader; there is nobody left to tell.
        rest = memoryview(data)
        with self._lock, contextlib.suppress(OSError):
            while rest:
                try:
                    rest = rest[self._sock.send(rest) :]
                except BlockingIOError:
                    # The loop that reads has made the socket non-blocking: wait here instead.
                    self._writable.poll()

    def hang_up(self) -> None:
        """From any thread: as if this process had died. What is sent after goes nowhere; the loop
        sees the end of the connection, and so does the daemon."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def _readable(self) -> None:
        try:
            data = self._sock.recv(READ_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            assert self._loop is not None
            self._loop.remove_reader(self._sock.fileno())
            self._on_closed()
            return
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            self._on_line(line)
