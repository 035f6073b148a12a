"""`runs show`: the picture of a run, printed once, on a terminal or anywhere else."""

from __future__ import annotations

import os
import sys
from typing import Final

from stackshift_cli.arguments import Globals
from stackshift_cli.daemon.run_detail import Shown
from stackshift_cli.output.terminal import is_terminal
from stackshift_cli.render.console import console, glyphs
from stackshift_cli.render.picture import Frame, picture

_WIDTH: Final = 100
"""The width in pipes, logs and mails, unless COLUMNS gives another."""
_SPARE_LINES: Final = 1
"""Lines left free on a terminal, for the next prompt."""


def print_run(options: Globals, shown: Shown, compact: bool, everything: bool, now_us: int) -> None:
    """Print the picture of a run on stdout. On a terminal it is no higher than that, unless all of
    it is wanted: `everything`, the log, or whole tracebacks."""
    width = None if is_terminal(sys.stdout) else _columns()
    screen = console(options, width=width)
    verbose = options.verbose or bool(shown.logs)
    fits = width is None and not everything and not verbose
    height = screen.height - _SPARE_LINES if fits else None
    frame = Frame(screen.width, height, glyphs(), compact, verbose, everything)
    screen.print(picture(shown, now_us, frame))


def _columns() -> int:
    text = os.environ.get("COLUMNS", "")
    return max(40, min(int(text), 1000)) if text.isascii() and text.isdigit() else _WIDTH
