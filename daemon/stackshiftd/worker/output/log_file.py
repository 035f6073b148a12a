"""The file in which the log of a run is kept, as one attempt sees it.

Not synced, and bounded: after `max_bytes` the attempt's further lines are dropped, and the last one
says so; what all attempts have printed is bounded by `log_lines`.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from functools import cached_property
from json import dumps, loads
from pathlib import Path
from typing import Any, Final, TextIO

from stackshiftd.worker.output.log_lines import drop_oldest, open_log

MAX_BYTES: Final = 1 << 20
MAX_PROGRAM_BYTES: Final = 16 << 20
"""The bound of an attempt of a built-in job, of whose program the output is what is wanted."""


class LogFile:
    """The lines of `attempt` in the log of `run`. The file is opened at the first line, so that a
    silent run leaves none. Used by one thread at a time. All methods raise `OSError`."""

    def __init__(self, folder: Path, run: str, attempt: int, max_bytes: int = MAX_BYTES) -> None:
        self._folder = folder
        self._run = run
        self._attempt = attempt
        self._max_bytes = max_bytes
        self._file: TextIO | None = None
        self._closed = False
        self._size = -1
        """Bytes of this attempt in the file; -1 as long as it was not looked at."""
        self._others = 0
        """Bytes of other attempts in the file."""
        self._forked = False
        self._printed: dict[int, int] = {}

    @cached_property
    def _path(self) -> Path:
        return self._folder / f"{self._run}.jsonl"

    def printed(self) -> dict[int, int]:
        """How many whole lines earlier executions of this attempt have stored that a later pass
        prints again, by their `pos`."""
        if self._size < 0:
            self._look()
        return self._printed

    @property
    def is_full(self) -> bool:
        """See `LogStore.is_full`."""
        return self._size > self._max_bytes

    def append(self, line: dict[str, Any]) -> None:
        """Store a line, at once; or drop it, if there are too many."""
        if self._size < 0:
            self._look()
        if self.is_full:
            return
        written = dumps(line) + "\n"
        if self._forked:  # Its processes share the bound, and only the file knows all of them.
            with contextlib.suppress(FileNotFoundError):
                self._size = self._path.stat().st_size - self._others
        self._size += len(written)
        if self.is_full:
            most = f"more than {self._max_bytes} bytes in this attempt"
            line["message"] = f"… {most}: the rest is dropped"
            line["level"] = "WARNING"
            line["cut"] = True
            written = dumps(line) + "\n"
        if self._closed:
            with open_log(self._path) as file:
                file.write(written)
            return
        if self._file is None:
            self._file = open_log(self._path)
        self._file.write(written)
        self._file.flush()

    def close(self) -> None:
        """Close the file. What comes later opens it again for a moment."""
        self._closed = True
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def forked(self) -> None:
        """Go on in a forked process, which shares the file with its parent."""
        self._forked = True

    def _look(self) -> None:
        self._size = 0
        if not self._path.exists():
            return
        printed: Counter[int] = Counter()
        raws = self._path.read_text(encoding="utf-8").split("\n")[:-1]
        for raw in raws:
            try:
                line = loads(raw)
            except ValueError:
                continue  # Half a line, from a worker that was killed.
            if line["attempt"] != self._attempt:
                self._others += len(raw) + 1
                continue
            self._size += len(raw) + 1
            # The end of a line counts, not its parts; a line of one piece has no number.
            if line["pos"] is not None and ("line" not in line or "ended" in line):
                printed[line["pos"]] += 1
        self._printed = printed
        with contextlib.suppress(OSError):  # As for other lines: the run goes on.
            drop_oldest(self._path, raws)
            self._others = self._path.stat().st_size - self._size
