"""Pipes to a foreign program: writes its standard input, and keeps the end of its output.

They are read and written directly, not through the loop's transports: those of uvloop close a
pipe's descriptor twice, the second time when the number may already belong to another file.
"""

from __future__ import annotations

import asyncio
import os
from typing import IO, Final

KEPT_BYTES: Final = 4096
FREE_BYTES: Final = 1 << 20
"""Bytes that are read as they come. Anything beyond is read slowly, so that a program that prints
without end takes only a share of the loop."""
PAUSE_SECONDS: Final = 0.002
"""The pause between two such slow reads."""
_READ_BYTES: Final = 65_536


class Teller:
    """Writes `data` to the pipe in the background and closes it. A program need not read it all."""

    def __init__(self, pipe: IO[bytes], data: bytes) -> None:
        self._pipe = pipe
        self._left = memoryview(data)
        self._loop = asyncio.get_running_loop()
        os.set_blocking(pipe.fileno(), False)
        self._loop.add_writer(pipe.fileno(), self._write)

    def _write(self) -> None:
        try:
            self._left = self._left[os.write(self._pipe.fileno(), self._left) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._left = self._left[:0]
        if not self._left:
            self.close()

    def close(self) -> None:
        """Stop writing and close the pipe; idempotent."""
        if not self._pipe.closed:
            self._loop.remove_writer(self._pipe.fileno())
            self._pipe.close()


class Tail:
    """Reads a pipe and keeps the last `KEPT_BYTES`. `size` counts all bytes; `ended` is done when
    no process holds the other end any more."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self.size = 0
        self._kept = b""
        os.set_blocking(pipe.fileno(), False)
        self._listen()

    def _listen(self) -> None:
        if not self._pipe.closed:
            self._loop.add_reader(self._pipe.fileno(), self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._pipe.fileno(), _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self.close()
            self.ended.set_result(None)
            return
        self.size += len(data)
        self._kept = (self._kept + data[-KEPT_BYTES:])[-KEPT_BYTES:]
        if self.size > FREE_BYTES:
            self._loop.remove_reader(self._pipe.fileno())
            self._loop.call_later(PAUSE_SECONDS, self._listen)

    def close(self) -> None:
        """Stop reading and close the pipe; idempotent."""
        if not self._pipe.closed:
            self._loop.remove_reader(self._pipe.fileno())
            self._pipe.close()

    def text(self) -> str:
        """What was kept, escaped, on one line; preceded by the number of bytes dropped, if any."""
        text = shown(self._kept.rstrip(b"\n"))
        left_out = self.size - len(self._kept)
        return f"({left_out} bytes) … {text}" if left_out else text


def shown(data: bytes) -> str:
    """Foreign text with everything that controls a terminal or breaks a line escaped: `\\n`,
    `\\x1b`."""
    text = data.decode("utf-8", "backslashreplace")
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )
