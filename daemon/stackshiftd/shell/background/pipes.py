"""Pipes to a program of somebody else: what it is told, and the end of what it prints.

Read and written by hand, and not through a loop's transports: those of uvloop close a pipe's
descriptor twice, the second time when the number may be that of another file.
"""

from __future__ import annotations

import asyncio
import os
from typing import IO, Final

KEPT_BYTES: Final = 4096
FREE_BYTES: Final = 1 << 20
"""Read as it comes; what is beyond is read slowly, so that a program that prints without end has no
more than a share of the loop."""
PAUSE_SECONDS: Final = 0.002
_READ_BYTES: Final = 65_536


class Teller:
    """Writes `told` and closes. A program that does not read it ends all the same."""

    def __init__(self, pipe: IO[bytes], told: bytes) -> None:
        self._pipe = pipe
        self._left = memoryview(told)
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
        """Whoever still holds the pipe is told no more."""
        if not self._pipe.closed:
            self._loop.remove_writer(self._pipe.fileno())
            self._pipe.close()


class Tail:
    """Keeps the last `KEPT_BYTES`. `ended` is done when nobody holds the pipe any more."""

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
        """Whoever still holds the pipe is heard no more."""
        if not self._pipe.closed:
            self._loop.remove_reader(self._pipe.fileno())
            self._pipe.close()

    def text(self) -> str:
        """What was kept, on one line that does nothing but show; what is not is counted."""
        text = shown(self._kept.rstrip(b"\n"))
        left_out = self.size - len(self._kept)
        return f"({left_out} bytes) … {text}" if left_out else text


def shown(data: bytes) -> str:
    """Text of others with all that moves a terminal or breaks a line as escapes: `\\n`, `\\x1b`."""
    text = data.decode("utf-8", "backslashreplace")
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii")
        for each in text
    )
