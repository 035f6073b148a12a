"""Fewer lines for a timeline: maps, and stretches of rows that say the least, become one line each.

    ✓ resize    ████████████        45.2s  50/50, p50 900ms, max 2.1s
    ✓ 34 done   ███                  3.1s  p50 80ms

Pure. Laws: every row is drawn in one line, or counted in one that stands for many; what fails or is
under way goes last; the order stays. `fit` returns at most `room` lines, where that is 3 or more.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from stackshift_cli.timeline.branches import Line, summary
from stackshift_cli.timeline.model import QUEUED, Row
from stackshift_jobs.values.durations import format_ms

MANY: Final = 12
"""A map of more items than this is one line, even where there is room."""
FEW: Final = 2
"""And of more than this, where there is none."""
_TRIES: Final = 2
"""So many failed tries of what is not done are shown where there is no room for all."""
_RANKS: Final = {"running": 0, "retrying": 0, "failed": 0, "waiting": 1, "queued": 1, "": 2}
"""What is kept first, by status; 3 is what is done."""
_Map = tuple[int, str]
"""Which map an item belongs to: the line that it is below, and the name."""
_ITEM: Final = re.compile(r"(.+)\[\d+\]")


def height(line: Line) -> int:
    """How many lines of a picture `line` takes."""
    return 1 + len(line.tries)


def fit(drawn: list[Line], room: int | None, compact: bool = False) -> list[Line]:
    """`drawn` in at most `room` lines of a picture (None: in any number). `compact`: no failed
    tries, and a line for each map."""
    if compact:
        drawn = [replace(line, most_tries=0) for line in drawn]
    fitted = maps_folded(drawn, FEW if compact else MANY)
    if room is None or _heights(fitted) <= room:
        return fitted
    fitted = [_shortened(line) for line in maps_folded(drawn, FEW)]
    if _heights(fitted) <= room:
        return fitted
    fitted = _stretches_folded(fitted, room)
    if _heights(fitted) > room:
        fitted = _stretches_folded([replace(line, most_tries=0) for line in fitted], room)
    return fitted


def _heights(drawn: list[Line]) -> int:
    return sum(map(height, drawn))


def _shortened(line: Line) -> Line:
    return replace(line, most_tries=min(line.most_tries, 0 if _rank(line) == 3 else _TRIES))


# --- Maps ----------------------------------------------------------------------------------


def maps_folded(drawn: list[Line], most: int = MANY) -> list[Line]:
    """`drawn`, where the items of each map of more than `most` items are one line, followed by
    those items that fail or are under way."""
    maps: dict[_Map, list[Line]] = {}
    named = list(_maps(drawn))
    for line, name in zip(drawn, named, strict=True):
        if name is not None:
            maps.setdefault(name, []).append(line)
    found: list[Line] = []
    for line, name in zip(drawn, named, strict=True):
        items = maps[name] if name is not None else []
        if name is None or len(items) <= most:
            found.append(line)
        elif line is items[0]:
            urgent = [item for item in items if _rank(item) == 0]
            found += [_of_map(name[1], items), *(urgent if len(urgent) <= most else ())]
    return found


def _maps(drawn: list[Line]) -> Iterator[_Map | None]:
    """For each line, the map that it is an item of."""
    above: list[tuple[int, int]] = []  # depth and number of the lines that this one is below
    for number, line in enumerate(drawn):
        while above and above[-1][0] >= line.depth:
            above.pop()
        match = _ITEM.fullmatch(line.label) if len(line.rows) == 1 else None
        yield (above[-1][1] if above else -1, match[1]) if match is not None else None
        above.append((line.depth, number))


def _of_map(name: str, items: list[Line]) -> Line:
    rows = [item.row for item in items]
    done = [row for row in rows if row.status == "completed"]
    counts = Counter(row.status for row in rows if row.status != "completed")
    others = [f"{count} {status}" for status, count in counts.most_common()]
    note = ", ".join([f"{len(done)}/{len(rows)}", *others, *_spread(done)])
    return Line(summary(name, rows, note), name, items[0].depth, tuple(rows))


def _spread(rows: list[Row]) -> list[str]:
    """Half of `rows` took no longer than the first of these times, and none longer than the
    second."""
    took = sorted(row.duration_ms for row in rows if row.spans)
    if len(took) < 2:
        return []
    return [f"p50 {format_ms(took[(len(took) - 1) // 2])}", f"max {format_ms(took[-1])}"]


# --- Stretches -----------------------------------------------------------------------------


def _rank(line: Line) -> int:
    return _RANKS.get(line.row.status, 3)


def _stretches_folded(drawn: list[Line], room: int) -> list[Line]:
    """The most important of `drawn`, the newest first, and a line for each stretch of others."""
    order = sorted(
        range(len(drawn)), key=lambda i: (_rank(drawn[i]), drawn[i].row.key == QUEUED, -i)
    )
    kept = [False] * len(drawn)
    used = 1  # for one line that stands for all
    # A line that splits a stretch costs one more than its height, and one that ends it one less:
    # so a second look may find room for what the first one passed over.
    for _ in range(2):
        for index in order:
            if not kept[index]:
                beside = (index == 0 or kept[index - 1], index + 1 == len(drawn) or kept[index + 1])
                cost = height(drawn[index]) + 1 - sum(beside)
                if used + cost <= room:
                    kept[index] = True
                    used += cost
    return list(_with_stretches(drawn, kept))


def _with_stretches(drawn: list[Line], kept: list[bool]) -> Iterator[Line]:
    stretch: list[Line] = []
    for line, is_kept in zip(drawn, kept, strict=True):
        if not is_kept:
            stretch.append(line)
            continue
        if stretch:
            yield _of_stretch(stretch)
            stretch = []
        yield line
    if stretch:
        yield _of_stretch(stretch)


def _of_stretch(stretch: list[Line]) -> Line:
    rows = [row for line in stretch for row in line.rows] or [line.row for line in stretch]
    counts = Counter(row.status for row in rows if row.status)
    label = f"{len(rows)} done" if set(counts) == {"completed"} else f"{len(rows)} more"
    by_status = [f"{n} {status}" for status, n in counts.most_common()] if len(counts) > 1 else []
    note = ", ".join([*by_status, *_spread([row for row in rows if row.status == "completed"])])
    depth = min(line.depth for line in stretch)
    return Line(summary(label, rows, note), label, depth, tuple(rows))
