"""Records as lines on a terminal: when, whose, which step, what happened, and how long it took.

    Sun 29 Nov 2026, CET
    09:00:03  ✓ resizeAvatar  7k2m9q  download  completed                      2.1s
    09:00:05  ↻ resizeAvatar  7k2m9q  upload    TimeoutError: PUT timed out…   2.0s

Columns grow with the names they have shown, up to a share of the screen. A line is never wrapped:
what happened is cut, and how long it took stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from rich.cells import cell_len
from rich.text import Text

from stackshift_cli.arguments import Globals
from stackshift_cli.output.clock import Clock
from stackshift_cli.output.safe_text import safe
from stackshift_cli.render.columns import cut_line, filled
from stackshift_cli.render.console import STATUS_STYLES, console, glyphs
from stackshift_cli.timeline.describe import brief, call
from stackshift_cli.timeline.happenings import Facts, Happenings, names_its_step
from stackshift_jobs.values.durations import format_ms

_SHARE: Final = 0.2
"""The most of the screen's width that the job has, and the step."""
_WIDE: Final = 100
"""On a screen of fewer cells, what happened follows the step at once, without a column."""
_NARROW: Final = 40
"""On a screen of fewer cells, there is no room for how long something took."""
_RUN_CELLS: Final = 6
_TOOK_CELLS: Final = 8


class Stream:
    """Prints records. `look_up` finds the facts of a run that began before the stream."""

    def __init__(self, options: Globals, look_up: Callable[[str], Facts | None]) -> None:
        self._screen = console(options)
        self._marks = glyphs()
        self._happenings = Happenings(look_up)
        self._day = ""
        self._widths = {"job": 0, "run": 0, "step": 0}

    def print(self, record: Mapping[str, Any]) -> None:
        """Print one record; before the first of a day, the date and the zone."""
        clock = Clock.now()
        day = clock.date_of(record["at"])
        if day != self._day:
            self._day = day
            self._screen.print(Text(f"{day}, {clock.zone}", "dim"))
        self._screen.print(self.line(record, clock, self._screen.width))

    def line(self, record: Mapping[str, Any], clock: Clock, width: int) -> Text:
        """The line of a record in at most `width` cells."""
        facts = self._happenings.facts(record)
        what = self._happenings.happening(record, clock)
        style = STATUS_STYLES.get(what.mark, "")
        job = safe(facts.job) if facts is not None else ""
        step = "" if names_its_step(record, what) else safe(call(str(record.get("step") or "")))
        text = Text(f"{clock.time_of(record['at'])}  ", "dim")
        text.append(f"{self._marks.statuses.get(what.mark, ' ')} ", style)
        text.append(self._cell("job", job, int(width * _SHARE)), "default")
        text.append(self._cell("run", brief(str(record.get("run") or "")), _RUN_CELLS), "dim")
        if step and width < _WIDE:
            text.append(f"{step}  ", "bold")
        elif width >= _WIDE:
            text.append(self._cell("step", step, int(width * _SHARE)), "bold")
        text.append(safe(what.words), style if what.mark != "queued" else "default")
        if what.took_ms is None or width < _NARROW:
            return cut_line(text, width, self._marks)
        room = width - _TOOK_CELLS
        line = cut_line(text, room, self._marks)
        line.append(" " * (room - line.cell_len) + f"{format_ms(what.took_ms):>{_TOOK_CELLS}}")
        return line

    def _cell(self, name: str, text: str, most: int) -> str:
        """`text` as wide as the column `name` has become, with the gap after it."""
        width = self._widths[name] = max(self._widths[name], min(most, cell_len(text)))
        return f"{filled(text, min(width, most), self._marks)}  " if width else ""
