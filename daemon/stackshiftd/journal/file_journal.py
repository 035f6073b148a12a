"""The journal on files: one directory, and one writer, which holds its lock.

Owns who may append, what readers see, and which snapshots and segments are kept. The other modules
do the work: `layout` checks and locks, `recovery` decides what to trust, `writer` writes, `reader`
reads, `snapshots` stores states.

Invariants:

- Nothing is readable, and no append returns, before it is durable (with `durability = "interval"`:
  no append returns before it is written, and readers see only what is synced).
- After a failed sync, or a write that failed for any reason but lack of space, every append raises
  `Unknown`; what was durable before can still be read.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from errno import EROFS
from pathlib import Path
from typing import Any, Final, Literal

from stackshift_jobs.errors import (
    Fenced,
    StackshiftError,
)
from stackshiftd.core.records import Entry, JournalOpened
from stackshiftd.journal import reader, snapshots
from stackshiftd.journal.disk_speed import DiskSpeed
from stackshiftd.journal.filesystem import NO_SPACE, FileSystem, RealFileSystem, put_file
from stackshiftd.journal.interface import (
    Claim,
    Disk,
    Epoch,
    Full,
    Group,
    Owner,
    Place,
    Recovery,
    displaced,
)
from stackshiftd.journal.layout import HeldLock, Layout, check, prepare
from stackshiftd.journal.recovery import examine, recover
from stackshiftd.journal.sealed import SealedEnd
from stackshiftd.journal.snapshots import Snapshot
from stackshiftd.journal.witness import Known, Witness
from stackshiftd.journal.writer import Appender, full

SEGMENT_SIZE: Final = 8 << 20
"""A start after a crash checks every line of the last segment and folds what follows the newest
snapshot, which is taken when a segment is full: about 50,000 records, in half a second or less."""
RESERVE_BYTES: Final = 16 << 20
INTERVAL_S: Final = 0.1
"""How long an acknowledged record may stay unknown to the witness; and, with `durability =
"interval"`, unsynced."""
_TAIL_BATCH: Final = 256
"""Entries that a follower decodes before it yields to the event loop."""


_PROBE: Final = "probe.tmp"
"""Recovery removes it if it is left by a crash."""
_PROBE_BYTES: Final = 64 << 10


def _nothing_yet(layout: Layout) -> Full:
    return Full(
        f"{layout.root} has no journal yet, and the disk cannot be written",
        hint="make room there, or choose another disk with [project] data_dir",
    )


def _new_journal_id() -> str:
    return f"jrn_{secrets.token_hex(10)}"


class FileJournal:
    """A `Journal` in a data directory. Created by `open`."""

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
        speed: DiskSpeed | None = None,
        locked: Callable[[], None] = lambda: None,
    ) -> FileJournal:
        """Lock, check and recover the journal in `data_dir`; create it if it is empty or missing.
        `speed` judges whether the disk is quick, so that the event loop waits for it. `locked` is
        called when the journal is ours, before anything of it is read.

        Raises `DaemonRunning` (with the holder's pid, if known), `BadConfiguration` (owner, modes,
        network file system), `JournalDamaged` (with the place), `NewerFormat`, and `OSError` if the
        disk fails.
        """
        fs = fs or RealFileSystem()
        layout = Layout(data_dir)
        prepare(fs, layout)
        lock = HeldLock.take(fs, layout, os.getpid())
        try:
            locked()
            recovered = recover(fs, layout, journal_id_source)
        except BaseException:
            lock.release()
            raise
        journal_id = recovered.writer.header.journal
        appender = Appender(
            fs,
            layout.journal,
            recovered,
            always=durability == "always",
            segment_size=segment_size,
            interval_s=interval_s,
            witness=Witness(fs, layout, Known(journal_id, recovered.report.kept_seq)),
            speed=speed or DiskSpeed(),
        )
        return cls(fs, layout, lock, appender, recovered.snapshot, recovered.report, reserve_bytes)

    @classmethod
    def open_sealed(
        cls, data_dir: Path, *, fs: FileSystem | None = None, reserve_bytes: int = RESERVE_BYTES
    ) -> FileJournal:
        """Lock and check the journal in `data_dir`, of which a disk that cannot be written let
        nothing be recovered. It can be read, and refuses every append with `Full`.

        Raises what `open` raises, and `Full` if there is nothing to read yet.
        """
        fs = fs or RealFileSystem()
        layout = Layout(data_dir)
        if not check(fs, layout):
            raise _nothing_yet(layout)
        lock = HeldLock.take_unwritten(fs, layout)
        try:
            examined = examine(fs, layout)
            if examined is None:
                raise _nothing_yet(layout)
            end = SealedEnd(fs, examined)
        except BaseException:
            lock.release()
            raise
        report = Recovery(end.written.seq, end.last_at_us)
        journal = cls(fs, layout, lock, end, examined.snapshot, report, reserve_bytes)
        journal._is_stuck = not end.is_synced
        return journal

    def __init__(
        self,
        fs: FileSystem,
        layout: Layout,
        lock: HeldLock,
        appender: Appender | SealedEnd,
        snapshot: Snapshot | None,
        report: Recovery,
        reserve_bytes: int,
    ) -> None:
        self._fs = fs
        self._layout = layout
        self._lock = lock
        self._appender = appender
        appender.advanced = self._wake_followers
        self._snapshot = snapshot
        self._recovery = report
        self._reserve_bytes = reserve_bytes
        self._is_stuck = False
        """Is the disk read-only although it is not mounted so, after an error of its own?"""
        self._epoch: Epoch | None = None
        self._closed = False
        self._followers: set[asyncio.Event] = set()
        self.confirmed: Callable[[], None] = lambda: None

    # --- State -----------------------------------------------------------------------------

    @property
    def journal_id(self) -> str:
        """The `jrn_…` id in every segment's header."""
        return self._appender.journal_id

    @property
    def recovery(self) -> Recovery:
        """What recovery kept and set aside in `open`."""
        return self._recovery

    @property
    def last_seq(self) -> int:
        """The last record written, durable or not; 0 in a new journal."""
        return self._appender.written.seq

    @property
    def last_at_us(self) -> int:
        """The time of the last record written; 0 in a new journal."""
        return self._appender.last_at_us

    @property
    def durable_seq(self) -> int:
        """The last record that a sync has covered."""
        return self._appender.durable.seq

    @property
    def first_seq(self) -> int:
        """The oldest record that is kept; `last_seq` + 1 in an empty journal."""
        return self._appender.spans[0].first_seq

    @property
    def appending(self) -> bool:
        """True while an append is in flight."""
        return self._appender.in_flight

    @property
    def failed(self) -> bool:
        """True once a sync or a write has failed for good.

        With `durability = "interval"` that can happen between appends.
        """
        return self._appender.failure is not None

    def newest_snapshot(self) -> tuple[int, Path] | None:
        """The sequence number and file of the newest good snapshot; None if there is none."""
        return (self._snapshot.seq, self._snapshot.path) if self._snapshot else None

    @property
    def is_in_place(self) -> bool:
        """Is the journal where it was opened? If not, nothing is acknowledged any more."""
        try:
            return self._appender.is_in_place
        except OSError:
            return False  # If it cannot be looked at, it is not there for anybody else either.

    @property
    def loss(self) -> StackshiftError | None:
        """See `Journal.loss`."""
        return None if self.is_in_place else displaced(self._layout.root)

    may_answer = True
    """Nobody else can append: the lock is ours."""

    @property
    def unanswered_seconds(self) -> float:
        """See `Journal.unanswered_seconds`. A disk that is slow is waited for."""
        return 0.0

    @property
    def origin(self) -> dict[str, Any] | None:
        """See `Journal.origin`."""
        return None

    leader: str | None = None
    was_here = True
    """Whoever has the files has the lock in them."""

    async def follow(self, caught_up: Callable[[], Awaitable[None]]) -> None:
        """Nothing: the lock is ours since `open`."""

    async def leave(self, to: str = "") -> None:
        """Nothing: closing it releases the lock."""

    def disk(self) -> Disk:
        """The data directory, and the room that there is now."""
        root = self._layout.root
        is_read_only = self._is_stuck or self._fs.is_read_only(root)
        return Disk(str(root), self._fs.free_bytes(root), self._reserve_bytes, is_read_only)

    def can_write(self) -> bool:
        """Is there room for new work, and does the disk let a file be written? Writes one, durably,
        and removes it."""
        if not self._is_stuck and not self.disk().spare_bytes:
            return False
        path = self._layout.journal / _PROBE
        try:
            put_file(self._fs, path, [bytes(_PROBE_BYTES)])
            self._fs.unlink(path)
        except OSError as refused:
            self._is_stuck = refused.errno == EROFS
            return False
        self._is_stuck = False
        return self.disk().spare_bytes > 0

    def stats(self) -> dict[str, Any]:
        """`journal first_seq last_seq durable_seq segments[] bytes snapshot`, as in the protocol's
        `journal.stats`; `bytes` counts the segments and the newest snapshot."""
        spans, end = self._appender.spans, self._appender.written.end
        ends = [*(span.base for span in spans[1:]), end]
        segments = [
            {
                "file": f"journal/{span.path.name}",
                "first_seq": span.first_seq,
                "bytes": stop - span.base,
            }
            for span, stop in zip(spans, ends, strict=True)
        ]
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
        """Become the writer; see `Journal.claim`. The lock has kept all others out since `open`."""
        assert seen_seq == self.last_seq, f"claimed at {seen_seq}, journal is at {self.last_seq}"
        epoch = Epoch(seen_seq + 1)
        opened = JournalOpened(epoch=epoch, pid=owner.pid, version=owner.version)
        entry = Entry(epoch, max(at_us, self.last_at_us), opened)
        self._epoch = epoch
        [place] = await self.append(epoch, seen_seq, [[entry]])
        return Claim(epoch, place, entry)

    async def append(
        self, epoch: Epoch, expected_seq: int, groups: Sequence[Group]
    ) -> Sequence[Place]:
        """Make all `groups` durable; see `Journal.append`.

        Cancelling the caller does not undo it: the append continues, and the next one must wait
        for it.
        """
        self._appender.check()
        if self._closed:
            raise Fenced("the journal is closed")
        if epoch != self._epoch:
            raise Fenced(f"epoch {epoch} was fenced by epoch {self._epoch}")
        assert not self.appending, "one append at a time"
        assert expected_seq == self.last_seq, f"append after {expected_seq}, not {self.last_seq}"
        return await self._appender.append(groups)

    # --- Reading ---------------------------------------------------------------------------

    def read(self, from_seq: int) -> Iterator[tuple[Place, Entry]]:
        """Read the durable entries from `from_seq` on; see `Journal.read`.

        Raises `JournalDamaged` at the first line that is not intact.
        """
        durable, spans = self._appender.durable, self._appender.spans
        return reader.read(self._fs, spans, from_seq, durable.end)

    def search(self, words: Sequence[bytes]) -> Iterator[tuple[Place, Entry] | None]:
        """Search the durable entries, newest first; yields None after each chunk of a file."""
        durable, spans = self._appender.durable, self._appender.spans
        return reader.search(self._fs, spans, words, durable.end)

    def fetch(self, places: Sequence[Place]) -> list[Entry]:
        """Read the written entries at `places`, durable or not; see `Journal.fetch`."""
        return reader.fetch(self._fs, self._appender.spans, places, self._appender.written.end)

    async def tail(self, from_seq: int) -> AsyncIterator[tuple[Place, Entry]]:
        """Follow the durable entries; see `Journal.tail`.

        Ends when the journal is closed. After a failure, raises `Unknown` once every durable entry
        has been yielded.
        """
        advanced = asyncio.Event()
        self._followers.add(advanced)
        try:
            next_seq, start = from_seq, None
            while True:
                advanced.clear()
                durable, spans = self._appender.durable, self._appender.spans
                if durable.seq >= next_seq:
                    entries = (
                        reader.read(self._fs, spans, next_seq, durable.end)
                        if start is None
                        else reader.read_from(self._fs, spans, start, durable.end)
                    )
                    for count, (place, entry) in enumerate(entries, 1):
                        yield place, entry
                        if count % _TAIL_BATCH == 0:
                            await asyncio.sleep(0)
                    next_seq, start = durable.seq + 1, durable.end
                    continue
                if self._closed:
                    return
                self._appender.check()
                await advanced.wait()
        finally:
            self._followers.discard(advanced)

    def _wake_followers(self) -> None:
        for follower in self._followers:
            follower.set()

    # --- Snapshots, trimming, the end ------------------------------------------------------

    async def put_snapshot(self, seq: int, lines: Sequence[bytes], state_hash: str = "") -> None:
        """Store a snapshot; see `Journal.put_snapshot`.

        Raises `Full` if there is no space for it; the existing snapshots are then unchanged.
        """
        assert seq <= self.durable_seq, f"snapshot at {seq}, durable up to {self.durable_seq}"
        folder, journal = self._layout.snapshots, self.journal_id
        try:
            self._snapshot = await asyncio.to_thread(
                snapshots.put, self._fs, folder, journal, seq, lines, state_hash
            )
        except OSError as failed:
            if failed.errno in NO_SPACE:
                raise full(failed) from failed
            raise

    async def get_snapshot(self) -> tuple[int, list[bytes]] | None:
        """Load the newest good snapshot in a thread; damaged ones are skipped."""
        return await asyncio.to_thread(self._load_snapshot)

    def _load_snapshot(self) -> tuple[int, list[bytes]] | None:
        for _, path in reversed(snapshots.listed(self._fs, self._layout.snapshots)):
            found = snapshots.read(self._fs, path, self.journal_id)
            if not isinstance(found, str):
                return found[0].seq, found[1]
        return None

    def snapshot_lines(self) -> list[bytes]:
        """Load the lines of the newest good snapshot; blocks while it reads the file."""
        found = self._load_snapshot()
        return found[1] if found is not None else []

    async def adopt_snapshot(self) -> None:
        """Find the newest good snapshot again: the compaction process may have stored one."""
        self._snapshot, _ = await asyncio.to_thread(
            snapshots.newest, self._fs, self._layout.snapshots, self.journal_id
        )

    async def trim(self, below_seq: int) -> None:
        """Drop whole segments, oldest first; see `Journal.trim`."""
        kept = snapshots.listed(self._fs, self._layout.snapshots)
        if len(kept) < snapshots.KEPT:
            return  # One snapshot alone may turn out damaged; then only the journal has the state.
        below_seq = min(below_seq, kept[0][0] + 1, self.durable_seq)
        appender = self._appender
        while len(appender.spans) > 1 and appender.spans[1].first_seq <= below_seq:
            appender.check_place()  # The files at these paths may be another journal's.
            await asyncio.to_thread(self._drop, appender.spans[0].path)
            appender.drop_oldest()

    def _drop(self, path: Path) -> None:
        with suppress(FileNotFoundError):  # An earlier attempt got this far.
            self._fs.unlink(path)
        # Sync after each: two removals that reach the disk in the wrong order would leave a gap.
        self._fs.sync_dir(path.parent)

    def close(self) -> None:
        """Make all appends durable, end the thread and release the lock; idempotent.

        Raises `Unknown` if something written could not be made durable. Writes no record: appending
        `journal.closed` is the engine's task.
        """
        if self._closed:
            return
        self._closed = True
        try:
            self._appender.close()
        finally:
            self._lock.release()
            self._wake_followers()
