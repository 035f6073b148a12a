"""Columns of a list on a terminal: as wide as what is in them, and what gives way in a narrow one.

What is cut ends in the ellipsis of the locale's glyphs. Rich's own cutting is not used: it knows
one ellipsis, which is not in every locale.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from stackshift_cli.render.console import Glyphs

_GAP: Final = 2


@dataclass(frozen=True)
class Column:
    """A header and a cell a row."""

    header: str
    cells: list[Text]

    @property
    def width(self) -> int:
        """The cells that it takes."""
        return max(map(cell_len, (self.header, *(cell.plain for cell in self.cells))))


def column(header: str, cells: Iterable[str | Text]) -> Column:
    """A column; its header in capitals."""
    made = [cell if isinstance(cell, Text) else Text(cell) for cell in cells]
    return Column(header.upper(), made)


def excess(columns: Iterable[Column], room: int) -> int:
    """By how many cells `columns` are wider than `room`; negative where some are left."""
    widths = [each.width for each in columns]
    return sum(widths) + _GAP * (len(widths) - 1) - room


def narrowed(each: Column, width: int, marks: Glyphs) -> Column:
    """The column, cut to `width` cells where it is wider."""
    cells = [cut_line(cell, width, marks) for cell in each.cells]
    return Column(cut_line(Text(each.header), width, marks).plain, cells)


def squeezed(
    columns: Sequence[Column], headers: Iterable[str], least: int, room: int, marks: Glyphs
) -> list[Column]:
    """`columns` with those called `headers` cut, in this order and to no less than `least` cells
    each, until all fit into `room`."""
    made = list(columns)
    for header in headers:
        for index, each in enumerate(made):
            over = excess(made, room)
            if each.header == header.upper() and over > 0:
                made[index] = narrowed(each, max(min(least, each.width), each.width - over), marks)
    return made


def print_columns(screen: Console, columns: Sequence[Column], marks: Glyphs) -> None:
    """Print a header and the rows; a line that is too long all the same is cut."""
    rows = zip(*(each.cells for each in columns), strict=True)
    widths = [each.width for each in columns]
    for cells in ([Text(each.header, "dim") for each in columns], *rows):
        line = Text()
        for cell, width in zip(cells, widths, strict=True):
            line.append_text(cell)
            line.append(" " * (width - cell.cell_len + _GAP))
        line.rstrip()
        screen.print(cut_line(line, screen.width, marks))


def cut_line(text: Text, cells: int, marks: Glyphs) -> Text:
    """`text`, which is one line, in at most `cells` cells; never wrapped when it is printed."""
    made = text.copy()
    if made.cell_len > cells:
        mark = marks.ellipsis[:cells]
        made.truncate(cells - cell_len(mark), overflow="crop")
        made.append(mark)
    made.no_wrap, made.overflow = True, "crop"
    return made


def filled(text: str, cells: int, marks: Glyphs) -> str:
    """`text` in exactly `cells` cells."""
    return set_cell_size(cut_line(Text(text), cells, marks).plain, cells)
