"""`runs show --svg F`: the picture of a run as one drawing, for pages, chats and mails.

A file has no height, so only maps of many items are one row. Text is cut to its column, and whole
in the title that is shown over it.
"""

from __future__ import annotations

from typing import Any, Final
from xml.etree.ElementTree import Element, tostring

from stackshift_cli.daemon.run_detail import Shown
from stackshift_cli.output.messages import shown as as_json
from stackshift_cli.output.run_name import run_name
from stackshift_cli.output.safe_text import safe
from stackshift_cli.render.console import UNICODE, short_id
from stackshift_cli.render.vector import (
    CELLS,
    COLORS,
    MARKS,
    child_of,
    codes,
    css_class,
    note,
    spent,
    title,
    took,
)
from stackshift_cli.timeline.axis import Axis, bars, labels, lay_out
from stackshift_cli.timeline.branches import Line, tree
from stackshift_cli.timeline.build import build
from stackshift_cli.timeline.describe import attempts, why
from stackshift_cli.timeline.failure import summary
from stackshift_cli.timeline.folding import maps_folded
from stackshift_cli.timeline.model import Timeline
from stackshift_jobs.errors import error_text
from stackshift_jobs.values.durations import format_ms

CELL: Final = 7.0
"""The width of a cell of the axis."""
_CHARACTER: Final = 7.3
"""The width of a character, in whichever monospaced font there is."""
ROW: Final = 22.0
LEFT: Final = 16.0
_NAME: Final = (8, 40)
_NOTE: Final = (0, 60)
_TOOK: Final = 9
_TEXT: Final = 140
_STYLE: Final = """
text { font: 12px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  fill: var(--ink); white-space: pre; }
.dim { fill: var(--dim); } .bold { font-weight: 600; } .error { fill: var(--failed); }
.paper { fill: var(--paper); } .stripe { fill: var(--stripe); }
.tick { stroke: var(--line); stroke-width: 1; }
.mark { fill: currentColor; font-weight: 600; }
"""


def svg(shown: Shown, now_us: int) -> str:
    """The drawing of a run at the time `now_us`, as the text of a file."""
    return tostring(_Drawing(shown, now_us).root, encoding="unicode") + "\n"


class _Drawing:
    """The drawing from top to bottom; `y` is where the next line of it begins."""

    def __init__(self, shown: Shown, now_us: int) -> None:
        line = build(shown.run, now_us)
        rows = maps_folded(tree(line))
        names = [_cut("  " * row.depth + safe(row.label), _NAME[1]) for row in rows]
        notes = [_cut(note(row.row), _NOTE[1]) for row in rows]
        longest = max(_NAME[0], *map(len, ["", *names]))
        self.bars_x = LEFT + 2 * CELL + (longest + 1) * _CHARACTER
        self.took_x = self.bars_x + (CELLS + _TOOK) * CELL
        self.right = self.took_x
        self.root = Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "role": "img"})
        child_of(self.root, "title", safe(f"{shown.run['job']} {shown.run['id']}"))
        child_of(self.root, "style", COLORS + _STYLE)
        self.paper = child_of(self.root, "rect", class_="paper", width="100%", height="100%")
        self.y = ROW
        self._header(shown.run, line)
        spans = [span for row in rows for span in row.row.spans]
        axis = lay_out(spans, line.start_us, line.end_us, CELLS)
        self._rows(rows, names, notes, axis)
        self._ending(shown, line)
        width, height = self.right + LEFT, self.y
        self.root.set("width", f"{width:g}")
        self.root.set("height", f"{height:g}")
        self.root.set("viewBox", f"0 0 {width:g} {height:g}")

    def text(self, x: float, text: str, **attributes: str) -> Element:
        """Text on the present line."""
        self.right = max(self.right, x + len(text) * _CHARACTER)
        return child_of(self.root, "text", text, x=f"{x:g}", y=f"{self.y:g}", **attributes)

    def _header(self, run: dict[str, Any], line: Timeline) -> None:
        first = self.text(LEFT, "", class_=f"is-{line.status}")
        mark = child_of(first, "tspan", MARKS.get(line.status, "?"), class_="mark")
        mark.tail = "  "
        job = child_of(first, "tspan", safe(run_name(run)), class_="bold")
        job.tail = f"  {short_id(run['id'], UNICODE)}  {spent(line)}"
        self.right = max(self.right, LEFT + len("".join(first.itertext())) * _CHARACTER)
        self.y += ROW
        facts = [f"queue {run['queue']}", f"attempt {attempts(line.attempt, run)}"]
        facts.append(f"code {codes(line)}")
        facts += [line.places] if line.places else []
        facts += [f"{key}={value}" for key, value in (run.get("labels") or {}).items()]
        self.text(LEFT, _cut(safe(" · ".join(facts)), _TEXT), class_="dim")
        self.y += 1.5 * ROW

    def _rows(self, rows: list[Line], names: list[str], notes: list[str], axis: Axis) -> None:
        top = self.y
        for at, label in labels(axis):
            self.text(self.bars_x + at * CELL, label.replace("~", "⌇"), class_="dim")
        grid = child_of(self.root, "g")
        self.y += ROW
        for each, name, words in zip(rows, names, notes, strict=True):
            self._row(each, name, words, axis)
        bottom = self.y - ROW * 0.6
        for at, _ in labels(axis):
            x = f"{self.bars_x + at * CELL:g}"
            child_of(grid, "line", class_="tick", x1=x, x2=x, y1=f"{top + 6:g}", y2=f"{bottom:g}")
        for piece in axis.pieces:
            if piece.compressed:
                child_of(
                    grid,
                    "rect",
                    class_="gap",
                    x=f"{self.bars_x + piece.start_cell * CELL:g}",
                    y=f"{top + 6:g}",
                    width=f"{(piece.end_cell - piece.start_cell) * CELL:g}",
                    height=f"{bottom - top - 6:g}",
                )

    def _row(self, line: Line, name: str, words: str, axis: Axis) -> None:
        row = line.row
        mark = self.text(LEFT, "", class_=f"is-{row.status}")
        child_of(mark, "tspan", MARKS.get(row.status, "?"), class_="mark")
        label = self.text(LEFT + 2 * CELL, name)
        child_of(label, "title", safe(row.name))
        for bar in bars(row.spans, axis):
            drawn = child_of(
                self.root,
                "rect",
                class_=css_class(bar, row),
                x=f"{self.bars_x + bar.start_cell * CELL:.3f}",
                y=f"{self.y - 11:g}",
                width=f"{max((bar.end_cell - bar.start_cell) * CELL, 1.5):.3f}",
                height="13",
                rx="1.5",
            )
            child_of(drawn, "title", title(bar, row))
        self.text(self.took_x, took(row), class_="dim", text_anchor="end")
        if words:
            after = self.text(self.took_x + 2 * CELL, words, class_="dim")
            child_of(after, "title", note(row))
        self.y += ROW
        for failed in line.tries:
            after_ms = failed.retry_ms
            fate = f", retried after {format_ms(after_ms)}" if after_ms is not None else ""
            error = f"{failed.number} {error_text(failed.type, failed.message)}"
            self.text(
                LEFT + 4 * CELL,
                f"{_cut(safe(error), _TEXT - 40)} ({format_ms(failed.took_ms)}){fate}",
                class_="error",
            )
            self.y += ROW

    def _ending(self, shown: Shown, line: Timeline) -> None:
        run, error = shown.run, shown.run.get("error")
        self.y += ROW / 2
        if run["status"] == "completed" and not run.get("continued_as"):
            self.text(LEFT + 2 * CELL, _cut("result " + as_json(run["result"]), _TEXT))
            self.y += ROW
        elif run["status"] == "failed" and error:
            words = _cut(safe(f"error {error_text(error['type'], error['message'])}"), _TEXT)
            self.text(LEFT + 2 * CELL, words, class_="error")
            self.y += ROW
            for each in summary(str(error.get("traceback") or ""), shown.root):
                self.text(LEFT + 4 * CELL, _cut(safe(each), _TEXT), class_="dim")
                self.y += ROW
        elif reason := why(run, line.finished):
            self.text(LEFT + 2 * CELL, _cut(safe(reason), _TEXT))
            self.y += ROW


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: characters - 1] + "…"
