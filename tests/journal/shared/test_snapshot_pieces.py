"""Snapshots go to a shared log, and come from it, a piece at a time."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from journal.builders import add, claimed, run, step
from journal.disk import Disk
from journal.shared.journals import files, filled, leading
from journal.shared.memory_log import MemoryLog
from stackshift_jobs.errors import DatabaseUnavailable
from stackshiftd.journal.filesystem import RealFileSystem
from stackshiftd.journal.layout import Layout, prepare
from stackshiftd.journal.shared import copying
from stackshiftd.journal.shared.log import Piece, Row
from stackshiftd.journal.shared.shared_journal import SharedJournal

MEGABYTE = 1 << 20
LARGE = 48


class Sink(MemoryLog):
    """Has one snapshot of so many megabytes, and keeps no piece that it gets. Its rows are none."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    async def read(self, _place: int) -> list[Row]:
        return []

    async def put_piece(self, _seq: int, number: int, of: int, data: bytes) -> None:
        assert (number, of) == (len(self.sizes), LARGE)
        self.sizes.append(len(data))

    async def snapshots(self) -> list[int]:
        return [7]

    async def get_piece(self, _seq: int, number: int) -> Piece | None:
        return Piece(bytes([number]) * MEGABYTE, LARGE)


def peak_of(work: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """The most memory that it has at a time, in bytes."""
    tracemalloc.start()
    try:
        run(work())
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_large_snapshot_needs_little_memory_on_its_way(tmp_path: Path) -> None:
    """A few pieces at a time, there and back."""
    fs, layout, log = RealFileSystem(), Layout(tmp_path / "data"), Sink()
    prepare(fs, layout)
    assert peak_of(lambda: copying.fetch(fs, layout, log)) < 6 * MEGABYTE
    [path] = layout.snapshots.iterdir()
    whole = b"".join(bytes([number]) * MEGABYTE for number in range(LARGE))
    assert path.name == "00000000000000000007.jsonl" and path.read_bytes() == whole
    assert peak_of(lambda: copying.put_snapshot(fs, path, log, 7)) < 6 * MEGABYTE
    assert log.sizes == [MEGABYTE] * LARGE


class Failing(MemoryLog):
    """Answers for `left` more pieces."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 1000

    async def put_piece(self, seq: int, number: int, of: int, data: bytes) -> None:
        self._count()
        await super().put_piece(seq, number, of, data)

    async def get_piece(self, seq: int, number: int) -> Piece | None:
        self._count()
        return await super().get_piece(seq, number)

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise DatabaseUnavailable("it does not answer")


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small that any snapshot has several."""
    monkeypatch.setattr(copying, "PIECE_BYTES", 64)


def snapshots(disk: Disk) -> dict[str, bytes]:
    """The snapshots of a copy, and what is beside them."""
    folder = "data/snapshots"
    return {name: bytes(disk.find(f"{folder}/{name}").data) for name in disk.names(folder)}


async def snapshot(journal: SharedJournal) -> None:
    """One that has several pieces, here and as far as possible in the log."""
    await journal.put_snapshot(journal.last_seq, [b'{"n":%d}' % n for n in range(40)])
    await journal.adopt_snapshot()


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("left", range(4))
def test_snapshot_that_was_sent_in_part_is_sent_again(left: int) -> None:
    """Until then the log does not have it, and the journal goes on."""

    async def work() -> None:
        log, disk = Failing(), Disk()
        journal = await leading(log, disk)
        log.left = left
        await snapshot(journal)
        assert await log.snapshots() == []
        log.left = 1000
        await journal.adopt_snapshot()
        [seq] = await log.snapshots()
        pieces = log.pieces[seq]
        assert len(pieces) > left
        assert [b"".join(piece.data for piece in pieces)] == list(snapshots(disk).values())
        await journal.leave()
        journal.close()

    run(work())


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("left", range(4))
def test_copy_whose_snapshot_came_in_part_is_fetched_again(left: int) -> None:
    """Where it stands for records that the log has no more."""

    async def work() -> None:
        log, disk, other = Failing(), Disk(), Disk()
        journal = await filled(log, disk, 20)
        await snapshot(journal)
        await add(journal, await claimed(journal), [step("last")])
        await snapshot(journal)
        await journal.trim(journal.last_seq)
        assert log.rows[0].place > 0
        await journal.leave()
        journal.close()
        log.left = left
        with pytest.raises(DatabaseUnavailable):
            await leading(log, other)
        assert snapshots(other) == {}
        log.left = 1000
        again = await leading(log, other)
        assert (files(other), snapshots(other)) == (files(disk), snapshots(disk))
        assert len(snapshots(other)) == 2
        await again.leave()
        again.close()

    run(work())


@pytest.mark.usefixtures("small_pieces")
def test_snapshot_that_is_dropped_while_it_is_fetched_leaves_nothing() -> None:
    """A newer one may be there; nobody takes a part for the whole."""

    class Dropping(MemoryLog):
        async def get_piece(self, seq: int, number: int) -> Piece | None:
            return await super().get_piece(seq, number) if number < 2 else None

    async def work() -> None:
        log, disk, other = Dropping(), Disk(), Disk()
        journal = await filled(log, disk)
        await snapshot(journal)
        await journal.leave()
        journal.close()
        again = await leading(log, other)
        assert files(other) == files(disk)
        assert snapshots(other) == {}
        await again.leave()
        again.close()

    run(work())
