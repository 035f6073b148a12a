"""The console that pictures go to, and the glyphs and colours of statuses."""

from __future__ import annotations

import sys
from typing import Final, NamedTuple, TextIO

from rich.console import Console

from stackshift_cli.arguments import Globals
from stackshift_cli.output.terminal import shows_unicode, wants_color


class Glyphs(NamedTuple):
    """What stands for what; one set for UTF-8 locales, one for the others."""

    bars: dict[str, str]
    statuses: dict[str, str]
    branch: str
    last_branch: str
    dot: str
    ellipsis: str


UNICODE: Final = Glyphs(
    bars={"#": "█", "x": "▓", ".": "·", "-": "░", "=": "─", "~": "⌇"},
    statuses={
        "completed": "✓",
        "failed": "✗",
        "cancelled": "⊘",
        "running": "●",
        "waiting": "◌",
        "retrying": "↻",
        "queued": "○",
        "scheduled": "○",
    },
    branch="├",
    last_branch="└",
    dot="·",
    ellipsis="…",
)
ASCII: Final = Glyphs(
    bars={"#": "#", "x": "x", ".": ".", "-": "-", "=": "=", "~": "~"},
    statuses={
        "completed": "+",
        "failed": "x",
        "cancelled": "/",
        "running": "*",
        "waiting": "-",
        "retrying": "~",
        "queued": "o",
        "scheduled": "o",
    },
    branch="|",
    last_branch="`",
    dot="-",
    ellipsis="...",
)

STATUS_STYLES: Final = {
    "completed": "green",
    "failed": "red",
    "cancelled": "yellow",
    "running": "cyan",
    "waiting": "blue",
    "retrying": "magenta",
    "queued": "dim",
    "scheduled": "dim",
}
BAR_STYLES: Final = {
    "#": "green",
    "x": "red",
    ".": "magenta",
    "-": "blue",
    "=": "cyan",
    "~": "dim",
}


def console(options: Globals, stream: TextIO | None = None) -> Console:
    """A console on `stream` (stdout where not given) that does what `--color` and the environment
    say, and interprets nothing in what it prints."""
    color = wants_color(options, stream)
    return Console(
        file=stream or sys.stdout,
        force_terminal=True if color else None,
        color_system="auto" if color else None,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=False,
    )


def glyphs(stream: TextIO | None = None) -> Glyphs:
    """The set that the locale can show."""
    return UNICODE if shows_unicode(stream) else ASCII


def short_id(id: str, marks: Glyphs) -> str:
    """`run_…7k2m9q`, `evt_…06pdwn`: the end of an id names a run."""
    return f"{id[:4]}{marks.ellipsis}{id[-6:]}" if len(id) > 16 else id
