"""The lines of a batch, from a file or from a pipe that may pause.

Owns the bytes of an incomplete line, and the line numbers. Holds at most one line at a time; a line
that is too long is not held but skipped to its end and reported. The caller polls whether there is
something to read; a read takes what is there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final, NamedTuple

_READ_BYTES: Final = 1 << 16
_BOM: Final = b"\xef\xbb\xbf"


class InputLine(NamedTuple):
    """A line that is not blank: its number, counted from 1, and its bytes (None: it was too long to
    keep)."""

    number: int
    text: bytes | None


class BatchInput:
    """Splits what is read from the descriptor `fd` into lines of at most `most` bytes."""

    def __init__(self, fd: int, most: int) -> None:
        self.fd = fd
        self.ended = False
        self._most = most
        self._number = 0
        self._parts: list[bytes] = []
        self._held = 0
        self._skipping = False

    @property
    def next_number(self) -> int:
        """The number of the first line that was not returned yet."""
        return self._number + 1

    def read(self) -> Iterator[InputLine]:
        """Read once and yield the lines that are complete then; waits if there is nothing to read.
        Sets `ended` at the end of the input. Raises `OSError`."""
        try:
            data = os.read(self.fd, _READ_BYTES)
        except BlockingIOError:  # another process made it non-blocking; the next poll waits
            return
        if not data:
            self.ended = True
            yield from self._line()
            return
        *ends, rest = data.split(b"\n")
        for end in ends:
            self._keep(end)
            yield from self._line()
        self._keep(rest)

    def _keep(self, part: bytes) -> None:
        self._held += len(part)
        if self._held > self._most:
            self._skipping = True
            self._parts.clear()
        elif part:
            self._parts.append(part)

    def _line(self) -> Iterator[InputLine]:
        """The line that is complete now, unless it is blank."""
        self._number += 1
        text: bytes | None = b"".join(self._parts)
        if self._number == 1 and text is not None:
            text = text.removeprefix(_BOM)
        if self._skipping:
            text = None
        self._parts, self._held, self._skipping = [], 0, False
        if text is None or text.strip():
            yield InputLine(self._number, text)
