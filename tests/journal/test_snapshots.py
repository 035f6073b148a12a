"""Snapshots: valid as a whole or not at all, and never the only copy."""

from __future__ import annotations

import errno
import hashlib

import pytest

from journal.builders import ROOT, add, claimed, opened, queued, run, stories
from journal.disk import Disk
from stackshift_jobs.errors import JournalDamaged, NewerFormat
from stackshiftd.journal import snapshots
from stackshiftd.journal.file_journal import FileJournal
from stackshiftd.journal.interface import Full

OLDER = "data/snapshots/00000000000000000010.jsonl"
NEWER = "data/snapshots/00000000000000000020.jsonl"


def with_snapshots(disk: Disk, *, trim: bool = False, records: int = 30) -> None:
    """A journal of 31 records in small segments, with snapshots at 10 and 20."""

    async def work() -> None:
        journal = opened(disk, segment_size=700)
        claim = await claimed(journal)
        for _ in range(records):
            await add(journal, claim, [queued()])
        await journal.put_snapshot(10, [b'{"at":10}'], "hash-10")
        await journal.put_snapshot(20, [b'{"at":20}'], "hash-20")
        if trim:
            await journal.trim(31)
        journal.close()

    run(work())


def changed(disk: Disk, path: str, at: int = 60) -> None:
    """Flip a bit of the byte `at` in the file."""
    data = bytearray(disk.find(path).data)
    data[at] ^= 1
    disk.put(path, bytes(data))


def snapshot_of(journal: FileJournal) -> tuple[int, list[bytes]] | None:
    """The newest good snapshot."""
    return run(journal.get_snapshot())


def test_file_stands_as_documented() -> None:
    """A file has a header, the unchanged lines, and a footer with their number and a hash."""
    disk = Disk()
    with_snapshots(disk)
    data = bytes(disk.find(NEWER).data)
    header, line, footer = data.splitlines()
    assert header == b'{"format":1,"journal":"jrn_test","seq":20,"state_hash":"hash-20"}'
    assert line == b'{"at":20}'
    digest = hashlib.sha256(header + b"\n" + line + b"\n").hexdigest().encode()
    assert footer == b'{"count":1,"sha256":"%b"}' % digest


def test_two_generations_are_kept() -> None:
    """A third snapshot removes the oldest, a fourth the next oldest."""
    disk = Disk()
    with_snapshots(disk)

    async def work() -> None:
        journal = opened(disk)
        for seq in (25, 31):
            await journal.put_snapshot(seq, [b"{}"])
        assert journal.newest_snapshot() is not None
        journal.close()

    run(work())
    assert disk.names("data/snapshots") == [f"{seq:020d}.jsonl" for seq in (25, 31)]


def test_damage_anywhere_in_a_snapshot_falls_back_to_the_older_one() -> None:
    """A file with one changed byte anywhere, or cut short, is not used."""
    disk = Disk()
    with_snapshots(disk)
    data = bytes(disk.find(NEWER).data)
    for at in range(len(data)):
        for broken in (data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :], data[:at]):
            disk.put(NEWER, broken)
            journal = opened(disk)
            newest = journal.newest_snapshot()
            assert newest is not None
            assert newest[0] == 10
            assert snapshot_of(journal) == (10, [b'{"at":10}'])
            assert len(stories(journal, 11)) == 21
            journal.close()


def put_by_another_process(disk: Disk, seq: int) -> str:
    """Store a snapshot beside the open journal, as the compaction process does; return its file."""
    made = snapshots.put(disk, ROOT / "snapshots", "jrn_test", seq, [b'{"at":%d}' % seq], "hash")
    return str(made.path).removeprefix("/")


def test_snapshot_of_another_process_is_adopted() -> None:
    """Once adopted it is shown by `stats` and the next trim relies on it; its lines can be read
    even before."""
    disk = Disk()
    with_snapshots(disk)

    async def work() -> None:
        journal = opened(disk, segment_size=700)
        assert journal.snapshot_lines() == [b'{"at":20}']
        path = put_by_another_process(disk, 30)
        assert journal.snapshot_lines() == [b'{"at":30}']
        assert journal.stats()["snapshot"]["seq"] == 20
        await journal.adopt_snapshot()
        size = len(disk.find(path).data)
        assert journal.stats()["snapshot"] == {"seq": 30, "bytes": size}
        assert journal.newest_snapshot() == (30, ROOT / "snapshots" / f"{30:020d}.jsonl")
        assert await journal.get_snapshot() == (30, [b'{"at":30}'])
        await journal.trim(31)
        assert 11 < journal.first_seq <= 21
        journal.close()

    run(work())


def test_damaged_snapshot_of_another_process_is_not_adopted() -> None:
    """The snapshot before it stays the newest, or there is still none."""
    disk = Disk()
    with_snapshots(disk)

    async def work() -> None:
        journal = opened(disk)
        changed(disk, put_by_another_process(disk, 30))
        await journal.adopt_snapshot()
        assert journal.newest_snapshot() == (20, ROOT / "snapshots" / f"{20:020d}.jsonl")
        assert journal.snapshot_lines() == [b'{"at":20}']
        changed(disk, NEWER)
        await journal.adopt_snapshot()
        assert journal.newest_snapshot() is None
        assert journal.snapshot_lines() == []
        journal.close()

    run(work())


def test_without_any_good_snapshot_the_whole_journal_is_read() -> None:
    """As long as nothing was trimmed, snapshots only save time."""
    disk = Disk()
    with_snapshots(disk)
    changed(disk, NEWER)
    changed(disk, OLDER)
    journal = opened(disk)
    assert journal.newest_snapshot() is None
    assert snapshot_of(journal) is None
    assert len(stories(journal)) == 31
    journal.close()


def test_trimmed_journal_without_a_good_snapshot_is_refused() -> None:
    """Records that only the snapshots covered are missing: the error says which."""
    disk = Disk()
    with_snapshots(disk, trim=True)
    changed(disk, NEWER)
    opened(disk).close()
    changed(disk, OLDER)
    with pytest.raises(JournalDamaged) as caught:
        opened(disk)
    assert caught.value.fields["seq"] == 1
    assert "restore" in caught.value.hint


def test_journal_that_ends_before_its_snapshot_is_refused() -> None:
    """A snapshot proves that all records up to it were durable; a shorter journal has lost some."""
    disk = Disk()
    with_snapshots(disk)
    for name in disk.names("data/journal"):
        if int(name[:20]) > 15:
            disk.unlink(ROOT / "journal" / name)
    with pytest.raises(JournalDamaged):
        opened(disk)


def test_snapshots_without_segments_are_no_new_journal() -> None:
    """A lost journal folder is not mistaken for an empty project."""
    disk = Disk()
    with_snapshots(disk)
    for name in disk.names("data/journal"):
        disk.unlink(ROOT / "journal" / name)
    with pytest.raises(JournalDamaged):
        opened(disk)
    assert disk.names("data/journal") == []


def test_snapshot_of_a_newer_stackshift_is_refused() -> None:
    """It is not treated as damage, which would silently fall back to an older state."""
    disk = Disk()
    with_snapshots(disk)
    body = b'{"format":2,"journal":"jrn_test","seq":20}\n'
    digest = hashlib.sha256(body).hexdigest().encode()
    disk.put(NEWER, body + b'{"count":0,"sha256":"%b"}\n' % digest)
    with pytest.raises(NewerFormat):
        opened(disk)


def test_no_room_for_a_snapshot_keeps_those_there_are() -> None:
    """A snapshot that does not fit on the disk is refused and leaves nothing behind."""
    disk = Disk()
    with_snapshots(disk)

    async def work() -> None:
        journal = opened(disk)
        disk.room = 30
        with pytest.raises(Full):
            await journal.put_snapshot(31, [b"{}"])
        assert journal.newest_snapshot() == (20, ROOT / "snapshots" / f"{20:020d}.jsonl")
        journal.close()

    run(work())
    assert disk.names("data/snapshots") == [f"{seq:020d}.jsonl" for seq in (10, 20)]


@pytest.mark.parametrize("call", ["unlink", "sync_dir"])
def test_trim_that_failed_can_be_done_again(call: str) -> None:
    """A segment that could not be removed is removed first next time, so that no gap appears."""
    disk = Disk()
    with_snapshots(disk)

    async def work() -> None:
        journal = opened(disk)
        disk.fault = lambda _number, name: errno.EIO if name == call else None
        with pytest.raises(OSError):
            await journal.trim(31)
        disk.fault = lambda _number, _name: None
        await journal.trim(31)
        told = stories(journal)
        journal.close()
        again = opened(disk.after_power_cut("synced"))
        assert stories(again) == told
        assert 1 < told[0][0] <= 11
        again.close()

    run(work())


def test_only_segments_beyond_the_newest_snapshot_are_read_at_the_start() -> None:
    """Damage that a good snapshot covers does not stop the daemon; `verify` reports it."""
    disk = Disk()
    with_snapshots(disk)
    changed(disk, "data/journal/00000000000000000001.jsonl", 400)
    opened(disk).close()
    changed(disk, NEWER)
    changed(disk, OLDER)
    with pytest.raises(JournalDamaged) as caught:
        opened(disk)
    assert caught.value.fields["file"].endswith("00000000000000000001.jsonl")


def test_damage_in_a_sealed_segment_beyond_the_snapshot_is_refused() -> None:
    """Its hash is in the next header: no changed byte passes, and nothing is taken for torn."""
    disk = Disk()
    with_snapshots(disk)
    sealed = disk.names("data/journal")[-2]
    path = f"data/journal/{sealed}"
    data = bytes(disk.find(path).data)
    for at in range(0, len(data), 3):
        disk.put(path, data[:at] + bytes([data[at] ^ 2]) + data[at + 1 :])
        with pytest.raises(JournalDamaged) as caught:
            opened(disk)
        assert caught.value.fields["file"].endswith(sealed)
        assert caught.value.fields["offset"] <= at


@pytest.mark.parametrize("which", [0, 1, 2])
def test_missing_segment_is_refused(which: int) -> None:
    """A missing segment is detected without reading the others, whatever snapshots cover."""
    disk = Disk()
    with_snapshots(disk)
    names = disk.names("data/journal")
    if which == 0:
        changed(disk, NEWER)
        changed(disk, OLDER)
    disk.unlink(ROOT / "journal" / names[which])
    with pytest.raises(JournalDamaged):
        opened(disk)
