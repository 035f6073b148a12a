"""The daemon's log, read from its last lines on.

Only whole lines are returned, each once; a line that is still being written stays in `unfinished`.
A file that became shorter was truncated or replaced, so everything in it is new.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_LINE_BYTES: Final = 200
_LEAST_BYTES: Final = 65_536
"""How far back the last lines are searched for: `_LINE_BYTES` per line, at least `_LEAST_BYTES`."""


class LogFile:
    """A growing text file; one that does not exist reads as empty."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self._rest = b""

    @property
    def unfinished(self) -> str:
        """The last line of the file, if it has no line end yet; else empty."""
        return self._rest.decode("utf-8", "replace")

    def last_lines(self, count: int) -> list[str]:
        """The last `count` whole lines; `new_lines` continues after them."""
        size = self._size()
        self._at = max(0, size - max(_LEAST_BYTES, count * _LINE_BYTES))
        lines = self.new_lines()
        return lines[-count:] if count else []

    def new_lines(self) -> list[str]:
        """The whole lines written since the last call."""
        size = self._size()
        if size < self._at:
            self._at, self._rest = 0, b""
        if size == self._at:
            return []
        with self._path.open("rb") as file:
            file.seek(self._at)
            new = file.read()
        self._at += len(new)
        *whole, self._rest = (self._rest + new).split(b"\n")
        return [line.decode("utf-8", "replace") for line in whole]

    def _size(self) -> int:
        try:
            return os.stat(self._path).st_size  # noqa: PTH116
        except FileNotFoundError:
            return 0
