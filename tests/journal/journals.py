"""Journals for the tools to work on, sound or damaged."""

from __future__ import annotations

import os

from journal.builders import (
    JOURNAL,
    add,
    claimed,
    opened,
    queued,
    run,
    step,
    stories,
)
from journal.disk import Disk, Keep
from stackshiftd.core.records import JournalClosed

LONG = os.environ.get("STACKSHIFT_LONG") == "1"
KEEPS: list[Keep] = ["synced", "random", "all"]
SEGMENT = 1300


def filled(
    disk: Disk,
    *,
    records: int = 40,
    snapshots: tuple[int, ...] = (),
    trim: int = 0,
    segment_size: int = SEGMENT,
) -> list[tuple[int, int, str]]:
    """Write a journal that ends with `journal.closed`; return its entries as stories."""

    async def work() -> list[tuple[int, int, str]]:
        journal = opened(disk, segment_size=segment_size)
        claim = await claimed(journal)
        while journal.last_seq < records - 1:
            room = records - 1 - journal.last_seq
            steps = [step()] * min(2, room - 1)
            await add(journal, claim, [queued(f"run_{journal.last_seq}")], steps)
        await add(journal, claim, [JournalClosed()])
        for seq in snapshots:
            await journal.put_snapshot(seq, [b'{"upto":%d}' % seq])
        if trim:
            await journal.trim(trim)
        told = stories(journal)
        journal.close()
        return told

    return run(work())


def damage(disk: Disk, path: str, at: int) -> None:
    """Flip a bit of the byte `at` in the file."""
    data = bytearray(disk.find(path).data)
    data[at] ^= 1
    disk.put(path, bytes(data))


def segments(disk: Disk) -> list[str]:
    """The paths of all segments, oldest first."""
    return [f"{JOURNAL}/{name}" for name in disk.names(JOURNAL)]


def line_at(disk: Disk, path: str, seq: int) -> int:
    """The offset of the line of record `seq`."""
    return bytes(disk.find(path).data).index(b'","seq":%d,' % seq) - len('{"crc":"xxxxxxxx')


def told(disk: Disk) -> list[tuple[int, int, str]]:
    """Open the journal, and return its entries as stories."""
    journal = opened(disk, segment_size=SEGMENT)
    try:
        return stories(journal)
    finally:
        journal.close()
