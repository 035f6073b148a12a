"""The terminal: is there one, can it show more than ASCII, should there be colour?"""

from __future__ import annotations

import os
import sys

from stackshift_cli.arguments import Globals

TYPE_CHECKING = False  # See `stackshift_jobs.errors`: loading `typing` takes too long here.
if TYPE_CHECKING:
    from typing import TextIO


def is_terminal(stream: TextIO | None) -> bool:
    """Is `stream` a terminal? None stands for a stream that was closed when we were started."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def draws(options: Globals) -> bool:
    """Should lists and timelines be drawn: is stdout a terminal, and `--json` not given?"""
    return is_terminal(sys.stdout) and not options.json


def shows_unicode(stream: TextIO | None = None) -> bool:
    """Can the locale and `stream` (default: stdout) show more than ASCII?

    The encoding of the stream is not enough: Python makes its streams UTF-8 in the C locale.
    """
    locale = next((v for n in ("LC_ALL", "LC_CTYPE", "LANG") if (v := os.environ.get(n))), "")
    encoding = (getattr(stream or sys.stdout, "encoding", None) or "ascii").lower()
    utf8 = ("utf-8", "utf8")
    return encoding in utf8 and "utf8" in locale.lower().replace("-", "")


def wants_color(options: Globals, stream: TextIO | None = None) -> bool:
    """Should output on `stream` be coloured? `--color` decides, then NO_COLOR and CLICOLOR_FORCE,
    then whether it is a terminal."""
    if options.color in ("always", "never"):
        return options.color == "always"
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("CLICOLOR_FORCE") not in (None, "", "0"):
        return True
    return is_terminal(stream or sys.stdout) and os.environ.get("TERM") != "dumb"
