"""Appending: from entries to bytes on the disk, and what a failure on the way means.

Owns the segment that is written to, and how far the journal goes. The loop's thread encodes; the
commit thread writes, syncs and begins segments; only one append is under way at a time.

- `written` and `durable` change in the commit thread, each replaced whole, so that any thread reads
  a consistent one. The writer is looked at by the loop's thread only while no append is in flight.
- No room for an append: what it left in the file is cut off, durably, and a later one may succeed.
- Any other failure is final: what the disk holds can then be told by recovery alone.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from stackshiftd.journal.commit_thread import CommitThread
from stackshiftd.journal.filesystem import NO_SPACE, FileSystem
from stackshiftd.journal.interface import Full, Group, Place, Unknown
from stackshiftd.journal.line_format import encode_group, encode_single
from stackshiftd.journal.reader import SegmentSpan
from stackshiftd.journal.recovery import Recovered
from stackshiftd.journal.segment import Header, SegmentWriter, segment_name


class Mark(NamedTuple):
    """How far something goes: the last record and the place after it."""

    seq: int
    end: Place


class _Batch(NamedTuple):
    """An append, encoded: the segment to begin for it (or none), its bytes, and where it ends."""

    roll: Header | None
    data: bytes
    mark: Mark
    at_us: int


class Appender:
    """The writing end of a recovered journal; `advanced` is called in the loop's thread when
    `durable` may have grown or everything has failed."""

    def __init__(
        self,
        fs: FileSystem,
        folder: Path,
        recovered: Recovered,
        *,
        always: bool,
        segment_size: int,
        interval_s: float,
        advanced: Callable[[], None],
    ) -> None:
        self._fs = fs
        self._folder = folder
        self._writer = recovered.writer
        self._always = always
        self._segment_size = segment_size
        self._advanced = advanced
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
        self._thread = CommitThread(None if always else self._sync_chore, interval_s)

    # --- In the loop's thread --------------------------------------------------------------

    async def append(self, groups: Sequence[Group]) -> Sequence[Place]:
        """Make `groups`, which follow the last record, durable; the places of their entries. None
        may be in flight.

        Raises `Full` or `Unknown`. A caller that is cancelled meanwhile does not undo it.
        """
        self.check()
        batch, places = self._encode(groups)
        if not places:
            return places
        loop = self._loop = asyncio.get_running_loop()
        durable: asyncio.Future[None] = loop.create_future()

        def done(_: object, error: BaseException | None) -> None:
            self.in_flight = False
            self._advanced()
            if durable.done():
                return
            if error is None:
                durable.set_result(None)
            else:
                durable.set_exception(error)

        self.in_flight = True
        self._thread.submit(lambda: self._commit(batch), loop, done)
        await durable
        return places

    def check(self) -> None:
        """Raise `Unknown` once anything has failed for good."""
        if self.failure is not None:
            raise unknown(self.failure) from self.failure

    def _encode(self, groups: Sequence[Group]) -> tuple[_Batch, list[Place]]:
        """Lines and places of an append; a mistake of ours is raised before anything is written."""
        seq, at_us, watermark = self.written.seq, self.last_at_us, self.durable.seq
        lines: list[bytes] = []
        for group in groups:
            for entry in group:
                seq += 1
                assert entry.seq == seq, f"record {entry.seq} where {seq} is due"
                assert entry.at_us >= at_us, f"record {seq} is older than the one before it"
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
        return _Batch(roll, data, Mark(seq, at), at_us), places

    def drop_oldest(self) -> None:
        """Forget the oldest segment, whose file is gone."""
        with self._spans_lock:
            self.spans = self.spans[1:]

    def close(self) -> None:
        """Finish what was submitted, make it durable, let go of the file. Raises `Unknown`."""
        self._thread.stop()
        try:
            if self.failure is None and self.durable != self.written:
                self._sync()
            if self.failure is not None and self.durable != self.written:
                raise unknown(self.failure) from self.failure
        finally:
            self._writer.close()

    # --- In the commit thread --------------------------------------------------------------

    def _commit(self, batch: _Batch) -> None:
        self.check()  # A sync between appends may have failed.
        try:
            if batch.roll is not None:
                self._roll(batch.roll)
            self._write(batch.data)
            if self._always:
                self._writer.sync()
        except Full:
            raise
        except BaseException as failed:  # Whatever it was, the file is in an unknown state now.
            self.failure = failed
            raise unknown(failed) from failed
        self.written, self.last_at_us = batch.mark, batch.at_us
        if self._always:
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
        """Begin a new segment. All of the old one is durable first: that is what recovery takes a
        sealed segment for."""
        old = self._writer
        if self.durable != self.written:
            old.sync()
            self.durable = self.written
        try:
            self._writer = SegmentWriter.create(self._fs, self._folder, header)
        except OSError as failed:
            named = self._fs.lstat(self._folder / segment_name(header.first_seq)) is not None
            if failed.errno not in NO_SPACE or named:
                raise
            # No room for even an empty file: it never got its name, and the old one goes on.
            raise full(failed) from failed
        self.durable = self.written = Mark(self.written.seq, self._writer.end)
        span = SegmentSpan(
            self._writer.path, header.first_seq, header.base, self._writer.header_size
        )
        with self._spans_lock:
            self.spans += (span,)
        old.close()

    def _sync_chore(self) -> None:
        """With `durability = "interval"`: sync what was written since the last time."""
        if self.failure is None and self.durable != self.written:
            self._sync()
            loop = self._loop
            if loop is not None and not loop.is_closed():
                loop.call_soon_threadsafe(self._advanced)

    def _sync(self) -> None:
        try:
            self._writer.sync()
            self.durable = self.written
        except OSError as failed:
            self.failure = failed


def full(cause: OSError) -> Full:
    """The refusal for lack of room."""
    return Full(
        f"no room for the journal: {cause.strerror}",
        hint="make room on the disk; it goes on by itself",
    )


def unknown(cause: BaseException) -> Unknown:
    """The final failure."""
    return Unknown(
        f"writing the journal failed ({cause}); what the disk holds is not known",
        hint="the daemon must stop and recover from the journal when it starts again",
    )
