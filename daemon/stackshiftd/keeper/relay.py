"""Bytes between two pairs of descriptors, by whole lines, without blocking.

What a worker says is read only as fast as the daemon takes it, as on a socket between them. What
the daemon says is always read, since it says that it is there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

READ_BYTES: Final = 1 << 18
FULL_BYTES: Final = 4 << 20


class Lines:
    """What arrives at one descriptor. `take` gets it in whole lines, each with its newline."""

    def __init__(self, fd: int, take: Callable[[bytes], None]) -> None:
        self.fd = fd
        self.has_ended = False
        self._take = take
        self._rest = b""
        os.set_blocking(fd, False)

    def read(self) -> None:
        """Read what is there."""
        try:
            data = os.read(self.fd, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.has_ended = True
            return
        whole, newline, rest = data.rpartition(b"\n")
        if newline:
            self._take(self._rest + whole + newline)
            self._rest = rest
        else:
            self._rest += data


class Outlet:
    """What is to be written to one descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.has_ended = False
        """Is nobody there to read it?"""
        self._parts: list[bytes] = []
        self._bytes = 0
        os.set_blocking(fd, False)

    @property
    def is_empty(self) -> bool:
        """Is everything written?"""
        return not self._parts

    @property
    def is_full(self) -> bool:
        """Is so much unwritten that nothing more should be added?"""
        return self._bytes >= FULL_BYTES

    def add(self, lines: bytes) -> None:
        """Write whole lines, as soon as there is room for them."""
        self._parts.append(lines)
        self._bytes += len(lines)

    def write(self) -> None:
        """Write as much as there is room for."""
        while self._parts and not self.has_ended:
            data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            try:
                written = os.write(self.fd, data)
            except BlockingIOError:
                written = 0
            except OSError:
                self.has_ended = True
                return
            self._bytes -= written
            self._parts = [data[written:]] if written < len(data) else []
            if written < len(data):
                return
