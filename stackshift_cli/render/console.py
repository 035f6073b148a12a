"""The console that lists and timelines are printed on, and the glyphs and colours of statuses."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from typing import Final, NamedTuple, TextIO

from rich.console import Console
from rich.text import Text

from stackshift_cli.arguments import Globals
from stackshift_cli.output.terminal import shows_unicode, wants_color
from stackshift_cli.screen.terminal import Line


class Glyphs(NamedTuple):
    """What is drawn for a bar's code or a status: one set for UTF-8 locales, one for the others."""

    bars: dict[str, str]
    statuses: dict[str, str]
    branch: str
    last_branch: str
    dot: str
    ellipsis: str
    arrow: str
    select: str
    up_down: str


class _Look(NamedTuple):
    """How one thing is drawn in UTF-8, in ASCII, and in which colour."""

    unicode: str
    ascii: str
    style: str


_STATUSES: Final = {
    "completed": _Look("✓", "+", "green"),
    "failed": _Look("✗", "x", "red"),
    "cancelled": _Look("⊘", "/", "yellow"),
    "running": _Look("●", "*", "cyan"),
    "waiting": _Look("◌", "-", "blue"),
    "retrying": _Look("↻", "~", "magenta"),
    "queued": _Look("○", "o", "dim"),
    "scheduled": _Look("○", "o", "dim"),
}
_BARS: Final = {
    "#": _Look("█", "#", "green"),
    "x": _Look("▓", "x", "red"),
    ".": _Look("·", ".", "magenta"),
    "-": _Look("░", "-", "blue"),
    "=": _Look("─", "=", "cyan"),
    "|": _Look("│", "|", "yellow"),
    "~": _Look("⌇", "~", "dim"),
}
"""By the codes of `timeline.axis`."""

UNICODE: Final = Glyphs(
    bars={code: look.unicode for code, look in _BARS.items()},
    statuses={status: look.unicode for status, look in _STATUSES.items()},
    branch="├",
    last_branch="└",
    dot="·",
    ellipsis="…",
    arrow="→",
    select="▸",
    up_down="↑↓",
)
ASCII: Final = Glyphs(
    bars={code: look.ascii for code, look in _BARS.items()},
    statuses={status: look.ascii for status, look in _STATUSES.items()},
    branch="|",
    last_branch="`",
    dot="-",
    ellipsis="...",
    arrow="->",
    select=">",
    up_down="j k",
)
_DUMB: Final = ("dumb", "unknown")
"""Values of TERM for which `rich` takes any terminal to be 80 by 25, unless it is given both."""
STATUS_STYLES: Final = {status: look.style for status, look in _STATUSES.items()}
BAR_STYLES: Final = {code: look.style for code, look in _BARS.items()}


def console(options: Globals, stream: TextIO | None = None, width: int | None = None) -> Console:
    """A console on `stream` (default: stdout) that follows `--color` and the environment, and
    prints text as it is, without markup or highlighting. `width` is that of the terminal unless it
    is given."""
    color = wants_color(options, stream)
    height = None
    if os.environ.get("TERM") in _DUMB:
        columns, height = shutil.get_terminal_size((80, 25))
        width = width or columns
    return Console(
        file=stream or sys.stdout,
        width=width,
        height=height,
        force_terminal=True if color else None,
        color_system="auto" if color else None,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=False,
    )


def painted(screen: Console, lines: Iterable[Text]) -> list[Line]:
    """`lines` as `screen` would print them."""
    found = []
    for line in lines:
        with screen.capture() as captured:
            screen.print(line, end="", soft_wrap=True)
        found.append(Line(captured.get(), line.cell_len))
    return found


def glyphs(stream: TextIO | None = None) -> Glyphs:
    """The glyphs that the locale can show."""
    return UNICODE if shows_unicode(stream) else ASCII


def short_id(id: str, marks: Glyphs) -> str:
    """`run_…7k2m9q`, `evt_…06pdwn`: the end of an id is enough to name a run."""
    return f"{id[:4]}{marks.ellipsis}{id[-6:]}" if len(id) > 16 else id
