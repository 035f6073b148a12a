r"""One file of the journal: its name, its header line, and how it is created and written.

    journal/00000000000000000018.jsonl
    {"crc":"5d3c…","format":1,"journal":"jrn_…","first_seq":18,"prev_seq":17,"prev_hash":"…","base":4711}\n

Owns the header and the write path of one file; knows nothing of appends, watermarks or recovery.

- A segment is named after the first sequence number that it may contain.
- `base` counts the bytes of all segments before it, so that `base` + offset is a position over the
  journal's whole life: a `Place`.
- `prev_hash` is the sha256 of the whole segment before it; empty in the first one.
- The name and header of a segment are durable before the first record is written to it, and so are
  all records of the segment before it.
"""

from __future__ import annotations

import hashlib
import re
from errno import EIO
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from stackshift_jobs.errors import JournalDamaged, NewerFormat
from stackshiftd.core.records import NEWER_HINT, has_unknown_field
from stackshiftd.journal.filesystem import Buffer, FileSystem, put_file, write_all
from stackshiftd.journal.line_format import CHECKED_FROM, is_intact, sealed

FORMAT: Final = 1
NAME: Final = re.compile(r"([0-9]{20})\.jsonl")
MAX_HEADER: Final = 1024
"""Bytes. No header is longer; a header line that does not end within it is damaged."""
REPAIR_HINT: Final = (
    "`stackshift journal verify` shows where; `stackshift journal repair` sets the damaged part "
    "aside and reports what is lost (--dry-run: what would be)"
)
"""Names no records: what `repair` can keep depends on headers and snapshots that only it reads."""
LOST_HINT: Final = (
    "`stackshift journal restore` puts a backup in its place; `stackshift journal repair` accepts "
    "the loss and reports what is lost (--dry-run: what would be)"
)

Count = Annotated[int, Meta(ge=0)]


class Header(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The first line of a segment.

    `stands_for` is set only by `journal repair`, on a segment that replaces a damaged one: it is
    the sha256 of the replaced file, which the next segment's `prev_hash` names.
    """

    format: int
    journal: str
    first_seq: Annotated[int, Meta(ge=1)]
    prev_seq: Count
    prev_hash: str
    base: Count
    stands_for: str = ""

    def line(self) -> bytes:
        """The header's line, with its crc and newline."""
        return sealed(msgspec.json.encode(self)[1:])


class _Format(msgspec.Struct):
    format: int


def first_header(journal: str) -> Header:
    """The header of the first segment of the new journal with the id `journal`."""
    return Header(FORMAT, journal, first_seq=1, prev_seq=0, prev_hash="", base=0)


def segment_name(first_seq: int) -> str:
    """The file name of the segment that begins with `first_seq`: 20 digits and `.jsonl`."""
    return f"{first_seq:020d}.jsonl"


def read_header(data: bytes, path: Path) -> tuple[Header, int]:
    """The header at the beginning of `data`, the first bytes of the file `path`, and its length.

    Raises `NewerFormat` and `JournalDamaged`: a header is durable before its file has its name, so
    a header that is not intact is always damage, never a torn write.
    """
    end = data.find(b"\n", 0, MAX_HEADER)
    if end < 0 or not is_intact(data, 0, end):
        raise _damaged(path, "its header line is damaged")
    body = b"{" + data[CHECKED_FROM:end]
    try:
        if msgspec.json.decode(body, type=_Format).format > FORMAT:
            raise _newer(path)
        header = msgspec.json.decode(body, type=Header)
    except msgspec.DecodeError as bad:
        if isinstance(bad, msgspec.ValidationError) and has_unknown_field(bad):
            raise _newer(path) from bad
        raise _damaged(path, f"its header line is not a valid header ({bad})") from bad
    if path.name != segment_name(header.first_seq) or header.prev_seq + 1 != header.first_seq:
        raise _damaged(path, f"its header says that it begins with record {header.first_seq}")
    return header, end + 1


def _newer(path: Path) -> NewerFormat:
    return NewerFormat(
        f"{path.name} was written by a newer stackshift", hint=NEWER_HINT, file=str(path)
    )


def _damaged(path: Path, why: str) -> JournalDamaged:
    found = NAME.fullmatch(path.name)
    return JournalDamaged(
        f"{path.name}: {why}",
        hint=REPAIR_HINT,
        file=str(path),
        offset=0,
        seq=int(found[1]) if found else 0,
    )


class SegmentWriter:
    """The segment that is appended to. Used by one thread at a time.

    `size` is the end of what was written in full, and `hasher` has seen exactly those bytes: a
    failed write changes neither.
    """

    __slots__ = ("_fd", "_fs", "_inode", "hasher", "header", "header_size", "path", "size")

    def __init__(
        self, fs: FileSystem, path: Path, header: Header, size: int, hasher: hashlib._Hash
    ) -> None:
        self._fs = fs
        self._fd = fs.open(path, "write")
        self.path = path
        self.header = header
        self.header_size = len(header.line())
        self.size = size
        self.hasher = hasher
        if fs.size(self._fd) != size:
            fs.close(self._fd)
            raise OSError(EIO, "the file changed size between recovery and use", str(path))
        found = fs.lstat(path)
        self._inode = None if found is None else found.inode

    @classmethod
    def create(cls, fs: FileSystem, folder: Path, header: Header) -> SegmentWriter:
        """Create a segment that contains only its header, durably, and open it."""
        path = folder / segment_name(header.first_seq)
        line = header.line()
        put_file(fs, path, [line])
        return cls(fs, path, header, len(line), hashlib.sha256(line))

    @property
    def end(self) -> int:
        """The place of the next line."""
        return self.header.base + self.size

    @property
    def is_in_place(self) -> bool:
        """Is the file where it was opened, and not moved, removed or replaced? Then whoever looks
        for the journal finds what was written to it."""
        found = self._fs.lstat(self.path)
        return found is not None and found.inode == self._inode

    def next_header(self, first_seq: int) -> Header:
        """The header of the segment that follows this one."""
        return Header(
            FORMAT, self.header.journal, first_seq, first_seq - 1, self.hasher.hexdigest(), self.end
        )

    def write(self, data: Buffer) -> None:
        """Append `data`, without making it durable.

        A failed write may leave bytes beyond `size`: the caller must `cut` them or stop.
        """
        write_all(self._fs, self._fd, data, self.size)
        self.hasher.update(data)
        self.size += len(data)

    def sync(self) -> None:
        """Make everything written so far durable."""
        self._fs.sync_data(self._fd)

    def cut(self) -> None:
        """Remove, durably, what a failed write left beyond `size`."""
        self._fs.truncate(self._fd, self.size)
        self._fs.sync_data(self._fd)

    def close(self) -> None:
        """Close the file; does not sync."""
        self._fs.close(self._fd)
