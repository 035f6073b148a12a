"""Journals on a shared log: one leader, copies that are fetched, and what must never be told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from journal.builders import (
    FIRST,
    JOURNAL,
    OWNER,
    ROOT,
    add,
    claimed,
    queued,
    run,
    step,
    stories,
    until,
)
from journal.disk import Disk
from journal.shared.journals import SMALL, files, filled, leading
from journal.shared.memory_log import MemoryLog
from stackshift_jobs.errors import (
    BadConfiguration,
    DatabaseUnavailable,
    Fenced,
    JournalDiverged,
)
from stackshiftd.journal.file_journal import FileJournal
from stackshiftd.journal.interface import Overtaken, Unknown
from stackshiftd.journal.shared import shared_journal
from stackshiftd.journal.shared.log import Lease
from stackshiftd.journal.shared.shared_journal import SharedJournal


def has_looked(log: MemoryLog, least: int) -> bool:
    """Were there so many looks?"""
    return log.looks > least


def test_rows_are_the_bytes_of_the_files() -> None:
    """One row an append, headers of new segments included."""

    async def work() -> None:
        log, disk = MemoryLog(), Disk()
        journal = await filled(log, disk)
        assert len(log.rows) == 1 + 1 + 12  # the first header, the claim, and the appends
        assert b"".join(row.data for row in log.rows) == b"".join(files(disk).values())
        assert len(files(disk)) > 3
        await journal.leave()
        journal.close()

    run(work())


def test_another_daemon_goes_on_with_a_copy_that_is_alike() -> None:
    """It fetches what there is, and both directories are the same, byte for byte."""

    async def work() -> None:
        log, first, second = MemoryLog(), Disk(), Disk()
        journal = await filled(log, first)
        told = stories(journal)
        await journal.leave()
        journal.close()
        other = await leading(log, second, segment_size=SMALL)
        assert stories(other) == told
        assert files(second) == files(first)
        await add(other, await claimed(other), [queued()])
        await other.leave()
        other.close()
        again = await leading(log, first, segment_size=SMALL)
        assert files(first) == files(second)
        assert again.recovery.torn is None
        again.close()

    run(work())


def test_leader_that_lives_is_left_alone() -> None:
    """Whoever else starts is told who leads, and changes nothing."""

    async def work() -> None:
        log = MemoryLog()
        journal = await filled(log, Disk())
        with pytest.raises(Fenced, match="leads"):
            await leading(log, Disk())
        await add(journal, await claimed(journal), [queued()])
        journal.close()

    run(work())


def test_leader_that_is_silent_for_a_lease_is_replaced() -> None:
    """Its appends are refused from then on, and it learns that it leads no more."""

    async def work() -> None:
        log, disk = MemoryLog(), Disk()
        old = await filled(log, disk)
        claim = await claimed(old)
        assert old._beats is not None
        old._beats.cancel()  # as a process that stands still
        new = await leading(log, Disk(), segment_size=SMALL)
        await add(new, await claimed(new), [queued()])
        with pytest.raises(Fenced):
            await add(old, claim, [queued()])
        with pytest.raises(Fenced):
            await add(old, claim, [queued()])
        assert old.last_seq == new.last_seq - 2
        old.close()
        new.close()

    run(work())


class SlowLog(MemoryLog):
    """A log that answers the first look for a leader after more than a lease, by the clock `now`,
    and notes when."""

    def __init__(self) -> None:
        super().__init__()
        self.finds = 0
        self.seen_at = 0.0
        self.led_at = 0.0
        self._ahead = 0.0

    def now(self) -> float:
        """The time, which is ahead of that of the system by how long answers took."""
        return time.monotonic() + self._ahead

    async def find(self) -> Lease | None:
        """See `SharedLog.find`."""
        self.finds += 1
        if self.finds == 2:  # The first one only asks whether there is a journal.
            self._ahead += 0.5
            self.seen_at = self.now()
        return await super().find()

    async def lead(self, seen: Lease, owner: str, lease_ms: int) -> int | None:
        """See `SharedLog.lead`."""
        self.led_at = self.now()
        return await super().lead(seen, owner, lease_ms)


def test_silence_is_counted_from_the_answer_that_showed_the_beat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And not from the question: the leader may have beaten until just before the answer."""

    async def work() -> None:
        log, disk = SlowLog(), Disk()
        (await filled(log, disk)).close()
        log.finds = 0
        monkeypatch.setattr(shared_journal, "_now", log.now)
        again = await leading(log, Disk(), segment_size=SMALL)
        assert log.led_at - log.seen_at > 0.3
        again.close()

    run(work())


def test_deposed_leader_answers_nothing_and_is_lost() -> None:
    """Its right to answer ends before another one can have written; its next beat tells it."""

    async def work() -> None:
        log = MemoryLog()
        old = await filled(log, Disk())
        confirmed: list[bool] = []
        old.confirmed = lambda: confirmed.append(True)
        await until(lambda: bool(confirmed), "a beat")
        log.is_silent = True
        await until(lambda: not old.may_answer, "the right to answer to end")
        assert old.loss is None
        log.is_silent = False
        assert log.lease is not None
        log.lease = log.lease._replace(term=log.lease.term + 1, owner="other x y")
        await until(lambda: old.loss is not None, "the beat that finds another leader")
        assert isinstance(old.loss, Fenced)
        assert "other" in old.loss.message
        assert not old.may_answer
        old.close()

    run(work())


def test_leader_that_has_left_or_died_here_is_replaced_at_once() -> None:
    """Its own directory knows that it is dead, since the lock is free."""

    async def work() -> None:
        log, disk = MemoryLog(), Disk()
        journal = await filled(log, disk)
        journal.close()  # as by `kill -9`: the lease is not given up
        began = asyncio.get_running_loop().time()
        again = await leading(log, disk, lease_ms=60_000)
        assert log.lease is not None and log.lease.owner
        assert asyncio.get_running_loop().time() - began < 10
        again.close()

    run(work())


@pytest.mark.parametrize("fault", ["before", "after"])
def test_append_without_an_answer_is_unknown(fault: Any) -> None:
    """The next start finds out; what was in is in once."""

    async def work() -> None:
        log, disk = MemoryLog(), Disk()
        journal = await filled(log, disk)
        claim = await claimed(journal)
        seq = journal.last_seq
        log.faults = [fault]
        for _ in range(2):
            with pytest.raises(Unknown):
                await add(journal, claim, [queued()])
        assert journal.last_seq == seq
        journal.close()
        again = await leading(log, disk, segment_size=SMALL)
        assert again.last_seq == seq + (fault == "after")
        again.close()

    run(work())


def test_claim_behind_a_late_append_of_another_is_made_again() -> None:
    """The last append of whoever led before comes in between: it is read, and the claim follows
    it."""

    async def work() -> None:
        log, disk = MemoryLog(), Disk()
        old = await filled(log, Disk())
        claim = await claimed(old)
        assert old._beats is not None
        old._beats.cancel()
        new = await leading(log, disk, segment_size=SMALL)
        await add(old, claim, [queued()])
        with pytest.raises(Overtaken):
            await new.claim(OWNER, new.last_seq, 0)
        assert stories(new) == stories(old)
        await add(new, await claimed(new), [queued()])
        with pytest.raises(Fenced):
            await add(old, claim, [queued()])
        new.close()
        old.close()

    run(work())


async def following(
    log: MemoryLog, disk: Disk, **options: Any
) -> tuple[SharedJournal, asyncio.Task[None]]:
    """A journal that follows, and what ends when it leads."""
    options.setdefault("lease_ms", 300)
    options.setdefault("segment_size", SMALL)
    journal = await SharedJournal.open(ROOT, log, "the log", fs=disk, **options)
    return journal, asyncio.get_running_loop().create_task(journal.follow(nothing))


async def nothing() -> None:
    """What a daemon without a state does when its journal is level."""


def test_follower_is_level_and_leads_once_the_leader_is_silent() -> None:
    """It has copied what was appended meanwhile, in new segments too; before that it says who
    leads, and may answer nothing."""

    async def work() -> None:
        log, first, second = MemoryLog(), Disk(), Disk()
        old = await leading(log, first, segment_size=SMALL)
        claim = await claimed(old)
        new, follows = await following(log, second)
        for number in range(12):
            await add(old, claim, [step(f"s{number}")])
            await until(lambda: new.last_seq == old.last_seq, "the copy to be level")
        await until(lambda: bool(new.leader), "the leader to be seen")
        assert not new.may_answer and not follows.done()
        assert files(second) == files(first)
        assert old._beats is not None
        old._beats.cancel()
        await follows
        assert new.leader is None and new.may_answer
        await add(new, await claimed(new), [queued()])
        with pytest.raises(Fenced):
            await add(old, claim, [queued()])
        new.close()
        old.close()

    run(work())


def test_follower_leads_at_once_when_the_leader_leaves() -> None:
    """After an orderly stop there is no silence to wait for, however long the lease is."""

    async def work() -> None:
        log = MemoryLog()
        old = await leading(log, Disk(), lease_ms=3_600_000)
        claim = await claimed(old)
        new, follows = await following(log, Disk(), lease_ms=3_600_000)
        await add(old, claim, [queued()])
        await until(lambda: bool(new.leader), "the leader to be seen")
        await old.leave()
        old.close()
        await follows
        await claimed(new)
        new.close()

    run(work())


def test_silence_of_the_log_is_not_that_of_its_leader() -> None:
    """A follower that could not see the log for longer than a lease begins to count anew."""

    async def work() -> None:
        log = MemoryLog()
        old = await leading(log, Disk(), lease_ms=60_000)
        new, follows = await following(log, Disk(), lease_ms=60_000)
        await until(lambda: bool(new.leader), "the leader to be seen")
        log.is_silent = True
        looks = log.looks
        await until(lambda: log.looks > looks + 2, "some looks")
        log.is_silent = False
        looks = log.looks
        await until(lambda: log.looks > looks + 2, "some looks")
        assert not follows.done()
        follows.cancel()
        new.close()
        old.close()

    run(work())


@pytest.mark.parametrize("failing", ["before", "within", "header"])
def test_follower_without_room_goes_on_when_there_is_some(failing: str) -> None:
    """Wherever a copied append was cut off, the copy is level and alike afterwards."""

    async def work() -> None:
        log, first, second = MemoryLog(), Disk(), Disk()
        old = await leading(log, first, segment_size=SMALL)
        claim = await claimed(old)
        new, follows = await following(log, second)
        room = {"before": 0, "within": 40, "header": 150}[failing]
        for number in range(8):
            second.room = room
            await add(old, claim, [step(f"s{number}")] * 3)
            await until(partial(has_looked, log, log.looks + 3), "some looks")
            assert not follows.done()
            second.room = None
            await until(lambda: new.last_seq == old.last_seq, "the copy to be level")
        assert files(second) == files(first)
        follows.cancel()
        new.close()
        old.close()

    run(work())


def test_follower_without_room_does_not_lead() -> None:
    """Even if nobody else does: it could not serve, and would keep those that can from it."""

    async def work() -> None:
        log, second = MemoryLog(), Disk()
        old = await leading(log, Disk(), segment_size=SMALL)
        claim = await claimed(old)
        new, follows = await following(log, second)
        await until(lambda: bool(new.leader), "the leader to be seen")
        second.room = 0
        await add(old, claim, [queued()])
        await old.leave()
        old.close()
        await until(partial(has_looked, log, log.looks + 3), "some looks")
        assert log.lease is not None and log.lease.owner == ""
        assert not follows.done()
        second.room = None
        await follows
        await claimed(new)
        new.close()

    run(work())


def test_follower_behind_what_is_kept_must_begin_again() -> None:
    """It could not look for longer than the log keeps its rows. The next start fetches a new
    copy."""

    async def work() -> None:
        log, disk = MemoryLog(), Disk()
        old = await leading(log, Disk())
        claim = await claimed(old)
        new = await SharedJournal.open(ROOT, log, "the log", fs=disk, segment_size=SMALL)
        for number in range(4):
            await add(old, claim, [step(f"s{number}")])
        log.rows = log.rows[-2:]
        with pytest.raises(Unknown, match="does not keep"):
            await new.follow(nothing)
        new.close()
        old.close()

    run(work())


def test_old_copy_that_ends_before_what_is_kept_is_fetched_again() -> None:
    """A directory that was not used for longer than the log keeps its rows."""

    async def work() -> None:
        log, first, second = MemoryLog(), Disk(), Disk()
        old = await leading(log, second, segment_size=SMALL)
        await add(old, await claimed(old), [queued()])
        await old.leave()
        old.close()
        new = await filled(log, first, 20)
        for seq in (new.last_seq - 5, new.last_seq):
            await new.put_snapshot(seq, [b"{}"])
            await new.adopt_snapshot()
        await new.trim(new.last_seq)
        await new.leave()
        new.close()
        again = await leading(log, second, segment_size=SMALL)
        assert files(second) == files(first)
        again.close()

    run(work())


def cut(disk: Disk, bytes_left: int) -> None:
    """Cut the last segment of a copy short."""
    name = disk.names(JOURNAL)[-1]
    data = bytes(disk.find(f"{JOURNAL}/{name}").data)
    disk.put(f"{JOURNAL}/{name}", data[:bytes_left])


def test_copy_that_was_cut_anywhere_comes_back() -> None:
    """At every byte of its last segment, as a crash leaves a file that is not synced."""

    async def work() -> None:
        log, disk = MemoryLog(), Disk()
        journal = await filled(log, disk)
        await journal.leave()
        journal.close()
        whole = files(disk)
        name = disk.names(JOURNAL)[-1]
        header = whole[name].index(b"\n") + 1
        for size in range(header, len(whole[name])):
            cut(disk, size)
            again = await leading(log, disk, segment_size=SMALL)
            assert files(disk) == whole, size
            assert again.recovery.torn is None
            await again.leave()
            again.close()
        assert disk.names("data/quarantine") == []

    run(work())


def flip(disk: Disk) -> None:
    """One bit of the first segment is another."""
    data = bytearray(disk.find(FIRST).data)
    data[len(data) // 2] ^= 1
    disk.put(FIRST, bytes(data))


def lose_first(disk: Disk) -> None:
    """The first segment is gone."""
    disk.unlink(ROOT / "journal" / FIRST.rpartition("/")[2])


def lose_header(disk: Disk) -> None:
    """The last segment has lost its header."""
    cut(disk, 3)


@pytest.mark.parametrize("harm", [flip, lose_first, lose_header], ids=lambda harm: harm.__name__)
def test_damaged_copy_is_fetched_again(harm: Callable[[Disk], None]) -> None:
    """Whatever happened to the files: the log has them."""

    async def work() -> None:
        log, disk = MemoryLog(), Disk()
        journal = await filled(log, disk)
        await journal.put_snapshot(1, [b"{}"])
        await journal.adopt_snapshot()
        told = stories(journal)
        await journal.leave()
        journal.close()
        whole = files(disk)
        harm(disk)
        again = await leading(log, disk, segment_size=SMALL)
        assert files(disk) == whole
        assert stories(again) == told
        assert await again.get_snapshot() == (1, [b"{}"])
        again.close()

    run(work())


def test_log_that_lost_what_was_acknowledged_starts_nothing() -> None:
    """The copy has more: it is not thrown away, and the error says what it has."""

    async def work() -> None:
        log, disk = MemoryLog(), Disk()
        journal = await filled(log, disk)
        seq = journal.last_seq
        await journal.leave()
        journal.close()
        whole = files(disk)
        del log.rows[-1]
        with pytest.raises(JournalDiverged, match=f"up to {seq}"):
            await leading(log, disk)
        assert files(disk) == whole

    run(work())


def test_log_that_says_something_else_starts_nothing() -> None:
    """Another append at the same place: two truths, of which nobody chooses."""

    async def work() -> None:
        log, disk = MemoryLog(), Disk()
        journal = await filled(log, disk)
        await journal.leave()
        journal.close()
        last = log.rows[-1]
        log.rows[-1] = last._replace(data=last.data.replace(b'"at":"2025', b'"at":"2024'))
        with pytest.raises(JournalDiverged, match="differ"):
            await leading(log, disk)

    run(work())


def test_running_leader_notices_a_log_that_has_gone_back() -> None:
    """As after a restore to an hour ago: nothing is acknowledged on top of that."""

    async def work() -> None:
        log = MemoryLog()
        journal = await filled(log, Disk())
        claim = await claimed(journal)
        del log.rows[-3:]
        with pytest.raises(JournalDiverged):
            await add(journal, claim, [queued()])
        journal.close()

    run(work())


def test_copy_of_another_journal_is_refused() -> None:
    """Neither is it filled with what it is not."""

    async def work() -> None:
        disk = Disk()
        journal = await filled(MemoryLog(), disk)
        journal.close()
        other = MemoryLog()
        (await filled(other, Disk())).close()
        with pytest.raises(JournalDiverged, match="is a copy of"):
            await leading(other, disk)

    run(work())


def test_files_of_their_own_do_not_become_a_copy() -> None:
    """Nor does a copy become a journal of its own by a start without the log."""

    async def work() -> None:
        disk = Disk()
        own = FileJournal.open(ROOT, fs=disk)
        own.close()
        log = MemoryLog()
        with pytest.raises(BadConfiguration, match="holds a journal of its own"):
            await leading(log, disk)
        assert log.lease is None

    run(work())


def test_trimmed_log_still_makes_a_copy() -> None:
    """With the snapshots that stand for what is gone."""

    async def work() -> None:
        log, disk, other = MemoryLog(), Disk(), Disk()
        journal = await filled(log, disk, 20)
        for seq in (journal.last_seq - 5, journal.last_seq):
            await journal.put_snapshot(seq, [b'{"n":%d}' % seq])
            await journal.adopt_snapshot()
        rows = len(log.rows)
        await journal.trim(journal.last_seq)
        assert len(log.rows) < rows
        assert b"".join(row.data for row in log.rows) == b"".join(files(disk).values())
        kept = stories(journal)
        await journal.leave()
        journal.close()
        again = await leading(log, other, segment_size=SMALL)
        assert stories(again) == kept
        assert files(other) == files(disk)
        assert await again.get_snapshot() == (again.last_seq, [b'{"n":%d}' % again.last_seq])
        again.close()

    run(work())


def test_log_that_does_not_answer_is_said_to_be_unavailable() -> None:
    """And the directory is free for the next try."""

    async def work() -> None:
        log, disk = MemoryLog(), Disk()
        log.is_silent = True
        with pytest.raises(DatabaseUnavailable):
            await leading(log, disk)
        log.is_silent = False
        (await leading(log, disk)).close()

    run(work())
