"""A journal whose truth is a shared log. What is read is read from the files here, a copy.

An append counts when the log has it; then it is written to the copy, without a sync, and released.

States: following (bring the copy level, and watch who leads), leading, over. Laws:

- Only who leads appends. Another daemon may lead once this one has not beaten for a whole lease;
  the log refuses appends of whoever led before.
- Nothing read here is told later than 0.8 leases after the last beat that was answered was sent:
  the right to answer ends before another leader's first append. The clocks of two machines are
  never compared, only their rates must agree.
- A copy is never trusted over the log. If it ends early or is damaged, the rest is fetched; if it
  says more than the log, the log has lost what was acknowledged, and nothing starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from stackshift_jobs.errors import (
    BadConfiguration,
    DatabaseUnavailable,
    Fenced,
    JournalDamaged,
    JournalDiverged,
    StackshiftError,
)
from stackshiftd.core.records import Entry, JournalOpened
from stackshiftd.journal import snapshots
from stackshiftd.journal.disk_speed import DiskSpeed
from stackshiftd.journal.file_journal import RESERVE_BYTES, SEGMENT_SIZE, FileJournal
from stackshiftd.journal.filesystem import FileSystem, RealFileSystem, read_file
from stackshiftd.journal.interface import (
    Claim,
    Epoch,
    Full,
    Overtaken,
    Owner,
    Recovery,
    Unknown,
)
from stackshiftd.journal.layout import HeldLock, Layout, prepare
from stackshiftd.journal.line_format import head
from stackshiftd.journal.recovery import Recovered, recover
from stackshiftd.journal.segment import first_header
from stackshiftd.journal.shared import copying
from stackshiftd.journal.shared.lease_watch import LeaseWatch
from stackshiftd.journal.shared.log import (
    MOVED,
    RESERVED,
    Lease,
    Row,
    SharedLog,
    Tip,
    leader_of,
    next_row,
)
from stackshiftd.journal.witness import NoWitness
from stackshiftd.journal.writer import Appender, Batch, Mark

log = logging.getLogger("stackshiftd.journal")

LOOK_SECONDS: Final = 0.25
"""How often a daemon that waits for the lease looks."""
ANSWER_SHARE: Final = 0.8
"""Of a lease, in which answers may be given after a beat."""
BEATS: Final = 3
"""Beats in one lease."""
_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


class SharedJournal(FileJournal):
    """Created by `open`, and led after `follow`; or both by `lead`."""

    @classmethod
    async def open(  # type: ignore[override]
        cls,
        data_dir: Path,
        shared: SharedLog,
        of: str,
        *,
        fs: FileSystem | None = None,
        segment_size: int = SEGMENT_SIZE,
        reserve_bytes: int = RESERVE_BYTES,
        lease_ms: int = 3000,
        host: str = "",
    ) -> SharedJournal:
        """Lock `data_dir`, and bring the copy in it level with `shared`. `of` says where the log
        is, `host` is the name of this machine there, its own one by default. A log without a
        journal gets a new one.

        Raises what `FileJournal.open` raises but for `JournalDamaged`, `JournalDiverged`, and
        `DatabaseUnavailable`.
        """
        fs = fs or RealFileSystem()
        layout = Layout(data_dir)
        prepare(fs, layout)
        lock = HeldLock.take(fs, layout, os.getpid())
        try:
            mark = copying.read_mark(fs, layout)
            if mark is None and copying.segment_files(fs, layout):
                raise BadConfiguration(
                    f"{data_dir} holds a journal of its own, which is not in {of}",
                    hint="move it there: stackshift journal move --to URL",
                )
            lease = await shared.find() or await _new(shared, lease_ms)
            if mark is None:
                mark = copying.write_mark(fs, layout, lease.journal, of)
            if mark.journal != lease.journal:
                raise JournalDiverged(
                    f"{data_dir} is a copy of {mark.journal}, and {of} holds {lease.journal}",
                    hint="set [journal] url to where that journal is, or remove the directory",
                )
            recovered = await _recovered(fs, layout, shared, lease.journal)
        except BaseException:
            lock.release()
            raise
        appender = Appender(
            fs,
            layout.journal,
            recovered,
            always=True,
            segment_size=segment_size,
            interval_s=3600.0,
            witness=NoWitness(),
            speed=DiskSpeed(),
        )
        self = cls(fs, layout, lock, appender, recovered.snapshot, recovered.report, reserve_bytes)
        self._begin(shared, of, mark, lease_ms, host or socket.gethostname())
        self.was_here = lease.owner == self._owner
        try:
            await self._catch_up()
        except BaseException:
            self.close()
            raise
        return self

    @classmethod
    async def lead(
        cls, data_dir: Path, shared: SharedLog, of: str, **options: Any
    ) -> SharedJournal:
        """Open it with the `options` of `open`, and become the leader, as soon as nobody has led
        for a lease. Raises what `open` raises, and `Fenced` if another daemon leads."""
        self = await cls.open(data_dir, shared, of, **options)
        try:
            watch = LeaseWatch(self._owner, self.host)
            while not await self._look(watch):
                if watch.is_led:
                    raise Fenced(
                        f"the daemon on {self.leader} leads: one daemon at a time writes to the "
                        "journal",
                        hint="stop it there, or let it be: this one can be started when that has "
                        "ended",
                    )
                await asyncio.sleep(LOOK_SECONDS)
        except BaseException:
            self.close()
            raise
        return self

    def _begin(
        self, shared: SharedLog, of: str, mark: copying.Mark, lease_ms: int, host: str
    ) -> None:
        assert isinstance(self._appender, Appender)
        self._copy = self._appender
        self._copy.share = self._put
        self._shared = shared
        self._of = of
        self.host = host
        self.copy_id = mark.id
        """That of this directory."""
        self.may_lead: Callable[[], bool] = lambda: True
        """Says whether this daemon is to lead if no other does."""
        self._owner = f"{host} {mark.id} {_boot()}"
        self._tip: Tip | None = None
        self._term = 0
        self.leader = ""
        self._is_heard = True
        """Was the last look, or the last beat, answered?"""
        self._lease_ms = lease_ms
        self._lease_s = lease_ms / 1000
        self._answers_until = 0.0
        self._loss: StackshiftError | None = None
        self._beats: asyncio.Task[None] | None = None
        self._uploaded: set[int] = set()

    # --- The copy --------------------------------------------------------------------------

    async def _catch_up(self) -> None:
        """Copy what the log has and the files have not. Raises `Full` if there is no room for it
        here, and `Unknown` if the log does not keep it any more."""
        if self._tip is None:
            self._tip = await self._place()
        while rows := await self._shared.read(self._tip.ends):
            for row in rows:
                if row.place > self._tip.ends:
                    raise Unknown(
                        f"{self._of} does not keep what follows record {self._tip.seq} any more",
                        hint="the daemon starts again, and fetches a new copy",
                    )
                if row != next_row(self._tip, row.first_seq, row.last_seq, row.data):
                    raise JournalDiverged(
                        f"{self._of} does not go on where record {self._tip.seq} ends"
                    )
                batch, self._tip = self._batch(row, row.data), None
                await self._copy.copy(batch)
                self._tip = row.tip

    async def _place(self) -> Tip:
        """Where the copy ends in the log. If that is within a row, as a crash leaves it, the rest
        of the row is written first."""
        end = self.end_place
        rows = await self._shared.read(max(0, end - 1))
        if not rows or end > rows[0].tip.ends:
            raise JournalDiverged(
                f"{self._layout.root} has records up to {self.last_seq}, which {self._of} has lost",
                hint="put it back from the machine that has most of it: stackshift journal move "
                "--rescue",
            )
        row = rows[0]
        if self._copied(row.place, end) != row.data[: end - row.place]:
            raise JournalDiverged(
                f"{self._layout.root} and {self._of} differ in records {row.first_seq} to "
                f"{row.last_seq}",
                hint=f"if the database is right, remove {self._layout.root}: it is fetched again",
            )
        if end < row.tip.ends:
            await self._copy.copy(self._batch(row, row.data[end - row.place :]))
        return row.tip

    def _copied(self, start: int, end: int) -> bytes:
        """The bytes here from one place to another in the last segment."""
        span = self._copy.spans[-1]
        data = read_file(self._fs, span.path)
        return data[max(0, start - span.base) : end - span.base]

    @property
    def end_place(self) -> int:
        """The place behind the last record here."""
        return self._copy.written.end

    def _batch(self, row: Row, data: bytes) -> Batch:
        """The append that wrote `data`, the end of a row."""
        roll, lines = copying.split(data)
        at_us = self.last_at_us
        if lines:
            start = lines.rfind(b"\n", 0, len(lines) - 1) + 1
            last = head(lines, start, len(lines) - 1)
            if last is None or last.seq != row.last_seq:
                raise JournalDiverged(f"what should end with record {row.last_seq} does not")
            at_us = last.at_us
        if roll is not None and roll.base != self.end_place:
            raise JournalDiverged(f"the segment of record {row.first_seq} does not follow here")
        end = self.end_place + len(data)
        return Batch(roll, lines, Mark(row.last_seq, end), at_us)

    # --- Leading ---------------------------------------------------------------------------

    async def follow(self, caught_up: Callable[[], Awaitable[None]]) -> None:
        """See `Journal.follow`. A database that does not answer is waited for."""
        watch = LeaseWatch(self._owner, self.host)
        while True:
            try:
                leads = await self._look(watch)
                self._note_answer(None)
                if leads:
                    return
            except DatabaseUnavailable as lost:
                watch.lost_sight()
                self._note_answer(lost)
            except Full as full:
                log.warning("the copy is not brought level: %s", full)
            if watch.is_led:
                await caught_up()
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self, watch: LeaseWatch) -> bool:
        """Look who leads, and lead if nobody does; returns whether this daemon does. In either case
        the copy is level then."""
        lease = await self._shared.find()
        assert lease is not None
        # After the answer: the beat that it shows may be as young as that.
        may_take = watch.may_take(lease, _now())
        if lease.owner.startswith(MOVED):
            raise BadConfiguration(
                f"the journal was {lease.owner}; what is in {self._of} is out of date",
                hint="unset [journal] url there, or move it: stackshift journal move --to URL",
                key="journal.url",
            )
        self.leader = leader_of(lease)
        if may_take and not self.may_lead():
            watch.is_led, may_take = True, False
        # First: one that has no room for what was appended must not lead.
        await self._catch_up()
        if may_take:
            sent = _now()
            term = await self._shared.lead(lease, self._owner, self._lease_ms)
            if term is None:
                watch.refused(lease)
            else:
                if self._beats is not None:  # The look before led, too, and was cut off then.
                    self._beats.cancel()
                self._term = term
                self._answers_until = sent + ANSWER_SHARE * self._lease_s
                self._beats = asyncio.get_running_loop().create_task(self._beat())
                # Until then, whoever led before may have appended.
                await self._catch_up()
                self.leader = None
        self._recovery = Recovery(self.last_seq, self.last_at_us)
        return self.leader is None

    def _note_answer(self, lost: DatabaseUnavailable | None) -> None:
        """Note that the database has answered, or has not, and log it where that is new."""
        if lost is not None and self._is_heard:
            log.warning("%s does not answer: %s", self._of, lost)
        elif lost is None and not self._is_heard:
            log.warning("%s answers again", self._of)
        self._is_heard = lost is None

    async def _beat(self) -> None:
        """Show that this daemon lives, until it leads no more."""
        pause = self._lease_s / BEATS
        while True:
            sent = _now()
            try:
                leads = await self._shared.beat(self._term)
            except DatabaseUnavailable as lost:
                self._note_answer(lost)
            else:
                self._note_answer(None)
                if not leads:
                    self._loss = self._copy.failure = await self._deposed()
                    return
                self._answers_until = sent + ANSWER_SHARE * self._lease_s
                self.confirmed()
            await asyncio.sleep(max(0.0, sent + pause - _now()))

    async def _deposed(self) -> Fenced:
        by = ""
        with contextlib.suppress(DatabaseUnavailable):
            lease = await self._shared.find()
            host = leader_of(lease) if lease is not None else ""
            by = f": the daemon on {host} does" if host else ""
        return Fenced(f"this daemon does not lead any more{by}")

    @property
    def loss(self) -> StackshiftError | None:
        """See `Journal.loss`."""
        return self._loss or super().loss

    @property
    def may_answer(self) -> bool:  # type: ignore[override]
        """See `Journal.may_answer`."""
        return _now() < self._answers_until

    @property
    def unanswered_seconds(self) -> float:
        """See `Journal.unanswered_seconds`."""
        began = self._copy.began
        return 0.0 if began is None else time.monotonic() - began

    @property
    def origin(self) -> dict[str, Any] | None:
        """See `Journal.origin`: `{url, term, lease_ms, answers}`; `term` is 0 while this daemon
        follows."""
        return {
            "url": self._of,
            "term": self._term,
            "lease_ms": self._lease_ms,
            "answers": self.may_answer if self.leader is None else self._is_heard,
        }

    async def leave(self, to: str = "") -> None:
        """See `Journal.leave`: whoever waits, or the host `to`, may lead at once."""
        if self._beats is not None:
            self._beats.cancel()
            self._beats = None
            self._answers_until = 0.0
            with contextlib.suppress(DatabaseUnavailable):
                await self._shared.leave(self._term, f"{RESERVED}{to}" if to else "")

    async def move_away(self) -> None:
        """Make the files the truth: nobody leads this log any more. Raises `DatabaseUnavailable`;
        then the log is still the truth, or neither can be led until this is done again."""
        assert self._beats is not None
        self._beats.cancel()
        await self._shared.leave(self._term, moved_to(self._layout.root))

    # --- Appending -------------------------------------------------------------------------

    async def claim(self, owner: Owner, seen_seq: int, at_us: int) -> Claim:
        """See `Journal.claim`. The last append of whoever led before may come in between."""
        assert seen_seq == self.last_seq, f"claimed at {seen_seq}, journal is at {self.last_seq}"
        epoch = Epoch(seen_seq + 1)
        opened = JournalOpened(epoch, owner.pid, owner.version, self.host)
        entry = Entry(epoch, max(at_us, self.last_at_us), opened)
        self._epoch = epoch
        try:
            [place] = await self.append(epoch, seen_seq, [[entry]])
        except Fenced as late:
            # This daemon leads, so nobody appends after that. What was not appended leaves nothing.
            self._copy.failure = None
            before = self.last_seq
            await self._catch_up()
            if self.last_seq == before:
                raise
            raise Overtaken from late
        return Claim(epoch, place, entry)

    async def _put(self, batch: Batch) -> None:
        """Append to the log."""
        assert self._tip is not None
        row = next_row(self._tip, self._copy.written.seq + 1, batch.mark.seq, batch.bytes)
        await self._shared.append(self._tip, row)
        self._tip = row.tip

    # --- Snapshots, trimming, the end ------------------------------------------------------

    async def adopt_snapshot(self) -> None:
        """See `Journal.adopt_snapshot`; the log keeps it too, for copies that begin with
        nothing."""
        await super().adopt_snapshot()
        if self._beats is not None:
            await self._upload()

    async def _upload(self) -> None:
        try:
            if not self._uploaded:
                self._uploaded = set(await self._shared.snapshots())
            for seq, path in snapshots.listed(self._fs, self._layout.snapshots):
                if seq not in self._uploaded:
                    await copying.put_snapshot(self._fs, path, self._shared, seq)
                    self._uploaded.add(seq)
        except (DatabaseUnavailable, OSError) as failed:
            log.warning("a snapshot could not be kept in %s: %s", self._of, failed)

    async def trim(self, below_seq: int) -> None:
        """See `Journal.trim`; here first, then, if this daemon leads, in the log."""
        await super().trim(below_seq)
        if self._beats is None:
            return
        await self._upload()
        kept = [seq for seq, _ in snapshots.listed(self._fs, self._layout.snapshots)]
        if set(kept) <= self._uploaded:
            with contextlib.suppress(DatabaseUnavailable):
                await self._shared.trim(self._copy.spans[0].base)

    def close(self) -> None:
        """See `FileJournal.close`; the lease ends by itself if `leave` was not called."""
        if self._beats is not None:
            self._beats.cancel()
        self._shared.close()
        super().close()


async def _new(shared: SharedLog, lease_ms: int) -> Lease:
    """Make a journal in a log that has none."""
    journal = f"jrn_{secrets.token_hex(10)}"
    start = Tip(0, 0, 0, b"")
    first = next_row(start, 1, 0, first_header(journal).line())
    return await shared.make(Lease(journal, 0, 0, "", lease_ms), [first])


async def _recovered(fs: FileSystem, layout: Layout, shared: SharedLog, journal: str) -> Recovered:
    """The files of the copy, as far as they can be trusted; fetched if they cannot."""
    copying.forget_witness(fs, layout)
    if copying.segment_files(fs, layout):
        try:
            recovered = recover(fs, layout, lambda: journal)
            copying.forget_tails(fs, layout)
            rows = await shared.read(max(0, recovered.writer.end - 1))
            if not rows or rows[0].place <= recovered.writer.end:
                return recovered
            recovered.writer.close()
            log.warning("the copy ends before what is kept, and is fetched again")
        except JournalDamaged as damaged:
            log.warning("the copy is fetched again: %s", damaged)
    copying.discard(fs, layout)
    await copying.fetch(fs, layout, shared)
    return recover(fs, layout, lambda: journal)


def _now() -> float:
    """Seconds of a clock that goes on while the machine sleeps: whoever wakes must not answer."""
    return time.clock_gettime(_CLOCK)


def moved_to(data_dir: Path) -> str:
    """The owner of a log that has moved to the files in `data_dir`."""
    return f"{MOVED}to files: {data_dir} on {socket.gethostname()}"


def _boot() -> str:
    """What tells one start of this machine from another, as far as the system says."""
    with contextlib.suppress(OSError):
        return _BOOT.read_text().strip()
    return ""
