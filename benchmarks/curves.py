"""Figures that grow, or do not, with a size: as a table and as a drawing."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

Curves = Mapping[str, Sequence[float]]
"""Measure → its figure at each of the sizes."""

_LEFT, _TOP, _WIDTH, _HEIGHT, _LEGEND = 70, 40, 420, 300, 250
_COLORS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f")


def table(sizes: Sequence[int], curves: Curves) -> str:
    """In Markdown: a row for each measure; the last column is the largest size by the smallest."""
    lines = [
        "| | " + " | ".join(f"{size:,}" for size in sizes) + " | ratio |",
        "|---" * (len(sizes) + 2) + "|",
    ]
    for name, figures in curves.items():
        cells = " | ".join(map(_figure, figures))
        lines.append(f"| {name} | {cells} | {figures[-1] / max(figures[0], 1e-9):.2f} |")
    return "\n".join(lines)


def drawing(title: str, sizes: Sequence[int], curves: Curves) -> str:
    """As lines of an SVG, on scales of logarithms: what does not depend on the size is level."""
    shown = {name: figures for name, figures in curves.items() if min(figures) > 0}
    low = math.floor(math.log10(min(min(figures) for figures in shown.values())))
    high = math.ceil(math.log10(max(max(figures) for figures in shown.values()))) or low + 1
    first, last = math.log10(sizes[0]), math.log10(sizes[-1])

    def x(size: int) -> float:
        return _LEFT + (math.log10(size) - first) / max(1e-9, last - first) * _WIDTH

    def y(figure: float) -> float:
        return _TOP + (high - math.log10(figure)) / max(1, high - low) * _HEIGHT

    bottom, right = _TOP + _HEIGHT, _LEFT + _WIDTH
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {right + _LEGEND} {bottom + 40}" '
        'font-family="sans-serif" font-size="13">',
        f'<text x="0" y="16" font-weight="bold">{html.escape(title)}</text>',
    ]
    for decade in range(low, high + 1):
        at = y(10**decade)
        parts += [
            f'<path d="M{_LEFT} {at:.1f}H{right}" stroke="#dddddd"/>',
            f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{10**decade:g}</text>',
        ]
    for size in sizes:
        at = x(size)
        parts.append(f'<text x="{at:.1f}" y="{bottom + 20}" text-anchor="middle">{size:,}</text>')
    for row, (name, figures) in enumerate(shown.items()):
        color = _COLORS[row % len(_COLORS)]
        points = [(x(size), y(figure)) for size, figure in zip(sizes, figures, strict=True)]
        line = " ".join(f"{across:.1f},{down:.1f}" for across, down in points)
        dashes = "6 4" if row >= len(_COLORS) else "none"
        stroke = f'stroke="{color}" stroke-width="2" stroke-dasharray="{dashes}"'
        parts.append(f'<polyline points="{line}" fill="none" {stroke}/>')
        parts += [
            f'<circle cx="{across:.1f}" cy="{down:.1f}" r="3" fill="{color}"/>'
            for across, down in points
        ]
        at = _TOP + 18 * row
        parts += [
            f'<path d="M{right + 20} {at + 7}h24" {stroke}/>',
            f'<text x="{right + 52}" y="{at + 11}">{html.escape(name)}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
