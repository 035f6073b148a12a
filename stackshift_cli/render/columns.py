"""Lists on a terminal: columns as wide as their cells, and which give way when there is no room.

A cut cell ends in the ellipsis of the locale's glyphs. Rich's own cutting is not used: it knows one
ellipsis, which not every locale can show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from stackshift_cli.arguments import Globals
from stackshift_cli.output.clock import Clock
from stackshift_cli.output.safe_text import safe
from stackshift_cli.render.console import Glyphs, console, glyphs
from stackshift_jobs.values.durations import format_ms

Row = dict[str, Any]
Cell = Callable[[Row], str | Text]
Cells = Mapping[str, Cell]
"""The columns of a list from left to right: by header, what makes a row's cell."""

_GAP: Final = 2
"""Cells between two columns."""


@dataclass(frozen=True)
class Column:
    """A header, and one cell for each row."""

    header: str
    cells: list[Text]

    @property
    def width(self) -> int:
        """The width of the widest cell or the header, in terminal cells."""
        return max(map(cell_len, (self.header, *(cell.plain for cell in self.cells))))


def column(header: str, cells: Iterable[str | Text]) -> Column:
    """A column, its header in capitals."""
    return Column(header.upper(), [c if isinstance(c, Text) else Text(c) for c in cells])


def columns_of(rows: Sequence[Row], cells: Cells) -> list[Column]:
    """The columns that `cells` make of `rows`."""
    return [column(header, map(cell, rows)) for header, cell in cells.items()]


def excess(columns: Iterable[Column], room: int) -> int:
    """How many cells `columns` are wider than `room`; negative if there is room left."""
    widths = [column.width for column in columns]
    return sum(widths) + _GAP * (len(widths) - 1) - room


def narrowed(whole: Column, width: int, marks: Glyphs) -> Column:
    """The column, cut to `width` cells where it is wider."""
    cells = [cut_line(cell, width, marks) for cell in whole.cells]
    return Column(cut_line(Text(whole.header), width, marks).plain, cells)


Give = tuple[str, int]
"""How a list gives way where there is no room: the column with this header is cut to no less than
so many cells, or dropped if that is 0."""


def fitted(
    columns: Sequence[Column], gives: Iterable[Give], room: int, marks: Glyphs
) -> list[Column]:
    """`columns` in `room` cells: those in `gives` give way in their order until all fit. No column
    is cut below its header. What is left over in the end goes to the columns that were cut, the
    first to give way first."""
    kept, cut = list(columns), dict[str, Column]()
    for header, least in gives:
        over = excess(kept, room)
        if over <= 0:
            break
        for index, shown in enumerate(kept):
            if shown.header != header:
                continue
            if not least:
                del kept[index]
                break
            width = max(min(least, shown.width), cell_len(header), shown.width - over)
            if width < shown.width:
                cut.setdefault(header, shown)
                kept[index] = narrowed(shown, width, marks)
    for header, whole in cut.items():
        for index, shown in enumerate(kept):
            if shown.header == header and (spare := -excess(kept, room)) > 0:
                kept[index] = narrowed(whole, min(whole.width, shown.width + spare), marks)
    return kept


def print_table(
    options: Globals, rows: Sequence[Row], cells: Cells, gives: Iterable[Give] = ()
) -> None:
    """Print `rows` as the columns that `cells` make of them, which give way as `gives` says where
    the terminal is too narrow."""
    marks, screen = glyphs(), console(options)
    print_columns(screen, fitted(columns_of(rows, cells), gives, screen.width, marks), marks)


def print_columns(screen: Console, columns: Sequence[Column], marks: Glyphs) -> None:
    """Print a header and the rows; a line that is still too long is cut."""
    for line in column_lines(columns, screen.width, marks):
        screen.print(line)


def column_lines(columns: Sequence[Column], width: int, marks: Glyphs) -> list[Text]:
    """A header and the rows as lines of at most `width` cells."""
    rows = zip(*(column.cells for column in columns), strict=True)
    widths = [column.width for column in columns]
    lines = []
    for cells in ([Text(column.header, "dim") for column in columns], *rows):
        line = Text()
        for cell, wide in zip(cells, widths, strict=True):
            line.append_text(cell)
            line.append(" " * (wide - cell.cell_len + _GAP))
        line.rstrip()
        lines.append(cut_line(line, width, marks))
    return lines


def cut_line(text: Text, cells: int, marks: Glyphs) -> Text:
    """`text`, which is one line, in at most `cells` cells; it is not wrapped when printed."""
    line = text.copy()
    if line.cell_len > cells:
        mark = marks.ellipsis[:cells]
        line.truncate(cells - cell_len(mark), overflow="crop")
        line.append(mark)
    line.no_wrap, line.overflow = True, "crop"
    return line


def filled(text: str, cells: int, marks: Glyphs) -> str:
    """`text` in exactly `cells` cells."""
    return set_cell_size(cut_line(Text(text), cells, marks).plain, cells)


# --- Cells ---------------------------------------------------------------------------------


def field(name: str) -> Cell:
    """Shows the field `name` as text; null is empty."""
    return lambda row: "" if row[name] is None else safe(str(row[name]))


def moment(name: str, clock: Clock) -> Cell:
    """Shows the time in the field `name` by the local clock."""
    return lambda row: clock.moment(row[name]) if row[name] else ""


def away(name: str, clock: Clock) -> Cell:
    """Shows how far away the time in the field `name` is: `in 12h`."""
    return lambda row: clock.away(row[name]) if row[name] else ""


def both(name: str, clock: Clock) -> Cell:
    """Shows the time in the field `name` by the local clock, and how far away it is."""
    return lambda row: clock.both(row[name]) if row[name] else ""


def duration(name: str) -> Cell:
    """Shows the milliseconds in the field `name`: `1m30s`."""
    return lambda row: "" if row[name] is None else format_ms(row[name])
