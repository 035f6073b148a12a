"""The daemon's log as somebody reads it: the last lines, then what is added.

Only whole lines are given, each once; what is still being written waits in `unfinished`. A log that
became shorter was begun anew: all that is in it is new.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_LINE_BYTES: Final = 200
_LEAST_BYTES: Final = 65_536
"""How far back the last lines are looked for: so much a line, and at least so much."""


class LogFile:
    """A text file that grows; one that does not exist is empty."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self._rest = b""

    @property
    def unfinished(self) -> str:
        """The line without an end that the file ended with."""
        return self._rest.decode("utf-8", "replace")

    def last_lines(self, count: int) -> list[str]:
        """The last `count` whole lines; reading goes on behind them."""
        size = self._size()
        self._at = max(0, size - max(_LEAST_BYTES, count * _LINE_BYTES))
        lines = self.new_lines()
        return lines[-count:] if count else []

    def new_lines(self) -> list[str]:
        """The whole lines that were written since."""
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
