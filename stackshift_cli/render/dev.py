"""What `dev` prints: reloads, modules that cannot be imported, runs as they end; and the runs that
are under way, below all that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.text import Text

from stackshift_cli.daemon.run_detail import Shown
from stackshift_cli.output import in_flight, reloads
from stackshift_cli.output.clock import Clock
from stackshift_cli.output.messages import failed_module
from stackshift_cli.output.run_name import run_name
from stackshift_cli.output.safe_text import safe
from stackshift_cli.render.columns import cut_line
from stackshift_cli.render.console import STATUS_STYLES, Glyphs, short_id
from stackshift_cli.render.lists import why_cell
from stackshift_cli.render.picture import Frame, picture
from stackshift_cli.top.model import Mode, Model, question
from stackshift_jobs.values.durations import format_ms
from stackshift_jobs.values.limits import FINISHED
from stackshift_jobs.values.quantities import quantity

_KEYS: Final = "up/down select  c cancel  r retry  q quit"
_AROUND: Final = 2
"""Lines of code before and after the one that is wrong."""
_MOST_FILE_BYTES: Final = 1 << 20
_LEAST_LINES: Final = 6
"""A picture is asked for in no fewer lines: it would say nothing."""
_MOST_LINES: Final = 24
"""The picture of a run that has ended may be so high, where the terminal has room."""


def heading(status: Mapping[str, Any], jobs: int, frame: Frame) -> list[Text]:
    """The first lines: what is served."""
    text = Text("stackshift dev", "bold")
    what = f"{quantity(jobs, 'job')}; changes are loaded  {safe(str(status['project']))}"
    text.append(f"  {what}", "not bold dim")
    return [cut_line(text, frame.width, frame.marks), Text()]


def reloaded(outcome: Mapping[str, Any], root: Path, marks: Glyphs) -> Iterator[Text]:
    """What a reload has done: an answer of `daemon.reload`, or `{error}`."""
    if error := outcome.get("error"):
        yield Text(f"{marks.statuses['failed']} not reloaded: {safe(error['message'])}", "red")
        yield Text()
        return
    for module in outcome["failed_modules"]:
        yield from broken(module, root, marks)
    if not outcome["loaded"]:
        yield Text("the code from before goes on", "yellow")
        yield Text()
        return
    text = Text(f"{marks.statuses['retrying']} {reloads.files(outcome)}", "magenta")
    for what, jobs in outcome["jobs"].items():
        if jobs:
            text.append(f"  {what} {safe(', '.join(jobs))}", "default")
    yield text
    report = outcome["in_flight"]
    if report is not None and (report["findings"] or report["unchecked"]):
        yield from (Text(f"  {line}", "yellow") for line in in_flight.lines(report))
    yield Text()


def broken(module: Mapping[str, Any], root: Path, marks: Glyphs) -> Iterator[Text]:
    """A module that cannot be imported, and the lines of it around the error."""
    number, file = int(module.get("line") or 0), Path(str(module.get("file") or ""))
    shown = {**module, "file": str(file.relative_to(root))} if file.is_relative_to(root) else module
    yield Text(f"{marks.statuses['failed']} {safe(failed_module(dict(shown)))}", "red")
    for at, line in _source(root / file, number):
        style = "default" if at == number else "dim"
        yield Text(f"  {'>' if at == number else ' '} {at:>4} {marks.bars['|']} ", "dim").append(
            safe(line.expandtabs(4)), style
        )
    yield Text()


def _source(file: Path, number: int) -> list[tuple[int, str]]:
    """The lines around `number`, with their numbers; none if they cannot be read."""
    try:
        if not number or file.stat().st_size > _MOST_FILE_BYTES:
            return []
        lines = file.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
    first = max(1, number - _AROUND)
    return list(enumerate(lines[first - 1 : number + _AROUND], first))


def ended(shown: Shown, now_us: int, frame: Frame) -> list[Text]:
    """The picture of a run that has ended."""
    height = None if frame.height is None else min(frame.height, _MOST_LINES)
    whole = Frame(frame.width, height, frame.marks, verbose=frame.verbose)
    return [*_lines(shown, now_us, whole), Text()]


def in_a_line(run: Mapping[str, Any], clock: Clock, marks: Glyphs) -> Text:
    """A run in a line: how it has ended, or why it is not progressing."""
    status = str(run["status"])
    text = Text(f"{marks.statuses[status]} ", STATUS_STYLES[status])
    text.append(f"{short_id(run['id'], marks)}  ").append(safe(run_name(run)), "bold")
    took = f" in {format_ms(run.get('duration_ms') or 0)}" if status in FINISHED else ""
    text.append(f"  {status}{took}", STATUS_STYLES[status])
    return text.append(f"  {why_cell(dict(run), clock)}".rstrip(), "not dim")


def skipped(ended: Sequence[tuple[str, str]]) -> Iterator[Text]:
    """The end of a list of runs: these have ended too, each with a last record of this kind."""
    failed = sum(kind == "run.failed" for _, kind in ended)
    if ended:
        aside = f", {failed} of them failed" if failed else ""
        yield Text(f"{len(ended)} more runs have ended{aside}: stackshift runs list", "dim")
    yield Text()


def under_way(model: Model, pictures: Sequence[Shown], now_us: int, frame: Frame) -> Iterator[Text]:
    """The runs of the model in at most `frame.height` lines: those that have a picture, as far as
    there is room for it, and one line for each of the others; then the keys."""
    assert frame.height is not None
    clock = Clock(now_us)
    drawn = {shown.run["id"]: shown for shown in pictures}
    room = frame.height - 1 - len(model.runs)
    for run in model.runs:
        line = in_a_line(run, clock, frame.marks)
        lines = [cut_line(line, frame.width - 2, frame.marks)]
        if (shown := drawn.pop(run["id"], None)) is not None:
            height = max(_LEAST_LINES, 1 + room // (len(drawn) + 1))
            taller = _lines(shown, now_us, Frame(frame.width - 2, height, frame.marks))
            if len(taller) - 1 <= room:
                lines = taller
                room -= len(taller) - 1
        yield from _marked(lines, run["id"] == model.selected, frame.marks)
    yield cut_line(_footer(model), frame.width, frame.marks)


def _marked(lines: Sequence[Text], is_selected: bool, marks: Glyphs) -> Iterator[Text]:
    """`lines`, indented, with a mark before the first if a key would be about this run."""
    for n, line in enumerate(lines):
        mark = Text(f"{marks.select} ", "bold") if is_selected and n == 0 else Text("  ")
        yield mark.append_text(line)


def _lines(shown: Shown, now_us: int, frame: Frame) -> list[Text]:
    drawn = picture(shown, now_us, frame)
    return [line for line in drawn.renderables if isinstance(line, Text)]


def _footer(model: Model) -> Text:
    if model.mode is Mode.CONFIRM:
        return Text(question(model), "bold")
    counts = model.activity.get("counts", {})
    going = "  ".join(f"{count} {status}" for status, count in counts.items() if count)
    text = Text(going or "no run is under way", "bold")
    if model.message:
        text.append(f"   {safe(model.message)}", "not bold")
    return text.append(f"   {_KEYS if model.runs else 'q quit'}", "dim not bold")
