"""A frame of `top`: daemon, counts and rates, queues beside slow steps, then the runs.

The same lines for a screen that is redrawn and for `--once`. A frame has as many lines as the
screen, none wider than it; where there is little room, queues and steps give way to the runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from rich.text import Text

from stackshift_cli.arguments import Globals
from stackshift_cli.daemon.run_detail import Shown
from stackshift_cli.output.clock import Clock
from stackshift_cli.output.run_name import run_name
from stackshift_cli.output.safe_text import safe
from stackshift_cli.render.columns import (
    Cells,
    Give,
    Row,
    column_lines,
    columns_of,
    cut_line,
    duration,
    field,
    fitted,
)
from stackshift_cli.render.console import STATUS_STYLES, Glyphs, console, glyphs
from stackshift_cli.render.lists import queue_running, why_cell
from stackshift_cli.render.picture import Frame, picture
from stackshift_cli.timeline.describe import attempts, brief, briefly
from stackshift_cli.top.model import Mode, Model, question
from stackshift_jobs.values.durations import format_ms
from stackshift_jobs.values.quantities import quantity

_STATUSES: Final = ("running", "retrying", "waiting", "queued", "scheduled")
_RATES: Final = (("started", "starts"), ("steps", "steps"), ("ended", "ends"), ("failed", "failed"))
_KEYS: Final = (
    ("up, down, k, j", "select a run, or scroll in an open one"),
    ("page up, page down", "ten lines at once"),
    ("home, end, g, G", "the first, the last"),
    ("enter", "open the selected run"),
    ("esc", "back to the list; in the list, clear the filter"),
    ("/", "filter by job, queue, status or id"),
    ("d", "the dead letter, and back to the unfinished runs"),
    ("c, r", "cancel or retry the run, after a question"),
    ("q", "quit"),
)
_LEAVE: Final = "q quit"
_MOST_FILTER: Final = 24
"""Cells of the filter that the last line shows, so that there is room for keys."""
_MOST_ROWS: Final = 6
"""Queues and steps shown at most."""
_RUNS_GIVE: Final[tuple[Give, ...]] = (
    ("WHY", 36),
    ("JOB", 24),
    ("QUEUE", 12),
    ("QUEUE", 0),
    ("ATTEMPT", 0),
    ("JOB", 12),
    ("WHY", 16),
    ("STATUS", 0),
    ("WHY", 0),
    ("JOB", 4),
)


def frame(model: Model, clock: Clock, width: int, height: int, marks: Glyphs) -> list[Text]:
    """The lines of a screen of `width` by `height` cells."""
    top = _header(model, clock, width, marks)
    room = height - len(top) - 1
    if model.mode is Mode.HELP:
        body = [Text(f"{key:<20}  {what}") for key, what in _KEYS]
    elif model.run:
        body = _run(model, clock, width, marks)
        start = min(model.scroll, max(0, len(body) - room))
        body = body[start : start + room]
    else:
        body = _overview(model, clock, width, room, marks)
    lines = [*top, *body][: height - 1]
    lines += [Text()] * (height - 1 - len(lines))
    return [cut_line(line, width, marks) for line in (*lines, _footer(model, width, marks))]


def print_once(options: Globals, model: Model) -> None:
    """Print one frame, with all runs of the list and without keys."""
    screen, marks, clock = console(options), glyphs(), Clock.now()
    model = replace(model, selected="")
    lines = _header(model, clock, screen.width, marks)
    room = 3 * (_MOST_ROWS + 1) + len(model.runs) + 2
    lines += _overview(model, clock, screen.width, room, marks)
    for line in lines:
        screen.print(cut_line(line, screen.width, marks))


# --- The header ----------------------------------------------------------------------------


def _header(model: Model, clock: Clock, width: int, marks: Glyphs) -> list[Text]:
    status, activity = model.status, model.activity
    first = Text("stackshift top", "bold")
    if status:
        up, workers = format_ms(status["uptime_ms"]), _workers(status["workers"])
        facts = f"  {status['version']}, up {up} {marks.dot} {workers}"
        first.append(safe(facts), "default not bold")
    time = f"{clock.time} {clock.zone}"
    first = cut_line(first, max(1, width - len(time) - 2), marks)
    first.append(" " * max(1, width - first.cell_len - len(time)) + time, "dim")
    lines = [first]
    if model.gone:
        lines.append(Text(safe(model.gone), "red"))
    elif status:
        lines.append(Text(safe(str(status["project"])), "dim"))
        if status.get("mode") != "serving":
            lines[-1].append(f"  {status.get('mode')}: no room on the disk", "red")
        if failed := status.get("failed_modules"):
            lines[-1].append(f"  {quantity(len(failed), 'module')} failed to import", "red")
    if activity:
        lines += [_counts(model, marks), _rates(activity), Text()]
    return lines


def _workers(workers: Sequence[Mapping[str, Any]]) -> str:
    """`3 workers (1 silent), 17/48 slots`: those that do not serve are named by their status."""
    odd = Counter(each["status"] for each in workers if each["status"] != "serving")
    aside = f" ({', '.join(f'{n} {status}' for status, n in odd.items())})" if odd else ""
    busy, slots = (sum(each[name] for each in workers) for name in ("running", "slots"))
    return f"{quantity(len(workers), 'worker')}{aside}, {busy}/{slots} slots"


def _counts(model: Model, marks: Glyphs) -> Text:
    text = Text()
    counts = model.activity["counts"]
    for status in _STATUSES:
        style = STATUS_STYLES[status] if counts[status] else "dim"
        text.append(f"{marks.statuses[status]} {counts[status]} {status}  ", style)
    dead = model.status.get("dead", 0)
    return text.append(f"{marks.statuses['failed']} {dead} dead", "red" if dead else "dim")


def _rates(activity: Mapping[str, Any]) -> Text:
    rates = activity["rates"]
    return Text("  ".join(f"{rates[name]:.1f} {word}/s" for name, word in _RATES))


# --- Queues, steps and runs ----------------------------------------------------------------


def _overview(model: Model, clock: Clock, width: int, room: int, marks: Glyphs) -> list[Text]:
    if not model.activity:
        return []
    rows = max(0, min(_MOST_ROWS, room // 3 - 1))
    half = (width - 3) // 2
    queues = _queues(model, half if width >= 60 else width, rows, marks)
    steps = _steps(model, width - half - 3, rows, marks) if width >= 60 else []
    beside = _beside(queues, steps, half) if rows else []
    lines = [*beside, Text()] if beside else []
    return [*lines, *_runs(model, clock, width, room - len(lines), marks)]


def _beside(left: Sequence[Text], right: Sequence[Text], half: int) -> list[Text]:
    lines = []
    for n in range(max(len(left), len(right))):
        line = left[n].copy() if n < len(left) else Text()
        line.append(" " * (half + 3 - line.cell_len))
        lines.append(line.append_text(right[n]) if n < len(right) else line)
    return lines


def _queues(model: Model, width: int, rows: int, marks: Glyphs) -> list[Text]:
    """The busiest queues."""
    queues = sorted(
        model.status.get("queues", ()),
        key=lambda queue: (-queue["running"] - queue["depth"], queue["name"]),
    )
    cells: Cells = {
        "queue": _queue,
        "queued": field("depth"),
        "oldest": duration("oldest_ms"),
        "running": queue_running,
    }
    gives: tuple[Give, ...] = (("QUEUE", 16), ("OLDEST", 0), ("QUEUE", 6))
    return _table(queues, cells, gives, width, rows, marks)


def _queue(queue: Row) -> Text:
    text = Text(safe(queue["name"]))
    return text.append(" paused", "yellow") if queue.get("paused") else text


def _steps(model: Model, width: int, rows: int, marks: Glyphs) -> list[Text]:
    cells: Cells = {
        "slow step": lambda step: f"{safe(step['job'])} {safe(step['step'])}",
        "n": field("count"),
        "mean": duration("mean_ms"),
        "max": duration("max_ms"),
    }
    gives: tuple[Give, ...] = (("SLOW STEP", 12), ("N", 0), ("MAX", 0), ("SLOW STEP", 6))
    steps = list(model.activity["slow_steps"])
    return _table(steps, cells, gives, width, rows, marks) if steps else []


def _table(
    rows: Sequence[Row], cells: Cells, gives: Sequence[Give], width: int, most: int, marks: Glyphs
) -> list[Text]:
    """A header and at most `most` lines, the last of which counts the rows that have none."""
    shown = rows if len(rows) <= most else rows[: max(0, most - 1)]
    lines = column_lines(fitted(columns_of(shown, cells), gives, width, marks), width, marks)
    if len(shown) < len(rows):
        lines.append(Text(f"{marks.ellipsis} and {len(rows) - len(shown)} more", "dim"))
    return lines


def _runs(model: Model, clock: Clock, width: int, room: int, marks: Glyphs) -> list[Text]:
    """The runs around the selected one."""
    runs = model.runs
    if not runs:
        what = "in the dead letter" if model.dead else "unfinished"
        match = f" and matches {model.filter!r}" if model.filter else ""
        return [Text(f"no run is {what}{safe(match)}", "dim")]
    rows = max(1, room - 1)
    if model.activity["matches"] > min(rows, len(runs)):
        rows = max(1, rows - 1)
    start = max(0, min(model.index - rows // 2, len(runs) - rows))
    shown = list(runs[start : start + rows])
    cells: Cells = {
        "": lambda run: _mark(run, run["id"] == model.selected, marks),
        "id": lambda run: brief(run["id"]),
        "job": lambda run: safe(run_name(run)),
        "queue": field("queue"),
        "status": lambda run: Text(run["status"], _style(run)),
        "attempt": lambda run: attempts(run["attempt"], run),
        "for": lambda run: clock.age(run["since"]),
        "why": lambda run: _why(run, clock),
    }
    lines = column_lines(fitted(columns_of(shown, cells), _RUNS_GIVE, width, marks), width, marks)
    selected = model.index - start
    if model.selected and 0 <= selected < len(shown):
        line = lines[selected + 1]
        line.append(" " * max(0, width - line.cell_len))
        line.stylize("reverse")
    if (left := model.activity["matches"] - len(shown)) > 0:
        lines.append(Text(f"{marks.ellipsis} and {left} more", "dim"))
    return lines


def _mark(run: Row, is_selected: bool, marks: Glyphs) -> Text:
    """The glyph of the status; the selected run is marked where there is no colour too."""
    mark = Text(marks.statuses.get(run["status"], "?"), _style(run))
    return mark.append(">", "bold") if is_selected else mark


def _style(run: Row) -> str:
    return STATUS_STYLES.get(run["status"], "")


def _why(run: Row, clock: Clock) -> str:
    if run["status"] == "running" and run["step"]:
        worker = str(run["worker"])
        where = f" on {safe(worker)}" if "/" in worker else ""  # on another host
        return f"in {safe(run['step'])}{where}"
    return why_cell(run, clock)


# --- An open run, and the last line --------------------------------------------------------


def _run(model: Model, clock: Clock, width: int, marks: Glyphs) -> list[Text]:
    if "timeline" not in model.run:
        return [Text(f"asking for {brief(model.run['id'])}{marks.ellipsis}", "dim")]
    why = briefly(clock.localized(str(model.run["why"] or "")))
    frame = Frame(width, None, marks)
    drawn = picture(Shown({**model.run, "why": why}), clock.now_us, frame)
    return [line for line in drawn.renderables if isinstance(line, Text)]


def _footer(model: Model, width: int, marks: Glyphs) -> Text:
    if model.mode is Mode.CONFIRM:
        return Text(question(model), "bold yellow")
    if model.mode is Mode.FILTER:
        return Text(f"filter: {safe(model.filter)}_", "bold")
    if model.message:
        return Text(safe(model.message), "yellow")
    if model.mode is Mode.HELP:
        return Text("any key goes back  q quit", "dim")
    before = Text()
    if model.filter and not model.run:
        kept = cut_line(Text(safe(model.filter)), _MOST_FILTER, marks).plain
        before.append(f"filter {kept}, esc clears it  ", "bold")
    if model.dead and not model.run:
        before.append("dead letter  ", "bold red")
    if before:
        before = cut_line(before, max(1, width - len(_LEAVE) - 2), marks)
        before.rstrip()
        before.append("  ")
    return before.append(_keys(model, width - before.cell_len, marks), "dim not bold")


def _keys(model: Model, width: int, marks: Glyphs) -> str:
    """The keys that there is room for. The last ones are there in any case: how to leave, and where
    the others are explained."""
    arrows = marks.up_down
    if model.run:
        keys = ["esc back", f"{arrows} scroll", "c cancel", "r retry"]
    else:
        keys = [f"{arrows} move", "enter open", "d unfinished" if model.dead else "d dead letter"]
        keys += ["/ filter", "r retry", "c cancel"]
    last = ["? keys", _LEAVE]
    while len("  ".join([*keys, *last])) > width and len([*keys, *last]) > 1:
        del (keys or last)[-1 if keys else 0]
    return "  ".join([*keys, *last])
