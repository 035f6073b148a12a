r"""The witness: one line beside the journal that says which record is certainly on the disk.

    witness.json
    {"crc":"5d3c…","format":1,"journal":"jrn_…","seq":4711}      \n

A journal that has lost its end, or all of its segments, reads like a sound, shorter one; only
something outside it can tell. Owns that file; decides nothing.

- `seq` is written after the sync that made record `seq` durable. So it is never ahead of the
  journal, whatever crashes. It is written at most ten times a second, and at the end: for so long
  it may be behind.
- It is overwritten in place and synced at the end only: a power cut may leave an older line, or one
  that does not match its crc. Both only prove less, and so does a missing file.
- A write that fails is ignored: without a witness, the journal is as good as it is.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final, NamedTuple

import msgspec

from stackshiftd.journal.filesystem import FileSystem, put_file, read_range, write_all
from stackshiftd.journal.layout import Layout
from stackshiftd.journal.line_format import CHECKED_FROM, is_intact, sealed

FORMAT: Final = 1
SIZE: Final = 160
"""Bytes of the line. Always the same, so that a shorter one leaves nothing of a longer one."""


class Known(NamedTuple):
    """What the witness says: records of `journal` up to `seq` were on the disk."""

    journal: str
    seq: int


class _Line(msgspec.Struct, frozen=True):
    format: int
    journal: str
    seq: int


def read(fs: FileSystem, layout: Layout) -> Known | None:
    """What the witness says; None if there is none, or it cannot be read."""
    try:
        fd = fs.open(layout.witness, "read")
        try:
            data = read_range(fs, fd, 0, SIZE)
        finally:
            fs.close(fd)
        if not data.endswith(b"\n") or not is_intact(data, 0, len(data) - 1):
            return None
        line = msgspec.json.decode(b"{" + data[CHECKED_FROM:], type=_Line)
    except (OSError, msgspec.DecodeError):
        return None
    return Known(line.journal, line.seq) if line.format == FORMAT else None


def put(fs: FileSystem, layout: Layout, known: Known) -> None:
    """Make the witness say `known`, durably. Raises `OSError`."""
    put_file(fs, layout.witness, [_line(known)])


def remove(fs: FileSystem, layout: Layout) -> None:
    """Remove the witness, durably."""
    with suppress(FileNotFoundError):
        fs.unlink(layout.witness)
    fs.sync_dir(layout.root)


def _line(known: Known) -> bytes:
    body = msgspec.json.encode(_Line(FORMAT, known.journal, known.seq))[1:]
    return sealed(body.ljust(SIZE - CHECKED_FROM - 1))


class Witness:
    """The witness of an open journal. Used by one thread at a time; never raises `OSError`."""

    def __init__(self, fs: FileSystem, layout: Layout, known: Known) -> None:
        self._fs = fs
        self._journal = known.journal
        self._fd: int | None = None
        with suppress(OSError):
            if read(fs, layout) != known:
                put(fs, layout, known)
            self._fd = fs.open(layout.witness, "write")

    def note(self, seq: int) -> None:
        """Note that records up to `seq` are on the disk."""
        if self._fd is not None:
            with suppress(OSError):
                write_all(self._fs, self._fd, _line(Known(self._journal, seq)), 0)

    def close(self) -> None:
        """Sync it, for the power cut after an orderly stop, and close it; idempotent."""
        fd, self._fd = self._fd, None
        if fd is not None:
            with suppress(OSError):
                self._fs.sync_data(fd)
            with suppress(OSError):
                self._fs.close(fd)


class NoWitness:
    """For files that are a copy, which nothing is promised of: what they lack is fetched."""

    def note(self, _seq: int) -> None:
        """Nothing is noted."""

    def close(self) -> None:
        """There is nothing to close."""
