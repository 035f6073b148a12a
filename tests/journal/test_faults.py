"""Any single call to the file system may fail, or be the last one before a power cut
(guarantee: prefix recovery).

A story of appends, snapshots and a trim over several segments is repeated, each time with another
call failing or cut off. In every case the next start must find every acknowledged record, nothing
that was never appended, and each append whole or not at all.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from helpers.slow_disk import SlowDisk
from journal.builders import OWNER, ROOT, START_US, entries, opened, queued, run, step, story
from journal.disk import Disk, Keep, PowerCut
from stackshiftd.core.records import Entry, JournalClosed, JournalOpened, JournalRecovered
from stackshiftd.journal.disk_speed import DiskSpeed
from stackshiftd.journal.file_journal import FileJournal
from stackshiftd.journal.interface import Full, Unknown
from stackshiftd.journal.offline.tools import verify

LONG = os.environ.get("STACKSHIFT_LONG") == "1"
SEGMENT = 700
"""Bytes; two or three appends fill one."""

Told = tuple[int, int, str]


@dataclass
class Account:
    """What the writer knows: what it may have written, and what was acknowledged."""

    groups: list[list[Told]] = field(default_factory=list)
    """Everything that may be in the journal, one atomic append each."""
    acknowledged: int = 0
    """The highest record of an append that has returned."""
    snapshot: int = 0
    """The newest acknowledged snapshot."""
    failed: BaseException | None = None

    def check(self, disk: Disk) -> None:
        """Assert that the journal on `disk` has everything acknowledged, and can be used."""
        journal = opened(disk, segment_size=SEGMENT)
        try:
            everything = [one for group in self.groups for one in group]
            ends = {0, *(group[-1][0] for group in self.groups)}
            kept = journal.recovery.kept_seq
            assert kept >= self.acknowledged
            assert kept in ends
            due = everything[journal.first_seq - 1 : kept]
            assert [story(e) for _, e in journal.read(1)] == due
            found = run(journal.get_snapshot())
            covered = 0 if found is None else found[0]
            assert covered >= self.snapshot
            assert journal.first_seq <= covered + 1
            if found is not None:
                assert found[1] == [b'{"upto":%d}' % covered]
            run(self._go_on(journal))
        finally:
            journal.close()
        assert verify(ROOT, fs=disk).problems == []

    async def _go_on(self, journal: FileJournal) -> None:
        """Assert that it accepts appends again and reads them back."""
        claim = await journal.claim(OWNER, journal.last_seq, START_US)
        more = entries(claim.entry.seq + 1, [step("later")] * 4)
        places = await journal.append(claim.epoch, claim.entry.seq, [more])
        assert [story(e) for e in journal.fetch(places)] == [story(e) for e in more]


async def tell(disk: Disk, account: Account, *, waits: bool = True) -> None:
    """Play the story. It ends early if a call fails; `account` says how far it came. Small appends
    are committed in the loop's thread if that `waits`, else all in the commit thread."""
    try:
        journal = opened(disk, segment_size=SEGMENT, speed=DiskSpeed() if waits else SlowDisk())
    except (OSError, PowerCut) as failed:
        account.failed = failed
        return
    try:
        await _tell(journal, account)
    except (OSError, PowerCut, Unknown, Full) as failed:
        account.failed = failed
    finally:
        try:
            journal.close()
        except (OSError, PowerCut, Unknown) as failed:
            account.failed = account.failed or failed


async def _tell(journal: FileJournal, account: Account) -> None:
    opening = Entry(1, START_US, JournalOpened(epoch=1, pid=OWNER.pid, version=OWNER.version))
    account.groups.append([story(opening)])
    try:
        claim = await journal.claim(OWNER, 0, START_US)
    except Full:
        account.groups.pop()
        raise
    account.acknowledged = 1
    for number in range(9):
        seq = journal.last_seq
        first = entries(seq + 1, [queued(f"run_{number}")] * (1 + number % 3))
        second = entries(seq + 1 + len(first), [step(f"s{number}"), queued("x")])
        batch = [first, second] if number % 2 else [first]
        account.groups += [[story(e) for e in group] for group in batch]
        try:
            await journal.append(claim.epoch, seq, batch)
        except Full:
            del account.groups[-len(batch) :]  # Full promises that nothing of it is there.
            continue
        account.acknowledged = journal.last_seq
        if number in (3, 6, 7):
            at = journal.durable_seq
            try:
                await journal.put_snapshot(at, [b'{"upto":%d}' % at])
            except Full:
                continue
            account.snapshot = at
        if number == 7:
            await journal.trim(journal.last_seq)
    seq = journal.last_seq
    [closing] = entries(seq + 1, [JournalClosed()])
    account.groups.append([story(closing)])
    try:
        await journal.append(claim.epoch, seq, [[closing]])
    except Full:
        account.groups.pop()
        raise
    account.acknowledged = seq + 1


def calls_of_the_story(waits: bool) -> list[str]:
    """The names of all calls to the file system in an undisturbed story."""
    disk, account = Disk(), Account()
    run(tell(disk, account, waits=waits))
    assert account.failed is None
    assert account.acknowledged == account.groups[-1][-1][0]
    rolled = disk.names("data/journal")
    assert len(rolled) >= 2, "the story must fill several segments"
    assert rolled[0] != "00000000000000000001.jsonl", "the story must trim"
    return disk.calls


CALLS = calls_of_the_story(waits=True)
KEEPS: list[tuple[Keep, int]] = [
    ("synced", 0),
    ("all", 0),
    *[("random", seed) for seed in range(20 if LONG else 2)],
]


def test_calls_are_the_same_in_either_thread() -> None:
    """Whether the loop waits for the disk changes nothing of what is done with it."""
    assert calls_of_the_story(waits=False) == CALLS


@pytest.mark.parametrize(("keep", "seed"), KEEPS)
def test_power_cut_at_any_call_loses_nothing_acknowledged(keep: Keep, seed: int) -> None:
    """The power is cut in call n, for every n; the disk keeps what was synced, and maybe more."""
    for number in range(len(CALLS)):
        disk, account = Disk(), Account()
        disk.fail_once(number, -1)
        run(tell(disk, account, waits=(number + seed) % 2 == 0))
        account.check(disk.after_power_cut(keep, seed * 1000 + number))


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("keep", ["synced", "all"])
def test_error_at_any_call_loses_nothing_acknowledged(code: int, keep: Keep) -> None:
    """Call n fails, for every n, and the daemon ends some time later. With `all`, the operating
    system's cache survives, including pages that never reached the platter."""
    # In the short form ENOSPC is tried at every other call and EDQUOT at some: the two are treated
    # differently in one place only.
    step = 1 if LONG else {errno.EIO: 1, errno.ENOSPC: 2, errno.EDQUOT: 8}[code]
    for number in range(1 if step > 1 and keep == "all" else 0, len(CALLS), step):
        disk, account = Disk(), Account()
        disk.fail_once(number, code)
        run(tell(disk, account, waits=number % 3 > 0))
        assert account.failed is None or isinstance(account.failed, OSError | Unknown | Full)
        account.check(disk.after_power_cut(keep, number))


def test_failed_sync_then_power_cut_loses_nothing_acknowledged_later() -> None:
    """Pages that a failed sync marked clean are read by the next daemon, but are not on disk: what
    it acknowledges on top of them must survive the power cut that loses them."""
    syncs = [number for number, name in enumerate(CALLS) if name == "sync_data"]
    for number in syncs:
        disk, account = Disk(), Account()
        disk.fail_once(number, errno.EIO)
        run(tell(disk, account))
        disk.fault = lambda _number, _name: None
        journal = opened(disk, segment_size=SEGMENT)  # The same machine: its cache is warm.
        kept = journal.recovery.kept_seq
        told = [story(e) for _, e in journal.read(1)]
        first = journal.first_seq
        journal.close()
        again = opened(disk.after_power_cut("synced"), segment_size=SEGMENT)
        assert again.recovery.kept_seq == kept >= account.acknowledged
        assert [story(e) for _, e in again.read(1)] == told
        assert again.first_seq == first
        again.close()


def test_kill_at_any_call_and_a_power_cut_later_lose_nothing_acknowledged() -> None:
    """A killed daemon's unsynced names and contents are readable to the next one. What that one
    acknowledges on top must not depend on anything that a power cut can still take away."""
    for number in range(len(CALLS)):
        disk, account = Disk(), Account()
        disk.fail_once(number, -1)
        run(tell(disk, account))
        disk = disk.after_kill()
        again = opened(disk)  # Large segments: it begins no new one, whose making syncs much else.
        assert again.last_seq >= account.acknowledged
        claim = run(again.claim(OWNER, again.last_seq, START_US))
        account.groups = [g for g in account.groups if g[-1][0] < claim.epoch]
        account.groups.append([story(claim.entry)])
        account.acknowledged = claim.epoch
        account.check(disk.after_power_cut("synced"))


def torn() -> tuple[Disk, Account]:
    """A journal that needs every part of recovery: a torn tail, lines beyond the watermark, and
    files that never got their name."""
    disk, account = Disk(), Account()
    writes = [number for number, name in enumerate(CALLS) if name == "pwrite"]
    disk.fail_once(writes[-2], -1)  # The last one is the witness's.
    run(tell(disk, account))
    disk = disk.after_power_cut("all")
    disk.put("data/journal/00000000000000000099.jsonl.tmp", b"half")
    disk.put("data/snapshots/00000000000000000099.jsonl.tmp", b"")
    return disk, account


def test_recovery_killed_at_any_call_recovers_the_next_time() -> None:
    """Recovery is cut off at call n, for every n, with any part of its work lost: the next recovery
    reaches the same result, and still has the torn tail to report."""
    before, account = torn()
    disk = before.after_power_cut("all")
    journal = opened(disk, segment_size=SEGMENT)
    calls, report = len(disk.calls), journal.recovery
    journal.close()
    assert report.torn is not None
    for number in range(calls):
        for keep, seed in KEEPS:
            # In the short form each failing call is followed by one kind of power cut, in turn.
            turn = LONG or (keep, seed) == KEEPS[number % len(KEEPS)]
            for code in (-1, errno.EIO) if turn else (-1,):
                disk = before.after_power_cut("all")
                disk.fail_once(number, code)
                with suppress(OSError, PowerCut):
                    opened(disk, segment_size=SEGMENT).close()
                after = disk.after_power_cut(keep, seed * 1000 + number)
                journal = opened(after, segment_size=SEGMENT)
                assert journal.recovery == report
                journal.close()
                account.check(after)
        disk = before.after_power_cut("all")
        disk.fail_once(number, -1)
        with suppress(PowerCut):
            opened(disk, segment_size=SEGMENT).close()
        disk = disk.after_kill()
        opened(disk, segment_size=SEGMENT).close()
        journal = opened(disk.after_power_cut("synced"), segment_size=SEGMENT)
        assert journal.recovery == report
        journal.close()


def test_torn_tail_is_reported_until_a_record_names_it() -> None:
    """A daemon that dies before writing `journal.recovered` leaves the report to the next one; once
    written, it is not reported again."""
    disk, _ = torn()
    for _ in range(3):
        journal = opened(disk, segment_size=1 << 20)
        report = journal.recovery
        assert report.torn is not None
        run(journal.claim(OWNER, journal.last_seq, START_US))
        journal.close()

    async def write_it() -> None:
        assert report.torn is not None
        journal = opened(disk, segment_size=1 << 20)
        claim = await journal.claim(OWNER, journal.last_seq, START_US)
        record = JournalRecovered(report.kept_seq, *report.torn)
        entry = Entry(claim.entry.seq + 1, claim.entry.at_us, record)
        await journal.append(claim.epoch, claim.entry.seq, [[entry]])
        journal.close()

    run(write_it())
    journal = opened(disk)
    assert journal.recovery.torn is None
    journal.close()
