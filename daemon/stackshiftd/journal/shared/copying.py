"""The files of a journal as a copy of a shared log: fetched where there are none.

They are byte for byte what the leader has, so places, indexes, snapshots, backups and all tools
that read files are the same on every machine. A copy is never repaired: what is damaged is
fetched again.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from stackshift_jobs.errors import BadConfiguration, JournalDamaged
from stackshiftd.journal import snapshots, witness
from stackshiftd.journal.filesystem import FileSystem, put_file, putting, read_file, read_range
from stackshiftd.journal.layout import Layout
from stackshiftd.journal.line_format import is_header
from stackshiftd.journal.segment import MAX_HEADER, NAME, Header, read_header, segment_name
from stackshiftd.journal.shared.log import SharedLog

MARK: Final = "copy.json"
"""Says that the files are a copy, of what, and who this directory is."""
PIECE_BYTES: Final = 1 << 20
"""How much of a snapshot goes at once to a log."""


class Mark(msgspec.Struct, frozen=True):
    """What a directory with a copy knows: the journal, where its truth is (without a password), and
    a random id, since names of machines are no identity."""

    journal: str
    of: str
    id: str


def read_mark(fs: FileSystem, layout: Layout) -> Mark | None:
    """The mark; None if the files are no copy. Raises `JournalDamaged`."""
    path = layout.root / MARK
    try:
        data = read_file(fs, path)
    except FileNotFoundError:
        return None
    try:
        return msgspec.json.decode(data, type=Mark)
    except msgspec.DecodeError as bad:
        raise JournalDamaged(
            f"{path} cannot be read ({bad})",
            hint=f"remove {layout.root}: all in it is in the database",
            file=str(path),
            offset=0,
            seq=0,
        ) from bad


def write_mark(fs: FileSystem, layout: Layout, journal: str, of: str) -> Mark:
    """Say that the files are a copy; durable when it returns."""
    mark = Mark(journal, of, secrets.token_hex(8))
    put_file(fs, layout.root / MARK, [msgspec.json.encode(mark)])
    return mark


def remove_mark(fs: FileSystem, layout: Layout) -> None:
    """The files are a journal of their own; durable when it returns."""
    fs.unlink(layout.root / MARK)
    fs.sync_dir(layout.root)


def refuse_copy(fs: FileSystem, layout: Layout) -> None:
    """Raise `BadConfiguration` if the files are a copy: who goes on from it has a second truth."""
    if (mark := read_mark(fs, layout)) is not None:
        raise BadConfiguration(
            f"{layout.root} is a copy of the journal in {mark.of}",
            hint="set [journal] url or STACKSHIFT_JOURNAL_URL; or, to go on with files alone, "
            "stackshift journal move --to files",
        )


def refuse_repair(fs: FileSystem, layout: Layout) -> None:
    """Raise `BadConfiguration` if the files are a copy: there is nothing to choose."""
    if (mark := read_mark(fs, layout)) is not None:
        raise BadConfiguration(
            f"{layout.root} is a copy of the journal in {mark.of}",
            hint="remove it: the next daemon fetches it again",
        )


def segment_files(fs: FileSystem, layout: Layout) -> list[Path]:
    """The segments of the copy, oldest first."""
    names = sorted(name for name in fs.listdir(layout.journal) if NAME.fullmatch(name))
    return [layout.journal / name for name in names]


def discard(fs: FileSystem, layout: Layout) -> None:
    """Remove all that can be fetched again. Killed in between, it does the rest the next time:
    without its last segments, or with a snapshot that is too old, a copy is a shorter copy."""
    for path in reversed(segment_files(fs, layout)):
        fs.unlink(path)
    for _, path in snapshots.listed(fs, layout.snapshots):
        fs.unlink(path)
    for folder in layout.folders:
        fs.sync_dir(folder)


async def fetch(fs: FileSystem, layout: Layout, log: SharedLog) -> None:
    """Make the files of an empty copy: all segments that the log has, and its snapshots."""
    name, parts = "", list[bytes]()
    place = 0
    while rows := await log.read(place):
        for row in rows:
            header, _ = split(row.data)
            if header is not None:
                _put(fs, layout, name, parts)
                name, parts = segment_name(header.first_seq), []
            parts.append(row.data)
        place = rows[-1].tip.ends
    _put(fs, layout, name, parts)
    for seq in await log.snapshots():
        await _fetch_snapshot(fs, layout, log, seq)


async def _fetch_snapshot(fs: FileSystem, layout: Layout, log: SharedLog, seq: int) -> None:
    """Make the file of a snapshot, a piece at a time; none if it is dropped meanwhile."""
    with suppress(_Dropped), putting(fs, layout.snapshots / f"{seq:020d}.jsonl") as add:
        for number in itertools.count():
            piece = await log.get_piece(seq, number)
            if piece is None:
                raise _Dropped
            add(piece.data)
            if number == piece.of - 1:
                return


async def put_snapshot(fs: FileSystem, path: Path, log: SharedLog, seq: int) -> None:
    """Have `log` keep the snapshot at `path`, a piece at a time: it may be large."""
    fd = fs.open(path, "read")
    try:
        starts = range(0, fs.size(fd), PIECE_BYTES)
        for number, at in enumerate(starts):
            data = await asyncio.to_thread(read_range, fs, fd, at, at + PIECE_BYTES)
            await log.put_piece(seq, number, len(starts), data)
    finally:
        fs.close(fd)


class _Dropped(Exception):
    """A snapshot is not kept any more."""


def _put(fs: FileSystem, layout: Layout, name: str, parts: list[bytes]) -> None:
    if name:
        put_file(fs, layout.journal / name, parts)


def split(data: bytes) -> tuple[Header | None, bytes]:
    """The header at the beginning of a row, if it begins a segment, and its lines."""
    end = data.find(b"\n", 0, MAX_HEADER)
    if end < 0 or not is_header(data, 0, end):
        return None, data
    path = Path(segment_name(int(msgspec.json.decode(data[: end + 1])["first_seq"])))
    return read_header(data[: end + 1], path)[0], data[end + 1 :]


def forget_witness(fs: FileSystem, layout: Layout) -> None:
    """A copy may lack its end, as after a power cut, and that is no damage."""
    if fs.lstat(layout.witness) is not None:
        witness.remove(fs, layout)


def forget_tails(fs: FileSystem, layout: Layout) -> None:
    """What recovery has cut off a copy is in the log, if it counts."""
    for name in fs.listdir(layout.quarantine):
        fs.unlink(layout.quarantine / name)
