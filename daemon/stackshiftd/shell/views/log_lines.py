"""The lines of a run's log, as its file has them, in pages.

A line that was flushed before its end stands in the file in parts (see `worker.log_lines`). Those
of one answer are joined, in the place of the first. One whose end is not there is `unfinished`, and
so is the last line of a program that did not end it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

from stackshift_jobs.values.durations import parse_time
from stackshift_jobs.values.text import readable
from stackshiftd.core.state.entries import PAGE_BYTES

LOOKS: Final = 64
"""Lines of the file that are read in one part of the work."""
SKIPS: Final = 4096
"""Lines that are passed over in one part: each page does so with all that were before it."""


class Page(NamedTuple):
    """Some lines, how many lines of the file have been read, and whether there are more."""

    lines: list[dict[str, Any]]
    read: int
    more: bool


def log_page(
    path: Path,
    after: int,
    limit: int,
    step: str | None,
    attempt: int | None,
    *,
    numbered: bool = False,
) -> Generator[None, None, Page]:
    """The work that leads to at most `limit` lines of the log `path`, and not much more than
    `PAGE_BYTES`, without the first `after` lines of the file; of one step or attempt, if they are
    given. If they are to be `numbered`, a line that each pass of its handler prints keeps its
    `pos`, and has as `nth` how many lines of its attempt were printed there before it. A file that
    does not exist is empty."""
    try:
        file = path.open(encoding="utf-8")
    except FileNotFoundError:
        return Page([], after, False)
    with file:
        skipped = 0
        if not numbered:
            skipped = yield from _skip(file, after)
        return (yield from _page(file, skipped, after, limit, step, attempt, numbered=numbered))


def printed_until(
    path: Path, attempt: int, until_us: int
) -> Generator[None, None, list[tuple[int, int]]]:
    """The work that leads to how many lines of `attempt` were printed at which `pos` until then, of
    those that each pass of its handler prints."""
    counts: Counter[tuple[int, int]] = Counter()
    try:
        file = path.open(encoding="utf-8")
    except FileNotFoundError:
        return []
    with file:
        for number, raw in enumerate(file, 1):
            if number % LOOKS == 0:
                yield None
            line = _line(raw)
            if line is None or line["attempt"] != attempt or line["pos"] is None:
                continue
            if parse_time(line["at"]) < until_us:
                _count(attempt, line["pos"], line, counts)
    return [(pos, count) for (_, pos), count in counts.items()]


def _line(raw: str) -> dict[str, Any] | None:
    """The line of the file; None if it is none: half a line, from a worker that was killed."""
    try:
        line: dict[str, Any] = json.loads(raw)
    except ValueError:
        return None
    return line


def _count(attempt: int, pos: int, line: dict[str, Any], counts: Counter[tuple[int, int]]) -> int:
    """Count a line at a `pos`, or the last part of one; returns how many were there before it."""
    before = counts[attempt, pos]
    counts[attempt, pos] += "line" not in line or "ended" in line
    return before


class _Wanted(NamedTuple):
    """A line of the file; `line` is None if it is not one of those that are wanted."""

    number: int
    size: int
    line: dict[str, Any] | None


def _skip(file: Iterator[str], lines: int) -> Generator[None, None, int]:
    """The work of passing over the first lines of the file, which leads to how many they were."""
    passed = 0
    while passed < lines:
        found = sum(1 for _ in islice(file, min(SKIPS, lines - passed)))
        if not found:
            break
        passed += found
        yield None
    return passed


def _lines(
    file: Iterable[str],
    skipped: int,
    after: int,
    step: str | None,
    attempt: int | None,
    *,
    numbered: bool,
) -> Iterator[_Wanted]:
    """The lines of the file, of which the first are `skipped`, up to one that is still being
    written."""
    counts: Counter[tuple[int, int]] = Counter()
    for number, raw in enumerate(file, skipped + 1):
        if not raw.endswith("\n"):
            return
        line = _line(raw) if numbered or number > after else None
        if line is not None:
            pos = line.pop("pos")
            if numbered and pos is not None:
                line |= {"pos": pos, "nth": _count(line["attempt"], pos, line, counts)}
            if (
                number <= after
                or step not in (None, line["step"])
                or attempt not in (None, line["attempt"])
            ):
                line = None
        yield _Wanted(number, len(raw), line)


def _page(
    file: Iterable[str],
    skipped: int,
    after: int,
    limit: int,
    step: str | None,
    attempt: int | None,
    *,
    numbered: bool,
) -> Generator[None, None, Page]:
    lines: list[dict[str, Any]] = []
    begun: dict[str, dict[str, Any]] = {}
    number, size = skipped, 0
    wanted = _lines(file, skipped, after, step, attempt, numbered=numbered)
    for number, length, line in wanted:
        if number % LOOKS == 0:
            yield None
        if line is None:
            continue
        part = line.pop("line", None)
        line["message"] = readable(line["message"])
        is_part = part is not None and not line.pop("ended", False)
        line["unfinished"] = line.pop("open", False) or is_part
        first = begun.get(part) if part is not None else None
        size += length
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
