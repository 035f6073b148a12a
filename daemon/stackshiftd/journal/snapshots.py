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
from stackshiftd.journal.filesystem import FileSystem, put_file, read_file

FORMAT: Final = 1
KEPT: Final = 2
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
        return "it no longer exists"
    try:
        header, lines = _checked(data, path)
        if journal and header.journal != journal:
            raise _Damaged(f"it belongs to journal {header.journal}")
    except _Damaged as bad:
        return str(bad)
    return Snapshot(header.seq, path, len(data), header.state_hash, header.journal), lines


def _checked(data: bytes, path: Path) -> tuple[_Header, list[bytes]]:
    if not data.endswith(b"\n"):
        raise _Damaged("it is cut short")
    body_end = data.rfind(b"\n", 0, -1) + 1
    first = data.find(b"\n") + 1
    try:
        footer = msgspec.json.decode(data[body_end:], type=_Footer)
        if footer.sha256 != hashlib.sha256(memoryview(data)[:body_end]).hexdigest():
            raise _Damaged("its contents do not match its hash")
        # The hash is right, so whatever this header says was meant.
        if msgspec.json.decode(data[:first], type=_Format).format > FORMAT:
            raise _newer(path)
        header = msgspec.json.decode(data[:first], type=_Header)
    except msgspec.DecodeError as bad:
        if isinstance(bad, msgspec.ValidationError) and has_unknown_field(bad):
            raise _newer(path) from bad
        raise _Damaged(f"its header or footer is damaged ({bad})") from bad
    lines = data[first:body_end].split(b"\n")[:-1] if first < body_end else []
    if len(lines) != footer.count or path.name != f"{header.seq:020d}.jsonl":
        raise _Damaged("its header or footer does not match the file")
    return header, lines


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
        found = read(fs, path, journal)
        if not isinstance(found, str):
            return found[0], bad
        bad.append((path, found))
    return None, bad
