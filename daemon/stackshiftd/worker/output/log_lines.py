"""The file of a run's log, which workers write and the daemon reads: one JSON object per line.

    {"at": "…Z", "attempt": 1, "step": "pack", "stream": "stdout", "level": "", "pos": null,
     "message": "packing 3 items"}

A line that was flushed before its end stands there in parts: each has the same `line`, and the last
one `ended`. One of which some is missing or is not as it was printed (bytes that are not UTF-8), or
after which lines are missing, has `cut`.
"""

from __future__ import annotations

import contextlib
import os
from json import dumps
from pathlib import Path
from typing import Any, Final, NamedTuple, TextIO

from stackshift_jobs.values.clocks import time_ns
from stackshift_jobs.values.durations import rfc3339
from stackshift_jobs.values.text import readable

MAX_LINE: Final = 16 * 1024
MAX_FILE_BYTES: Final = 16 << 20
"""Beyond this, an attempt that begins to print drops what the oldest attempts have printed."""
KEPT_BYTES: Final = 8 << 20
"""How much is left then."""


class Line(NamedTuple):
    """The beginning of a line, at most `MAX_LINE` characters, and how many bytes were cut off."""

    text: str = ""
    cut_bytes: int = 0

    def longer(self, more: str) -> Line:
        """The line with `more` appended."""
        text = self.text + more
        if len(text) <= MAX_LINE:
            return Line(text, self.cut_bytes)
        cut = text[MAX_LINE:].encode("utf-8", "surrogatepass")
        return Line(text[:MAX_LINE], self.cut_bytes + len(cut))

    def marked(self) -> str:
        """The text; if it was cut, with a mark that says by how many bytes."""
        return f"{self.text}… ({self.cut_bytes} bytes more)" if self.cut_bytes else self.text


NO_TEXT: Final = Line()


def line_json(
    attempt: int, step: str | None, stream: str, text: str, *, level: str = ""
) -> dict[str, Any]:
    """A line of a log's file, as of now. `pos` is the caller's to set, if the line is one that a
    later pass prints again."""
    return {
        "at": rfc3339(time_ns() // 1000),
        "attempt": attempt,
        "step": step,
        "stream": stream,
        "level": level,
        "pos": None,
        "message": readable(text),
    }


def append_last_words(path: Path, attempt: int, stream: str, data: bytes) -> None:
    """Add what a worker wrote just before it died to the log of the run that it executed."""
    lines = data.decode("utf-8", "backslashreplace").splitlines()
    with contextlib.suppress(OSError), open_log(path) as file:
        for text in lines:
            marked = NO_TEXT.longer(text).marked()
            file.write(dumps(line_json(attempt, None, stream, marked)) + "\n")


def drop_oldest(path: Path, raws: list[str]) -> None:
    """If `raws`, the lines of the file, are too many, replace it by one in which the oldest are
    empty, since readers count lines. Raises `OSError`."""
    if sum(map(len, raws)) <= MAX_FILE_BYTES:
        return
    kept, at = 0, len(raws)
    while kept + len(raws[at - 1]) <= KEPT_BYTES:
        at -= 1
        kept += len(raws[at])
    note = line_json(1, None, "log", "… earlier output of this run was dropped", level="WARNING")
    beside = path.with_name(f"{path.name}.tmp")
    beside.unlink(missing_ok=True)
    with open_log(beside) as file:
        file.write("\n" * (at - 1) + dumps(note) + "\n")
        file.writelines(f"{raw}\n" for raw in raws[at:])
    beside.replace(path)


_open: Final = open
"""That of Python, whatever a job makes of it."""


def open_log(path: Path) -> TextIO:
    """The log `path`, to append to: private, created with its folder. Raises `OSError`."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return _open(path, "a", encoding="utf-8", opener=_private)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
