"""Moves a journal from files into a shared log, and back, and puts back what a log has lost. No
daemon may be running.

At each moment at most one of both can be started from. Into the log: it is made as one that has
moved, so that nobody leads it, read back and compared; then the files are marked as a copy; then
the log may be led. Back: the files are brought level and synced; then the log says that it has
moved; then the mark is removed. Killed in between, the same command does the rest.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from stackshift_jobs.errors import BadConfiguration, Conflict, Fenced, JournalDiverged
from stackshiftd.journal import snapshots, witness
from stackshiftd.journal.filesystem import FileSystem, RealFileSystem, read_file
from stackshiftd.journal.layout import HeldLock, Layout, prepare
from stackshiftd.journal.line_format import head
from stackshiftd.journal.recovery import Recovered, recover
from stackshiftd.journal.shared import copying
from stackshiftd.journal.shared.lease_watch import LeaseWatch
from stackshiftd.journal.shared.log import MOVED, Lease, Row, SharedLog, Tip, next_row
from stackshiftd.journal.shared.shared_journal import LOOK_SECONDS, SharedJournal, moved_to
from stackshiftd.journal.witness import Known

_ARRIVING: Final = f"{MOVED}from files, and has not arrived yet"
ROW_BYTES: Final = 1 << 20
"""About how much of a file is in one row."""


async def to_log(
    data_dir: Path, log: SharedLog, of: str, *, lease_ms: int, dry_run: bool = False
) -> dict[str, Any]:
    """Move the journal in `data_dir` into `log`, which is `of`. Returns `{journal, records, bytes,
    rows, to}`.

    Raises what opening the journal raises, `Conflict` if the log has another journal,
    `JournalDiverged` if what is read back differs, and `DatabaseUnavailable`.
    """
    fs: FileSystem = RealFileSystem()
    layout = Layout(data_dir)
    prepare(fs, layout)
    lock = HeldLock.take(fs, layout, os.getpid())
    try:
        if (mark := copying.read_mark(fs, layout)) is not None:
            lease = await log.find()
            if lease is None or (lease.journal, lease.owner) != (mark.journal, _ARRIVING):
                raise Conflict(f"{data_dir} is a copy already, of the journal in {mark.of}")
            await log.leave(lease.term)
            return {"journal": mark.journal, "records": (await log.tip()).seq, "to": of}
        recovered = _whole(fs, layout)
        journal = recovered.writer.header.journal
        recovered.writer.close()
        rows = _Rows(fs, layout)
        found = await log.find()
        if found is not None and found.journal != journal:
            raise Conflict(
                f"{of} has another journal ({found.journal}) for this project",
                hint="give the project another name, or drop the rows of that one",
            )
        report = {
            "journal": journal,
            "records": recovered.report.kept_seq,
            **rows.measured(),
            "to": of,
        }
        if dry_run:
            return report
        await log.make(Lease(journal, 0, 0, _ARRIVING, lease_ms), rows)
        for seq, path in snapshots.listed(fs, layout.snapshots):
            await copying.put_snapshot(fs, path, log, seq)
        await _compare(log, rows, of)
        copying.write_mark(fs, layout, journal, of)
        copying.forget_witness(fs, layout)
        await log.leave(0)
        return report
    finally:
        lock.release()
        log.close()


async def to_files(
    data_dir: Path, log: SharedLog, of: str, *, dry_run: bool = False
) -> dict[str, Any]:
    """Move the journal in `log`, of which `data_dir` gets a whole copy, into these files. Returns
    `{journal, records, bytes, to}`. Raises what `SharedJournal.lead` raises."""
    lease = await log.find()
    if lease is None:
        raise BadConfiguration(f"{of} has no journal for this project")
    fs: FileSystem = RealFileSystem()
    layout = Layout(data_dir)
    mark = copying.read_mark(fs, layout)
    if lease.owner.startswith(MOVED):
        if mark is None or lease.owner != moved_to(data_dir):
            raise Conflict(f"the journal was {lease.owner}")
        tip = await log.tip()
        _settle(fs, layout, Known(lease.journal, tip.seq))
        return {"journal": lease.journal, "records": tip.seq, "to": str(data_dir)}
    journal = await SharedJournal.lead(data_dir, log, of)
    try:
        stats = journal.stats()
        report = {
            "journal": journal.journal_id,
            "records": journal.last_seq,
            "bytes": stats["bytes"],
            "to": str(data_dir),
        }
        if dry_run:
            await journal.leave()
            return report
        for path in copying.segment_files(fs, layout):
            fd = fs.open(path, "write")
            try:
                fs.sync_data(fd)
            finally:
                fs.close(fd)
        for folder in layout.folders:
            fs.sync_dir(folder)
        await journal.move_away()
        _settle(fs, layout, Known(journal.journal_id, journal.last_seq))
        return report
    finally:
        journal.close()


async def rescue(
    data_dir: Path, log: SharedLog, of: str, *, dry_run: bool = False
) -> dict[str, Any]:
    """Put back into `log` what it has lost and the copy in `data_dir` has, as after a restore of
    the database to an earlier hour. Returns `{journal, records, first, last, bytes, to}`: how many
    records, and which. Killed in between, the same command does the rest.

    Raises what opening the copy raises, `BadConfiguration` if it is none, `Fenced` if a daemon
    leads, `Conflict` if the copy has nothing more, `JournalDiverged` if the log has gone on
    differently, and `DatabaseUnavailable`.
    """
    fs: FileSystem = RealFileSystem()
    layout = Layout(data_dir)
    prepare(fs, layout)
    lock = HeldLock.take(fs, layout, os.getpid())
    try:
        mark, lease = copying.read_mark(fs, layout), await log.find()
        if mark is None or lease is None or lease.owner.startswith(MOVED):
            raise BadConfiguration(
                f"{data_dir} is not a copy of a journal in {of}",
                hint="rescue where a daemon of the project has run since it is in the database",
            )
        if mark.journal != lease.journal:
            raise JournalDiverged(
                f"{data_dir} is a copy of {mark.journal}, and not of that in {of}"
            )
        copying.forget_witness(fs, layout)
        recovered = recover(fs, layout, lambda: mark.journal)
        recovered.writer.close()
        tip = await log.tip()
        await _compare_end(fs, layout, log, tip, of)
        rows = _Rows(fs, layout, tip)
        measured = rows.measured()
        if not measured["rows"]:
            raise Conflict(
                f"{of} has all that {data_dir} has: {tip.seq} records",
                hint="another machine may have more: stackshift journal stats says how much",
            )
        report = {
            "journal": mark.journal,
            "records": recovered.report.kept_seq - tip.seq,
            "first": tip.seq + 1,
            "last": recovered.report.kept_seq,
            "bytes": measured["bytes"],
            "to": of,
        }
        if not dry_run:
            term = await _led(log, lease)
            for row in rows:
                await log.append(tip, row)
                tip = row.tip
            await log.leave(term)
        return report
    finally:
        lock.release()
        log.close()


async def _compare_end(fs: FileSystem, layout: Layout, log: SharedLog, tip: Tip, of: str) -> None:
    """Raise `JournalDiverged` unless the last row of the log stands in the files as it is."""
    [row] = [row for row in await log.read(tip.place) if row.place == tip.place]
    for path in copying.segment_files(fs, layout):
        data = read_file(fs, path)
        header, _ = copying.split(data)
        if header is not None and header.base <= tip.place < header.base + len(data):
            start = tip.place - header.base
            if data[start : start + len(row.data)] == row.data:
                return
    raise JournalDiverged(
        f"{of} has gone on differently: its last record, {tip.seq}, is not the one here",
        hint="what both have cannot be joined; a backup of either can be restored elsewhere",
    )


async def _led(log: SharedLog, lease: Lease) -> int:
    """Lead the log, which nobody may do. Raises `Fenced`."""
    watch = LeaseWatch("", "")
    while True:
        if watch.may_take(lease, time.monotonic()):
            term = await log.lead(lease, f"rescue on {socket.gethostname()}", lease.lease_ms)
            if term is not None:
                return term
            watch.refused(lease)
        if watch.is_led:
            raise Fenced(
                f"the daemon on {lease.owner.partition(' ')[0]} leads",
                hint="stop it first: stackshift daemon stop",
            )
        await asyncio.sleep(LOOK_SECONDS)
        found = await log.find()
        assert found is not None
        lease = found


def _settle(fs: FileSystem, layout: Layout, known: Known) -> None:
    """Let the files be a journal of their own."""
    witness.put(fs, layout, known)
    copying.remove_mark(fs, layout)


def _whole(fs: FileSystem, layout: Layout) -> Recovered:
    if not copying.segment_files(fs, layout):
        raise BadConfiguration(f"{layout.root} has no journal to move")
    recovered = recover(fs, layout, lambda: "")
    if recovered.report.torn is not None:
        recovered.writer.close()
        raise BadConfiguration(
            f"the last append in {layout.root} is torn",
            hint="start and stop the daemon, which records that; then move it",
        )
    return recovered


class _Rows:
    """The files as rows of whole appends, from the beginning or from the end of a log; a segment's
    header begins a row. They are read each time, a segment at a time: a journal may be larger than
    the memory."""

    def __init__(self, fs: FileSystem, layout: Layout, after: Tip | None = None) -> None:
        self._of = fs, layout, after

    def __iter__(self) -> Iterator[Row]:
        return _rows(*self._of)

    def measured(self) -> dict[str, int]:
        """`{bytes, rows}`."""
        sizes = [len(row.data) for row in self]
        return {"bytes": sum(sizes), "rows": len(sizes)}


def _rows(fs: FileSystem, layout: Layout, after: Tip | None) -> Iterator[Row]:
    tip = after
    for path in copying.segment_files(fs, layout):
        data = read_file(fs, path)
        header, lines = copying.split(data)
        assert header is not None, f"{path} has no header"
        if tip is None:
            tip = Tip(0, header.base, header.prev_seq, b"")
        start = tip.ends - header.base
        if start >= len(data):
            continue
        at, seq = max(start, len(data) - len(lines)), tip.seq
        while at < len(data):
            end = data.index(b"\n", at)
            line = head(data, at, end)
            assert line is not None, f"{path} is damaged at byte {at}"
            at, seq = end + 1, line.seq
            is_whole = line.part == line.parts
            if is_whole and (at - start >= ROW_BYTES or at == len(data)):
                row = next_row(tip, tip.seq + 1, seq, data[start:at])
                yield row
                tip, start = row.tip, at
        if start < len(data):  # A segment that has only a header.
            row = next_row(tip, header.first_seq, header.prev_seq, data[start:])
            yield row
            tip = row.tip


async def _compare(log: SharedLog, rows: _Rows, of: str) -> None:
    """Read the log back, and compare each row with what was meant."""
    left = iter(rows)
    place = next(iter(rows)).place
    while found := await log.read(place):
        for row in found:
            if row != next(left, None):
                raise JournalDiverged(
                    f"{of} does not have what was moved there, from byte {row.place} on",
                    hint="the files are still the journal, as they were",
                )
        place = found[-1].tip.ends
    if next(left, None) is not None:
        raise JournalDiverged(
            f"{of} does not have all that was moved there",
            hint="the files are still the journal, as they were",
        )
