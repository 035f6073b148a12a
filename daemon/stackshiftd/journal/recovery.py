"""Turns what a crash left into a journal that can be trusted, before anything is read or appended.

Owns the decision of what is kept. Relies on the lock: nobody else writes. The rules:

1. Everything known to have been on disk must be present, else `JournalDamaged` is raised and
   nothing is touched. That is all sealed segments (a segment is created only after the one before
   it is durable), and in the last one everything up to the highest watermark that any intact line
   carries, that a snapshot covers, or that the witness names.
2. Beyond that, the longest prefix of whole appends is kept. The rest was never acknowledged; it is
   moved to quarantine unchanged, never dropped, and reported until a record names it.
3. What the file contains beyond the watermark may never have reached the disk, even if it reads
   well: a failed sync marks pages clean. So it is copied, and the copy synced, before anything
   relies on it.

If killed at any point, it does the same again: a quarantine file is named after its contents, and
the segment is replaced afterwards, by a single rename.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from stackshift_jobs.errors import JournalDamaged
from stackshiftd.journal import snapshots, witness
from stackshiftd.journal.filesystem import FileSystem, put_file, read_file, read_range, write_all
from stackshiftd.journal.interface import Recovery, Torn
from stackshiftd.journal.layout import Layout
from stackshiftd.journal.scan import Scan, known_durable, scan
from stackshiftd.journal.segment import (
    LOST_HINT,
    MAX_HEADER,
    NAME,
    REPAIR_HINT,
    Header,
    SegmentWriter,
    first_header,
    read_header,
)
from stackshiftd.journal.witness import Known


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment file with a valid header; `size` in bytes."""

    path: Path
    header: Header
    header_size: int
    size: int

    @property
    def end(self) -> int:
        """The place after its last byte."""
        return self.header.base + self.size


@dataclass(frozen=True, slots=True)
class Recovered:
    """A journal that can be trusted: all segments, the last of them open for writing."""

    segments: list[Segment]
    writer: SegmentWriter
    snapshot: snapshots.Snapshot | None
    report: Recovery


class Examined(NamedTuple):
    """A journal in which nothing known is missing: its segments, its newest good snapshot, the
    contents of the last segment, what was found in them, and the last record that was certainly on
    disk."""

    segments: list[Segment]
    snapshot: snapshots.Snapshot | None
    data: bytes
    found: Scan
    durable: int


def recover(fs: FileSystem, layout: Layout, new_journal_id: Callable[[], str]) -> Recovered:
    """Bring the journal in `layout` (locked, checked) into a state that can be trusted.

    Raises `JournalDamaged` (fields `file`, `offset`, `seq`) or `NewerFormat`; the files are then
    unchanged.
    """
    examined = examine(fs, layout)
    if examined is None:
        return _new_journal(fs, layout, new_journal_id)
    segments, snapshot, data, found, _ = examined
    last = segments[-1]
    remove_leftovers(fs, layout)
    for folder in layout.folders:
        # A visible name may not be on disk: the process that created it may have died before
        # syncing the directory.
        fs.sync_dir(folder)
    torn = _settle(fs, layout, last, data, found)
    kept = data[: found.end]
    segments[-1] = Segment(last.path, last.header, last.header_size, len(kept))
    at_us = found.at_us if found.at_us is not None else last_time(fs, segments[:-1])
    writer = SegmentWriter(fs, last.path, last.header, len(kept), hashlib.sha256(kept))
    return Recovered(segments, writer, snapshot, Recovery(found.seq, at_us, torn))


def examine(fs: FileSystem, layout: Layout) -> Examined | None:
    """Check that everything known to have been on disk is present, and find the intact part of the
    last segment; changes nothing. None if there was never a journal. Raises what `recover` raises.
    """
    known = witness.read(fs, layout)
    segments = list_segments(fs, layout)
    if not segments:
        _check_new(fs, layout, known)
        return None
    journal = segments[0].header.journal
    if known is not None and known.journal != journal:
        raise _lost(layout, known, f"the segments in it belong to another journal ({journal})")
    snapshot, _ = snapshots.newest(fs, layout.snapshots, journal)
    covered = snapshot.seq if snapshot else 0
    _check_reach(segments, covered)
    check_sealed(fs, segments, covered)
    last = segments[-1]
    data = read_file(fs, last.path)
    found = scan(data, last.header_size, last.header.prev_seq)
    durable = known_durable(found, max(covered, known.seq if known else 0))
    if found.seq < durable:
        raise damaged(last, found, durable)
    return Examined(segments, snapshot, data, found, durable)


def list_segments(fs: FileSystem, layout: Layout) -> list[Segment]:
    """All segments by their headers, oldest first; their records are not read.

    Raises `JournalDamaged` if a header is damaged or does not continue the segment before it.
    """
    segments: list[Segment] = []
    for name in sorted(fs.listdir(layout.journal)):
        if not NAME.fullmatch(name):
            continue
        segment = open_segment(fs, layout.journal / name)
        if segments and (why := breaks_chain(segments[-1], segment)):
            raise JournalDamaged(
                f"{name}: {why}",
                hint=REPAIR_HINT,
                file=str(segment.path),
                offset=0,
                seq=segment.header.first_seq,
            )
        segments.append(segment)
    return segments


def open_segment(fs: FileSystem, path: Path) -> Segment:
    """The segment at `path`; only its header is read. Raises `JournalDamaged`, `NewerFormat`."""
    fd = fs.open(path, "read")
    try:
        header, header_size = read_header(read_range(fs, fd, 0, MAX_HEADER), path)
        return Segment(path, header, header_size, fs.size(fd))
    finally:
        fs.close(fd)


def breaks_chain(before: Segment, after: Segment) -> str:
    """Why `after` cannot follow `before`, judging by their headers; empty if it can."""
    if after.header.journal != before.header.journal:
        return f"it belongs to another journal ({after.header.journal})"
    if after.header.base != before.end:
        return (
            f"its header says that {after.header.base} bytes precede it, but there are "
            f"{before.end}: {before.path.name} changed size, or a segment is missing"
        )
    return ""


def check_sealed(fs: FileSystem, segments: Sequence[Segment], covered: int) -> None:
    """Check every segment before the last that has records beyond `covered`.

    The hash in the next header covers every byte, so if the hashes are equal, no scan is needed.
    Raises `JournalDamaged`.
    """
    for segment, after in pairwise(segments):
        if after.header.prev_seq <= covered:
            continue
        data = read_file(fs, segment.path)
        expected = segment.header.stands_for or after.header.prev_hash
        if not segment.header.stands_for and hashlib.sha256(data).hexdigest() == expected:
            continue
        found = scan(data, segment.header_size, segment.header.prev_seq)
        if expected != after.header.prev_hash or found.seq != after.header.prev_seq or found.fault:
            raise damaged(segment, found, after.header.prev_seq)
        if not segment.header.stands_for:
            raise JournalDamaged(
                f"{segment.path.name}: every line is intact, but the file does not match the hash "
                f"in {after.path.name}",
                hint=REPAIR_HINT,
                file=str(segment.path),
                offset=0,
                seq=segment.header.first_seq,
            )


def _check_reach(segments: Sequence[Segment], covered: int) -> None:
    first = segments[0]
    if first.header.prev_seq > covered:
        raise JournalDamaged(
            f"records up to {first.header.prev_seq} are missing: {first.path.name} is the oldest "
            f"segment, and no good snapshot covers what came before it",
            hint="stackshift journal restore, from a backup",
            file=str(first.path),
            offset=0,
            seq=covered + 1,
        )


def damaged(segment: Segment, found: Scan, durable: int) -> JournalDamaged:
    """The error for a segment that lacks records up to `durable`, which were on disk."""
    durable = known_durable(found, durable)
    offset = found.fault.offset if found.fault else found.size
    why = (
        f"is damaged at byte {offset}: {found.fault.why}; record {found.seq + 1} is missing"
        if found.fault
        else f"ends after record {found.seq}"
    )
    return JournalDamaged(
        f"{segment.path.name} {why}, although records up to {durable} were on disk",
        hint=REPAIR_HINT if found.fault else LOST_HINT,
        file=str(segment.path),
        offset=offset,
        seq=found.seq + 1,
    )


def _check_new(fs: FileSystem, layout: Layout, known: Known | None) -> None:
    """Raise `JournalDamaged` if there was a journal, of which no segment is left."""
    if known is not None and known.seq:
        raise _lost(layout, known, "it contains no segments")
    if snapshots.listed(fs, layout.snapshots):
        raise JournalDamaged(
            f"{layout.journal} contains no segments, but there are snapshots",
            hint=LOST_HINT,
            file=str(layout.journal),
            offset=0,
            seq=1,
        )


def _new_journal(fs: FileSystem, layout: Layout, new_journal_id: Callable[[], str]) -> Recovered:
    remove_leftovers(fs, layout)
    writer = SegmentWriter.create(fs, layout.journal, first_header(new_journal_id()))
    segment = Segment(writer.path, writer.header, writer.header_size, writer.size)
    return Recovered([segment], writer, None, Recovery(kept_seq=0, last_at_us=0))


def _lost(layout: Layout, known: Known, why: str) -> JournalDamaged:
    return JournalDamaged(
        f"{layout.journal} has lost the journal {known.journal}, of which records up to "
        f"{known.seq} were on disk: {why}",
        hint=LOST_HINT,
        file=str(layout.journal),
        offset=0,
        seq=1,
    )


def remove_leftovers(fs: FileSystem, layout: Layout) -> None:
    """Remove temporary files that a crash left before their rename; nothing refers to them."""
    for folder in layout.folders:
        for name in fs.listdir(folder):
            if name.endswith(".tmp"):
                fs.unlink(folder / name)


def _settle(fs: FileSystem, layout: Layout, last: Segment, data: bytes, found: Scan) -> Torn | None:
    """Make the good prefix of the last segment durable, set the rest aside, and return what must be
    reported."""
    if found.end < len(data):
        set_aside(fs, layout, last.path, found.end, data[found.end :])
        put_file(fs, last.path, [memoryview(data)[: found.end]])
    elif found.closed:
        _rewrite_last_line(fs, last.path, data, found)
    elif found.seq > found.watermark:
        put_file(fs, last.path, [data])
    return _unreported(fs, layout, last, found)


def _rewrite_last_line(fs: FileSystem, path: Path, data: bytes, found: Scan) -> None:
    # All but `journal.closed` is below the watermark. Only its page may be one that a failed sync
    # marked clean; writing the same bytes again makes it dirty, so that they reach the disk.
    fd = fs.open(path, "write")
    try:
        write_all(fs, fd, data[found.last_at : found.end], found.last_at)
        fs.sync_data(fd)
    finally:
        fs.close(fd)


def set_aside(
    fs: FileSystem, layout: Layout, segment: Path, offset: int, rest: bytes, ending: str = "tail"
) -> Path:
    """Put `rest`, cut off `segment` at `offset`, into quarantine and return the file.

    Durable when it returns. The name contains a digest of the contents, so that doing it again
    after a crash changes nothing. `ending` is `tail` for what `journal.recovered` will report, and
    another word otherwise.
    """
    path = layout.quarantine / aside_name(segment, offset, rest, ending)
    if fs.lstat(path) is None:
        put_file(fs, path, [rest])
    else:
        fs.sync_dir(layout.quarantine)  # A crash may have come just before its name was synced.
    return path


def aside_name(segment: Path, offset: int, rest: bytes, ending: str) -> str:
    """The name in quarantine of `rest`, cut off `segment` at `offset`."""
    digest = hashlib.sha256(rest).hexdigest()[:12]
    return f"{segment.stem}-{offset}-{digest}.{ending}"


def _unreported(fs: FileSystem, layout: Layout, last: Segment, found: Scan) -> Torn | None:
    """What was cut off the last segment, now or by an earlier recovery that was killed before it
    was reported, and is not yet named by a `journal.recovered` record."""
    owed = [
        (name, info.size)
        for name in sorted(fs.listdir(layout.quarantine))
        if name.startswith(f"{last.path.stem}-")
        and name.endswith(".tail")
        and f"quarantine/{name}" not in found.reported
        and (info := fs.lstat(layout.quarantine / name)) is not None
    ]
    if not owed:
        return None
    return Torn(sum(size for _, size in owed), ", ".join(f"quarantine/{name}" for name, _ in owed))


def last_time(fs: FileSystem, segments: Sequence[Segment]) -> int:
    """The time of the last record in `segments`; 0 if there is none."""
    for segment in reversed(segments):
        found = scan(read_file(fs, segment.path), segment.header_size, segment.header.prev_seq)
        if found.at_us is not None:
            return found.at_us
    return 0
