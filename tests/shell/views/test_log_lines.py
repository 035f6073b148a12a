"""Pages of a run's log: the parts of a line are one line, with all that is known of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stackshiftd.shell.views.log_lines import Page, log_page


def page(path: Path, after: int = 0) -> Page:
    """What `log_page` leads to."""
    work = log_page(path, after, 100, None, None)
    while True:
        try:
            next(work)
        except StopIteration as done:
            found: Page = done.value
            return found


def part(message: str, **more: Any) -> str:
    """A line of the file that is a part of the line `1.1`."""
    line = {"at": "", "attempt": 1, "step": "s", "stream": "stdout", "level": "", "pos": None}
    return json.dumps(line | {"message": message, "line": "1.1"} | more) + "\n"


def test_line_of_which_some_is_missing_says_so_in_one_page_or_two(tmp_path: Path) -> None:
    """Only its last part knows."""
    log = tmp_path / "log.jsonl"
    log.write_text(part("begin") + part("…", ended=True, cut=True))
    [line] = page(log).lines
    assert (line["message"], line["unfinished"], line["cut"]) == ("begin…", False, True)
    [rest] = page(log, after=1).lines
    assert (rest["message"], rest["cut"]) == ("…", True)


def test_page_late_in_a_long_log_costs_little_more_than_the_first(tmp_path: Path) -> None:
    """What was before it is passed over, and not looked at: to read a log page by page took time
    in the square of its length. One that is still being written is left for the next page."""
    log = tmp_path / "log.jsonl"
    log.write_text("".join(part(f"line {n}", line=f"1.{n}", ended=True) for n in range(10_000)))
    with log.open("a") as file:
        file.write(part("half").removesuffix("\n"))
    work = log_page(log, 9_990, 100, None, None)
    parts = 0
    while True:
        try:
            next(work)
        except StopIteration as done:
            found: Page = done.value
            break
        parts += 1
    assert [line["message"] for line in found.lines] == [f"line {n}" for n in range(9_990, 10_000)]
    assert (found.read, found.more) == (10_000, False)
    assert parts <= 10_000 / 64 / 10
    assert page(log, after=10_000) == Page([], 10_000, False)
    assert page(log, after=20_000) == Page([], 20_000, False)
