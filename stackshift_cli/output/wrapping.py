"""Text in the width of a terminal, broken at blanks. `textwrap` takes longer to load than this to
run."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Final, TextIO

_GAP: Final = re.compile(r"( +\S.*?)( {2,})(?=\S)")
_LEAST_BESIDE: Final = 30
"""A description that had fewer cells beside what it describes goes below it."""
_BELOW: Final = 6


def width_of(stream: TextIO, otherwise: int = 80) -> int:
    """The columns of the terminal that `stream` is, or that COLUMNS says; `otherwise` without, or
    if the terminal does not know, as on a serial line, and says 0."""
    said = os.environ.get("COLUMNS", "")
    if said.isdecimal() and int(said):
        return int(said)
    try:
        return os.get_terminal_size(stream.fileno()).columns or otherwise
    except (OSError, ValueError):
        return otherwise


def wrapped(text: str, width: int, indent: str = "") -> Iterator[str]:
    """The words of `text` in lines of at most `width`, besides the `indent` of each; a word that is
    longer has a line of its own."""
    line = ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            yield indent + line
            line = word
        else:
            line = f"{line} {word}".strip()
    yield indent + line


def sentence(text: str, width: int) -> str:
    """A message in as many lines as it needs; those after the first are set in."""
    if len(text) <= width:
        return text
    margin = text[: len(text) - len(text.lstrip())]
    first, *rest = wrapped(text, width - len(margin) - 2, f"{margin}  ")
    return "\n".join([margin + first.lstrip(), *rest])


def page(text: str, width: int) -> str:
    """A page of help: its paragraphs fill the width, and lines that are set in stand as they are.
    Where there is no room for one of these, what stands behind two blanks is wrapped beside what
    stands before, or below it."""
    lines: list[str] = []
    for block in text.strip("\n").split("\n\n"):
        if lines:
            lines.append("")
        paragraph: list[str] = []
        for line in block.split("\n"):
            if not line.startswith(" "):
                paragraph.append(line)
                continue
            if paragraph:
                lines += wrapped(" ".join(paragraph), width)
                paragraph = []
            lines += _row(line, width)
        if paragraph:
            lines += wrapped(" ".join(paragraph), width)
    return "\n".join(lines)


def _row(line: str, width: int) -> Iterator[str]:
    gap = _GAP.match(line)
    if len(line) <= width or gap is None:
        yield line
        return
    label, column, about = gap[1], gap.end(), line[gap.end() :]
    if width - column >= _LEAST_BESIDE:
        first, *rest = wrapped(about, width - column, " " * column)
        yield label + first[len(label) :]
        yield from rest
    else:
        yield label
        yield from wrapped(about, width - _BELOW, " " * _BELOW)
