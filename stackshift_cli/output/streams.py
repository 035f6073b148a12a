"""The three standard streams, some of which the caller may have closed (`>&-`).

Owns descriptors 0, 1 and 2: after `open_closed` each is open, so that no file, pipe or socket
opened later gets one of these numbers and is written to, or handed to the daemon, as a standard
stream. A stream that was closed reads as empty and discards what is written. `sys.stdin` stays None
if standard input was closed: reading a payload from it is a mistake, which `standard_input`
reports.
"""

from __future__ import annotations

import os
import sys
from typing import BinaryIO

from stackshift_jobs.errors import Usage


def open_closed() -> None:
    """Open /dev/null for each closed standard stream; must run before anything else is opened."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            # POSIX gives the lowest free number; in ascending order that is `fd` itself.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def standard_input(what: str) -> BinaryIO:
    """Standard input, for reading `what` (`the payload`); raises `Usage` if it was closed."""
    if sys.stdin is None:
        raise Usage(f"cannot read {what} from standard input: it is closed")
    return sys.stdin.buffer
