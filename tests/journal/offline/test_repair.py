"""`repair` mends whatever `verify` finds, loses no more than it must, and has nothing to do the
second time (guarantee: reported damage)."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import NamedTuple

import pytest

from journal.builders import FIRST, ROOT
from journal.disk import Disk
from journal.journals import LONG, damage, filled, line_at, segments, told
from stackshift_jobs.errors import JournalDamaged
from stackshiftd.journal import witness
from stackshiftd.journal.layout import Layout
from stackshiftd.journal.line_format import CHECKED_FROM, sealed
from stackshiftd.journal.line_format import head as line_head
from stackshiftd.journal.offline import tools
from stackshiftd.journal.segment import first_header

SNAPSHOTS = (
    "data/snapshots/00000000000000000010.jsonl",
    "data/snapshots/00000000000000000031.jsonl",
)


def foreign(records: int = 9) -> bytes:
    """The first segment of another journal."""
    disk = Disk()
    filled(disk, records=records, segment_size=1 << 20)
    data = bytes(disk.find(FIRST).data)
    return first_header("jrn_other").line() + data[data.index(b"\n") + 1 :]


def repaired(disk: Disk) -> tools.Repair:
    """Repair a journal that does not open, and check that it then does, that `verify` is content,
    and that the next repair finds nothing to do."""
    assert not tools.verify(ROOT, fs=disk).ok
    with pytest.raises(JournalDamaged):
        opened_lines(disk)
    result = tools.repair(ROOT, fs=disk)
    assert result.problems
    assert result.done
    report = tools.verify(ROOT, fs=disk)
    assert report.problems == []
    again = tools.repair(ROOT, fs=disk)
    assert (again.problems, again.done, again.lost) == ([], [], [])
    return result


def opened_lines(disk: Disk) -> list[tuple[int, int, str]]:
    """The entries of the journal, opened."""
    return told(disk)


# --- Files of other journals -------------------------------------------------------------------


def test_segment_of_another_journal_is_set_aside_and_ours_are_kept() -> None:
    """A foreign first segment before our own, whose oldest were trimmed: the journal is the one
    that most files belong to, with a witness or without, and nothing of it is lost."""
    for without_witness in (False, True):
        disk = Disk()
        before = filled(disk, snapshots=(10, 31), trim=40)
        assert FIRST not in segments(disk), "the story must trim"
        first = int(segments(disk)[0][-26:-6])
        disk.put(FIRST, foreign())
        if without_witness:
            disk.unlink(ROOT / "witness.json")
        result = repaired(disk)
        assert (result.lost, result.history_lost) == ([], None)
        assert [problem.file for problem in result.problems] == [FIRST.removeprefix("data/")]
        assert "jrn_other" in result.problems[0].what
        assert told(disk) == before[-(41 - first) :]
        [aside] = result.quarantined
        assert bytes(disk.find(f"data/{aside}").data) == foreign()


def test_segment_of_another_journal_in_place_of_ours_costs_no_more_than_it_replaced() -> None:
    """With a snapshot beyond it, the state loses nothing; which journal it is, is not decided by
    the first header."""
    disk = Disk()
    before = filled(disk, snapshots=(10, 31))
    disk.put(FIRST, foreign())
    result = repaired(disk)
    assert result.lost == []
    assert told(disk) == before[result.kept_from - 1 :]


# --- What does not belong where it is ----------------------------------------------------------


def test_header_line_repeated_inside_a_segment_is_taken_out() -> None:
    """Between records, and between the parts of an append: nothing is lost, and it is not called
    the work of a newer version."""
    whole = Disk()
    before = filled(whole)
    for number, path in enumerate(segments(whole)):
        data = bytes(whole.find(path).data)
        header = data[: data.index(b"\n") + 1]
        ends = [at + 1 for at, byte in enumerate(data) if byte == 10][:-1]
        for end in ends:
            disk = whole.after_kill().after_power_cut("all")
            disk.put(path, data[:end] + header + data[end:])
            problems = tools.verify(ROOT, fs=disk).problems
            assert problems[0].what.startswith("the header of a segment is in the middle"), number
            result = repaired(disk)
            assert result.lost == []
            assert bytes(disk.find(path).data) == data
            assert told(disk) == before


@pytest.mark.parametrize("kept", [True, False])
def test_segments_written_into_one_file_are_two_again(kept: bool) -> None:
    """`cat two >>one`, with the second file kept or removed: both are as they were."""
    disk = Disk()
    before = filled(disk)
    *_, one, two = segments(disk)
    first, second = bytes(disk.find(one).data), bytes(disk.find(two).data)
    disk.put(one, first + second)
    if not kept:
        disk.unlink(ROOT / "journal" / two[-26:])
    assert repaired(disk).lost == []
    assert (bytes(disk.find(one).data), bytes(disk.find(two).data)) == (first, second)
    assert told(disk) == before


def test_bytes_after_the_end_of_a_sealed_segment_are_cut_off() -> None:
    """The next segment's header says where it ends: whatever follows is set aside, nothing lost."""
    for more in (b"\n", b"\0" * 4096, b'{"crc":"00000000","seq":9}\n'):
        disk = Disk()
        before = filled(disk)
        path = segments(disk)[1]
        disk.put(path, bytes(disk.find(path).data) + more)
        result = repaired(disk)
        assert result.lost == []
        [aside] = result.quarantined
        assert bytes(disk.find(f"data/{aside}").data) == more
        assert told(disk) == before


# --- Records that are none --------------------------------------------------------------------


def nonsense(disk: Disk, path: str, seq: int) -> None:
    """Give the record `seq` a content that no version has, under a right crc."""
    data = bytes(disk.find(path).data)
    at = line_at(disk, path, seq)
    end = data.index(b"\n", at)
    line = data[at + CHECKED_FROM : end]
    body = line.index(b'"kind"')
    kind = line[body : line.index(b'"', body + 8) + 1]
    disk.put(path, data[:at] + sealed(line[:body] + kind + b"}") + data[end + 1 :])


@pytest.mark.parametrize("snapshots", [(), (10, 31)])
@pytest.mark.parametrize("seq", [3, 17, 38])
def test_record_that_cannot_be_read_is_cut_off_or_covered(
    snapshots: tuple[int, ...], seq: int
) -> None:
    """Its line matches its crc, so only reading it shows that it is no record: replay would stop
    there, in a sealed segment and in the last one."""
    disk = Disk()
    before = filled(disk, snapshots=snapshots, segment_size=1 << 20)
    nonsense(disk, FIRST, seq)
    [problem] = tools.verify(ROOT, fs=disk).problems
    assert "matches its crc, but is not a valid" in problem.what
    assert problem.seq == seq
    result = tools.repair(ROOT, fs=disk)
    assert result.done
    assert tools.verify(ROOT, fs=disk).problems == []
    kept = seq > 31 or not snapshots
    assert result.kept_to < seq if kept else result.kept_to == 40
    assert told(disk) == [e for e in before if result.kept_from <= e[0] <= result.kept_to]
    assert tools.repair(ROOT, fs=disk).done == []


# --- Losses that the witness proves ------------------------------------------------------------


def test_repair_of_a_journal_cut_short_accepts_the_loss_and_names_it() -> None:
    """All that is left is kept, every missing record is named, and the witness agrees from then
    on."""
    disk = Disk()
    before = filled(disk)
    path = segments(disk)[-1]
    data = bytes(disk.find(path).data)
    disk.put(path, data[: line_at(disk, path, 39)])
    result = repaired(disk)
    assert [lost.seq for lost in result.lost] == [39, 40]
    assert told(disk) == before[:38]
    assert witness.read(disk, Layout(ROOT)) == witness.Known("jrn_test", 38)


def test_repair_without_segments_continues_after_the_snapshot() -> None:
    """The state of the snapshot is kept; what came after it is lost, and named. No place of a line
    that is gone can be taken for that of a new one."""
    disk = Disk()
    filled(disk, snapshots=(10, 31))
    size = sum(len(disk.find(path).data) for path in segments(disk))
    for path in segments(disk):
        disk.unlink(ROOT / "journal" / path[-26:])
    result = repaired(disk)
    assert [lost.seq for lost in result.lost] == list(range(32, 41))
    assert (result.history_lost, result.kept_to) == ((1, 31), 31)
    assert told(disk) == []
    data = bytes(disk.find(segments(disk)[0]).data)
    assert b'"base":' in data
    assert int(data.split(b'"base":')[1].split(b"}")[0]) > size


@pytest.mark.parametrize("snapshots", [(), (10, 31)])
@pytest.mark.parametrize("witnessed", [True, False])
def test_repair_where_nothing_is_left_allows_a_new_journal(
    snapshots: tuple[int, ...], witnessed: bool
) -> None:
    """No segments, and no snapshot that can be read: what was known to exist is named as lost, what
    is there is set aside, and the next daemon begins with record 1."""
    if not (snapshots or witnessed):
        return  # An empty directory is no damage.
    disk = Disk()
    filled(disk, snapshots=snapshots)
    for path in segments(disk):
        disk.unlink(ROOT / "journal" / path[-26:])
    for path in SNAPSHOTS if snapshots else ():
        damage(disk, path, 70)
    if not witnessed:
        disk.unlink(ROOT / "witness.json")
    result = repaired(disk)
    assert [lost.seq for lost in result.lost] == (list(range(1, 41)) if witnessed else [])
    assert len(result.quarantined) == len(snapshots)
    assert told(disk) == []
    assert FIRST in segments(disk)


def test_witness_of_another_journal_is_reconciled() -> None:
    """A data directory whose journal was exchanged by hand: repair takes the one that is there."""
    disk = Disk()
    before = filled(disk)
    witness.put(disk, Layout(ROOT), witness.Known("jrn_earlier", 99))
    repaired(disk)
    assert told(disk) == before


# --- Any damage at all -------------------------------------------------------------------------


class Damage(NamedTuple):
    """One way to damage a journal."""

    name: str
    do: Callable[[Disk, Random], None]


def _some(disk: Disk, random: Random) -> str:
    return random.choice(segments(disk))


def _flip(disk: Disk, random: Random) -> None:
    path = _some(disk, random)
    damage(disk, path, random.randrange(len(disk.find(path).data)))


def _cut(disk: Disk, random: Random) -> None:
    path = _some(disk, random)
    data = bytes(disk.find(path).data)
    disk.put(path, data[: random.randrange(len(data))])


def _remove(disk: Disk, random: Random) -> None:
    disk.unlink(ROOT / "journal" / _some(disk, random)[-26:])


def _zero(disk: Disk, random: Random) -> None:
    path = _some(disk, random)
    data = bytearray(disk.find(path).data)
    at = random.randrange(len(data))
    data[at : at + 500] = bytes(len(data[at : at + 500]))
    disk.put(path, bytes(data))


def _double(disk: Disk, random: Random) -> None:
    path = _some(disk, random)
    lines = bytes(disk.find(path).data).splitlines(keepends=True)
    at = random.randrange(len(lines))
    disk.put(path, b"".join([*lines[:at], random.choice(lines), *lines[at:]]))


def _exchange(disk: Disk, random: Random) -> None:
    disk.put(random.choice([FIRST, _some(disk, random)]), foreign(random.randint(3, 30)))


def _nonsense(disk: Disk, random: Random) -> None:
    path = _some(disk, random)
    lines = bytes(disk.find(path).data).split(b"\n")[1:-1]
    seqs = [head.seq for line in lines if (head := line_head(line, 0, len(line))) is not None]
    if seqs:
        nonsense(disk, path, random.choice(seqs))


def _snapshot(disk: Disk, random: Random) -> None:
    damage(disk, random.choice(SNAPSHOTS), random.randrange(60, 120))


DAMAGES = [
    Damage("flipped", _flip),
    Damage("cut", _cut),
    Damage("removed", _remove),
    Damage("zeroed", _zero),
    Damage("doubled", _double),
    Damage("exchanged", _exchange),
    Damage("nonsense", _nonsense),
    Damage("snapshot", _snapshot),
]


@pytest.mark.parametrize("kind", DAMAGES, ids=lambda kind: kind.name)
def test_whatever_verify_finds_is_repaired_or_nothing_is_changed(kind: Damage) -> None:
    """One or two damages at random. Either repair leaves a journal that opens, of which `verify`
    is content, that is a part of what was written, and whose losses are named; or it says that it
    cannot, the second time too, and changes no byte."""
    random = Random(kind.name)
    for _ in range(400 if LONG else 40):
        disk = Disk()
        written = filled(disk, snapshots=(10, 31), trim=random.choice((0, 40)))
        last = written[-1][0]
        kind.do(disk, random)
        if random.random() < 0.4:
            random.choice(DAMAGES).do(disk, random)
        files = contents(disk)
        if tools.verify(ROOT, fs=disk).ok:
            continue
        try:
            result = tools.repair(ROOT, fs=disk)
        except JournalDamaged as hopeless:
            assert contents(disk) == files
            with pytest.raises(JournalDamaged) as again:
                tools.repair(ROOT, fs=disk)
            assert again.value.message == hopeless.message
            continue
        assert result.done
        assert tools.verify(ROOT, fs=disk).problems == []
        again_done = tools.repair(ROOT, fs=disk)
        assert (again_done.problems, again_done.done, again_done.lost) == ([], [], [])
        kept = [entry for entry in told(disk) if entry[0] >= result.kept_from]
        assert kept == [e for e in written if result.kept_from <= e[0] <= result.kept_to]
        lost = [one.seq for one in result.lost]
        assert lost == list(range(result.kept_to + 1, last + 1))


def contents(disk: Disk) -> dict[str, bytes]:
    """All files of the journal."""
    names = [f"data/snapshots/{name}" for name in disk.names("data/snapshots")]
    return {path: bytes(disk.find(path).data) for path in [*segments(disk), *names]}
