"""A journal on a disk that cannot be written is read as it is."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from journal.builders import OWNER, ROOT, add, claimed, opened, queued, run, step, stories
from journal.disk import Disk
from journal.journals import damage, filled
from stackshift_jobs.errors import JournalDamaged
from stackshiftd.journal.file_journal import FileJournal
from stackshiftd.journal.interface import Full
from stackshiftd.journal.layout import DaemonRunning

GROWS = {"pwrite", "truncate", "mkdir", "rename"}


def contents(disk: Disk) -> dict[str, bytes]:
    """Each file below the data directory."""
    folders = ["data/journal", "data/snapshots", "data/quarantine"]
    paths = [f"{folder}/{name}" for folder in ("data", *folders) for name in disk.names(folder)]
    return {path: bytes(disk.find(path).data) for path in paths if path not in folders}


def last_segment(disk: Disk) -> str:
    """The path of the segment that is written to."""
    return f"data/journal/{disk.names('data/journal')[-1]}"


@pytest.fixture
def full() -> Disk:
    """A journal with snapshots whose last append was torn; from now on, each call that would change
    something fails as on a full disk."""
    disk = Disk()
    filled(disk, snapshots=(12, 20))
    disk.find(last_segment(disk)).data.extend(b'{"crc":"0000')
    disk.fault = lambda _number, name: errno.ENOSPC if name in GROWS else None
    return disk


def test_intact_part_is_read_and_nothing_is_changed(full: Disk) -> None:
    """Recovery finds no room; the sealed journal has all records before the tear, and leaves each
    file as it is (guarantee: full disk)."""
    before = contents(full)
    with pytest.raises(OSError, match="No space") as refused:
        opened(full)
    assert refused.value.errno == errno.ENOSPC
    journal = FileJournal.open_sealed(ROOT, fs=full)
    told = stories(journal)
    assert told[-1][0] == journal.last_seq == journal.durable_seq == 40
    assert (journal.recovery.kept_seq, journal.recovery.torn) == (40, None)
    assert journal.recovery.last_at_us > 0
    found = run(journal.get_snapshot())
    assert found is not None and found[0] == 20
    with pytest.raises(Full):
        run(journal.claim(OWNER, 40, 0))
    assert not journal.can_write()
    journal.close()
    assert contents(full) == before


def test_what_was_read_is_there_when_there_is_room(full: Disk) -> None:
    """Recovery then does what it could not do, and the tear is reported."""
    sealed = FileJournal.open_sealed(ROOT, fs=full)
    told = stories(sealed)
    sealed.close()
    full.fault = lambda _number, _name: None
    journal = opened(full)
    assert stories(journal) == told
    assert journal.recovery.torn is not None
    assert journal.can_write()
    assert full.names("data/journal")[-1].endswith(".jsonl")
    journal.close()


def test_sealed_journal_reveals_nothing_that_a_power_cut_could_undo() -> None:
    """What a killed daemon has written and not synced is synced before it is read."""

    async def work() -> None:
        live = Disk()
        journal = opened(live, durability="interval", interval_s=3600)
        claim = await claimed(journal)
        await add(journal, claim, [queued()], [step()])
        disk = live.after_kill()
        sealed = FileJournal.open_sealed(ROOT, fs=disk)
        told = stories(sealed)
        after = disk.after_power_cut()
        sealed.close()
        journal.close()  # Ends its thread; it writes to the same files.
        assert len(told) == 3
        recovered = opened(after)
        assert stories(recovered) == told
        recovered.close()

    run(work())


REFUSED = GROWS | {"sync_data", "sync_dir", "unlink"}
"""What a file system refuses after an error, although it is not mounted read-only."""


def test_disk_that_refuses_syncs_is_read_if_it_is_known() -> None:
    """After a stop, all of the journal is known to be on the disk. That counts as read-only until
    something can be written."""
    disk = Disk()
    filled(disk)
    disk.fault = lambda _number, name: errno.EROFS if name in REFUSED else None
    before = contents(disk)
    with pytest.raises(OSError, match="Read-only") as refused:
        opened(disk)
    assert refused.value.errno == errno.EROFS
    journal = FileJournal.open_sealed(ROOT, fs=disk)
    assert stories(journal)[-1][0] == 40
    assert contents(disk) == before
    assert journal.disk().is_read_only
    assert not journal.can_write()
    assert journal.disk().is_read_only
    disk.fault = lambda _number, _name: None
    assert journal.can_write()
    assert not journal.disk().is_read_only
    journal.close()


def test_disk_that_refuses_syncs_is_not_read_if_it_is_not_known() -> None:
    """Records that may be in the cache only are neither shown nor passed over: what was
    acknowledged may be among them."""

    async def work() -> None:
        live = Disk()
        journal = opened(live, durability="interval", interval_s=3600)
        claim = await claimed(journal)
        await add(journal, claim, [queued()], [step()])
        disk = live.after_kill()
        disk.fault = lambda _number, name: errno.EROFS if name in REFUSED else None
        with pytest.raises(Full, match="not known whether the records after 0 in") as refused:
            FileJournal.open_sealed(ROOT, fs=disk)
        assert refused.value.exit_status == 75
        disk.fault = lambda _number, _name: None
        recovered = opened(disk)
        assert len(stories(recovered)) == 3
        recovered.close()
        journal.close()  # Ends its thread.

    run(work())


@pytest.mark.parametrize("has_file", [True, False], ids=["lock file", "no lock file"])
def test_sealed_journal_is_held_by_one_process(full: Disk, has_file: bool) -> None:
    """As one that is written: by the lock on its directory, whatever became of the file.
    (guarantee: one daemon)"""
    if not has_file:
        full.unlink(ROOT / "lock")
    journal = FileJournal.open_sealed(ROOT, fs=full)
    with pytest.raises(DaemonRunning):
        FileJournal.open_sealed(ROOT, fs=full)
    if has_file:
        full.unlink(ROOT / "lock")
    full.fault = lambda _number, _name: None
    with pytest.raises(DaemonRunning):
        opened(full)
    journal.close()
    opened(full).close()


def test_sealed_journal_that_is_replaced_is_noticed(full: Disk) -> None:
    """As one that is written: what is at its path by then is another daemon's."""
    journal = FileJournal.open_sealed(ROOT, fs=full)
    assert journal.is_in_place
    full.unlink(Path("/", last_segment(full)))
    assert not journal.is_in_place
    journal.close()


def test_damage_is_refused_by_a_sealed_journal_too(full: Disk) -> None:
    """A full disk is no reason to trust it."""
    damage(full, f"data/journal/{full.names('data/journal')[-2]}", 300)
    with pytest.raises(JournalDamaged):
        FileJournal.open_sealed(ROOT, fs=full)


@pytest.mark.parametrize("whole", [True, False], ids=["all segments", "the last records"])
def test_lost_records_are_refused_by_a_sealed_journal_too(whole: bool) -> None:
    """What the witness names must be there: what is left is neither shown as a shorter journal nor
    taken for none. The files stay as they are. (guarantee: reported damage)"""
    disk = Disk()
    filled(disk)
    if whole:
        for name in disk.names("data/journal"):
            disk.unlink(ROOT / "journal" / name)
    else:
        path = last_segment(disk)
        data = bytes(disk.find(path).data)
        disk.put(path, data[: data.rindex(b"\n", 0, -1) + 1])
    disk.fault = lambda _number, name: errno.ENOSPC if name in GROWS else None
    before = contents(disk)
    with pytest.raises(JournalDamaged, match="records up to 40 were on disk"):
        FileJournal.open_sealed(ROOT, fs=disk)
    assert contents(disk) == before


@pytest.mark.parametrize("missing", ["all", "segments"])
def test_nothing_to_read_is_said(missing: str) -> None:
    """Where there is no journal yet, there is nothing to serve: exit 75."""
    disk = Disk()
    if missing == "segments":
        opened(disk).close()
        for name in disk.names("data/journal"):
            disk.unlink(Path("/data/journal") / name)
        with pytest.raises(Full, match="has no journal yet") as refused:
            FileJournal.open_sealed(ROOT, fs=disk)
    else:
        disk.mkdir(ROOT)
        with pytest.raises(Full, match="has no journal yet") as refused:
            FileJournal.open_sealed(ROOT, fs=disk)
    assert refused.value.exit_status == 75
