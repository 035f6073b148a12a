"""Entries, groups and journals that read like a story: `[step("a")], [created(), started()]`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Raw

from journal.disk import Disk
from stackshiftd.core.records import AnyRecord, Entry, RunQueued, StepCompleted
from stackshiftd.journal.file_journal import FileJournal
from stackshiftd.journal.interface import Claim, Journal, Owner

ROOT = Path("/data")
JOURNAL = "data/journal"
FIRST = "data/journal/00000000000000000001.jsonl"
START_US = 1_764_000_000_000_000
OWNER = Owner(4711, "0.1.0")
T = TypeVar("T")


def step(name: str = "download", result: bytes = b"1") -> AnyRecord:
    """The record of a completed step."""
    return StepCompleted(run="run_1", attempt=1, step=name, result=Raw(result))


def queued(run: str = "run_1") -> AnyRecord:
    """The record of a run that became due."""
    return RunQueued(run=run, reason="due")


def entries(first_seq: int, records: Sequence[AnyRecord]) -> list[Entry]:
    """Entries with these records, from `first_seq` on and 1.5 ms apart."""
    return [
        Entry(seq, START_US + seq * 1500, record) for seq, record in enumerate(records, first_seq)
    ]


def story(entry: Entry) -> tuple[int, int, str]:
    """An entry as a value for comparisons, in which `Raw` fields compare by their text."""
    record = entry.record
    fields = (
        bytes(value) if isinstance(value := getattr(record, name), Raw) else value
        for name in record.__struct_fields__
    )
    return entry.seq, entry.at_us, f"{type(record).__name__}{tuple(fields)!r}"


def stories(journal: Journal, from_seq: int = 1) -> list[tuple[int, int, str]]:
    """The `story` of each durable entry from `from_seq` on."""
    return [story(entry) for _, entry in journal.read(from_seq)]


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` in a loop of its own, with a deadline."""
    return asyncio.run(asyncio.wait_for(work, 30))


def opened(disk: Disk, **options: Any) -> FileJournal:
    """The journal `jrn_test` on `disk`, opened. It does nothing at intervals, so that the calls of
    a story are the same each time."""
    options.setdefault("interval_s", 3600)
    return FileJournal.open(ROOT, fs=disk, journal_id_source=lambda: "jrn_test", **options)


async def claimed(journal: Journal) -> Claim:
    """Claim the journal after its last record."""
    return await journal.claim(OWNER, journal.last_seq, START_US)


async def add(journal: Journal, claim: Claim, *groups: Sequence[AnyRecord]) -> list[Entry]:
    """Append groups of records after the last one; return their entries."""
    seq = journal.last_seq
    made: list[list[Entry]] = []
    for records in groups:
        made.append(entries(seq + 1, records))
        seq += len(records)
    await journal.append(claim.epoch, journal.last_seq, made)
    return [entry for group in made for entry in group]


def written(disk: Disk, appends: Sequence[Sequence[Sequence[AnyRecord]]], **options: Any) -> None:
    """Write a journal with these appends after its `journal.opened`, and without
    `journal.closed`."""

    async def work() -> None:
        journal = opened(disk, **options)
        claim = await claimed(journal)
        for groups in appends:
            await add(journal, claim, *groups)
        journal.close()

    run(work())


def until(condition: Callable[[], bool], what: str) -> Coroutine[Any, Any, None]:
    """Wait, with a deadline, until `condition` holds."""

    async def wait() -> None:
        deadline = asyncio.get_running_loop().time() + 20
        while not condition():
            assert asyncio.get_running_loop().time() < deadline, f"never: {what}"
            await asyncio.sleep(0.001)

    return wait()
