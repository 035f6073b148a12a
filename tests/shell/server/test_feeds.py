"""Finding where a feed begins does not block other tasks, however long the journal is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

from stackshiftd.core import records as r
from stackshiftd.core.records import Entry
from stackshiftd.shell.server.feeds import Feeds, first_seq_since

PARTS = 50


class LongJournal:
    """A journal of many chunks that does not contain what is searched for."""

    def __init__(self) -> None:
        self.read_from = list[int]()

    def search(self, _words: Any) -> Iterator[Any]:
        """Find nothing, chunk by chunk."""
        for _ in range(PARTS):
            yield None

    def read(self, from_seq: int) -> Iterator[tuple[int, Entry]]:
        """Note the call, and yield entries 10 µs apart; the first two are trimmed."""
        self.read_from.append(from_seq)
        for seq in range(max(from_seq, 3), 100_000):
            yield seq, Entry(seq, 10 * seq, r.JournalClosed())


def test_others_have_their_turn_while_records_of_some_kinds_are_looked_for() -> None:
    """Other tasks get a turn after each chunk of the journal."""

    async def look() -> tuple[int, list[Any]]:
        feeds = Feeds(*cast(Any, (SimpleNamespace(journal=LongJournal()), None, None, None)))
        found = list[Any]()
        turns = 0
        feeds.last_seq(10, 1000, ("event.",), found.append)
        while not found:
            await asyncio.sleep(0)
            turns += 1
        return turns, found

    turns, found = asyncio.run(look())
    assert turns > PARTS
    assert found == [1000]


def test_time_to_begin_at_is_found_by_halves() -> None:
    """A binary search reads the times of only some records; the first ones may be trimmed."""
    journal = LongJournal()
    for since_us, seq in ((0, 1), (31, 4), (500_000, 50_000), (999_981, 99_999), (10**9, 100_000)):
        assert first_seq_since(cast(Any, journal), since_us, 100_000) == seq
    assert len(journal.read_from) < 5 * 20
