"""The lines of a run's log, as its file has them, in pages.

A line that was flushed before its end stands in the file in parts (see `worker.log_lines`). Those
of one answer are joined, in the place of the first; one whose end is not there is `unfinished`.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

from stackshift_jobs.values.text import readable
from stackshiftd.core.state.entries import PAGE_BYTES

LOOKS: Final = 64
"""Lines of the file that are read in one part of the work."""


class Page(NamedTuple):
    """Some lines, how many lines of the file have been read, and whether there are more."""

    lines: list[dict[str, Any]]
    read: int
    more: bool


def log_page(
    path: Path, after: int, limit: int, step: str | None, attempt: int | None
) -> Generator[None, None, Page]:
    """The work that leads to at most `limit` lines of the log `path`, and not much more than
    `PAGE_BYTES`, without the first `after` lines of the file; of one step or attempt, if they are
    given. A file that does not exist is empty."""
    try:
        file = path.open(encoding="utf-8")
    except FileNotFoundError:
        return Page([], after, False)
    with file:
        return (yield from _page(file, after, limit, step, attempt))


def _page(
    file: Iterable[str], after: int, limit: int, step: str | None, attempt: int | None
) -> Generator[None, None, Page]:
    lines: list[dict[str, Any]] = []
    begun: dict[str, dict[str, Any]] = {}
    number = size = 0
    for number, raw in enumerate(file, 1):
        if number % LOOKS == 0:
            yield None
        if not raw.endswith("\n"):
            number -= 1  # It is still being written.
            break
        if number <= after:
            continue
        try:
            line = json.loads(raw)
        except ValueError:
            continue  # Half a line, from a worker that was killed.
        if step not in (None, line["step"]) or attempt not in (None, line["attempt"]):
            continue
        part = line.pop("line", None)
        del line["pos"]
        line["message"] = readable(line["message"])
        line["unfinished"] = part is not None and not line.pop("ended", False)
        first = begun.get(part) if part is not None else None
        size += len(raw)
        if first is not None:
            first["message"] += line["message"]
            first["unfinished"] = line["unfinished"]
            if "cut" in line:
                first["cut"] = True
            continue
        if len(lines) >= limit or (lines and size > PAGE_BYTES):
            return Page(lines, number - 1, True)
        lines.append(line)
        if part is not None:
            begun[part] = line
    return Page(lines, max(number, after), False)
