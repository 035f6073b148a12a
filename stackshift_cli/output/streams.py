"""The three standard streams, where who started us has closed some of them (`>&-`).

Owns descriptors 0, 1 and 2: afterwards each is open, so that no file, pipe or socket opened later
gets one of these numbers and is written to, or handed to the daemon, as a standard stream. What was
closed reads as empty and takes all that is written. `sys.stdin` stays None where standard input was
closed: reading a payload from it is a mistake that `standard_input` tells.
"""

from __future__ import annotations

import os
import sys
from typing import BinaryIO

from stackshift_jobs.errors import Usage


def open_closed() -> None:
    """Open what is closed of the standard streams; must run before anything else is opened."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            # In ascending order, and POSIX gives the lowest free number: it is `fd` itself.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def standard_input(what: str) -> BinaryIO:
    """Standard input, for reading `what`; raises `Usage` where it was closed."""
    if sys.stdin is None:
        raise Usage(f"{what} is to be read from standard input, which is closed")
    return sys.stdin.buffer
