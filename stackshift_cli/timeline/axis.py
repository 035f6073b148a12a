"""The time axis of a timeline: from moments to character cells, with long idle gaps compressed.

Pure. A gap in which nothing executes is compressed if it is longer than 5 seconds and than twice
the time of all work; it then takes a fixed number of cells, and the axis says how long it was. Each
cell has a code of one character, which `render` turns into a glyph:

    WORK `#`   FAILED `x`   BACKOFF `.`   WAIT `-`   HOLD `=`   CHANGE `|`   compressed `~`
    nothing ` `
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from stackshift_cli.timeline.intervals import Interval, Kind, covered_us
from stackshift_jobs.values.durations import format_ms, short_ms

_DRAWN: Final = (Kind.HOLD, Kind.WAIT, Kind.BACKOFF, Kind.FAILED, Kind.WORK, Kind.CHANGE)
"""In the order in which they are drawn: later ones cover earlier ones."""
CODES: Final = dict(zip(_DRAWN, "=-.x#|", strict=True))
GAP: Final = "~"
_LONG_US: Final = 5_000_000
_TICK_CELLS: Final = 9
"""Ticks are at least this far apart, so that their labels do not touch."""
_STEPS: Final = (
    (1, (1, 2, 5, 10, 20, 50, 100, 200, 500)),  # milliseconds
    (1000, (1, 2, 5, 10, 15, 30)),  # seconds
    (60_000, (1, 2, 5, 10, 15, 30)),  # minutes
    (3_600_000, (1, 2, 4, 12)),  # hours
    (86_400_000, (1, 2, 7, 30, 365)),  # days
)
"""The distances that ticks may have: the length of a unit, and how many of it."""
_STEPS_MS: Final = tuple(unit_ms * count for unit_ms, counts in _STEPS for count in counts)


@dataclass(frozen=True)
class Piece:
    """A piece of the axis: a stretch of time and its cells. A `compressed` one is not to scale."""

    start_us: int
    end_us: int
    start_cell: float
    end_cell: float
    compressed: bool

    def cell(self, at_us: int) -> float:
        """The position of the moment `at_us`, which is on this piece, in cells."""
        length = self.end_us - self.start_us
        part = (at_us - self.start_us) / length if length else 0.0
        return self.start_cell + part * (self.end_cell - self.start_cell)


@dataclass(frozen=True)
class Axis:
    """The whole line, `width` cells wide."""

    width: int
    pieces: list[Piece]

    def cell(self, at_us: int) -> float:
        """The position of the moment `at_us`, between 0 and `width` cells."""
        for piece in self.pieces:
            if at_us <= piece.end_us:
                return max(0.0, piece.cell(at_us))
        return float(self.width)


def lay_out(spans: Iterable[Interval], start_us: int, end_us: int, width: int) -> Axis:
    """The axis for `spans` between `start_us` and `end_us`, `width` cells wide."""
    end_us = max(end_us, start_us + 1)
    gaps = _long_gaps(covered_us(spans, (Kind.WORK, Kind.FAILED)), start_us, end_us, width)
    cells = sum(_gap_cells(gap) for gap in gaps)
    to_scale = end_us - start_us - sum(b - a for a, b in gaps)
    scale = (width - cells) / to_scale if to_scale > 0 else 0.0
    pieces: list[Piece] = []
    at_us, at_cell = start_us, 0.0
    for gap in [*gaps, (end_us, end_us)]:
        if gap[0] > at_us:
            next_cell = at_cell + (gap[0] - at_us) * scale
            pieces.append(Piece(at_us, gap[0], at_cell, next_cell, False))
            at_cell = next_cell
        if gap[1] > gap[0]:
            pieces.append(Piece(*gap, at_cell, at_cell + _gap_cells(gap), True))
            at_cell += _gap_cells(gap)
        at_us = gap[1]
    return Axis(width, pieces)


def _long_gaps(
    busy: list[tuple[int, int]], start_us: int, end_us: int, width: int
) -> list[tuple[int, int]]:
    """The idle gaps to compress, in order; the longest ones if there is no room for all."""
    idle = zip([start_us, *(b for _, b in busy)], [*(a for a, _ in busy), end_us], strict=True)
    least = max(_LONG_US, 2 * sum(b - a for a, b in busy))
    chosen: list[tuple[int, int]] = []
    room = width * 2 // 3 if busy else 0
    for gap in sorted((g for g in idle if g[1] - g[0] > least), key=lambda g: g[0] - g[1]):
        room -= _gap_cells(gap)
        if room < 0:
            break
        chosen.append(gap)
    return sorted(chosen)


def _gap_cells(gap: tuple[int, int]) -> int:
    return len(_gap_label(gap)) + 2


def _gap_label(gap: tuple[int, int]) -> str:
    return f"{GAP} {short(gap[1] - gap[0])} {GAP}"


def short(us: int) -> str:
    """A duration without the parts that are zero: `2h`, `5s`, `1m30s`."""
    return short_ms(us // 1000)


@dataclass(frozen=True)
class Bar:
    """Where a span is on the axis, in cells and parts of cells."""

    span: Interval
    start_cell: float
    end_cell: float


def bars(spans: Iterable[Interval], axis: Axis) -> list[Bar]:
    """Where `spans` are, in the order in which they are drawn: work covers waits."""
    ordered = sorted(spans, key=lambda span: _DRAWN.index(span.kind))
    return [Bar(span, axis.cell(span.start_us), axis.cell(span.end_us)) for span in ordered]


def strip(spans: Iterable[Interval], axis: Axis) -> str:
    """The bar of `spans`: one code per cell. Each span has at least one cell; work covers waits."""
    cells = [" "] * axis.width
    for bar in bars(spans, axis):
        first = min(int(bar.start_cell + 1e-6), axis.width - 1)
        last = min(max(first + 1, round(bar.end_cell)), axis.width)
        cells[first:last] = CODES[bar.span.kind] * (last - first)
        if bar.span.kind in (Kind.HOLD, Kind.WAIT, Kind.BACKOFF):
            _mark_gaps(cells, bar.span, axis)
    return "".join(cells)


def _mark_gaps(cells: list[str], span: Interval, axis: Axis) -> None:
    """Put two marks in the middle of each compressed piece that `span` covers most of."""
    for piece in axis.pieces:
        shared = min(span.end_us, piece.end_us) - max(span.start_us, piece.start_us)
        if piece.compressed and 2 * shared > piece.end_us - piece.start_us:
            middle = int((piece.start_cell + piece.end_cell) / 2)
            cells[middle - 1 : middle + 1] = [GAP, GAP]


def ticks(axis: Axis) -> str:
    """The line above the bars: `0s       5s       10s  ~ 2h ~  +2s`."""
    line = [" "] * axis.width
    for at, label in labels(axis):
        line[at : at + len(label)] = label
    return "".join(line)


def labels(axis: Axis, density: float = 1) -> list[tuple[int, str]]:
    """The labels of the axis: the cell that each begins at, and its text, of which a cell holds
    `density` characters. They do not touch. The last one is the end, if the axis is to scale up to
    there and there is room."""
    taken: list[tuple[float, float]] = []
    found: list[tuple[int, str]] = []
    for at, label in _wished(axis, density):
        end, blank = at + len(label) / density, 1 / density
        if end <= axis.width and all(end + blank <= a or b + blank <= at for a, b in taken):
            taken.append((at, end))
            found.append((at, label))
    return found


def _wished(axis: Axis, density: float) -> Iterator[tuple[int, str]]:
    """The labels in the order of their importance."""
    for index, piece in enumerate(axis.pieces):
        if piece.compressed:
            yield int(piece.start_cell) + 1, _gap_label((piece.start_us, piece.end_us))
        elif index:
            yield int(piece.start_cell), "+" + short(piece.end_us - piece.start_us)
    if axis.pieces and not axis.pieces[0].compressed:
        first = axis.pieces[0]
        if len(axis.pieces) == 1:
            yield 0, "0s"
            end = format_ms((first.end_us - first.start_us) // 1000)
            yield int(axis.width - len(end) / density), end
        yield from _scale(first, density)


def _scale(piece: Piece, density: float) -> Iterator[tuple[int, str]]:
    cells = piece.end_cell - piece.start_cell
    length_ms = max(1, (piece.end_us - piece.start_us) // 1000)
    fitting = [step for step in _STEPS_MS if step * cells / length_ms >= _TICK_CELLS / density]
    step_ms = fitting[0] if fitting else _STEPS_MS[-1]
    for at_ms in range(0, length_ms + 1, step_ms):
        label = short(at_ms * 1000) if at_ms else "0s"
        at = int(piece.start_cell + at_ms * cells / length_ms)
        if at + len(label) / density <= piece.end_cell:
            yield at, label
