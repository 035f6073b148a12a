"""Programs for tests to start: in Python, so that each does the same everywhere."""

from __future__ import annotations

import sys
from typing import Final

DEAF: Final = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
_IMPORTS: Final = "import os, pathlib, signal, subprocess, sys, time"


def python(code: str, *arguments: str) -> list[str]:
    """The command that runs `code` with the interpreter of the tests, and a few imports."""
    return [sys.executable, "-I", "-S", "-c", f"{_IMPORTS}\n{code}", *arguments]


def ready(path: object) -> str:
    """Code that writes the process id to `path`, all of it at once."""
    return (
        f"pathlib.Path({str(path) + '.new'!r}).write_text(str(os.getpid()))\n"
        f"os.rename({str(path) + '.new'!r}, {str(path)!r})"
    )
