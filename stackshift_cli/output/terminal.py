"""What the terminal is: is there one, can it show more than ASCII, does it want colour."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from stackshift_cli.arguments import Globals


def is_terminal(stream: TextIO | None) -> bool:
    """Does a person look at `stream` (None: it was closed when we were started)?"""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def draws(options: Globals) -> bool:
    """Shall stdout get pictures (a terminal, and no JSON asked for)?"""
    return is_terminal(sys.stdout) and not options.json


def shows_unicode(stream: TextIO | None = None) -> bool:
    """Do the locale and the stream take more than ASCII?

    The variables are asked and not only the stream: Python makes its streams UTF-8 in the C locale.
    """
    named = next((v for n in ("LC_ALL", "LC_CTYPE", "LANG") if (v := os.environ.get(n))), "")
    encoding = (getattr(stream or sys.stdout, "encoding", None) or "ascii").lower()
    utf8 = ("utf-8", "utf8")
    return encoding in utf8 and "utf8" in named.lower().replace("-", "")


def wants_color(options: Globals, stream: TextIO | None = None) -> bool:
    """`--color` decides; else NO_COLOR and CLICOLOR_FORCE; else whether it is a terminal."""
    if options.color in ("always", "never"):
        return options.color == "always"
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("CLICOLOR_FORCE") not in (None, "", "0"):
        return True
    return is_terminal(stream or sys.stdout) and os.environ.get("TERM") != "dumb"
