"""The picture of a run: header, axis, one row per step, errors of failed tries, result.

    ✓ run_…7k2m9q  resizeAvatar  completed in 2h00m  (active 14.0s · waiting 2h00m)
      queue media · key resize:img_123 · attempt 1/5 · code 3f9c2a1

      STEP       0s       5s       10s      ⌇ 2h ⌇ +2s
    ✓ queued     ░                                          0.4s
    ✓ upload              ▓▓▓···▓▓▓······██                 9.1s  attempt 3
      ├ 1 TimeoutError: PUT timed out (1.2s), retried after 2.0s
      └ 2 TimeoutError: PUT timed out (1.1s), retried after 4.0s   media.py:48
      result {"sizes": [...]}

`timeline` computes the rows and the axis; this module chooses glyphs, colours and widths.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from typing import Any, Final

from rich.cells import cell_len
from rich.console import Console, Group
from rich.text import Text

from stackshift_cli.arguments import Globals
from stackshift_cli.output.messages import shown
from stackshift_cli.output.safe_text import safe, safe_lines
from stackshift_cli.render.columns import cut_line, filled
from stackshift_cli.render.console import (
    BAR_STYLES,
    STATUS_STYLES,
    Glyphs,
    console,
    glyphs,
    short_id,
)
from stackshift_cli.timeline.axis import lay_out, strip, ticks
from stackshift_cli.timeline.branches import Line, lines
from stackshift_cli.timeline.build import FORGOTTEN, build, is_forgotten, where
from stackshift_cli.timeline.model import Row, Timeline, Try
from stackshift_jobs.values.durations import format_ms

_RUN_ID: Final = re.compile(r"run_[0-9a-z]{26}")
_NAME_CELLS: Final = (10, 28)
_MOST_INDENTED: Final = 6
"""Branches deeper than this are indented no further, so that there is room for names."""
_NOTE_CELLS: Final = 34
_BAR_CELLS: Final = (16, 120)
_TOOK_CELLS: Final = 8
_RESULT_CHARACTERS: Final = 4000
"""More than any terminal shows in a line, less than the 16 MiB that a result may have."""


def print_run(
    options: Globals,
    run: dict[str, Any],
    logs: list[dict[str, Any]],
    compact: bool,
    now_us: int,
) -> None:
    """Print the picture of `run` (the run object with detail) on stdout, with lines of its log if
    there are `logs`; `compact`: only the bars."""
    screen = console(options)
    screen.print(picture(run, logs, compact, now_us, screen.width, glyphs()))


def picture(
    run: dict[str, Any],
    logs: list[dict[str, Any]],
    compact: bool,
    now_us: int,
    width: int,
    marks: Glyphs,
) -> Group:
    """The picture of `run` at the time `now_us`, `width` cells wide."""
    line = build(run, now_us)
    parts: list[Text] = [*_header(run, line, marks), Text()]
    parts += _rows(line, compact, width, marks)
    if not compact:
        parts += _ending(run, line)
    if is_forgotten(run):
        parts.append(Text(f"  {FORGOTTEN}", "dim"))
    for entry in logs:
        parts.append(_log_line(entry))
    return Group(*(cut_line(text, width, marks) for part in parts for text in part.split("\n")))


def _header(run: dict[str, Any], line: Timeline, marks: Glyphs) -> Iterator[Text]:
    style = STATUS_STYLES.get(line.status, "")
    total = format_ms(line.total_ms)
    took = f"{line.status} in {total}" if line.finished else f"{line.status}, {total} so far"
    first = Text()
    first.append(f"{marks.statuses.get(line.status, '?')} ", style)
    first.append(f"{short_id(run['id'], marks)}  ")
    first.append(safe(str(run["job"])), "bold")
    first.append(f"  {took}", style)
    if not is_forgotten(run):
        active, waiting = format_ms(line.active_ms), format_ms(line.waiting_ms)
        first.append(f"  (active {active} {marks.dot} waiting {waiting})", "dim")
    yield first
    facts = [f"queue {run['queue']}"]
    if run.get("idempotency_key"):
        facts.append(f"key {run['idempotency_key']}")
    facts.append(f"attempt {line.attempt}/{run['max_attempts']}")
    if line.code:
        facts.append(f"code {line.code[:7]}")
    facts += [f"{key}={value}" for key, value in (run.get("labels") or {}).items()]
    if run.get("parent"):
        facts.append(f"parent {run['parent']}")
    if line.progress:
        facts.append(line.progress)
    yield Text("  " + safe(f" {marks.dot} ".join(facts)), "dim")


def _rows(line: Timeline, compact: bool, width: int, marks: Glyphs) -> Iterator[Text]:
    if not line.rows:
        return
    drawn = lines(line.rows)
    names = _clamp(max(cell_len(_label(each)) for each in drawn), *_NAME_CELLS)
    notes = min(max(cell_len(_note(each.row, marks)) for each in drawn), _NOTE_CELLS)
    fixed = 2 + names + 1 + 1 + _TOOK_CELLS + (2 + notes if notes else 0)
    cells = _clamp(width - fixed, *_BAR_CELLS)
    spans = [span for row in line.rows for span in row.spans]
    axis = lay_out(spans, line.start_us, line.end_us, cells)
    scale = ticks(axis).replace("~", marks.bars["~"])
    yield Text(f"  {'STEP':<{names}} {scale}".rstrip(), "dim")
    for each in drawn:
        yield _row(each, strip(each.row.spans, axis), names, marks)
        if not compact:
            yield from _tries(each.row, marks)


def _label(line: Line) -> str:
    return "  " * min(line.depth, _MOST_INDENTED) + safe(line.label)


def _row(line: Line, codes: str, names: int, marks: Glyphs) -> Text:
    text, row = Text(), line.row
    text.append(f"{marks.statuses.get(row.status, '?')} ", STATUS_STYLES.get(row.status, ""))
    text.append(filled(_label(line), names, marks) + " ")
    for code, cells in groupby(codes):
        style = "cyan" if code == "#" and row.status == "running" else BAR_STYLES.get(code, "")
        text.append(marks.bars.get(code, " ") * len(list(cells)), style)
    text.append(f" {format_ms(row.duration_ms) if row.spans else '':>{_TOOK_CELLS}}")
    if note := _note(row, marks):
        text.append(f"  {note}", "dim")
    return text


def _note(row: Row, marks: Glyphs) -> str:
    return _RUN_ID.sub(lambda match: short_id(match[0], marks), safe(row.note))


def _tries(row: Row, marks: Glyphs) -> Iterator[Text]:
    for index, failed in enumerate(row.tries):
        last = index == len(row.tries) - 1
        text = Text(f"  {marks.last_branch if last else marks.branch} ", "dim")
        text.append(_try(failed), "red")
        if failed.where and (last or row.tries[index + 1].where != failed.where):
            text.append(f"   {safe(failed.where)}", "dim")
        yield text


def _try(failed: Try) -> str:
    error = f"{failed.number} {failed.type}: {failed.message}".rstrip(": ")
    after = "" if failed.retry_ms is None else f", retried after {format_ms(failed.retry_ms)}"
    return f"{safe(error)} ({format_ms(failed.took_ms)}){after}"


def _ending(run: dict[str, Any], line: Timeline) -> Iterator[Text]:
    """The result or the error; then why the run is not progressing."""
    if run.get("status") == "completed":
        yield Text("  result ", "dim").append(
            shown(run.get("result"))[:_RESULT_CHARACTERS], "default"
        )
    elif (error := run.get("error")) and run.get("status") == "failed":
        text = Text("  error ", "dim").append(safe(f"{error['type']}: {error['message']}"), "red")
        if place := where(str(error.get("traceback") or "")):
            text.append(f"   {safe(place)}", "dim")
        yield text
    if run.get("why") and not line.finished:
        yield Text("  " + safe(str(run["why"])), "default")


def _log_line(entry: dict[str, Any]) -> Text:
    step = f"{safe(str(entry['step']))} " if entry.get("step") else ""
    text = Text(f"  {str(entry['at'])[11:23]} {step}| ", "dim")
    return text.append(safe_lines(str(entry["message"])), "default")


def _clamp(value: int, low: int, high: int) -> int:
    return max(low, min(value, high))


def recording_console(width: int) -> Console:
    """A console that prints nowhere and records what is printed, for exports."""
    import io

    return Console(
        file=io.StringIO(),
        record=True,
        width=width,
        force_terminal=True,
        color_system="truecolor",
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
