"""The contract of every journal: on files, in memory, and on shared logs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from journal.builders import (
    OWNER,
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
)
from journal.disk import Disk
from journal.shared.journals import leading
from journal.shared.memory_log import MemoryLog
from stackshift_jobs.errors import Fenced
from stackshiftd.core.records import JournalOpened
from stackshiftd.journal.interface import (
    Epoch,
    Full,
    Journal,
    Unknown,
)
from stackshiftd.journal.memory import MemoryJournal
from stackshiftd.journal.shared.postgres_log import PostgresLog

Make = Callable[[], Awaitable[Journal]]


@pytest.fixture(params=["files", "memory", "shared", "postgres"])
def make(request: pytest.FixtureRequest) -> Make:
    """Creates an empty journal, of each kind in turn."""
    server = request.getfixturevalue("database") if request.param == "postgres" else None

    async def made() -> Journal:
        match request.param:
            case "files":
                return opened(Disk(), segment_size=600)
            case "memory":
                return MemoryJournal()
            case "shared":
                return await leading(MemoryLog(), Disk(), segment_size=600)
        assert server is not None
        log = PostgresLog(server.url, request.node.name)
        return await leading(log, Disk(), segment_size=600)

    return made


def test_claim_writes_the_record_that_it_returns(make: Make) -> None:
    """The epoch is the sequence number of its `journal.opened`, which is an ordinary record."""

    async def work() -> None:
        journal = await make()
        for _ in range(3):
            seen = journal.last_seq
            claim = await journal.claim(OWNER, seen, START_US + seen)
            assert claim.entry.seq == claim.epoch == journal.last_seq == seen + 1
            host = getattr(journal, "host", "")  # of a journal that several hosts share
            opened = JournalOpened(claim.epoch, OWNER.pid, OWNER.version, host)
            assert claim.entry.record == opened
            assert [story(e) for e in journal.fetch([claim.place])] == [story(claim.entry)]
        assert [place for place, _ in journal.read(3)] == [claim.place]
        journal.close()

    run(work())


def test_claim_never_goes_back_in_time(make: Make) -> None:
    """Even if the clock was set back, no record is older than the one before it."""

    async def work() -> None:
        journal = await make()
        await journal.claim(OWNER, 0, START_US)
        claim = await journal.claim(OWNER, 1, START_US - 10**9)
        assert claim.entry.at_us == journal.last_at_us == START_US
        journal.close()

    run(work())


def test_older_epoch_is_fenced(make: Make) -> None:
    """After another claim, appends under the last one change nothing."""

    async def work() -> None:
        journal = await make()
        with pytest.raises(Fenced):
            await journal.append(Epoch(0), 0, [entries(1, [queued()])])
        old = await claimed(journal)
        new = await claimed(journal)
        told = stories(journal)
        with pytest.raises(Fenced):
            await journal.append(old.epoch, 2, [entries(3, [queued()])])
        assert stories(journal) == told
        await add(journal, new, [queued()])
        journal.close()

    run(work())


def test_read_begins_anywhere(make: Make) -> None:
    """A read from any sequence number yields exactly the entries from there on."""

    async def work() -> None:
        journal = await make()
        claim = await claimed(journal)
        for number in range(12):
            await add(journal, claim, [step(f"s{number}", b"%d" % number)] * (1 + number % 3))
        told = stories(journal)
        assert [s[0] for s in told] == list(range(1, journal.last_seq + 1))
        for seq in range(journal.last_seq + 2):
            assert stories(journal, seq) == told[max(0, seq - 1) :]
        journal.close()

    run(work())


def test_read_ends_where_the_journal_was_when_it_began(make: Make) -> None:
    """A reader sees a prefix while the writer appends, and never half an append."""

    async def work() -> None:
        journal = await make()
        claim = await claimed(journal)
        await add(journal, claim, [queued()] * 2)
        reader = journal.read(1)
        next(reader)
        await add(journal, claim, [queued()] * 9)
        assert [entry.seq for _, entry in reader] == [2, 3]
        journal.close()

    run(work())


def test_fetch_gives_places_in_the_order_asked_for(make: Make) -> None:
    """Entries are fetched by place, in any order, even twice; trimmed ones are left out."""

    async def work() -> None:
        journal = await make()
        claim = await claimed(journal)
        for number in range(9):
            await add(journal, claim, [step(f"s{number}", b'"%b"' % (b"x" * 900 * number))])
        found = list(journal.read(1))
        places = [place for place, _ in found]
        mixed = [*reversed(places), places[3], places[3]]
        expected = [story(e) for _, e in [*reversed(found), found[3], found[3]]]
        assert [story(e) for e in journal.fetch(mixed)] == expected
        assert journal.fetch([]) == []
        await journal.put_snapshot(5, [b"{}"])
        await journal.put_snapshot(8, [b"{}"])
        await journal.trim(6)
        kept = [entry.seq for entry in journal.fetch(places)]
        assert kept == list(range(6, 11))
        assert [s[0] for s in stories(journal)] == kept
        journal.close()

    run(work())


def test_tail_gives_each_entry_once_as_it_becomes_durable(make: Make) -> None:
    """A tail yields existing entries, then new ones, with no gap or duplicate, until the close."""

    async def work() -> None:
        journal = await make()
        claim = await claimed(journal)
        await add(journal, claim, [queued()] * 3)
        seen: list[tuple[int, int, str]] = []
        many = asyncio.Event()

        async def follow() -> None:
            async for place, entry in journal.tail(2):
                assert [story(e) for e in journal.fetch([place])] == [story(entry)]
                seen.append(story(entry))
                if len(seen) >= 40:
                    many.set()

        follower = asyncio.ensure_future(follow())
        for number in range(20):
            await add(journal, claim, [step(f"s{number}")], [queued()])
            if number % 3 == 0:
                await asyncio.sleep(0)
        await asyncio.wait_for(many.wait(), 20)
        told = stories(journal, 2)
        journal.close()
        await follower
        assert seen == told

    run(work())


def test_snapshot_is_given_back_as_it_was_put(make: Make) -> None:
    """The newest snapshot is returned with all its lines, or None if there is none."""

    async def work() -> None:
        journal = await make()
        assert await journal.get_snapshot() is None
        assert journal.snapshot_lines() == []
        claim = await claimed(journal)
        await add(journal, claim, [queued()] * 9)
        await journal.put_snapshot(4, [b'{"a":1}', b'{"b":2}'])
        assert await journal.get_snapshot() == (4, [b'{"a":1}', b'{"b":2}'])
        assert journal.snapshot_lines() == [b'{"a":1}', b'{"b":2}']
        journal.snapshot_lines().clear()
        assert journal.snapshot_lines() == [b'{"a":1}', b'{"b":2}']
        await journal.put_snapshot(9, [])
        assert await journal.get_snapshot() == (9, [])
        assert journal.snapshot_lines() == []
        await journal.adopt_snapshot()
        assert await journal.get_snapshot() == (9, [])
        assert journal.stats()["snapshot"]["seq"] == 9
        journal.close()

    run(work())


def test_trim_keeps_what_the_older_snapshot_needs(make: Make) -> None:
    """Entries are dropped only below the older of two snapshots; with a single one, none are."""

    async def work() -> None:
        journal = await make()
        claim = await claimed(journal)
        for _ in range(10):
            await add(journal, claim, [queued()] * 3)
        await journal.trim(31)
        await journal.put_snapshot(20, [b"{}"])
        await journal.trim(31)
        assert stories(journal)[0][0] == 1
        await journal.put_snapshot(31, [b"{}"])
        await journal.trim(31)
        first = stories(journal)[0][0]
        assert 1 < first <= 21
        assert journal.stats()["first_seq"] == first
        assert [s[0] for s in stories(journal)] == list(range(first, 32))
        journal.close()

    run(work())


def test_closed_journal_takes_no_appends(make: Make) -> None:
    """After `close`, an append is refused; closing again does nothing."""

    async def work() -> None:
        journal = await make()
        claim = await claimed(journal)
        journal.close()
        journal.close()
        with pytest.raises(Fenced):
            await journal.append(claim.epoch, 1, [entries(2, [queued()])])

    run(work())


def test_memory_journal_is_killed_with_appends_in_flight() -> None:
    """An append held in flight is missing after `reopened`, and its writer gets `Unknown`."""

    async def work() -> None:
        journal = MemoryJournal()
        claim = await claimed(journal)
        journal.hold()
        pending = asyncio.ensure_future(add(journal, claim, [queued()]))
        await asyncio.sleep(0)
        other = journal.reopened()
        assert other.last_seq == other.recovery.kept_seq == 1
        journal.release()
        with pytest.raises(Unknown):
            await pending
        assert (journal.last_seq, other.last_seq) == (1, 1)

    run(work())


@pytest.mark.parametrize("written", [True, False])
def test_memory_journal_fails_on_request(written: bool) -> None:
    """`Full` changes nothing; `Unknown` is final, and only a new start shows what was kept."""

    async def work() -> None:
        journal = MemoryJournal()
        claim = await claimed(journal)
        journal.fail_next(Full("no room"))
        with pytest.raises(Full):
            await add(journal, claim, [queued()])
        await add(journal, claim, [queued()])
        journal.fail_next(Unknown("gone"), written=written)
        for _ in range(2):
            with pytest.raises(Unknown):
                await add(journal, claim, [queued()])
        assert journal.reopened().last_seq == (3 if written else 2)

    run(work())
