"""The witness: a journal that has lost its end, or everything, is not taken for a shorter or a new
one (guarantee: reported damage)."""

from __future__ import annotations

import errno

import pytest

from journal.builders import FIRST, ROOT, add, claimed, opened, queued, run, step, until
from journal.disk import Disk
from journal.journals import KEEPS, LONG, SEGMENT, filled, segments, told
from stackshift_jobs.errors import JournalDamaged
from stackshiftd.journal import witness
from stackshiftd.journal.layout import Layout
from stackshiftd.journal.offline import tools
from stackshiftd.journal.witness import Known

WITNESS = "data/witness.json"
LAYOUT = Layout(ROOT)


def refused(disk: Disk) -> JournalDamaged:
    """The error of a start, which changes no file."""
    before = {path: bytes(disk.find(path).data) for path in (*segments(disk), WITNESS)}
    with pytest.raises(JournalDamaged) as caught:
        opened(disk)
    after = {path: bytes(disk.find(path).data) for path in (*segments(disk), WITNESS)}
    assert after == before
    assert not tools.verify(ROOT, fs=disk).ok
    assert "journal repair" in caught.value.hint
    return caught.value


@pytest.mark.parametrize("snapshots", [(), (10, 31)])
def test_journal_cut_between_two_lines_is_refused(snapshots: tuple[int, ...]) -> None:
    """Wherever the last segment ends, if it is a line's end and not the last one's: what is left
    reads like a sound journal, and only the witness knows of the rest. The error names it."""
    disk = Disk()
    filled(disk, snapshots=snapshots)
    path = segments(disk)[-1]
    data = bytes(disk.find(path).data)
    first = int(path[-26:-6])
    ends = [at + 1 for at, byte in enumerate(data) if byte == 10]
    for number, end in enumerate(ends[:-1]):
        disk.put(path, data[:end])
        error = refused(disk)
        assert error.fields["seq"] <= first + number
        assert "records up to 40 were on disk" in error.message
    disk.put(path, data)
    assert len(told(disk)) == 40


def test_journal_without_its_last_segments_is_refused() -> None:
    """Any number of segments that are missing from the end, up to all of them."""
    disk = Disk()
    filled(disk)
    for path in reversed(segments(disk)):
        disk.unlink(ROOT / "journal" / path[-26:])
        assert "records up to 40 were on disk" in refused(disk).message


def test_segments_of_another_journal_are_refused() -> None:
    """A directory whose journal was exchanged for another, sound one: both are named."""
    disk = Disk()
    filled(disk)
    for path in segments(disk):
        data = bytes(disk.find(path).data)
        assert b"jrn_test" in data[: data.index(b"\n")]
        disk.unlink(ROOT / "journal" / path[-26:])
    other = Disk()
    filled(other, records=3)
    witness.put(disk, LAYOUT, Known("jrn_ours", 40))
    disk.put(FIRST, bytes(other.find(FIRST).data))
    error = refused(disk)
    assert "jrn_ours" in error.message
    assert "jrn_test" in error.message


@pytest.mark.parametrize("durability", ["always", "interval"])
def test_power_cut_never_leaves_a_witness_that_knows_more(durability: str) -> None:
    """Whatever of the unsynced files reaches the disk, what the witness names is in the journal: it
    is written after the sync, also where records are acknowledged before."""

    async def work() -> None:
        disk = Disk()
        journal = opened(disk, durability=durability, interval_s=3600, segment_size=SEGMENT)
        claim = await claimed(journal)
        for number in range(12):
            await add(journal, claim, [queued(f"run_{number}")] * 2, [step()])
            for seed in range(20 if LONG else 4):
                for keep in KEEPS:
                    opened(disk.after_power_cut(keep, seed)).close()
        journal.close()

    run(work())


@pytest.mark.parametrize("durability", ["always", "interval"])
def test_what_is_durable_is_witnessed_soon(durability: str) -> None:
    """An interval after an append its last record is known, with nothing more to do; and at a stop
    at once."""

    async def work() -> None:
        disk = Disk()
        journal = opened(disk, durability=durability, interval_s=0.001)
        claim = await claimed(journal)
        for _ in range(5):
            await add(journal, claim, [queued()], [step()])
            await until(
                lambda: witness.read(disk, LAYOUT) == Known("jrn_test", journal.last_seq),
                "the witness to be told",
            )
        journal.close()
        journal = opened(disk)
        await claimed(journal)
        last = journal.last_seq
        journal.close()
        assert witness.read(disk, LAYOUT) == Known("jrn_test", last)

    run(work())


def test_witness_that_is_damaged_or_missing_stops_nothing() -> None:
    """It is evidence, not data: without it the journal opens as it is, and has a witness again."""
    for at in (0, 10, 30, 100, 159, None):
        disk = Disk()
        before = filled(disk)
        if at is None:
            disk.unlink(ROOT / "witness.json")
        else:
            data = bytearray(disk.find(WITNESS).data)
            data[at] ^= 1
            disk.put(WITNESS, bytes(data))
            assert witness.read(disk, LAYOUT) is None
        assert told(disk) == before
        assert witness.read(disk, LAYOUT) == Known("jrn_test", 40)


def test_witness_that_cannot_be_written_stops_nothing() -> None:
    """Records are acknowledged all the same; what it names stays true, or cannot be read, and is
    right again once it can be written."""
    for code in (errno.EIO, errno.ENOSPC, errno.EROFS):
        disk = Disk()
        filled(disk, records=5)
        journal = opened(disk)
        run(claimed(journal))
        last = journal.last_seq
        disk.fail_once(0, code)
        journal.close()
        known = witness.read(disk, LAYOUT)
        assert known is None or known.seq <= last
        disk.fault = lambda _number, _name: None
        opened(disk).close()
        assert witness.read(disk, LAYOUT) == Known("jrn_test", last)
