"""A database that was restored to an earlier hour gets back what a copy still has."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from journal.builders import add, claimed, queued, step, stories
from journal.shared.memory_log import MemoryLog
from stackshift_jobs.errors import BadConfiguration, Conflict, Fenced, JournalDiverged
from stackshiftd.journal.interface import Unknown
from stackshiftd.journal.shared import moving
from stackshiftd.journal.shared.log import Row
from stackshiftd.journal.shared.shared_journal import SharedJournal

OPTIONS: dict[str, Any] = {"lease_ms": 300, "segment_size": 700}


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine."""
    asyncio.run(asyncio.wait_for(work, 60))


async def filled(log: MemoryLog, root: Path) -> list[Any]:
    """A copy of some records in several segments, whose daemon has stopped; the records."""
    journal = await SharedJournal.lead(root, log, "the log", **OPTIONS)
    claim = await claimed(journal)
    for number in range(8):
        await add(journal, claim, [step(f"s{number}")] * (1 + number % 3))
    told = stories(journal)
    await journal.leave()
    journal.close()
    return told


def bytes_of(root: Path) -> bytes:
    """The segments of a copy."""
    return b"".join(file.read_bytes() for file in sorted((root / "journal").iterdir()))


@pytest.mark.parametrize("lost", [1, 2, 5, 9])
def test_what_was_lost_is_put_back(tmp_path: Path, lost: int) -> None:
    """However much: the log is what it was, and a daemon goes on from it."""

    async def work() -> None:
        log = MemoryLog()
        told = await filled(log, tmp_path)
        last = log.rows[-1].last_seq
        del log.rows[-lost:]
        kept = log.rows[-1].last_seq
        meant = await moving.rescue(tmp_path, log, "the log", dry_run=True)
        assert log.rows[-1].last_seq == kept
        made = await moving.rescue(tmp_path, log, "the log")
        assert made == meant
        assert (made["records"], made["first"], made["last"]) == (last - kept, kept + 1, last)
        assert b"".join(row.data for row in log.rows) == bytes_of(tmp_path)
        journal = await SharedJournal.lead(tmp_path, log, "the log", **OPTIONS)
        assert stories(journal) == told
        await add(journal, await claimed(journal), [queued()])
        journal.close()

    run(work())


def test_rescue_that_was_cut_off_is_done_by_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After any of its appends, whether or not that one was told."""
    monkeypatch.setattr(moving, "ROW_BYTES", 200)

    async def work() -> None:
        log = MemoryLog()
        told = await filled(log, tmp_path)
        del log.rows[-7:]
        cuts = 0
        while True:
            log.faults = ["after" if cuts % 2 else "before"]
            before = len(log.rows)
            try:
                await moving.rescue(tmp_path, log, "the log")
            except Unknown:
                cuts += 1
                assert len(log.rows) == before + (cuts % 2 == 0)
                if cuts % 2:  # Nothing was appended: the next try may append one more.
                    continue
            except Conflict:
                break
        assert cuts > 4
        log.faults = []
        journal = await SharedJournal.lead(tmp_path, log, "the log", **OPTIONS)
        assert stories(journal) == told
        journal.close()

    run(work())


def test_log_that_has_gone_on_differently_is_left_alone(tmp_path: Path) -> None:
    """Two truths, which nobody can join."""

    async def work() -> None:
        log = MemoryLog()
        await filled(log, tmp_path / "old")
        del log.rows[-3:]
        await filled(log, tmp_path / "new")
        rows = list(log.rows)
        whole = bytes_of(tmp_path / "old")
        with pytest.raises(JournalDiverged, match="gone on differently"):
            await moving.rescue(tmp_path / "old", log, "the log")
        assert (log.rows, bytes_of(tmp_path / "old")) == (rows, whole)

    run(work())


def test_rescue_is_refused_where_there_is_nothing_to_put_back(tmp_path: Path) -> None:
    """The copy has nothing more, it is none, or a daemon leads."""

    async def work() -> None:
        log = MemoryLog()
        await filled(log, tmp_path / "copy")
        with pytest.raises(Conflict, match="has all that"):
            await moving.rescue(tmp_path / "copy", log, "the log")
        with pytest.raises(BadConfiguration, match="is not a copy"):
            await moving.rescue(tmp_path / "other", log, "the log")
        lost: list[Row] = [log.rows.pop()]
        leader = await SharedJournal.lead(tmp_path / "leader", log, "the log", **OPTIONS)
        with pytest.raises(Fenced, match="leads"):
            await moving.rescue(tmp_path / "copy", log, "the log")
        assert lost[0] not in log.rows
        leader.close()

    run(work())
