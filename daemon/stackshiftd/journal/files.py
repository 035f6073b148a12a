"""The journal on files: one directory, one writer, held by a lock.

Owns the order of things: what is encoded when, which bytes are durable, who may append. The parts
do the work: `layout` checks and locks, `recovery` decides what to trust, `segment` writes,
`reading` reads, `snapshots` keeps states, `commit` is the thread in which the disk is waited for.

Invariants:

- Nothing is readable, and no append returns, before it is durable (with `durability = "interval"`:
  no append returns before it is written, and readers see what is synced).
- A failed sync, or a write that failed for another reason than room, is final: every later append
  raises `Unknown`, since what the disk holds can be told by recovery alone.
- The writer's state changes in the commit thread only, while an append is in flight; the loop's
  thread looks at it only while none is.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from stackshiftd.core.records import Entry, JournalOpened
from stackshiftd.journal import reading, snapshots
from stackshiftd.journal.commit import CommitThread
from stackshiftd.journal.contract import (
    Claim,
    Epoch,
    Fenced,
    Full,
    Group,
    Owner,
    Place,
    Recovery,
    Unknown,
)
from stackshiftd.journal.filesystem import NO_SPACE, FileSystem, RealFileSystem
from stackshiftd.journal.layout import HeldLock, Layout, prepare
from stackshiftd.journal.lines import encode_group
from stackshiftd.journal.reading import Span
from stackshiftd.journal.recovery import Recovered, recover
from stackshiftd.journal.segment import Header, SegmentWriter

SEGMENT_SIZE: Final = 64 << 20
RESERVE_BYTES: Final = 16 << 20
INTERVAL_S: Final = 0.1
"""How long an acknowledged record may be off the disk with `durability = "interval"`."""
_TAIL_BATCH: Final = 256
"""Entries that a follower decodes before it lets others have the loop."""


class _Mark(NamedTuple):
    """How far it goes: the last record and the place after it. Replaced whole, so that any thread
    reads a consistent one."""

    seq: int
    end: Place


class _Batch(NamedTuple):
    """An append, encoded: the segment to begin for it (or none), its bytes, and where it ends."""

    roll: Header | None
    data: bytes
    mark: _Mark
    at_us: int


def _new_journal_id() -> str:
    return f"jrn_{secrets.token_hex(10)}"


class FileJournal:
    """A `Journal` in the directory `data_dir`. Made by `open`."""

    @classmethod
    def open(
        cls,
        data_dir: Path,
        *,
        fs: FileSystem | None = None,
        durability: Literal["always", "interval"] = "always",
        segment_size: int = SEGMENT_SIZE,
        reserve_bytes: int = RESERVE_BYTES,
        interval_s: float = INTERVAL_S,
        journal_id_source: Callable[[], str] = _new_journal_id,
    ) -> FileJournal:
        """Lock, check and recover the journal in `data_dir`; an empty or absent one is made.

        Raises `DaemonRunning` (who holds it), `BadConfiguration` (owner, modes, network file
        system), `JournalDamaged` (where), `NewerFormat`; and `OSError` where the disk fails.
        """
        fs = fs or RealFileSystem()
        layout = Layout(data_dir)
        prepare(fs, layout)
        lock = HeldLock.take(fs, layout, os.getpid())
        try:
            recovered = recover(fs, layout, journal_id_source)
        except BaseException:
            lock.release()
            raise
        return cls(fs, layout, lock, recovered, durability, segment_size, reserve_bytes, interval_s)

    def __init__(
        self,
        fs: FileSystem,
        layout: Layout,
        lock: HeldLock,
        recovered: Recovered,
        durability: Literal["always", "interval"],
        segment_size: int,
        reserve_bytes: int,
        interval_s: float,
    ) -> None:
        self._fs = fs
        self._layout = layout
        self._lock = lock
        self._writer = recovered.writer
        self._spans = tuple(
            Span(s.path, s.header.first_seq, s.header.base, s.header_size)
            for s in recovered.segments
        )
        self._spans_lock = threading.Lock()  # Segments are added in one thread, dropped in another.
        self._snapshot = recovered.snapshot
        self._recovery = recovered.report
        self._written = self._durable = _Mark(recovered.report.kept_seq, recovered.writer.end)
        self._last_at_us = recovered.report.last_at_us
        self._always = durability == "always"
        self._segment_size = segment_size
        self._reserve_bytes = reserve_bytes
        self._epoch: Epoch | None = None
        self._in_flight = False
        self._closed = False
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._followers: set[asyncio.Event] = set()
        self._thread = CommitThread(None if self._always else self._sync_chore, interval_s)

    # --- What it knows ---------------------------------------------------------------------

    @property
    def journal_id(self) -> str:
        return self._writer.header.journal

    @property
    def recovery(self) -> Recovery:
        return self._recovery

    @property
    def last_seq(self) -> int:
        return self._written.seq

    @property
    def last_at_us(self) -> int:
        return self._last_at_us

    @property
    def durable_seq(self) -> int:
        return self._durable.seq

    @property
    def first_seq(self) -> int:
        """The oldest record that is kept; `last_seq` + 1 in an empty journal."""
        return self._spans[0].first_seq

    def newest_snapshot(self) -> tuple[int, Path] | None:
        """Where the newest good snapshot stands, and its file."""
        return (self._snapshot.seq, self._snapshot.path) if self._snapshot else None

    def free_bytes(self) -> int:
        return max(0, self._fs.free_bytes(self._layout.root) - self._reserve_bytes)

    def stats(self) -> dict[str, Any]:
        """`journal first_seq last_seq durable_seq segments[] bytes snapshot`, as the protocol's
        `journal.stats` tells them; `bytes` counts segments and the newest snapshot."""
        spans, end = self._spans, self._written.end
        ends = [*(span.base for span in spans[1:]), end]
        segments = [
            {"file": f"journal/{span.path.name}", "first_seq": span.first_seq,
             "bytes": stop - span.base}
            for span, stop in zip(spans, ends, strict=True)
        ]  # fmt: skip
        kept = self._snapshot
        return {
            "journal": self.journal_id,
            "first_seq": self.first_seq,
            "last_seq": self.last_seq,
            "durable_seq": self.durable_seq,
            "segments": segments,
            "bytes": end - spans[0].base + (kept.size if kept else 0),
            "snapshot": {"seq": kept.seq, "bytes": kept.size} if kept else None,
        }

    # --- Appending -------------------------------------------------------------------------

    async def claim(self, owner: Owner, seen_seq: int, at_us: int) -> Claim:
        """Become the writer; see the contract. The lock has kept all others out since `open`."""
        assert seen_seq == self.last_seq, f"claimed at {seen_seq}, journal is at {self.last_seq}"
        epoch = Epoch(seen_seq + 1)
        opened = JournalOpened(epoch=epoch, pid=owner.pid, version=owner.version)
        entry = Entry(epoch, max(at_us, self._last_at_us), opened)
        self._epoch = epoch
        [place] = await self.append(epoch, seen_seq, [[entry]])
        return Claim(epoch, place, entry)

    async def append(
        self, epoch: Epoch, expected_seq: int, groups: Sequence[Group]
    ) -> Sequence[Place]:
        """Make all `groups` durable; see the contract.

        A caller that is cancelled meanwhile does not undo it: the append goes on, and the next one
        must wait for it.
        """
        self._check_usable()
        if epoch != self._epoch:
            raise Fenced(f"epoch {epoch} was fenced by epoch {self._epoch}")
        assert not self._in_flight, "one append at a time"
        assert expected_seq == self.last_seq, f"append after {expected_seq}, not {self.last_seq}"
        batch, places = self._encode(groups)
        if not places:
            return places
        loop = self._loop = asyncio.get_running_loop()
        durable: asyncio.Future[None] = loop.create_future()

        def done(_: object, error: BaseException | None) -> None:
            self._in_flight = False
            self._wake_followers()
            if durable.done():
                return
            if error is None:
                durable.set_result(None)
            else:
                durable.set_exception(error)

        self._in_flight = True
        self._thread.submit(lambda: self._commit(batch), loop, done)
        await durable
        return places

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise _unknown(self._failure) from self._failure
        if self._closed:
            raise Fenced("the journal is closed")

    def _encode(self, groups: Sequence[Group]) -> tuple[_Batch, list[Place]]:
        """Lines and places of an append; a mistake of ours is raised before anything is written."""
        seq, at_us, watermark = self._written.seq, self._last_at_us, self._durable.seq
        lines: list[bytes] = []
        for group in groups:
            for entry in group:
                seq += 1
                assert entry.seq == seq, f"record {entry.seq} where {seq} is due"
                assert entry.at_us >= at_us, f"record {seq} is older than the one before it"
                at_us = entry.at_us
            if group:
                lines += encode_group(group, watermark)
        data = b"".join(lines)
        writer, roll = self._writer, None
        at = writer.end
        if writer.size > writer.header_size and writer.size + len(data) > self._segment_size:
            roll = writer.next_header(self._written.seq + 1)
            at += len(roll.line())
        places: list[Place] = []
        for line in lines:
            places.append(at)
            at += len(line)
        return _Batch(roll, data, _Mark(seq, at), at_us), places

    # In the commit thread:

    def _commit(self, batch: _Batch) -> None:
        if self._failure is not None:  # A sync between appends failed.
            raise _unknown(self._failure) from self._failure
        try:
            if batch.roll is not None:
                self._roll(batch.roll)
            try:
                self._writer.write(batch.data)
            except OSError as failed:
                if failed.errno not in NO_SPACE:
                    raise
                self._writer.cut()
                # `cut` synced the file, so whatever was written before is durable now.
                self._durable = self._written
                raise _full(failed) from failed
            if self._always:
                self._writer.sync()
        except OSError as failed:
            self._failure = failed
            raise _unknown(failed) from failed
        self._written, self._last_at_us = batch.mark, batch.at_us
        if self._always:
            self._durable = self._written

    def _roll(self, header: Header) -> None:
        """Begin a new segment. All of the old one is durable first: that is what recovery takes a
        sealed segment for."""
        old = self._writer
        if self._durable != self._written:
            old.sync()
            self._durable = self._written
        try:
            self._writer = SegmentWriter.create(self._fs, self._layout.journal, header)
        except OSError as failed:
            if failed.errno not in NO_SPACE or self._fs.lstat(_segment(self._layout, header)):
                raise
            # No room for even an empty file: it never got its name, and the old one goes on.
            raise _full(failed) from failed
        self._durable = self._written = _Mark(self._written.seq, self._writer.end)
        span = Span(self._writer.path, header.first_seq, header.base, self._writer.header_size)
        with self._spans_lock:
            self._spans += (span,)
        old.close()

    def _sync_chore(self) -> None:
        """With `durability = "interval"`: sync what was written since the last time."""
        if self._failure is None and self._durable != self._written:
            try:
                self._writer.sync()
                self._durable = self._written
            except OSError as failed:
                self._failure = failed
            loop = self._loop
            if loop is not None and not loop.is_closed():
                loop.call_soon_threadsafe(self._wake_followers)

    # --- Reading ---------------------------------------------------------------------------

    def read(self, from_seq: int) -> Iterator[tuple[Place, Entry]]:
        durable, spans = self._durable, self._spans
        return reading.read(self._fs, spans, from_seq, durable.end)

    def fetch(self, places: Sequence[Place]) -> list[Entry]:
        return reading.fetch(self._fs, self._spans, places, self._written.end)

    async def tail(self, from_seq: int) -> AsyncIterator[tuple[Place, Entry]]:
        """See the contract. Ends when the journal is closed; raises `Unknown` once it has failed
        and all that is durable was given."""
        advanced = asyncio.Event()
        self._followers.add(advanced)
        try:
            next_seq, start = from_seq, None
            while True:
                advanced.clear()
                durable, spans = self._durable, self._spans
                if durable.seq >= next_seq:
                    found = (
                        reading.read(self._fs, spans, next_seq, durable.end)
                        if start is None
                        else reading.read_from(self._fs, spans, start, durable.end)
                    )
                    for given, (place, entry) in enumerate(found, 1):
                        yield place, entry
                        if given % _TAIL_BATCH == 0:
                            await asyncio.sleep(0)
                    next_seq, start = durable.seq + 1, durable.end
                    continue
                if self._closed:
                    return
                if self._failure is not None:
                    raise _unknown(self._failure) from self._failure
                await advanced.wait()
        finally:
            self._followers.discard(advanced)

    def _wake_followers(self) -> None:
        for follower in self._followers:
            follower.set()

    # --- Snapshots, trimming, the end ------------------------------------------------------

    async def put_snapshot(self, seq: int, lines: Sequence[bytes], state_hash: str = "") -> None:
        """Keep a snapshot; see the contract. Raises `Full` where there is no room for it; the ones
        there are kept as they are then."""
        assert seq <= self.durable_seq, f"snapshot at {seq}, durable up to {self.durable_seq}"
        folder, journal = self._layout.snapshots, self.journal_id
        try:
            self._snapshot = await asyncio.to_thread(
                snapshots.put, self._fs, folder, journal, seq, lines, state_hash
            )
        except OSError as failed:
            if failed.errno in NO_SPACE:
                raise _full(failed) from failed
            raise

    async def get_snapshot(self) -> tuple[int, list[bytes]] | None:
        return await asyncio.to_thread(self._load_snapshot)

    def _load_snapshot(self) -> tuple[int, list[bytes]] | None:
        for _, path in reversed(snapshots.listed(self._fs, self._layout.snapshots)):
            found = snapshots.read(self._fs, path, self.journal_id)
            if not isinstance(found, str):
                return found[0].seq, found[1]
        return None

    async def trim(self, below_seq: int) -> None:
        """Drop whole segments, oldest first; see the contract."""
        kept = snapshots.listed(self._fs, self._layout.snapshots)
        if len(kept) < snapshots.KEPT:
            return  # One snapshot alone may turn out damaged; then only the journal has the state.
        below_seq = min(below_seq, kept[0][0] + 1, self.durable_seq)
        while len(self._spans) > 1 and self._spans[1].first_seq <= below_seq:
            await asyncio.to_thread(self._drop, self._spans[0].path)
            with self._spans_lock:
                self._spans = self._spans[1:]

    def _drop(self, path: Path) -> None:
        with suppress(FileNotFoundError):  # The last attempt came this far.
            self._fs.unlink(path)
        # Each before the next: two removals that reach the disk in the wrong order leave a gap.
        self._fs.sync_dir(path.parent)

    def close(self) -> None:
        """Make what was appended durable, end the thread, give back the lock; twice is once.

        Raises `Unknown` if that last sync fails. Writes no record: `journal.closed` is the
        engine's to append.
        """
        if self._closed:
            return
        self._closed = True
        self._thread.stop()
        try:
            if self._failure is None and self._durable != self._written:
                self._writer.sync()
                self._durable = self._written
        except OSError as failed:
            self._failure = failed
            raise _unknown(failed) from failed
        finally:
            self._writer.close()
            self._lock.release()
            self._wake_followers()


def _segment(layout: Layout, header: Header) -> Path:
    return layout.journal / f"{header.first_seq:020d}.jsonl"


def _full(cause: OSError) -> Full:
    return Full(
        f"no room for the journal: {cause.strerror}",
        hint="make room on the disk; it goes on by itself",
    )


def _unknown(cause: BaseException) -> Unknown:
    return Unknown(
        f"writing the journal failed ({cause}); what the disk holds is not known",
        hint="the daemon must stop and recover from the journal when it starts again",
    )
