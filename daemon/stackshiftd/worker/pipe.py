"""The worker's end of the socket pair: read on the loop, written from any thread.

Before there is a loop, `first_line` waits for the first line.

Frames posted by the loop's thread in one turn leave together, in writes of so many that the daemon
records the first ones while the next are made. Writers wait until the socket accepts more: a worker
that is ahead of the daemon waits instead of using up memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections.abc import Callable
from threading import Lock
from typing import Final

import msgspec

from stackshiftd.worker.frames import Frame, encode
from stackshiftd.worker.isolation.process_copy import refuse_calls

READ_BYTES: Final = 1 << 18
BURST: Final = 32
"""Frames of one turn that leave in one write."""


class Pipe:
    """The worker's connection to its daemon.

    Both callbacks run on the loop: `on_line` for each line, without its newline, and `on_closed`
    once, when the daemon has closed the connection or died.
    """

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
        self._lock = Lock()
        self._handed: list[bytes] = []
        self._handing = Lock()
        self._writable = select.poll()
        self._writable.register(sock.fileno(), select.POLLOUT)
        self._loop: asyncio.AbstractEventLoop | None = None

    def first_line(self) -> bytes | None:
        """Wait for a whole line and return it, without its newline; None if the daemon is gone."""
        while b"\n" not in self._rest:
            data = self._received(0)
            if not data:
                return None
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start reading on `loop`."""
        self._loop = loop
        loop.call_soon(self._take, b"")  # Whole lines may have arrived behind the first one.
        loop.add_reader(self._sock.fileno(), self._readable)

    def post(self, frame: Frame | msgspec.Struct) -> None:
        """Send from the loop's thread, in one write with what else is posted in this turn, up to
        `BURST` frames."""
        assert self._loop is not None
        if not self._gathered:
            self._loop.call_soon(self._flush)
        self._gathered.append(encode(frame))
        if len(self._gathered) >= BURST:
            self._flush()

    def send(self, frame: Frame | msgspec.Struct) -> None:
        """Send from any thread, at once; blocks while the socket is full. Raises `Usage` in a
        forked copy of this process."""
        refuse_calls()
        self._write(encode(frame) + b"\n")

    def hand_over(self, frame: Frame | msgspec.Struct) -> None:
        """Send from any thread through the loop's thread: frames from many threads leave in one
        write, and none of these threads has to release the interpreter for it. Raises `Usage` in
        a forked copy of this process."""
        refuse_calls()
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
        if not gathered:  # A burst has left in the meantime.
            return
        gathered.append(b"")
        self._write(b"\n".join(gathered))

    def _write(self, data: bytes) -> None:
        # If the daemon is gone, the reader notices; there is nobody left to report an error to.
        rest = memoryview(data)
        with self._lock, contextlib.suppress(OSError):
            while rest:
                try:
                    rest = rest[self._sock.send(rest) :]
                except BlockingIOError:
                    # The reading loop has made the socket non-blocking: wait here instead.
                    self._writable.poll()

    def hang_up(self) -> None:
        """Shut the connection down, from any thread, as if this process had died.

        Later frames are lost; both the loop and the daemon see the end of the connection.
        """
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def _readable(self) -> None:
        try:
            data = self._received(socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        if not data:
            assert self._loop is not None
            self._loop.remove_reader(self._sock.fileno())
            self._on_closed()
            return
        self._take(data)

    def _received(self, flags: int) -> bytes:
        """What has arrived; nothing if the daemon is gone. Raises `BlockingIOError`."""
        try:
            return self._sock.recv(READ_BYTES, flags)
        except BlockingIOError:
            raise
        except OSError:
            return b""

    def _take(self, data: bytes) -> None:
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            self._on_line(line)
