"""Appending: from entries to bytes on disk, and what a failure in between means.

Owns the segment that is written to, and how far the journal extends. The loop's thread encodes; the
commit thread writes, syncs and starts new segments; only one append is in flight at a time. As long
as the disk is quick, the loop's thread writes and syncs small appends by itself.

- `written` and `durable` change in the thread that commits. Each is replaced whole, so that any
  thread reads a consistent value. The loop's thread uses the segment writer only while no append is
  in flight, and commits by itself only with durability `always`: otherwise the commit thread syncs
  between appends.
- If there is no space for an append, what it left in the file is cut off, durably, and a later one
  may succeed.
- Any other failure is final: only recovery can then determine what is on disk.
- With `share`, the files are a copy: an append is written when `share` has put it where it counts,
  without a sync, and a failure to write it is never one of the append.
- Nothing counts as written unless the segment is still where readers look for it. So nothing is
  acknowledged into files that were moved away or replaced, and another journal that was put in
  their place is not touched.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from stackshift_jobs.errors import (
    Fenced,
    JournalDiverged,
    StackshiftError,
)
from stackshiftd.core.records import is_in_order
from stackshiftd.journal.commit_thread import CommitThread
from stackshiftd.journal.disk_speed import DiskSpeed
from stackshiftd.journal.filesystem import NO_SPACE, FileSystem
from stackshiftd.journal.interface import (
    Displaced,
    Full,
    Group,
    Place,
    Unknown,
    displaced,
)
from stackshiftd.journal.line_format import encode_group, encode_single
from stackshiftd.journal.reader import SegmentSpan
from stackshiftd.journal.recovery import Recovered
from stackshiftd.journal.segment import Header, SegmentWriter, segment_name
from stackshiftd.journal.witness import NoWitness, Witness

MOST_AT_ONCE: Final = 128 << 10
"""Bytes of an append that the loop's thread commits by itself."""


class Mark(NamedTuple):
    """How far the journal extends: the last record and the place after it."""

    seq: int
    end: Place


class Batch(NamedTuple):
    """An encoded append: the segment to start for it (or None), its bytes, where it ends and the
    time of its last record."""

    roll: Header | None
    data: bytes
    mark: Mark
    at_us: int

    @property
    def bytes(self) -> bytes:
        """What it adds to the files: the header of the new segment, then the lines."""
        return self.data if self.roll is None else self.roll.line() + self.data


class Appender:
    """The writing end of a recovered journal."""

    def __init__(
        self,
        fs: FileSystem,
        folder: Path,
        recovered: Recovered,
        *,
        always: bool,
        segment_size: int,
        interval_s: float,
        witness: Witness | NoWitness,
        speed: DiskSpeed,
    ) -> None:
        self._fs = fs
        self._folder = folder
        self._writer = recovered.writer
        self._always = always
        self._segment_size = segment_size
        self._witness = witness
        self.advanced: Callable[[], None] = lambda: None
        """Is called in the loop's thread when `durable` may have grown or writing has failed."""
        self.share: Callable[[Batch], Awaitable[None]] | None = None
        """Puts an append where it counts, if that is not here."""
        self.began: float | None = None
        """When the append in flight began (`time.monotonic`); None if there is none."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._spans_lock = threading.Lock()  # Segments are added in one thread, dropped in another.
        self.spans = tuple(
            SegmentSpan(s.path, s.header.first_seq, s.header.base, s.header_size)
            for s in recovered.segments
        )
        self.journal_id = recovered.writer.header.journal
        self.written = self.durable = Mark(recovered.report.kept_seq, recovered.writer.end)
        self.last_at_us = recovered.report.last_at_us
        self.in_flight = False
        self.failure: BaseException | None = None
        self._witnessed = recovered.report.kept_seq
        self._thread = CommitThread(self._chore, interval_s)
        self._speed = speed
        self._sharing: asyncio.Task[None] | None = None

    # --- In the loop's thread --------------------------------------------------------------

    async def append(self, groups: Sequence[Group]) -> Sequence[Place]:
        """Make `groups`, which follow the last record, durable; return the places of their entries.

        No other append may be in flight. Raises `Full` or `Unknown`. Cancelling the caller does not
        undo it.
        """
        self.check()
        batch, places = self._encode(groups)
        if not places:
            return places
        loop = self._loop = asyncio.get_running_loop()
        durable: asyncio.Future[None] = loop.create_future()

        def done(_: object, error: BaseException | None) -> None:
            self.in_flight, self.began = False, None
            self.advanced()
            if durable.done():
                return
            if error is None:
                durable.set_result(None)
            else:
                durable.set_exception(error)

        def commit() -> None:
            if not self._may_wait(batch):
                self._thread.submit(lambda: self._commit(batch), loop, done)
                return
            try:
                self._commit_here(batch)
            except BaseException as failed:  # As the thread does it.
                done(None, failed)
            else:
                done(None, None)

        self.in_flight, self.began = True, time.monotonic()
        if self.share is None:
            commit()
        else:
            self._begin_sharing(batch, loop, commit, done)
        await durable
        return places

    def _may_wait(self, batch: Batch) -> bool:
        """May the loop wait while this append is committed?"""
        return (
            self._always
            and batch.roll is None
            and len(batch.data) <= MOST_AT_ONCE
            and self._speed.is_quick(time.monotonic())
        )

    def _commit_here(self, batch: Batch) -> None:
        began = time.monotonic()
        try:
            self._commit(batch)
        finally:
            self._speed.took(began, time.monotonic())
        self._thread.remind()

    def _begin_sharing(
        self,
        batch: Batch,
        loop: asyncio.AbstractEventLoop,
        commit: Callable[[], None],
        done: Callable[[object, BaseException | None], None],
    ) -> None:
        assert self.share is not None

        def shared(task: asyncio.Task[None]) -> None:
            if task.cancelled():
                failed: BaseException | None = Unknown("the daemon ended during an append")
            else:
                failed = task.exception()
            if failed is None:
                commit()
            else:
                if not isinstance(failed, Full):
                    self.failure = failed
                done(None, failed)

        sharing = self._sharing = loop.create_task(_awaited(self.share(batch)))
        sharing.add_done_callback(shared)

    async def copy(self, batch: Batch) -> None:
        """Write what another daemon has appended where it counts. Raises `Full`, after which the
        same may be tried again, and `Unknown`."""
        loop = asyncio.get_running_loop()
        written: asyncio.Future[None] = loop.create_future()

        def done(_: object, error: BaseException | None) -> None:
            self.advanced()
            if written.done():  # Whoever follows was asked to stop.
                return
            if error is None:
                written.set_result(None)
            else:
                written.set_exception(error)

        self._thread.submit(lambda: self._commit(batch, counts=False), loop, done)
        await written

    def check(self) -> None:
        """Raise `Unknown` if a write or sync has failed for good, `Displaced` if the journal was
        moved."""
        if self.failure is not None:
            raise final(self.failure) from self.failure

    @property
    def is_in_place(self) -> bool:
        """Is the segment that is written to where it was opened?"""
        return self._writer.is_in_place

    def check_place(self) -> None:
        """Raise `Displaced` if it is not."""
        if not self.is_in_place:
            raise displaced(self._folder.parent)

    def _encode(self, groups: Sequence[Group]) -> tuple[Batch, list[Place]]:
        """Lines and places of an append; asserts the order of its entries before any is written."""
        seq, at_us, watermark = self.written.seq, self.last_at_us, self.durable.seq
        lines: list[bytes] = []
        for group in groups:
            for entry in group:
                seq += 1
                assert entry.seq == seq, f"record {entry.seq} where {seq} was expected"
                if entry.at_us != at_us:
                    assert is_in_order(entry, at_us), f"record {seq} is older than that before it"
                    at_us = entry.at_us
            if len(group) == 1:
                lines.append(encode_single(group[0], watermark))
            elif group:
                lines += encode_group(group, watermark)
        data = b"".join(lines)
        writer, roll = self._writer, None
        at = writer.end
        if writer.size > writer.header_size and writer.size + len(data) > self._segment_size:
            roll = writer.next_header(self.written.seq + 1)
            at += len(roll.line())
        places: list[Place] = []
        for line in lines:
            places.append(at)
            at += len(line)
        return Batch(roll, data, Mark(seq, at), at_us), places

    def drop_oldest(self) -> None:
        """Forget the oldest segment; its file was already removed."""
        with self._spans_lock:
            self.spans = self.spans[1:]

    def close(self) -> None:
        """Finish submitted appends, make them durable and close the file.

        Raises `Unknown` if something written could not be made durable.
        """
        self._thread.stop()
        try:
            if self.failure is None and self.durable != self.written:
                self._sync()
            if self.failure is not None and self.durable != self.written:
                raise final(self.failure) from self.failure
        finally:
            self._note_durable()
            self._witness.close()
            self._writer.close()

    # --- In the thread that commits --------------------------------------------------------

    def _commit(self, batch: Batch, *, counts: bool = True) -> None:
        """Write an append; one that `counts` and is not written is a failure for good, if it counts
        already where it was shared."""
        self.check()  # A sync between appends may have failed.
        try:
            if batch.roll is not None:
                self.check_place()
                self._roll(batch.roll)
            self._write(batch.data)
            if self._always and self.share is None:
                self._writer.sync()
            self.check_place()
        except Full as full:
            if self.share is None or not counts:
                raise
            self.failure = full  # It counts all the same.
            raise final(full) from full
        except BaseException as failed:  # Whatever it was, the file's state is now unknown.
            self.failure = failed
            raise final(failed) from failed
        self.written, self.last_at_us = batch.mark, batch.at_us
        if self._always or self.share is not None:
            self.durable = self.written

    def _write(self, data: bytes) -> None:
        try:
            self._writer.write(data)
        except OSError as failed:
            if failed.errno not in NO_SPACE:
                raise
            self._writer.cut()
            # `cut` synced the file, so whatever was written before is durable now.
            self.durable = self.written
            raise full(failed) from failed

    def _roll(self, header: Header) -> None:
        """Start a new segment, after making all of the old one durable: recovery relies on sealed
        segments being complete."""
        old = self._writer
        if self.durable != self.written:
            old.sync()
            self.durable = self.written
        self._note_durable()
        try:
            self._writer = SegmentWriter.create(self._fs, self._folder, header)
        except OSError as failed:
            named = self._fs.lstat(self._folder / segment_name(header.first_seq)) is not None
            if failed.errno not in NO_SPACE or named:
                raise
            # No space for even an empty file: it never got its name; the old one stays in use.
            raise full(failed) from failed
        self.durable = self.written = Mark(self.written.seq, self._writer.end)
        span = SegmentSpan(
            self._writer.path, header.first_seq, header.base, self._writer.header_size
        )
        with self._spans_lock:
            self.spans += (span,)
        old.close()

    def _chore(self) -> None:
        """With `durability = "interval"`, sync what was written since the last sync. Then tell the
        witness. Not after each append: it is another file, and on ext4 the next sync of the journal
        would take twice as long."""
        if not self._always and self.failure is None and self.durable != self.written:
            self._sync()
            loop = self._loop
            if loop is not None and not loop.is_closed():
                loop.call_soon_threadsafe(self.advanced)
        self._note_durable()

    def _note_durable(self) -> None:
        seq = self.durable.seq
        if seq != self._witnessed:
            self._witness.note(seq)
            self._witnessed = seq

    def _sync(self) -> None:
        try:
            self._writer.sync()
        except OSError as failed:
            self.failure = failed
        else:
            self.durable = self.written


def full(cause: OSError) -> Full:
    """The error for an append or snapshot refused for lack of space."""
    return Full(
        f"no space for the journal: {cause.strerror}",
        hint="free some disk space; work then continues by itself",
    )


async def _awaited(work: Awaitable[None]) -> None:
    await work


def final(cause: BaseException) -> StackshiftError:
    """The error for a final failure of writing, caused by `cause`."""
    if isinstance(cause, Displaced | JournalDiverged | Fenced | Unknown):
        return type(cause)(cause.message, hint=cause.hint)
    return Unknown(
        f"writing to the journal failed ({cause}); what is on disk is unknown",
        hint="the daemon must stop; it recovers from the journal at its next start",
    )
