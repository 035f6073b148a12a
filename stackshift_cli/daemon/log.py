"""The daemon's log, read from its last lines on.

Only whole lines are returned, each once; a line that is still being written stays in `unfinished`.
In a file that became shorter was emptied, and in another one in its place, everything is new.
"""

from __future__ import annotations

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
        self._inode = 0

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
        if size < self._at or self._is_another():
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
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0

    def _is_another(self) -> bool:
        """Is the file not the one that was there the last time?"""
        before = self._inode
        try:
            self._inode = self._path.stat().st_ino
        except FileNotFoundError:
            self._inode = 0
        return before not in (0, self._inode)
