"""The comparison as a table and as a drawing."""

from __future__ import annotations

import html
import statistics
from collections.abc import Mapping, Sequence

Measures = dict[str, float]

COLUMNS = {
    "steps": "steps/s, 64 in flight",
    "step": "one step, ms",
    "result": "start to result, ms",
    "result99": "99 of 100, ms",
    "jobs": "empty runs/s, 64 in flight",
    "memory": "memory, MB",
}
TITLES = {
    "steps": "Durable steps a second, 64 runs in flight: more is better",
    "step": "One durable step after another, milliseconds: less is better",
    "result": "From a start to its result, milliseconds: less is better",
    "jobs": "Durable runs that do nothing, a second, 64 in flight: more is better",
}
_ROW, _BAR, _NAMES, _FIGURES = 26, 420, 210, 90


def medians(rounds: Sequence[Measures]) -> Measures:
    """Of each measure the median over the rounds that have it."""
    names = {name for each in rounds for name in each}
    return {
        name: statistics.median(each[name] for each in rounds if name in each) for name in names
    }


def ratios(ours: Sequence[Measures], theirs: Sequence[Measures], name: str) -> float | None:
    """The median of the rounds' ratios, ours by theirs."""
    pairs = [
        (a[name], b[name])
        for a, b in zip(ours, theirs, strict=True)
        if {name} <= a.keys() & b.keys()
    ]
    return statistics.median(a / b for a, b in pairs) if pairs else None


def table(taken: Mapping[str, Sequence[Measures]], facts: Mapping[str, str]) -> str:
    """In Markdown: a row for each contender, with the ratio to the first one in brackets."""
    first, *_ = taken
    lines = [
        "| | " + " | ".join(COLUMNS.values()) + " | on disk before it is told |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    for name, rounds in taken.items():
        cells = []
        found = medians(rounds)
        for measure in COLUMNS:
            if measure not in found:
                cells.append("")
                continue
            ratio = ratios(taken[first], rounds, measure)
            beside = "" if name == first or ratio is None else f" ({_ratio(ratio)})"
            cells.append(f"{_figure(found[measure])}{beside}")
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {facts[name]} |")
    return "\n".join(lines)


def drawing(taken: Mapping[str, Sequence[Measures]], measure: str) -> str:
    """One measure of all contenders as bars of an SVG, from nothing to the largest."""
    figures = {
        name: found[measure]
        for name, rounds in taken.items()
        if measure in (found := medians(rounds))
    }
    scale = _BAR / max(figures.values())
    width, height = _NAMES + _BAR + _FIGURES, _ROW * (len(figures) + 1) + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="13" fill="#222222">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="22" font-weight="bold">{html.escape(TITLES[measure])}</text>',
    ]
    for row, (name, figure) in enumerate(figures.items(), 1):
        y = row * _ROW + 8
        long = figure * scale
        parts += [
            f'<text x="12" y="{y + 17}">{html.escape(name)}</text>',
            f'<rect x="{_NAMES}" y="{y + 4}" width="{long:.1f}" height="17"'
            f' fill="{_color(name)}"/>',
            f'<text x="{_NAMES + long + 6:.1f}" y="{y + 17}">{_figure(figure)}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def _color(name: str) -> str:
    if name.startswith("StackShift"):
        return "#1f77b4"
    return "#d9d9d9" if name.startswith("the floor") else "#8c8c8c"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _ratio(ratio: float) -> str:
    return f"{ratio:.0f} x" if ratio >= 10 else f"{ratio:.2g} x"
