"""Journals on shared logs."""

from __future__ import annotations

from typing import Any

from journal.builders import JOURNAL, ROOT, add, claimed, step
from journal.disk import Disk
from journal.shared.memory_log import MemoryLog
from stackshiftd.journal.shared.log import SharedLog
from stackshiftd.journal.shared.shared_journal import SharedJournal

SMALL = 700
"""A segment of a few records."""


async def leading(log: SharedLog, disk: Disk, **options: Any) -> SharedJournal:
    """The journal in `log`, with its copy on `disk`, as its leader."""
    options.setdefault("lease_ms", 300)
    return await SharedJournal.lead(ROOT, log, "the log", fs=disk, **options)


async def filled(log: MemoryLog, disk: Disk, records: int = 12) -> SharedJournal:
    """A leader that has appended some records, in several segments."""
    journal = await leading(log, disk, segment_size=SMALL)
    claim = await claimed(journal)
    for number in range(records):
        await add(journal, claim, [step(f"s{number}")] * (1 + number % 3))
    return journal


def files(disk: Disk) -> dict[str, bytes]:
    """The segments of a copy."""
    return {name: bytes(disk.find(f"{JOURNAL}/{name}").data) for name in disk.names(JOURNAL)}
