"""The picture of a run: header, axis, one row per step, errors of failed tries, result.

    ✓ run_…7k2m9q  resizeAvatar  completed in 2h00m  (active 14.0s · waiting 2h00m)
      queue media · key resize:img_123 · attempt 1/5 · code 3f9c2a1

      STEP       0s       5s       10s      ⌇ 2h ⌇ +2s
    ✓ queued     ░                                          0.4s
    ✓ upload              ▓▓▓···▓▓▓······██                 9.1s  try 3
      ├ 1 TimeoutError: PUT timed out (1.2s), retried after 2.0s
      └ 2 TimeoutError: PUT timed out (1.1s), retried after 4.0s   media.py:48
      result {"sizes": [...]}

`timeline` computes the rows, which of them have a line where there is no room for all, and the
axis; this module chooses glyphs, colours and widths. A picture that has a height is no higher: the
header, what is under way, the error or the reason, and the newest lines of the log stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final, Literal

from rich.cells import cell_len
from rich.console import Group
from rich.text import Text

from stackshift_cli.daemon.run_detail import Shown
from stackshift_cli.output import log_lines
from stackshift_cli.output.clock import Clock
from stackshift_cli.output.messages import shown as as_json
from stackshift_cli.output.run_name import run_name
from stackshift_cli.output.safe_text import safe, safe_lines
from stackshift_cli.render.columns import cut_line, filled
from stackshift_cli.render.console import BAR_STYLES, STATUS_STYLES, Glyphs, short_id
from stackshift_cli.timeline import progress
from stackshift_cli.timeline.axis import lay_out, strip, ticks
from stackshift_cli.timeline.branches import Line, tree
from stackshift_cli.timeline.build import FORGOTTEN, build, is_forgotten
from stackshift_cli.timeline.describe import attempts, why
from stackshift_cli.timeline.failure import summary, where
from stackshift_cli.timeline.folding import fit
from stackshift_cli.timeline.model import Child, Timeline, Try
from stackshift_jobs.errors import error_text
from stackshift_jobs.values.durations import format_ms

_RUN_ID: Final = re.compile(r"run_[0-9a-z]{26}")
_NAME_CELLS: Final = (10, 28)
"""Names have so many cells, or more where the bars have plenty."""
_MOST_INDENTED: Final = 6
"""Branches deeper than this are indented no further, so that there is room for names."""
_LEAST_NOTE_CELLS: Final = 14
_BAR_CELLS: Final = (16, 120)
_AMPLE_BAR_CELLS: Final = 60
_TOOK_CELLS: Final = 8
_PROGRESS_CELLS: Final = 20
_LEAST_ROWS: Final = 3
_COMPACT_ROWS: Final = 10
_ERROR_LINES: Final = 3
"""An error's message may be so many lines long."""
_RESULT_CHARACTERS: Final = 4000
"""More than any terminal shows in a line, less than the 16 MiB that a result may have."""


@dataclass(frozen=True)
class Frame:
    """What a picture has to fit into (`height` is None where that does not matter), and how much it
    says: bars alone, whole tracebacks, every row."""

    width: int
    height: int | None
    marks: Glyphs
    compact: bool = False
    verbose: bool = False
    everything: bool = False


def picture(shown: Shown, now_us: int, frame: Frame) -> Group:
    """The picture of a run at the time `now_us`."""
    line = build(shown.run, now_us)
    clock = Clock(now_us)
    head = [*_header(shown.run, line, clock, frame), Text()]
    tail = [] if frame.compact else list(_ending(shown, line, clock, frame))
    if is_forgotten(shown.run):
        tail.append(Text(f"  {FORGOTTEN}", "dim"))
    tail += _log_lines(shown.logs, clock)
    if frame.height is not None:
        tail = tail[-(frame.height // 2) :]
    room = None if frame.height is None else frame.height - len(head) - len(tail)
    rows = list(_rows(shown, line, room, clock, frame))
    return Group(*(_fitted(text, frame) for text in [*head, *rows, *tail]))


def _fitted(text: Text, frame: Frame) -> Text:
    """`text` in the width of the frame. Where the height does not matter, a traceback is printed
    whole: of its lines the end is what is looked for."""
    if text.overflow == "ignore" and frame.height is None:
        return text
    return cut_line(text, frame.width, frame.marks)


# --- The header ----------------------------------------------------------------------------


def _header(run: dict[str, Any], line: Timeline, clock: Clock, frame: Frame) -> Iterator[Text]:
    marks, style = frame.marks, STATUS_STYLES.get(line.status, "")
    total = format_ms(line.totals.total_ms)
    took = f"{line.status} in {total}" if line.finished else f"{line.status}, {total} so far"
    first = Text()
    first.append(f"{marks.statuses.get(line.status, '?')} ", style)
    first.append(f"{short_id(run['id'], marks)}  ")
    first.append(safe(run_name(run)), "bold")
    first.append(f"  {took}", style)
    facts = [] if frame.compact else list(_facts(run, line, marks))
    rest: Text | None = None
    if not is_forgotten(run):
        spent = _spent(line, marks)
        if first.cell_len + len(spent) + 4 <= frame.width or frame.compact:
            first.append(f"  ({spent})", "dim")
        else:
            rest = Text(f"  {spent}", "dim")
    yield first
    if rest is not None:
        yield rest
    yield from (Text(f"  {safe(text)}", "dim") for text in _wrapped(facts, frame))
    if not frame.compact:
        given = Text(f"  created {clock.moment(run['created_at'])}", "dim")
        if run.get("payload") not in (None, {}):
            payload = as_json(run["payload"])[:_RESULT_CHARACTERS]
            given.append(f" {marks.dot} payload ").append(payload, "not dim")
        yield given
    if line.progress is not None:
        yield _progress(line, frame)


def _spent(line: Timeline, marks: Glyphs) -> str:
    """`active 14.0s · backoff 3.0s · waiting 2h00m`: together they are the whole time."""
    totals = line.totals
    spent = {"active": totals.active_ms, "backoff": totals.backoff_ms, "waiting": totals.waiting_ms}
    named = [f"{n} {format_ms(ms)}" for n, ms in spent.items() if ms or n != "backoff"]
    return f" {marks.dot} ".join(named)


def _facts(run: dict[str, Any], line: Timeline, marks: Glyphs) -> Iterator[str]:
    yield f"queue {run['queue']}"
    if run.get("idempotency_key"):
        yield f"key {run['idempotency_key']}"
    if run.get("unique"):
        yield f"unique {run['unique']}"
    yield f"attempt {attempts(line.attempt, run)}"
    if line.changes:
        codes = [line.changes[0].before, *(change.after for change in line.changes)]
        yield f"code {f' {marks.arrow} '.join(code[:7] for code in codes[-3:])}"
    elif line.code:
        yield f"code {line.code[:7]}"
    if line.places:
        yield line.places
    yield from (f"{key}={value}" for key, value in (run.get("labels") or {}).items())
    if run.get("parent"):
        yield f"parent {short_id(run['parent'], marks)}"
    if run.get("forked_from"):
        yield f"forked from {short_id(run['forked_from'], marks)}"
    if run.get("continues"):
        yield f"continues {short_id(run['continues'], marks)}"
    if run.get("late_at"):
        yield "late"
    if run.get("follow_up"):
        yield f"follow-up {short_id(run['follow_up'], marks)}"


def _wrapped(facts: list[str], frame: Frame) -> Iterator[str]:
    """`facts` in as few lines as they need."""
    text, dot = "", f" {frame.marks.dot} "
    for fact in facts:
        if text and cell_len(safe(text + dot + fact)) + 2 > frame.width:
            yield text
            text = ""
        text += f"{dot}{fact}" if text else fact
    if text:
        yield text


def _progress(line: Timeline, frame: Frame) -> Text:
    reported, text = line.progress, Text("  ")
    assert reported is not None
    if reported.total:
        done = min(max(round(_PROGRESS_CELLS * reported.done / reported.total), 0), _PROGRESS_CELLS)
        text.append(frame.marks.bars["#"] * done, "cyan")
        text.append(frame.marks.bars["."] * (_PROGRESS_CELLS - done) + " ", "dim")
    return text.append(safe(progress.words(reported)))


# --- The rows ------------------------------------------------------------------------------


def _rows(
    shown: Shown, line: Timeline, room: int | None, clock: Clock, frame: Frame
) -> Iterator[Text]:
    drawn = tree(line)
    if not drawn:
        return
    below = {} if frame.compact else _below(shown, line, clock, frame)
    if room is not None:
        room = max(_LEAST_ROWS, room - 1 - sum(map(len, below.values())))
    if frame.compact:
        room = _COMPACT_ROWS if room is None else min(room, _COMPACT_ROWS)
    if not frame.everything:
        drawn = fit(drawn, room, frame.compact)
    taken = [_note(each, frame.marks) for each in drawn]
    names, cells = _widths([_label(each) for each in drawn], taken, frame.width)
    axis = lay_out(_spans(drawn), line.start_us, line.end_us, cells)
    scale = ticks(axis).replace("~", frame.marks.bars["~"])
    yield Text(f"  {'STEP':<{names}} {scale}".rstrip(), "dim")
    for each, note in zip(drawn, taken, strict=True):
        yield _row(each, strip(each.row.spans, axis), names, note, frame.marks)
        yield from _tries(each, frame)
        if len(each.rows) == 1 and each.depth < _MOST_INDENTED:
            yield from below.pop(each.row.key, ())


def _widths(labels: list[str], taken: list[str], width: int) -> tuple[int, int]:
    """The cells of names and of bars: names get what the bars can spare, and notes are cut
    before the bars have less than two fifths of the width."""
    longest, widest = max(map(cell_len, labels)), max(map(cell_len, taken))
    fixed = 2 + 1 + 1 + _TOOK_CELLS + (2 if widest else 0)
    spare = width - fixed - min(widest, _LEAST_NOTE_CELLS) - _AMPLE_BAR_CELLS
    names = _clamp(longest, _NAME_CELLS[0], max(_NAME_CELLS[1], spare))
    notes = min(widest, max(_LEAST_NOTE_CELLS, width * 3 // 5 - fixed - names))
    return names, _clamp(width - fixed - names - notes, *_BAR_CELLS)


def _spans(drawn: list[Line]) -> Any:
    return [span for each in drawn for span in each.row.spans]


def _label(line: Line) -> str:
    return "  " * min(line.depth, _MOST_INDENTED) + safe(line.label)


def _row(line: Line, codes: str, names: int, note: str, marks: Glyphs) -> Text:
    text, row = Text(), line.row
    mark = marks.statuses.get(row.status, "?") if row.status else " "
    text.append(f"{mark} ", STATUS_STYLES.get(row.status, ""))
    text.append(filled(_label(line), names, marks) + " ")
    for code, cells in groupby(codes):
        style = "cyan" if code == "#" and row.status == "running" else BAR_STYLES.get(code, "")
        text.append(marks.bars.get(code, " ") * len(list(cells)), style)
    text.append(f" {format_ms(row.duration_ms) if row.spans and row.status else '':>{_TOOK_CELLS}}")
    if note:
        text.append(f"  {note}", "dim")
    return text


def _note(line: Line, marks: Glyphs) -> str:
    row = line.row
    parts = [_child(row.child, marks) if row.child is not None else "", safe(row.remark)]
    return _short_ids(" ".join(filter(None, parts)), marks)


def _short_ids(text: str, marks: Glyphs) -> str:
    return _RUN_ID.sub(lambda match: short_id(match[0], marks), text)


def _child(child: Child, marks: Glyphs) -> str:
    """`run_…ee9chr resizeAvatar completed`: where there is little room, the id is what is left."""
    return safe(" ".join(filter(None, (short_id(child.id, marks), child.job, child.status))))


def _tries(line: Line, frame: Frame) -> Iterator[Text]:
    marks, all_tries = frame.marks, line.row.tries
    for failed in line.tries:
        index = failed.number - 1
        last = failed is all_tries[-1]
        place = where(failed.traceback)
        repeated = not last and where(all_tries[index + 1].traceback) == place
        text = Text(f"  {marks.last_branch if last else marks.branch} ", "dim")
        error = safe(f"{failed.number} {error_text(failed.type, failed.message)}")
        tail = Text(_fate(failed), "red")
        if place and not repeated:
            tail.append(f"   {safe(place)}", "dim")
        # The message gives way: how long it took, what came next and where say more.
        text.append_text(cut_line(Text(error, "red"), _left(frame.width - 4, tail), marks))
        yield text.append_text(tail)


def _left(width: int, tail: Text) -> int:
    return max(10, width - tail.cell_len)


def _fate(failed: Try) -> str:
    after = "" if failed.retry_ms is None else f", retried after {format_ms(failed.retry_ms)}"
    return f" ({format_ms(failed.took_ms)}){after}"


def _below(shown: Shown, line: Timeline, clock: Clock, frame: Frame) -> dict[str, list[Text]]:
    """What stands below rows, by their keys: of a step that fails, where, unless the run's error
    says it, and the last lines that the step printed; of a child, why it is not progressing."""
    told = line.finished and shown.run.get("error")
    found: dict[str, list[Text]] = {}
    for row in line.rows:
        below: list[Text] = []
        if row.tries and row.status in ("failed", "retrying"):
            if not told:
                below += _traceback(row.tries[-1].traceback, 4, shown.root, frame, brief=True)
            below += _log_lines(shown.tails.get(row.key, ()), clock, 4)
        if row.child is not None and row.child.why:
            why = safe(clock.localized(row.child.why))
            below.append(Text(f"    {_short_ids(why, frame.marks)}", "dim"))
        if below:
            found[row.key] = below
    return found


# --- The end -------------------------------------------------------------------------------


def _ending(shown: Shown, line: Timeline, clock: Clock, frame: Frame) -> Iterator[Text]:
    """The result or the error; then why the run is not progressing, or was cancelled."""
    run = shown.run
    if run.get("status") == "completed" and not run.get("continued_as"):
        result = as_json(run.get("result"))[:_RESULT_CHARACTERS]
        yield Text("  result ", "dim").append(result, "default")
    elif (error := run.get("error")) and run.get("status") == "failed":
        yield from _error(error, shown.root, frame)
    if reason := why(run, line.finished):
        shown_reason = safe(clock.localized(reason))
        yield Text("  " + _short_ids(shown_reason, frame.marks), "default")


def _error(error: dict[str, Any], root: str, frame: Frame) -> Iterator[Text]:
    words = safe(error_text(error["type"], error["message"]))
    yield from _split(Text("  error ", "dim").append(words, "red"), frame)
    yield from _traceback(str(error.get("traceback") or ""), 4, root, frame)


def _split(text: Text, frame: Frame) -> list[Text]:
    """`text` in as many lines as an error may have; the last of them may be too long."""
    lines: list[Text] = []
    while text.cell_len > frame.width and len(lines) < _ERROR_LINES - 1:
        line = text.copy()
        line.truncate(frame.width, overflow="crop")
        # At a blank, unless that would leave half of the line empty.
        at = line.plain.rfind(" ")
        at = at if at > frame.width // 2 else len(line)
        lines.append(text[:at])
        text = Text(" " * 8).append_text(text[at + text.plain[at:].startswith(" ") :])
    return [*lines, text]


def _traceback(
    traceback: str, indent: int, root: str, frame: Frame, brief: bool = False
) -> Iterator[Text]:
    lines = traceback.splitlines() if frame.verbose else summary(traceback, root, brief)
    overflow: Literal["ignore"] | None = "ignore" if frame.verbose else None
    for each in lines:
        text = Text(" " * indent, no_wrap=frame.verbose, overflow=overflow)
        yield text.append(safe_lines(each), "dim")


def _log_lines(entries: Any, clock: Clock, indent: int = 2) -> Iterator[Text]:
    for entry in entries:
        origin = log_lines.origin(entry, with_step=indent == 2)
        for message in safe_lines(str(entry["message"])).split("\n"):
            text = Text(f"{' ' * indent}{clock.precise(str(entry['at']))} {origin}| ", "dim")
            yield text.append(message, "default")


def _clamp(value: int, low: int, high: int) -> int:
    return max(low, min(value, high))
