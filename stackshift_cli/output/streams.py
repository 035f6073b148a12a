"""The three standard streams, which the caller may have closed (`>&-`) or which may be full.

Owns descriptors 0, 1 and 2: after `open_streams` each is open, so that no file, pipe or socket
opened later gets one of these numbers and is written to, or handed to the daemon, as a standard
stream. A stream that was closed reads as empty and discards what is written. `sys.stdin` stays None
if standard input was closed: reading a payload from it is a mistake, which `standard_input`
reports.

Standard error is talk: if it cannot be written, that changes nothing about the command. Standard
output is data: if it cannot be written, that ends the command, by an exception that cannot be
mistaken for the failure of another file, pipe or socket. After that it discards what is written.
"""

from __future__ import annotations

import io
import os
import sys

from stackshift_cli.errors import OutputClosed
from stackshift_jobs.errors import OutputFailed, Usage

TYPE_CHECKING = False  # See `stackshift_jobs.errors`: loading `typing` takes too long here.
if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO, TextIO


def open_streams() -> None:
    """Open /dev/null for each closed standard stream, and make `sys.stdout` and `sys.stderr` fail
    as this module says. Must run before anything else is opened."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            # POSIX gives the lowest free number; in ascending order that is `fd` itself.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout, sys.stderr = Data(1, sys.stdout), Talk(2, sys.stderr)


def standard_input(what: str) -> BinaryIO:
    """Standard input, for reading `what` (`the payload`); raises `Usage` if it was closed."""
    if sys.stdin is None:
        raise Usage(f"cannot read {what} from standard input: it is closed")
    return sys.stdin.buffer


def write_bytes(file: Path) -> None:
    """Write the bytes of `file` to standard output; what keeps them from it raises as `Data`
    says."""
    import shutil

    sys.stdout.flush()
    with file.open("rb") as source:
        try:
            shutil.copyfileobj(source, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        except OSError as bad:
            if isinstance(sys.stdout, Stream):
                sys.stdout.fail(bad)


class Stream(io.TextIOWrapper):
    """The text stream of the descriptor `fd`. On a terminal it has the encoding that Python has
    chosen for `old` by the locale; elsewhere it is UTF-8, since a file or a pipe gets data, which
    may be the output of a program that is passed through, and no locale may change that. What is
    written after a write has failed is discarded.

    Not a raw stream below Python's buffer: a Ctrl-C between a write and the count of what was
    written would have it written again.
    """

    def __init__(self, fd: int, old: TextIO | None) -> None:
        raw = io.FileIO(fd, "w", closefd=False)
        super().__init__(
            io.BufferedWriter(raw),
            encoding=old.encoding if old is not None and raw.isatty() else "utf-8",
            errors="backslashreplace",
            line_buffering=fd == 2 or raw.isatty(),
        )
        self._failed = False

    def write(self, text: str, /) -> int:
        """Write `text`, or discard it."""
        if not self._failed:
            try:
                return super().write(text)
            except OSError as bad:
                self.fail(bad)
        return len(text)

    def flush(self) -> None:
        """Write what is still in the buffer, or discard it."""
        if not self._failed:
            try:
                super().flush()
            except OSError as bad:
                self.fail(bad)

    def fail(self, bad: OSError) -> None:
        """Discard what is written from now on, and act on the failure."""
        self._failed = True
        # What is left in the buffer has to go somewhere when the interpreter ends.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)
        self._failed_by(bad)

    def _failed_by(self, bad: OSError) -> None:
        """Act on the failure."""


class Data(Stream):
    """Standard output: the write or flush that fails raises `OutputClosed` if nobody reads the pipe
    any more, else `OutputFailed`."""

    def _failed_by(self, bad: OSError) -> None:
        if isinstance(bad, BrokenPipeError):
            raise OutputClosed from None
        raise OutputFailed(
            f"standard output cannot be written: {bad.strerror}",
            hint="what was to be read there is not complete",
        ) from None


class Talk(Stream):
    """Standard error: nothing fails."""
