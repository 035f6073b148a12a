"""The lines of a run's log, as its file has them.

A line that was flushed before its end stands in the file in parts (see `worker.log_lines`). Those
of one answer are joined, in the place of the first; one whose end is not there is `unfinished`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from stackshift_jobs.values.text import readable


class Page(NamedTuple):
    """Some lines, and how many lines of the file have been read."""

    lines: list[dict[str, Any]]
    read: int


def log_page(path: Path, after: int, limit: int, step: str | None, attempt: int | None) -> Page:
    """At most `limit` lines of the log `path`, without the first `after` lines of the file; of one
    step or attempt, if they are given. A file that does not exist is empty."""
    lines: list[dict[str, Any]] = []
    begun: dict[str, dict[str, Any]] = {}
    number = 0
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    for number, raw in enumerate(text.split("\n")[:-1], 1):
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
        if first is not None:
            first["message"] += line["message"]
            first["unfinished"] = line["unfinished"]
            continue
        if len(lines) >= limit:
            return Page(lines, number - 1)
        lines.append(line)
        if part is not None:
            begun[part] = line
    return Page(lines, number)
