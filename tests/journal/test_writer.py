"""Appending to files: durable when it returns, whole or not at all, and honest about failure."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers.slow_disk import SlowDisk
from journal.builders import (
    FIRST,
    OWNER,
    ROOT,
    START_US,
    add,
    claimed,
    entries,
    opened,
    queued,
    run,
    step,
    stories,
    story,
    until,
    written,
)
from journal.disk import Disk, Folder
from stackshiftd.core.records import JournalClosed
from stackshiftd.journal import writer
from stackshiftd.journal.disk_speed import LONGEST_PAUSE_SECONDS, QUICK_SECONDS
from stackshiftd.journal.file_journal import FileJournal
from stackshiftd.journal.interface import Displaced, Full, Unknown


def failing_at(disk: Disk, call: str, code: int, after: int = 0) -> None:
    """Make the next call with this name fail, or the one after `after` more."""
    seen = 0

    def fault(_number: int, name: str) -> int | None:
        nonlocal seen
        if name == call:
            seen += 1
            if seen == after + 1:
                return code
        return None

    disk.fault = fault


def test_append_is_on_the_platter_when_it_returns() -> None:
    """After a power cut right after the append, what was acknowledged is there."""

    async def work() -> None:
        disk = Disk()
        journal = opened(disk)
        claim = await claimed(journal)
        await add(journal, claim, [queued()], [step("a"), step("b")])
        after = opened(disk.after_power_cut("synced"))
        assert stories(after) == stories(journal)
        assert after.last_seq == journal.durable_seq == 4
        after.close()
        journal.close()

    run(work())


def test_watermark_of_a_line_is_what_was_durable_before_it() -> None:
    """Each line says which record was last known to be on disk when the line was written."""
    disk = Disk()
    written(disk, [[[queued()], [queued()]], [[queued()]]])
    lines = bytes(disk.find(FIRST).data).splitlines()[1:]
    assert [line.split(b'"wm":')[1].split(b",")[0] for line in lines] == [b"0", b"1", b"1", b"3"]


def test_short_writes_are_carried_on() -> None:
    """A file system that writes only a few bytes at a time still gets all of them."""
    disk = Disk()
    disk.longest_write = 7
    written(disk, [[[step(f"s{n}")] for n in range(20)]])
    journal = opened(disk)
    assert len(stories(journal)) == 21
    assert journal.recovery.torn is None
    journal.close()


def test_no_room_refuses_the_append_and_later_ones_succeed() -> None:
    """If the disk fills up half-way through an append, what was written is cut off; when there is
    space again, the same sequence numbers are used."""

    async def work() -> None:
        disk = Disk()
        journal = opened(disk)
        claim = await claimed(journal)
        await add(journal, claim, [queued("before")])
        size = len(disk.find(FIRST).data)
        disk.room = 500
        with pytest.raises(Full) as caught:
            await add(journal, claim, [step("big", b'"%b"' % (b"x" * 5000))])
        assert caught.value.code == "disk_full"
        assert len(disk.find(FIRST).platter) == len(disk.find(FIRST).data) == size
        assert journal.last_seq == 2
        assert disk.room == 500, "a failed write must not keep the space that it took"
        disk.room = None
        await add(journal, claim, [queued("after")])
        assert [s[0] for s in stories(journal)] == [1, 2, 3]
        journal.close()
        again = opened(disk.after_power_cut("synced"))
        assert stories(again) == stories(journal)
        again.close()

    run(work())


def test_refused_append_does_not_come_back_after_a_power_cut() -> None:
    """`Full` means that nothing of the append is kept, even if half of it had reached the disk."""

    async def work() -> None:
        disk = Disk()
        journal = opened(disk)
        claim = await claimed(journal)
        disk.room = 300
        with pytest.raises(Full):
            await add(journal, claim, [queued()], [step("big", b'"%b"' % (b"x" * 5000))])
        for seed in range(20):
            after = opened(disk.after_power_cut("random", seed))
            assert after.last_seq == 1
            assert after.recovery.torn is None
            after.close()
        journal.close()

    run(work())


def test_no_room_for_a_new_segment_keeps_the_old_one_in_use() -> None:
    """If not even a header fits, the append is refused and the old segment stays in use."""

    async def work() -> None:
        disk = Disk()
        journal = opened(disk, segment_size=800)
        claim = await claimed(journal)
        await add(journal, claim, [queued()] * 3)
        disk.room = 20
        for _ in range(2):
            with pytest.raises(Full):
                await add(journal, claim, [queued()] * 3)
        assert disk.names("data/journal") == ["00000000000000000001.jsonl"]
        disk.room = None
        await add(journal, claim, [queued()] * 3)
        assert disk.names("data/journal")[1:] == ["00000000000000000005.jsonl"]
        assert len(stories(journal)) == 7
        journal.close()

    run(work())


def test_no_room_to_cut_back_is_final() -> None:
    """If what a failed write left cannot be cut off, the outcome is unknown."""

    async def work() -> None:
        disk = Disk()
        journal = opened(disk)
        claim = await claimed(journal)
        disk.room = 50
        failing_at(disk, "truncate", errno.EIO)
        with pytest.raises(Unknown):
            await add(journal, claim, [queued()])
        disk.room = None
        with pytest.raises(Unknown):
            await add(journal, claim, [queued()])
        journal.close()

    run(work())


@pytest.mark.parametrize(
    ("call", "code"), [("sync_data", errno.EIO), ("sync_data", errno.ENOSPC), ("pwrite", errno.EIO)]
)
def test_failed_sync_or_write_is_final(call: str, code: int) -> None:
    """After a failed sync nothing is acknowledged, even if the disk seems to work again; what was
    durable before can still be read."""

    async def work() -> None:
        disk = Disk()
        journal = opened(disk)
        claim = await claimed(journal)
        await add(journal, claim, [queued("before")])
        told = stories(journal)
        failing_at(disk, call, code)
        for _ in range(3):
            with pytest.raises(Unknown) as caught:
                await add(journal, claim, [queued("lost")])
            assert caught.value.code == "append_unknown"
        with pytest.raises(Unknown):
            await journal.claim(OWNER, journal.last_seq, START_US)
        assert stories(journal) == told
        assert journal.durable_seq == 2
        journal.close()

    run(work())


MOVES: dict[str, Callable[[Disk], None]] = {
    "the data directory": lambda disk: disk.rename(ROOT, Path("/elsewhere")),
    "the segments": lambda disk: disk.rename(ROOT / "journal", ROOT / "aside"),
    "the segment": lambda disk: disk.rename(Path("/") / FIRST, ROOT / "aside"),
    "replaced": lambda disk: disk.put(FIRST, bytes(disk.find(FIRST).data)),
}


@pytest.mark.parametrize("what", MOVES)
@pytest.mark.parametrize("rolls", [False, True], ids=["same segment", "next segment"])
@pytest.mark.parametrize("durability", ["always", "interval"])
def test_nothing_is_acknowledged_into_files_that_were_moved(
    what: str, rolls: bool, durability: str
) -> None:
    """An append after the move fails for good, without a restart into an empty directory, and a new
    segment is not made where another journal may be. (guarantee: durable acknowledgement)"""

    async def work() -> None:
        disk = Disk()
        journal = opened(disk, durability=durability, segment_size=1 if rolls else 1 << 20)
        claim = await claimed(journal)
        MOVES[what](disk)
        there = _all_names(disk)
        for _ in range(2):
            with pytest.raises(Displaced, match="was moved or removed") as told:
                await add(journal, claim, [queued()])
            assert told.value.exit_status == 78
        assert not journal.is_in_place
        with suppress(Displaced):
            journal.close()
        assert _all_names(disk) == there

    run(work())


def _all_names(disk: Disk) -> list[str]:
    """The names of everything on the disk."""

    def below(folder: Folder) -> list[str]:
        inside = [(name, made) for name, made in folder.names.items()]
        return [name for name, _ in inside] + [
            name for _, made in inside if isinstance(made, Folder) for name in below(made)
        ]

    return sorted(below(disk.top))


def test_append_of_no_records_changes_nothing() -> None:
    """Empty groups write no line and do not wait for the disk."""

    async def work() -> None:
        disk = Disk()
        journal = opened(disk)
        claim = await claimed(journal)
        calls = len(disk.calls)
        assert list(await journal.append(claim.epoch, 1, [[], []])) == []
        assert len(disk.calls) == calls
        journal.close()

    run(work())


def test_second_append_in_flight_is_our_bug() -> None:
    """A second append in flight is refused: the two would race for sequence numbers."""

    async def work() -> None:
        journal = opened(Disk(), speed=SlowDisk())
        claim = await claimed(journal)
        first = asyncio.ensure_future(journal.append(claim.epoch, 1, [entries(2, [queued()])]))
        await asyncio.sleep(0)
        with pytest.raises(AssertionError, match="one append at a time"):
            await journal.append(claim.epoch, 2, [entries(3, [queued()])])
        await first
        journal.close()

    run(work())


def test_loop_waits_for_a_quick_disk_and_leaves_a_slow_one_to_the_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Large appends and new segments are for the thread too, which also tells the witness."""
    clock = [0.0]
    monkeypatch.setattr(writer, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    took, here = [0.0], threading.current_thread()
    seen: list[bool] = []

    def synced(_number: int, name: str) -> None:
        if name == "sync_data":
            clock[0] += took[0]
            seen.append(threading.current_thread() is here)

    async def work() -> None:
        disk = Disk()
        journal = opened(disk, segment_size=400_000)
        claim = await claimed(journal)
        disk.fault = synced
        await add(journal, claim, [queued()])
        large = [step("s" * 1000)] * 150
        await add(journal, claim, large)
        assert seen == [True, False]
        took[0] = 20 * QUICK_SECONDS
        await add(journal, claim, [queued()])  # The loop has waited, and knows better now.
        await add(journal, claim, [queued()])
        assert seen[2:] == [True, False]
        took[0] = 0.0
        clock[0] += 2 * LONGEST_PAUSE_SECONDS
        await add(journal, claim, [queued()])
        assert seen[4:] == [True]
        await add(journal, claim, large * 3)
        assert True not in seen[5:]
        assert [told[0] for told in stories(journal)] == list(range(1, journal.last_seq + 1))
        journal.close()

    run(work())


def test_append_at_a_wrong_place_is_our_bug() -> None:
    """Sequence numbers and times that do not continue the journal are refused, unwritten."""

    async def work() -> None:
        disk = Disk()
        journal = opened(disk)
        claim = await claimed(journal)
        size = len(disk.find(FIRST).data)
        with pytest.raises(AssertionError):
            await journal.append(claim.epoch, 0, [entries(1, [queued()])])
        with pytest.raises(AssertionError):
            await journal.append(claim.epoch, 1, [entries(3, [queued()])])
        assert len(disk.find(FIRST).data) == size
        await add(journal, claim, [queued()])
        journal.close()

    run(work())


def test_cancelled_caller_does_not_undo_an_append() -> None:
    """Cancelling the caller does not stop the append, and the next one follows it."""

    async def work() -> None:
        disk = Disk()
        journal = opened(disk, speed=SlowDisk())
        claim = await claimed(journal)
        task = asyncio.ensure_future(journal.append(claim.epoch, 1, [entries(2, [queued()])]))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: journal.durable_seq == 2, "the append becomes durable")
        await until(lambda: not journal.appending, "the append is over")
        await add(journal, claim, [queued("next")])
        assert [s[0] for s in stories(journal)] == [1, 2, 3]
        journal.close()

    run(work())


def test_segments_follow_each_other_and_appends_stay_whole() -> None:
    """A new segment begins between appends, even before one that is larger than a segment."""

    async def work() -> None:
        disk = Disk()
        journal = opened(disk, segment_size=1000)
        claim = await claimed(journal)
        places: list[int] = []
        for size in (3, 3, 3, 40, 1, 1, 8):
            seq = journal.last_seq
            group = entries(seq + 1, [queued()] * size)
            places += await journal.append(claim.epoch, seq, [group])
        names = disk.names("data/journal")
        assert len(names) >= 4
        assert journal.stats()["bytes"] == sum(
            len(disk.find(f"data/journal/{n}").data) for n in names
        )
        told = stories(journal)
        assert [s[0] for s in told] == list(range(1, 61))
        assert [story(e) for e in journal.fetch(places)] == told[1:]
        journal.close()
        again = opened(disk, segment_size=1000)
        assert stories(again) == told
        assert [place for place, _ in again.read(2)] == places
        again.close()

    run(work())


def test_interval_durability_returns_before_the_sync_and_syncs_soon() -> None:
    """With `interval` an append waits for no sync; readers see records once they are synced."""

    async def work() -> None:
        disk = Disk()
        journal = opened(disk, durability="interval", interval_s=0.01)
        claim = await claimed(journal)
        await add(journal, claim, [queued()])
        assert journal.last_seq == 2
        await until(lambda: journal.durable_seq == 2, "what was written is synced")
        after = opened(disk.after_power_cut("synced"))
        assert after.last_seq == 2
        after.close()
        journal.close()

    run(work())


def test_interval_durability_shows_nothing_unsynced_and_syncs_at_the_end() -> None:
    """Before the sync nothing can be read; an orderly close syncs."""

    async def work() -> None:
        disk = Disk()
        journal = opened(disk, durability="interval", interval_s=3600)
        claim = await claimed(journal)
        await add(journal, claim, [queued()])
        assert (journal.last_seq, journal.durable_seq) == (2, 0)
        assert stories(journal) == []
        assert opened(disk.after_power_cut("synced")).last_seq == 0
        journal.close()
        assert opened(disk.after_power_cut("synced")).last_seq == 2

    run(work())


def test_interval_durability_makes_failed_syncs_final_too() -> None:
    """A sync that fails between appends is reported by the next append, and by the close."""

    async def work() -> None:
        disk = Disk()
        journal = opened(disk, durability="interval", interval_s=0.001)
        claim = await claimed(journal)
        await until(lambda: journal.durable_seq == 1, "the claim is synced")
        failing_at(disk, "sync_data", errno.EIO)
        await add(journal, claim, [queued()])
        await until(lambda: journal.failed, "the sync fails")
        with pytest.raises(Unknown):
            await add(journal, claim, [queued()])
        assert journal.durable_seq == 1
        with pytest.raises(Unknown):
            journal.close()
        opened(disk).close()

    run(work())


def test_interval_durability_syncs_a_segment_before_the_next_one() -> None:
    """Sealed segments are durable, whatever the setting: recovery relies on that."""

    async def work() -> None:
        disk = Disk()
        journal = opened(disk, durability="interval", interval_s=3600, segment_size=600)
        claim = await claimed(journal)
        for _ in range(5):
            await add(journal, claim, [queued()] * 3)
        names = disk.names("data/journal")
        assert len(names) > 2
        after = opened(disk.after_power_cut("synced"))
        assert after.last_seq == int(names[-1][:20]) - 1
        after.close()
        journal.close()

    run(work())


def test_records_beyond_the_watermark_are_written_anew_before_they_are_believed() -> None:
    """Lines of a killed daemon that no watermark covers are copied and synced."""
    disk = Disk()
    written(disk, [[[queued()]]])
    before = disk.find(FIRST)
    journal = opened(disk)
    assert disk.find(FIRST) is not before
    assert disk.find(FIRST).data == before.data
    journal.close()


def test_clean_stop_spares_the_copy() -> None:
    """After `journal.closed` only that one line is rewritten, in place."""
    disk = Disk()
    written(disk, [[[queued()]], [[JournalClosed()]]])
    before = disk.find(FIRST)
    opened(disk).close()
    assert disk.find(FIRST) is before
    assert before.platter == before.data


def test_journal_on_real_files(tmp_path: Path) -> None:
    """The same works on the operating system's files, which have the right modes."""

    async def work() -> None:
        journal = FileJournal.open(tmp_path / "data", segment_size=2000)
        claim = await claimed(journal)
        for number in range(30):
            await add(journal, claim, [step(f"s{number}"), queued()])
        await journal.put_snapshot(20, [b"{}"], "h20")
        await journal.put_snapshot(40, [b"{}"], "h40")
        await journal.trim(40)
        assert journal.disk().spare_bytes > 0
        told = stories(journal)
        assert 1 < told[0][0] <= 21
        journal.close()
        paths = list((tmp_path / "data").rglob("*"))
        assert len(paths) > 6
        for path in paths:
            assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
        again = FileJournal.open(tmp_path / "data")
        assert again.journal_id == journal.journal_id
        assert stories(again) == told
        assert await again.get_snapshot() == (40, [b"{}"])
        again.close()

    run(work())


def test_empty_directory_is_a_new_journal() -> None:
    """An empty directory becomes a journal with an id of its own, at record 0."""
    disk = Disk()
    journal = opened(disk)
    assert (journal.last_seq, journal.durable_seq, journal.last_at_us) == (0, 0, 0)
    assert journal.recovery.torn is None
    assert journal.journal_id == "jrn_test"
    assert stories(journal) == []
    journal.close()
    again = FileJournal.open(ROOT, fs=disk, journal_id_source=lambda: "jrn_other")
    assert again.journal_id == "jrn_test"
    again.close()
