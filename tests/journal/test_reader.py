"""Searching the whole journal, backwards, for lines that contain certain words."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from msgspec import Raw

from journal.builders import FIRST, add, claimed, opened, queued, run, step, stories, story
from journal.disk import Disk
from stackshift_jobs.errors import JournalDamaged
from stackshiftd.core.records import AnyRecord, Entry, StateSet
from stackshiftd.journal import reader
from stackshiftd.journal.interface import Journal, Place
from stackshiftd.journal.line_format import text_in_line
from stackshiftd.journal.memory import MemoryJournal

Make = Callable[[], Journal]
KEYS = ("seen", "seen:1", 'a "quoted" \\ key', "größe", "ключ:😀", "x" * 512)


@pytest.fixture(params=["files", "memory"])
def make(request: pytest.FixtureRequest) -> Make:
    """Creates an empty journal, of each kind in turn."""
    if request.param == "memory":
        return MemoryJournal
    return lambda: opened(Disk(), segment_size=2000)


def wrote(key: str, version: int, value: bytes = b"1") -> AnyRecord:
    """A record of a write to a state entry."""
    return StateSet(key, Raw(value), version)


def words_of(key: str) -> tuple[bytes, bytes]:
    """The words that `state.history` searches for."""
    return b'"kind":"state.', b'"key":%s' % text_in_line(key)


def versions(found: Iterator[tuple[Place, Entry] | None]) -> list[tuple[str, int]]:
    """Key and version of each write that a search found."""
    entries = [each[1].record for each in found if each is not None]
    return [(e.key, e.version) for e in entries if isinstance(e, StateSet)]


async def filled(journal: Journal, times: int = 6) -> None:
    """Write every key `times` times, in single appends and several in one, with other records in
    between."""
    claim = await claimed(journal)
    for version in range(1, times + 1):
        await add(journal, claim, [wrote(key, version) for key in KEYS])
        await add(journal, claim, [queued(), step("s" * 40 * version)])


@pytest.mark.parametrize("key", KEYS)
def test_search_gives_what_holds_all_words_newest_first(make: Make, key: str) -> None:
    """All segments are searched; a key in any alphabet is found, but not where it is only the
    beginning of another."""

    async def work() -> None:
        journal = make()
        await filled(journal)
        found = [each for each in journal.search(words_of(key)) if each is not None]
        assert versions(iter(found)) == [(key, version) for version in range(6, 0, -1)]
        fetched = journal.fetch([place for place, _ in found])
        assert [story(entry) for entry in fetched] == [story(entry) for _, entry in found]
        journal.close()

    run(work())


def test_search_for_what_is_not_there_gives_nothing(make: Make) -> None:
    """Nothing is found if only one of two words matches, or in an empty journal."""

    async def work() -> None:
        journal = make()
        assert [each for each in journal.search(words_of("seen")) if each is not None] == []
        await filled(journal)
        for words in (
            words_of("other"),
            (b'"kind":"step.', b'"key":"seen"'),
            (b'"kind":"state.', b'"step":"s'),
        ):
            assert [each for each in journal.search(words) if each is not None] == []
        journal.close()

    run(work())


@pytest.mark.parametrize("chunk", [1, 2, 7, 64, 255, 256, 257, 1000, 1 << 20])
def test_border_between_parts_of_a_file_hides_and_doubles_nothing(
    monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    """A chunk may begin anywhere: in a word, at a newline, in a line longer than a chunk."""
    monkeypatch.setattr(reader, "CHUNK", chunk)

    async def work() -> None:
        journal = opened(Disk(), segment_size=3000)
        claim = await claimed(journal)
        for number in range(30):
            value = b'"%s"' % (b"v" * (number * 13 % 300))
            await add(journal, claim, [wrote("a", number, value), wrote("b", number)])
        every = stories(journal)
        found = [each for each in journal.search((b'"seq":',)) if each is not None]
        assert [story(entry) for _, entry in found] == every[::-1]
        assert [place for place, _ in found] == [place for place, _ in journal.read(1)][::-1]
        expected = [("a", number) for number in range(29, -1, -1)]
        assert versions(journal.search(words_of("a"))) == expected
        journal.close()

    run(work())


def test_long_search_gives_others_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is yielded after each chunk, even if nothing is found."""
    monkeypatch.setattr(reader, "CHUNK", 500)

    async def work() -> None:
        journal = opened(Disk(), segment_size=4000)
        await filled(journal)
        size = sum(len(entry[2]) for entry in stories(journal))
        turns = [each for each in journal.search(words_of("other")) if each is None]
        assert len(turns) > size / 1000
        journal.close()

    run(work())


def test_search_ends_where_the_journal_was_when_it_was_called(make: Make) -> None:
    """Entries appended after the call are not seen, even if iteration begins later."""

    async def work() -> None:
        journal = make()
        claim = await claimed(journal)
        await add(journal, claim, [wrote("a", 1), wrote("a", 2)])
        looks = journal.search(words_of("a"))
        begun = journal.search(words_of("a"))
        first = next(each for each in begun if each is not None)
        await add(journal, claim, [wrote("a", 3)], [wrote("a", 4)])
        assert versions(looks) == [("a", 2), ("a", 1)]
        assert versions(iter([first, *begun])) == [("a", 2), ("a", 1)]
        assert versions(journal.search(words_of("a")))[0] == ("a", 4)
        journal.close()

    run(work())


def test_search_finds_what_is_still_kept(make: Make) -> None:
    """Trimmed segments are skipped, even those trimmed during the search."""

    async def work() -> None:
        journal = make()
        await filled(journal)
        looks = journal.search(words_of("seen"))
        newest = next(each for each in looks if each is not None)[1]
        await journal.put_snapshot(20, [b"{}"])
        await journal.put_snapshot(30, [b"{}"])
        await journal.trim(21)
        kept = {entry.seq for _, entry in journal.read(1)}
        found = [each for each in journal.search(words_of("seen")) if each is not None]
        assert found
        assert {entry.seq for _, entry in found} <= kept
        assert (
            versions(iter(found))
            == [("seen", version) for version in range(6, 0, -1)][: len(found)]
        )
        rest = [each[1] for each in looks if each is not None]
        seqs = [entry.seq for entry in (newest, *rest)]
        assert seqs[: len(found)] == [entry.seq for _, entry in found]
        journal.close()

    run(work())


def test_damage_in_what_is_found_is_reported() -> None:
    """Damage in other lines is not noticed by a search; `journal verify` finds that."""

    async def work() -> None:
        disk = Disk()
        journal = opened(disk, segment_size=1 << 20)
        claim = await claimed(journal)
        await add(journal, claim, [wrote("a", 1), wrote("b", 1)])
        await add(journal, claim, [wrote("a", 2), wrote("b", 2)])
        data = disk.find(FIRST).data
        good = b'"key":"a","value":1,"version":1'
        assert data.count(good) == 1
        data[:] = data.replace(good, b'"key":"a","value":2,"version":1')
        assert versions(journal.search(words_of("b"))) == [("b", 2), ("b", 1)]
        with pytest.raises(JournalDamaged):
            versions(journal.search(words_of("a")))
        journal.close()

    run(work())
