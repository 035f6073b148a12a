"""`runs show --html F`: the timeline of a run as one page, whose steps open without any script.

A step opens to what is recorded of it: its result, its error with the whole traceback, its failed
tries, and what it printed. The rows of a child run stand below the step that started it.
"""

from __future__ import annotations

import json
from typing import Any, Final
from xml.etree.ElementTree import Element, tostring

from stackshift_cli.daemon.run_detail import Shown
from stackshift_cli.output import log_lines
from stackshift_cli.output.safe_text import safe, safe_lines
from stackshift_cli.render.vector import (
    CELLS,
    COLORS,
    MARKS,
    child_of,
    child_words,
    codes,
    css_class,
    note,
    spent,
    title,
    took,
)
from stackshift_cli.timeline import progress
from stackshift_cli.timeline.axis import Axis, bars, labels, lay_out
from stackshift_cli.timeline.branches import Line, lines, tree
from stackshift_cli.timeline.build import build
from stackshift_cli.timeline.describe import attempts, why
from stackshift_cli.timeline.folding import maps_folded
from stackshift_cli.timeline.model import Row, Timeline
from stackshift_jobs.errors import error_text
from stackshift_jobs.values.durations import format_ms
from stackshift_jobs.values.quantities import quantity

_JSON_CHARACTERS: Final = 100_000
"""A payload or a result is cut to so many characters."""
_LOG_LINES: Final = 500
"""So many of the last lines that a step printed are in the page."""
_LEAST_PERCENT: Final = 0.15
_CHARACTER: Final = 7.5
"""The width of a character of the axis in pixels, in whichever monospaced font there is."""
_DENSITIES: Final = (1.0, 0.7, 0.5, 0.35, 0.25, 0.15)
"""Characters of labels in a cell of the axis, each for axes that have room for so many."""
_STYLE: Final = """
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1500px; padding: 1.5rem; background: var(--paper);
  color: var(--ink); font: 14px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.3rem; margin: 0; } .facts, .dim { color: var(--dim); }
pre, code, .mono { font: 12px/1.5 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { background: var(--stripe); border: 1px solid var(--line); border-radius: 6px;
  margin: .25rem 0; max-height: 30rem; overflow: auto; padding: .6rem; white-space: pre-wrap;
  word-break: break-word; }
.line, summary { align-items: center; border-radius: 4px; column-gap: .5rem; display: grid;
  grid-template-columns: 1rem minmax(8rem, 16rem) minmax(12rem, 1fr) 4.5rem minmax(0, 16rem);
  padding: .1rem .3rem; }
summary { cursor: pointer; list-style: none; } summary::-webkit-details-marker { display: none; }
summary:hover { background: var(--stripe); }
details[open] > summary { background: var(--stripe); font-weight: 600; }
.name, .note { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.took { text-align: right; } .note { color: var(--dim); }
.bars { display: block; height: 14px; overflow: visible; width: 100%; }
.axis { color: var(--dim); height: 1.4rem; position: relative; }
.axis { container-type: inline-size; } .axis span { position: absolute; white-space: nowrap; }
.axis > div { display: none; }
.body { border-left: 3px solid var(--line); margin: .2rem 0 .8rem .6rem;
  padding: .2rem 0 .2rem 1rem; }
.child, .items { box-shadow: inset 3px 0 var(--wait); } .items { margin-bottom: .8rem; }
summary.plain { display: block; } summary.plain::before { content: "▸ "; }
details[open] > summary.plain::before { content: "▾ "; }
summary .name::after { color: var(--dim); content: " ▸"; }
details[open] > summary .name::after { content: " ▾"; }
.error { color: var(--failed); } h2 { font-size: .85rem; margin: .6rem 0 .1rem; }
progress { vertical-align: middle; width: 12rem; }
@media (max-width: 700px) { .line, summary { grid-template-columns: 1rem 7rem 1fr 4rem; }
  .note { display: none; } }
"""


def _labels_by_width() -> str:
    """The rules by which an axis shows as many labels as do not touch at its width. A browser that
    cannot ask for that width shows those of the narrowest."""
    widths = [density * CELLS * _CHARACTER for density in _DENSITIES]
    last = len(widths) - 1
    rules = [f".axis > .labels-{last} {{ display: block; }}"]
    for number, least in enumerate(widths[:-1]):
        most = f" and (max-width: {widths[number - 1] - 0.01:g}px)" if number else ""
        hidden = f".axis > .labels-{last} {{ display: none; }}"
        shown = f".axis > .labels-{number} {{ display: block; }}"
        rules.append(f"@container (min-width: {least:g}px){most} {{ {hidden} {shown} }}")
    return "\n".join(rules) + "\n"


def html(shown: Shown, now_us: int) -> str:
    """The page of a run at the time `now_us`, as the text of a file."""
    line = build(shown.run, now_us)
    page = Element("html", {"lang": "en"})
    head = child_of(page, "head")
    child_of(head, "meta", charset="utf-8")
    child_of(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
    policy = {"http-equiv": "Content-Security-Policy"}
    policy["content"] = "default-src 'none'; style-src 'unsafe-inline'"
    head.append(Element("meta", policy))
    child_of(head, "title", safe(f"{shown.run['job']} {shown.run['id']}"))
    child_of(head, "style", COLORS + _STYLE + _labels_by_width())
    body = child_of(page, "body")
    _header(body, shown.run, line)
    spans = [span for row in tree(line) for span in row.row.spans]
    axis = lay_out(spans, line.start_us, line.end_us, CELLS)
    _axis(body, axis)
    _Rows(shown.run, shown.logs, shown.run["children"], axis).add(body, line)
    _ending(body, shown.run, line)
    if outside := [entry for entry in shown.logs if not entry.get("step")]:
        opened = child_of(body, "details")
        child_of(opened, "summary", "output outside of steps", class_="plain dim")
        child_of(opened, "pre", _log_text(outside))
    return "<!DOCTYPE html>\n" + tostring(page, encoding="unicode", method="html") + "\n"


def _header(body: Element, run: dict[str, Any], line: Timeline) -> None:
    head = child_of(body, "h1")
    mark = child_of(head, "span", MARKS.get(line.status, "?"), class_=f"is-{line.status}")
    mark.tail = f" {safe(str(run['job']))}"
    child_of(body, "div", spent(line), class_=f"is-{line.status}")
    facts = [run["id"], f"queue {run['queue']}", f"attempt {attempts(line.attempt, run)}"]
    if run.get("idempotency_key"):
        facts.append(f"key {run['idempotency_key']}")
    if run.get("unique"):
        facts.append(f"unique {run['unique']}")
    facts += [f"{key}={value}" for key, value in (run.get("labels") or {}).items()]
    facts += [f"created {run['created_at']}"] if run.get("created_at") else []
    facts += [f"code {codes(line)}"] if line.code else []
    facts += [line.places] if line.places else []
    child_of(body, "p", safe(" · ".join(facts)), class_="facts")
    if (reported := line.progress) is not None:
        part = child_of(body, "p")
        if reported.total:
            limits = {"max": f"{reported.total:g}", "value": f"{reported.done:g}"}
            child_of(part, "progress", **limits).tail = " "
        child_of(part, "span", safe(progress.words(reported)))
    opened = child_of(body, "details")
    child_of(opened, "summary", "payload", class_="plain dim")
    child_of(opened, "pre", _json(run.get("payload")))


def _axis(body: Element, axis: Axis) -> None:
    row = child_of(body, "div", class_="line")
    child_of(row, "span")
    child_of(row, "span", "step", class_="dim")
    scale = child_of(row, "div", class_="axis mono")
    for number, density in enumerate(_DENSITIES):
        shown = child_of(scale, "div", class_=f"labels-{number}")
        for at, label in labels(axis, density):
            text = label.replace("~", "⌇")
            child_of(shown, "span", text, style=f"left: {100 * at / axis.width:.2f}%")


class _Rows:
    """The rows of one run, and what is recorded of each; `known` are the runs that stand below any
    row, and `axis` is that of the whole page."""

    def __init__(
        self,
        run: dict[str, Any],
        logs: list[dict[str, Any]],
        known: dict[str, dict[str, Any]],
        axis: Axis,
        depth: int = 0,
    ) -> None:
        self.known = known
        self.axis = axis
        self.depth = depth
        self.steps = {step["name"]: step for step in run.get("steps") or ()}
        self.logs: dict[str, list[dict[str, Any]]] = {}
        for entry in logs:
            self.logs.setdefault(entry.get("step") or "", []).append(entry)

    def add(self, parent: Element, line: Timeline) -> None:
        """Add the rows to `parent`; items of large maps are inside the row of their map."""
        for each in maps_folded(lines(line.rows)):
            if len(each.rows) > 1:
                inside = self._opened(parent, each, "items")
                for row in each.rows:
                    self._row(inside, Line(row, row.name, each.depth, (row,)))
                continue
            self._row(parent, each)
            child = each.row.child
            if child is not None and child.timeline is not None:
                nested = child_of(parent, "div", class_="child")
                deeper = self.depth + each.depth + 1
                run = self.known[child.id]
                _Rows(run, run.get("logs") or [], self.known, self.axis, deeper).add(
                    nested, child.timeline
                )

    def _opened(self, parent: Element, line: Line, kind: str) -> Element:
        """A row that can be opened; returns what is inside."""
        details = child_of(parent, "details")
        self._summary(child_of(details, "summary"), line)
        return child_of(details, "div", class_=kind)

    def _row(self, parent: Element, line: Line) -> None:
        if line.rows and (line.row.key in self.steps or line.row.tries):
            self._body(self._opened(parent, line, "body"), line.row)
        else:
            self._summary(child_of(parent, "div", class_="line"), line)

    def _summary(self, parent: Element, line: Line) -> None:
        row = line.row
        child_of(parent, "span", MARKS.get(row.status, "?"), class_=f"is-{row.status}")
        indent = f"padding-left: {min(self.depth + line.depth, 6)}rem"
        label = safe(line.label)
        child_of(parent, "span", label, class_="name", style=indent, title=safe(row.name))
        drawn = child_of(parent, "svg", class_="bars", role="img")
        for piece in self.axis.pieces:
            if piece.compressed:
                percent = 100 * (piece.end_cell - piece.start_cell) / self.axis.width
                begin = 100 * piece.start_cell / self.axis.width
                place = {"x": f"{begin:.3f}%", "width": f"{percent:.3f}%", "height": "14"}
                child_of(drawn, "rect", class_="gap", **place)
        for bar in bars(row.spans, self.axis):
            from_percent = 100 * bar.start_cell / self.axis.width
            percent = max(100 * bar.end_cell / self.axis.width - from_percent, _LEAST_PERCENT)
            rect = child_of(
                drawn,
                "rect",
                class_=css_class(bar, row),
                x=f"{from_percent:.3f}%",
                width=f"{percent:.3f}%",
                height="14",
                rx="2",
            )
            child_of(rect, "title", title(bar, row))
        child_of(parent, "span", took(row), class_="took mono")
        child_of(parent, "span", note(row), class_="note", title=note(row))

    def _body(self, parent: Element, row: Row) -> None:
        step = self.steps.get(row.key, {})
        began, ended = step.get("started_at"), step.get("finished_at")
        facts = [row.status, str(step.get("kind") or ""), f"began {began}" if began else ""]
        facts += [f"ended {ended}" if ended else "", str(step.get("detail") or "")]
        child_of(parent, "div", safe(" · ".join(filter(None, facts))), class_="facts")
        if row.child is not None:
            child_of(parent, "div", safe(f"run {row.child.id}: ") + child_words(row.child))
        if step.get("status") == "completed" and step.get("kind") != "sleep":
            child_of(parent, "h2", "result")
            child_of(parent, "pre", _json(step.get("result")))
        error = step.get("error")
        for failed in row.tries:
            fate = (
                "" if failed.retry_ms is None else f", retried after {format_ms(failed.retry_ms)}"
            )
            child_of(parent, "h2", f"try {failed.number}, {format_ms(failed.took_ms)}{fate}")
            _error(parent, failed.type, failed.message, failed.traceback)
        if error and not row.tries:
            _error(parent, error["type"], error["message"], str(error.get("traceback") or ""))
        if logged := self.logs.get(row.key):
            child_of(parent, "h2", "output")
            child_of(parent, "pre", _log_text(logged))


def _error(parent: Element, type: str, message: str, traceback: str) -> None:
    child_of(parent, "div", safe_lines(error_text(type, message)), class_="error mono")
    if traceback:
        child_of(parent, "pre", safe_lines(traceback))


def _ending(body: Element, run: dict[str, Any], line: Timeline) -> None:
    error = run.get("error")
    if run["status"] == "completed" and not run.get("continued_as"):
        child_of(body, "h2", "result")
        child_of(body, "pre", _json(run.get("result")))
    elif run["status"] == "failed" and error:
        child_of(body, "h2", "error")
        _error(body, error["type"], error["message"], str(error.get("traceback") or ""))
    elif reason := why(run, line.finished):
        child_of(body, "p", safe(reason))


def _log_text(entries: list[dict[str, Any]]) -> str:
    left_out = len(entries) - _LOG_LINES
    kept = [f"{e['at'][11:23]} {_marked(e)}" for e in entries[-_LOG_LINES:]]
    return "\n".join([f"… {quantity(left_out, 'earlier line')}", *kept] if left_out > 0 else kept)


def _marked(entry: dict[str, Any]) -> str:
    origin, text = log_lines.origin(entry, with_step=False), safe_lines(str(entry["message"]))
    return f"{origin}| {text}" if origin else text


def _json(value: Any) -> str:
    text = safe_lines(json.dumps(value, indent=2, ensure_ascii=False, default=str))
    cut = len(text) - _JSON_CHARACTERS
    return f"{text[:_JSON_CHARACTERS]}\n… {quantity(cut, 'more character')}" if cut > 0 else text
