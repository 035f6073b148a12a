"""What `stackshift journal …` does to a journal without its daemon.

`verify`, `cat`, `stats` and `backup` only read, need no lock and may run while a daemon does.
`repair` and `restore` acquire the lock. None of them starts anything or prints: they return or
raise.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stackshift_jobs.errors import JournalDamaged
from stackshiftd.journal.filesystem import FileSystem, RealFileSystem, read_file, read_range
from stackshiftd.journal.layout import Layout, check_root
from stackshiftd.journal.line_format import head
from stackshiftd.journal.offline import inspect
from stackshiftd.journal.offline.archive import Backup, backup, restore
from stackshiftd.journal.offline.inspect import Problem
from stackshiftd.journal.offline.repair import repair
from stackshiftd.journal.offline.verify import Report, verify
from stackshiftd.journal.offline.workbench import LostRange, Repair
from stackshiftd.journal.recovery import Segment, list_segments
from stackshiftd.journal.scan import scan
from stackshiftd.journal.segment import REPAIR_HINT

__all__ = [
    "Backup",
    "LostRange",
    "Problem",
    "Repair",
    "Report",
    "backup",
    "cat",
    "repair",
    "restore",
    "stats",
    "verify",
]


def cat(data_dir: Path, since_seq: int = 0, *, fs: FileSystem | None = None) -> Iterator[bytes]:
    """The journal's lines after record `since_seq`, as they are in the files, without newlines and
    without headers. Ends with the last whole append, which is made durable first.

    Raises `JournalDamaged` at the first line that is damaged.
    """
    fs = fs or RealFileSystem()
    layout = Layout(data_dir)
    check_root(fs, layout)
    segments = list_segments(fs, layout) if fs.lstat(layout.journal) is not None else []
    for number, segment in enumerate(segments):
        last = number + 1 == len(segments)
        if last or segments[number + 1].header.prev_seq > since_seq:
            yield from _lines(fs, segment, since_seq, last)


def _lines(fs: FileSystem, segment: Segment, since_seq: int, last: bool) -> Iterator[bytes]:
    fd = fs.open(segment.path, "read")
    try:
        data = read_range(fs, fd, 0, fs.size(fd))
        if last:
            found = scan(data, segment.header_size, segment.header.prev_seq)
            if found.seq >= found.watermark:
                data = data[: found.end]
            fs.sync_data(fd)  # Nothing is shown that a power cut could still undo.
    finally:
        fs.close(fd)
    at = segment.header_size
    while at < len(data):
        newline = data.find(b"\n", at)
        line = head(data, at, newline if newline >= 0 else len(data))
        if line is None or newline < 0:
            raise JournalDamaged(
                f"{segment.path.name} at byte {at}: a line is damaged or cut short",
                hint=REPAIR_HINT,
                file=str(segment.path),
                offset=at,
                seq=0,
            )
        if line.seq > since_seq:
            yield data[at:newline]
        at = newline + 1


def stats(data_dir: Path, *, fs: FileSystem | None = None) -> dict[str, Any]:
    """The journal's range of records and its size, with the fields of the protocol's
    `journal.stats`; `durable_seq` is the watermark, the last record certainly on disk."""
    fs = fs or RealFileSystem()
    layout = Layout(data_dir)
    check_root(fs, layout)
    segments = list_segments(fs, layout) if fs.lstat(layout.journal) is not None else []
    if not segments:
        seqs = {"first_seq": 1, "last_seq": 0, "durable_seq": 0}
        return {"journal": None, **seqs, "segments": [], "bytes": 0, "snapshot": None}
    last = segments[-1]
    found = scan(read_file(fs, last.path), last.header_size, last.header.prev_seq)
    good, _ = inspect.good_snapshots(fs, layout, last.header.journal)
    kept = good[-1] if good else None
    return {
        "journal": last.header.journal,
        "first_seq": segments[0].header.first_seq,
        "last_seq": found.seq,
        "durable_seq": found.watermark,
        "segments": [
            {"file": f"journal/{s.path.name}", "first_seq": s.header.first_seq, "bytes": s.size}
            for s in segments
        ],
        "bytes": sum(s.size for s in segments) + (kept.size if kept else 0),
        "snapshot": {"seq": kept.seq, "bytes": kept.size} if kept else None,
    }
