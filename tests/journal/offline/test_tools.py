"""`stackshift journal verify|cat|stats|repair`, with and without a daemon running."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest

from journal.builders import (
    FIRST,
    ROOT,
    add,
    claimed,
    opened,
    queued,
    run,
)
from journal.disk import Disk, PowerCut
from journal.journals import SEGMENT, damage, filled, line_at, segments, told
from stackshift_jobs.errors import BadConfiguration, JournalDamaged
from stackshiftd.journal.layout import DaemonRunning
from stackshiftd.journal.offline import tools
from stackshiftd.journal.offline.tools import LostRange

# --- verify ------------------------------------------------------------------------------------


def test_verify_finds_a_sound_journal_sound() -> None:
    """`verify` reports counts, range and snapshots, no problem, and changes no byte."""
    disk = Disk()
    filled(disk, snapshots=(10, 31))
    before = {path: bytes(disk.find(path).data) for path in segments(disk)}
    report = tools.verify(ROOT, fs=disk)
    assert report.ok
    assert (report.journal, report.first_seq, report.last_seq) == ("jrn_test", 1, 40)
    assert (report.records, report.snapshots, report.notes) == (40, [10, 31], [])
    assert report.segments == len(before) > 3
    assert report.bytes == sum(map(len, before.values()))
    assert {path: bytes(disk.find(path).data) for path in segments(disk)} == before


def test_verify_finds_any_changed_byte() -> None:
    """Damage to a header or line of any segment is reported with file, offset and record."""
    disk = Disk()
    filled(disk)
    for path in segments(disk):
        data = bytes(disk.find(path).data)
        last = path == segments(disk)[-1]
        end = data.rindex(b'{"crc"') if last else len(data)  # The last line is known to nobody.
        for at in range(0, end, 11):
            disk.put(path, data[:at] + bytes([data[at] ^ 8]) + data[at + 1 :])
            report = tools.verify(ROOT, fs=disk)
            assert not report.ok, (path, at)
            assert report.problems[0].file == path.removeprefix("data/")
            assert report.problems[0].offset <= at
        disk.put(path, data)
    assert tools.verify(ROOT, fs=disk).ok


def test_verify_beside_a_writer_takes_a_torn_tail_for_no_problem() -> None:
    """What a daemon is writing looks like a torn tail: a note, not damage; no lock is needed."""

    async def work() -> None:
        disk = Disk()
        journal = opened(disk)
        claim = await claimed(journal)
        await add(journal, claim, [queued()] * 3)
        data = bytes(disk.find(FIRST).data)
        disk.put(FIRST, data + data[-150:-20])
        report = tools.verify(ROOT, fs=disk)
        assert report.ok
        assert report.last_seq == 4
        assert "incomplete append" in report.notes[0]
        journal.close()

    run(work())


def test_verify_tells_of_each_bad_snapshot() -> None:
    """A damaged snapshot stops nothing as long as there is another, but it is reported."""
    disk = Disk()
    filled(disk, snapshots=(10, 31))
    damage(disk, "data/snapshots/00000000000000000010.jsonl", 70)
    [problem] = tools.verify(ROOT, fs=disk).problems
    assert (problem.file, problem.seq) == ("snapshots/00000000000000000010.jsonl", 10)


def test_verify_of_no_data_directory_says_so() -> None:
    """A wrong path is an error, not a sound journal."""
    with pytest.raises(BadConfiguration):
        tools.verify(ROOT, fs=Disk())


# --- cat and stats -----------------------------------------------------------------------------


def test_cat_gives_the_lines_as_they_stand() -> None:
    """`cat` shows every line after a given record, oldest first, without headers."""
    disk = Disk()
    filled(disk)
    lines = list(tools.cat(ROOT, fs=disk))
    assert [json.loads(line)["seq"] for line in lines] == list(range(1, 41))
    for since in (0, 1, 17, 39, 40, 99):
        assert list(tools.cat(ROOT, since, fs=disk)) == lines[since:]


def test_cat_beside_a_writer_shows_whole_durable_appends_only() -> None:
    """Half an append is not shown, and a power cut cannot undo what is shown."""

    async def work() -> None:
        disk = Disk()
        journal = opened(disk, durability="interval", interval_s=3600)
        claim = await claimed(journal)
        await add(journal, claim, [queued()] * 3)
        file = disk.find(FIRST)
        half = b'{"crc":"00000000","seq":5,"at":"2026'
        file.data += half
        shown = list(tools.cat(ROOT, fs=disk))
        del file.data[-len(half) :]
        assert len(shown) == 4
        after = disk.after_power_cut("synced")
        assert bytes(after.find(FIRST).data).splitlines()[1:] == shown
        journal.close()

    run(work())


def test_cat_stops_at_damage_with_its_place() -> None:
    """`cat` shows the lines up to the damage, then fails: it does not skip."""
    disk = Disk()
    filled(disk)
    path = segments(disk)[1]
    damage(disk, path, line_at(disk, path, int(path[-26:-6]) + 1))
    shown: list[bytes] = []
    with pytest.raises(JournalDamaged) as caught:
        for line in tools.cat(ROOT, fs=disk):
            shown.append(line)
    assert len(shown) == int(path[-26:-6])
    assert caught.value.fields["file"].endswith(path[-26:])


def test_stats_are_those_that_the_journal_itself_tells() -> None:
    """`stats` gives the same figures offline as the open journal, except for the watermark."""
    disk = Disk()
    filled(disk, snapshots=(10, 31))
    offline = tools.stats(ROOT, fs=disk)
    journal = opened(disk)
    online = journal.stats()
    journal.close()
    assert offline.pop("durable_seq") == 39
    assert online.pop("durable_seq") == 40
    assert offline == online
    assert tools.stats(ROOT, fs=_bare()) | {"segments": []} == tools.stats(ROOT, fs=_bare())


def _bare() -> Disk:
    disk = Disk()
    disk.mkdir(ROOT)
    return disk


# --- repair ------------------------------------------------------------------------------------


def test_repair_of_a_sound_journal_does_nothing() -> None:
    """A sound journal is left unchanged, with nothing done and nothing lost."""
    disk = Disk()
    before = filled(disk)
    result = tools.repair(ROOT, fs=disk)
    assert (result.problems, result.done, result.lost) == ([], [], [])
    assert told(disk) == before


def test_repair_cuts_back_to_the_last_whole_append_and_names_what_is_lost() -> None:
    """With damage in the middle, the prefix is kept, the rest is set aside, and each lost record is
    named, with its run if its line can still be read."""
    disk = Disk()
    before = filled(disk)
    path = segments(disk)[2]
    broken = int(path[-26:-6]) + 3
    damage(disk, path, line_at(disk, path, broken) + 30)
    with pytest.raises(JournalDamaged):
        opened(disk)
    result = tools.repair(ROOT, fs=disk)
    kept = result.kept_to
    assert broken - 3 <= kept < broken
    assert told(disk) == before[:kept]
    assert [lost.seq for lost in result.lost] == list(range(kept + 1, 41))
    assert LostRange(broken) in result.lost
    assert LostRange(40, "journal.closed", None) in result.lost
    known = {lost.seq for lost in result.lost if lost.kind}
    assert known == set(range(kept + 1, 41)) - {broken}
    aside = b"".join(bytes(disk.find(f"data/{name}").data) for name in result.quarantined)
    for seq in known:
        assert b'"seq":%d,' % seq in aside
    assert tools.verify(ROOT, fs=disk).ok


def test_dry_run_of_a_repair_tells_the_same_and_does_nothing() -> None:
    """A dry run reports exactly what would be done, and changes nothing."""
    disk = Disk()
    filled(disk)
    path = segments(disk)[2]
    damage(disk, path, 400)
    before = {p: bytes(disk.find(p).data) for p in segments(disk)}
    plan = tools.repair(ROOT, dry_run=True, fs=disk)
    assert {p: bytes(disk.find(p).data) for p in segments(disk)} == before
    assert disk.names("data/quarantine") == []
    result = tools.repair(ROOT, fs=disk)
    assert (plan.done, plan.lost, plan.kept_to) == (result.done, result.lost, result.kept_to)
    assert plan.lost


def test_repair_makes_a_damaged_header_again_and_loses_nothing() -> None:
    """A header can be rebuilt from its neighbours, with nothing lost."""
    for number in range(3):
        disk = Disk()
        before = filled(disk)
        path = segments(disk)[number]
        data = bytes(disk.find(path).data)
        damage(disk, path, 40)
        result = tools.repair(ROOT, fs=disk)
        assert result.lost == []
        assert bytes(disk.find(path).data) == data
        assert told(disk) == before


def test_repair_makes_the_header_of_a_lone_segment_again() -> None:
    """That works even if the journal's id was recorded nowhere else."""
    disk = Disk()
    before = filled(disk, segment_size=1 << 20)
    damage(disk, FIRST, 3)
    assert tools.repair(ROOT, fs=disk).lost == []
    assert told(disk) == before
    assert tools.verify(ROOT, fs=disk).ok


def test_repair_keeps_all_after_a_snapshot_that_covers_the_damage() -> None:
    """The state loses nothing: the snapshot has it, and everything after the snapshot is kept."""
    disk = Disk()
    before = filled(disk, snapshots=(10, 31))
    path = segments(disk)[1]
    damage(disk, path, 400)
    result = tools.repair(ROOT, fs=disk)
    assert result.lost == []
    assert result.history_lost == (1, result.kept_from - 1)
    assert result.kept_from <= 32
    assert told(disk) == before[result.kept_from - 1 :]
    assert tools.verify(ROOT, fs=disk).ok


@pytest.mark.parametrize("snapshots", [(), (10, 31)])
@pytest.mark.parametrize("at", [40, 400])
def test_hint_of_damage_promises_no_more_than_repair_does(
    snapshots: tuple[int, ...], at: int
) -> None:
    """Whether repair will rebuild a header, continue from a snapshot or cut back: the error at the
    start names the two commands, and no record as kept or lost, since only repair knows."""
    disk = Disk()
    filled(disk, snapshots=snapshots)
    damage(disk, segments(disk)[-1 if snapshots else 1], at)
    with pytest.raises(JournalDamaged) as caught:
        opened(disk)
    assert "`stackshift journal verify` shows" in caught.value.hint
    assert "`stackshift journal repair` sets the damaged part aside" in caught.value.hint
    assert not any(letter.isdigit() for letter in caught.value.hint)


@pytest.mark.parametrize("segment_size", [SEGMENT * 3, 1 << 20])
def test_repair_keeps_all_after_a_snapshot_in_the_middle_of_a_segment(segment_size: int) -> None:
    """A new segment replaces the damaged one, and every line keeps its place."""
    disk = Disk()
    before = filled(disk, records=60, segment_size=segment_size, snapshots=(10, 31))
    journal = opened(disk, segment_size=segment_size)
    places = {entry.seq: place for place, entry in journal.read(1)}
    journal.close()
    path = [p for p in segments(disk) if int(p[-26:-6]) <= 31][-1]
    first = int(path[-26:-6])
    assert first < 30, "the snapshot must lie within the segment"
    damage(disk, path, line_at(disk, path, 30) + 40)
    assert not tools.verify(ROOT, fs=disk).ok
    result = tools.repair(ROOT, fs=disk)
    assert (result.lost, result.kept_from, result.history_lost) == ([], 32, (1, 31))
    assert told(disk) == before[31:]
    journal = opened(disk, segment_size=segment_size)
    assert {entry.seq: place for place, entry in journal.read(1)} == {
        seq: place for seq, place in places.items() if seq > 31
    }
    journal.close()
    assert tools.verify(ROOT, fs=disk).ok


def test_repair_of_damage_before_and_after_a_snapshot_goes_back_to_what_is_whole() -> None:
    """If neither the prefix nor the snapshot reaches the end, the prefix is kept, and snapshots
    beyond it are set aside with the rest."""
    disk = Disk()
    before = filled(disk, snapshots=(10, 31))
    paths = segments(disk)
    damage(disk, paths[2], 500)
    later = next(path for path in paths if int(path[-26:-6]) > 31)
    damage(disk, later, line_at(disk, later, int(later[-26:-6])) + 25)
    result = tools.repair(ROOT, fs=disk)
    assert told(disk) == before[: result.kept_to]
    assert result.lost[-1].seq == 40
    assert tools.verify(ROOT, fs=disk).ok


def test_repair_sets_bad_snapshots_aside() -> None:
    """A damaged snapshot is set aside; the other one stays."""
    disk = Disk()
    before = filled(disk, snapshots=(10, 31))
    damage(disk, "data/snapshots/00000000000000000031.jsonl", 70)
    result = tools.repair(ROOT, fs=disk)
    assert result.lost == []
    assert disk.names("data/snapshots") == ["00000000000000000010.jsonl"]
    assert told(disk) == before


def test_repair_refuses_where_nothing_whole_would_be_left() -> None:
    """A trimmed journal without snapshots cannot be repaired: only a backup helps."""
    disk = Disk()
    filled(disk, snapshots=(10, 31), trim=40)
    for name in disk.names("data/snapshots"):
        disk.unlink(ROOT / "snapshots" / name)
    before = segments(disk)
    with pytest.raises(JournalDamaged, match="cannot be repaired"):
        tools.repair(ROOT, fs=disk)
    assert segments(disk) == before


def test_repair_needs_the_lock() -> None:
    """Repair is refused while a daemon runs, and the error names the daemon."""
    disk = Disk()
    filled(disk)
    journal = opened(disk)
    with pytest.raises(DaemonRunning):
        tools.repair(ROOT, fs=disk)
    journal.close()


@pytest.mark.parametrize("snapshots", [(), (10, 19)])
def test_repair_killed_at_any_call_can_be_run_again(snapshots: tuple[int, ...]) -> None:
    """Whatever a killed repair had done, the next one reaches the same result."""

    def broken() -> Disk:
        disk = Disk()
        filled(disk, snapshots=snapshots)
        damage(disk, segments(disk)[2], 300)
        return disk

    disk = broken()
    calls = len(disk.calls)
    expected = tools.repair(ROOT, fs=disk)
    calls = len(disk.calls) - calls
    after = told(disk)
    for number in range(calls):
        disk = broken()
        disk.fail_once(number, -1)
        with suppress(PowerCut):
            tools.repair(ROOT, fs=disk)
        disk = disk.after_power_cut("random", number)
        again = tools.repair(ROOT, fs=disk)
        assert (again.kept_from, again.kept_to) == (expected.kept_from, expected.kept_to)
        assert told(disk) == after
