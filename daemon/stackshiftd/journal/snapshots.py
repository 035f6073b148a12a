r"""Snapshots: the state up to a record, in a file of its own, valid as a whole or not at all.

    snapshots/00000000000000004711.jsonl
    {"format":1,"journal":"jrn_…","seq":4711,"state_hash":"…"}\n   header
    …\n                                                            the state's lines, unchanged
    {"count":1234,"sha256":"…"}\n                                  footer: lines, hash of all above

Owns the file's format and which snapshots are kept. Must never interpret the lines. A snapshot is
durable, under its own name, before an older one is removed. Two generations are kept, so that a
damaged one costs only a longer replay.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from stackshift_jobs.errors import NewerFormat
from stackshiftd.core.records import NEWER_HINT, has_unknown_field
from stackshiftd.journal.filesystem import CHUNK, FileSystem, put_file, read_file, read_range

FORMAT: Final = 1
KEPT: Final = 2
_FOOTER_BYTES: Final = 256
"""More than a footer takes."""
_GONE: Final = "it no longer exists"
NAME: Final = re.compile(r"([0-9]{20})\.jsonl")


class Snapshot(NamedTuple):
    """A snapshot that was checked and is good; `size` in bytes."""

    seq: int
    path: Path
    size: int
    state_hash: str
    journal: str


class _Header(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    format: int
    journal: str
    seq: int
    state_hash: str = ""


class _Format(msgspec.Struct):
    format: int


class _Footer(msgspec.Struct, frozen=True):
    count: int
    sha256: str


class _Damaged(Exception):
    """This file is not a good snapshot; another may be."""


def put(
    fs: FileSystem, folder: Path, journal: str, seq: int, lines: Sequence[bytes], state_hash: str
) -> Snapshot:
    """Store `lines` (each one line of ASCII JSON without its newline) as the snapshot at `seq`.

    Durable when it returns; then only it and the one before it remain.
    """
    header = msgspec.json.encode(_Header(FORMAT, journal, seq, state_hash)) + b"\n"
    body = b"\n".join((*lines, b""))
    assert body.count(b"\n") == len(lines), "a snapshot's line contains a newline"
    hasher = hashlib.sha256(header)
    hasher.update(body)
    footer = msgspec.json.encode(_Footer(len(lines), hasher.hexdigest())) + b"\n"
    path = folder / f"{seq:020d}.jsonl"
    put_file(fs, path, [header, body, footer])
    for _, old in listed(fs, folder)[:-KEPT]:
        fs.unlink(old)
    return Snapshot(seq, path, len(header) + len(body) + len(footer), state_hash, journal)


def listed(fs: FileSystem, folder: Path) -> list[tuple[int, Path]]:
    """Sequence number and path of every snapshot file, oldest first, good or not."""
    return [
        (int(found[1]), folder / name)
        for name in sorted(fs.listdir(folder))
        if (found := NAME.fullmatch(name))
    ]


def read(fs: FileSystem, path: Path, journal: str) -> tuple[Snapshot, list[bytes]] | str:
    """The snapshot at `path` and its lines, or a sentence that says what is wrong with it.

    `journal` is the id of the journal it must belong to; empty accepts any. Raises `NewerFormat`.
    """
    try:
        data = read_file(fs, path)
    except FileNotFoundError:
        return _GONE
    body_end = data.rfind(b"\n", 0, -1) + 1
    first = data.find(b"\n") + 1
    try:
        lines = data[first:body_end].split(b"\n")[:-1] if first < body_end else []
        digest = hashlib.sha256(memoryview(data)[:body_end]).hexdigest()
        header = _checked(path, journal, data[:first], data[body_end:], digest, len(lines))
    except _Damaged as bad:
        return str(bad)
    return Snapshot(header.seq, path, len(data), header.state_hash, header.journal), lines


def look(fs: FileSystem, path: Path, journal: str) -> Snapshot | str:
    """The same without its lines, and without holding more of the file than a part at a time."""
    try:
        fd = fs.open(path, "read")
    except FileNotFoundError:
        return _GONE
    try:
        size = fs.size(fd)
        tail = read_range(fs, fd, max(0, size - _FOOTER_BYTES), size)
        footer = tail[tail.rfind(b"\n", 0, -1) + 1 :]
        body_end = size - len(footer)
        hasher, header_line, newlines = hashlib.sha256(), b"", 0
        for start in range(0, body_end, CHUNK):
            part = read_range(fs, fd, start, min(start + CHUNK, body_end))
            hasher.update(part)
            newlines += part.count(b"\n")
            if not start:
                header_line = part[: part.find(b"\n") + 1]
    finally:
        fs.close(fd)
    try:
        digest = hasher.hexdigest()
        header = _checked(path, journal, header_line, footer, digest, max(0, newlines - 1))
    except _Damaged as bad:
        return str(bad)
    return Snapshot(header.seq, path, size, header.state_hash, header.journal)


def _checked(
    path: Path, journal: str, first: bytes, last: bytes, digest: str, count: int
) -> _Header:
    """The header of a snapshot with this `first` line, this `last` one, `count` lines between them,
    and the `digest` of all but the last. Raises `_Damaged` and `NewerFormat`."""
    if not last.endswith(b"\n"):
        raise _Damaged("it is cut short")
    try:
        footer = msgspec.json.decode(last, type=_Footer)
        if footer.sha256 != digest:
            raise _Damaged("its contents do not match its hash")
        # The hash is right, so whatever this header says was meant.
        if msgspec.json.decode(first, type=_Format).format > FORMAT:
            raise _newer(path)
        header = msgspec.json.decode(first, type=_Header)
    except msgspec.DecodeError as bad:
        if isinstance(bad, msgspec.ValidationError) and has_unknown_field(bad):
            raise _newer(path) from bad
        raise _Damaged(f"its header or footer is damaged ({bad})") from bad
    if count != footer.count or path.name != f"{header.seq:020d}.jsonl":
        raise _Damaged("its header or footer does not match the file")
    if journal and header.journal != journal:
        raise _Damaged(f"it belongs to journal {header.journal}")
    return header


def _newer(path: Path) -> NewerFormat:
    return NewerFormat(
        f"snapshot {path.name} was written by a newer stackshift", hint=NEWER_HINT, file=str(path)
    )


def newest(
    fs: FileSystem, folder: Path, journal: str
) -> tuple[Snapshot | None, list[tuple[Path, str]]]:
    """The newest good snapshot or None, and every newer file with what is wrong with it."""
    bad: list[tuple[Path, str]] = []
    for _, path in reversed(listed(fs, folder)):
        found = look(fs, path, journal)
        if not isinstance(found, str):
            return found, bad
        bad.append((path, found))
    return None, bad
