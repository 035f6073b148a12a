"""Following: durable records as they come, to whoever asked, from wherever they left off.

A feed is live while its reader keeps up. When its connection's buffer is full the feed only
remembers the next sequence number; when there is room again it reads on from the journal until it
has caught up. So no feed makes the daemon hold records, and none misses or repeats one.
"""

from __future__ import annotations

import asyncio
import sys
from bisect import bisect_left
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, Protocol

from msgspec import Raw

from stackshift_jobs.errors import StackshiftError
from stackshiftd.core import records as r
from stackshiftd.core.records import Entry, entry_json
from stackshiftd.journal.interface import Journal
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.views.lookup import Lookup

_CHUNK: Final = 256
_CHUNK_BYTES: Final = 256 << 10
"""So much is given to one feed before it is looked whether its reader takes it."""
_SYNC_SECONDS: Final = 0.05
_ENDS: Final = frozenset((r.RunCompleted, r.RunFailed, r.RunCancelled))
_QUIET: Final = frozenset((r.JournalWatermark,))


class Reader(Protocol):
    """The connection of a follower."""

    def notify(self, method: str, params: Any) -> None:
        """Send a notification."""

    @property
    def full(self) -> bool:
        """Does it not read fast enough?"""

    async def room(self) -> None:
        """Returns when it can take more; raises `ConnectionError` when it is gone."""


class Feed:
    """One follower of all records, of those of one run, or of some kinds."""

    def __init__(
        self,
        number: int,
        reader: Reader,
        run: str | None,
        next_seq: int,
        kinds: tuple[str, ...] = (),
    ) -> None:
        self.number = number
        self.reader = reader
        self.run = run
        self.next_seq = next_seq
        self.kinds = kinds
        self.live = False
        self.given_bytes = 0

    def give(self, entry: Entry) -> bool:
        """Send an entry if it is for this feed; True if it ends the followed run (which a person
        may have sent on since)."""
        if entry.seq < self.next_seq:
            return False
        self.next_seq = entry.seq + 1
        record = entry.record
        if type(record) in _QUIET or not _is_of(record, self.kinds):
            return False
        if self.run is not None and getattr(record, "run", None) != self.run:
            return False
        line = entry_json(entry)
        self.given_bytes += len(line)
        self.reader.notify("feed.record", {"feed": self.number, "record": Raw(line)})
        return self.run is not None and type(record) in _ENDS


class Feeds:
    """All followers."""

    def __init__(
        self, engine: Engine, lookup: Lookup, run_object: Callable[[str], dict[str, Any]]
    ) -> None:
        self._engine = engine
        self._lookup = lookup
        self._run_object = run_object
        self._feeds: dict[int, Feed] = {}
        self._count = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.published_seq = 0

    def open(
        self, reader: Reader, run: str | None, next_seq: int, kinds: tuple[str, ...] = ()
    ) -> int:
        """Begin a feed at `next_seq`; its number."""
        self._count += 1
        feed = self._feeds[self._count] = Feed(self._count, reader, run, next_seq, kinds)
        self._catch_up(feed)
        return feed.number

    def last_seq(
        self, count: int, next_seq: int, kinds: tuple[str, ...], found: Callable[[Any], None]
    ) -> None:
        """Tell `found` where to begin so that `count` records (those that feeds show) come before
        `next_seq`; or an error, where the journal cannot be read. A long journal is looked through
        a part at a time, so that it does not keep all else waiting."""
        self._begin(self._tell_last_seq(count, next_seq, kinds, found))

    async def _tell_last_seq(
        self, count: int, next_seq: int, kinds: tuple[str, ...], found: Callable[[Any], None]
    ) -> None:
        try:
            found(await self._last_seq(count, next_seq, kinds or ("",)))
        except StackshiftError as damaged:
            found(damaged)

    async def _last_seq(self, count: int, next_seq: int, kinds: tuple[str, ...]) -> int:
        seqs: set[int] = set()
        for kind in kinds if count else ():
            of_kind = 0
            for part in self._engine.journal.search((b'"kind":"%s' % kind.encode(),)):
                if part is None:
                    await asyncio.sleep(0)
                    continue
                entry = part[1]
                shown = type(entry.record) not in _QUIET and _is_of(entry.record, (kind,))
                if shown and entry.seq < next_seq:
                    seqs.add(entry.seq)
                    of_kind += 1
                    if of_kind == count:
                        break
        last = sorted(seqs)[-count:] if count else []
        if not last:
            return next_seq
        return last[0] if len(last) == count else 1

    def close(self, number: int, reader: Reader) -> bool:
        """End a feed of this reader; was there one?"""
        feed = self._feeds.get(number)
        if feed is None or feed.reader is not reader:
            return False
        del self._feeds[number]
        return True

    def close_all(self, reader: Reader) -> None:
        """The reader is gone."""
        self._feeds = {n: feed for n, feed in self._feeds.items() if feed.reader is not reader}

    def published(self, entries: list[Entry]) -> None:
        """These entries are durable."""
        if entries:
            self.published_seq = entries[-1].seq
        for feed in list(self._feeds.values()):
            if not feed.live:
                continue
            if feed.reader.full:
                feed.live = False
                self._catch_up(feed)
                continue
            feed.given_bytes = 0
            for entry in entries:
                if feed.give(entry) and self._is_last(feed, entry):
                    self._end(feed)
                    break
                if feed.given_bytes > _CHUNK_BYTES:
                    # A large batch is read on from the journal, as fast as the reader takes it.
                    feed.live = False
                    self._catch_up(feed)
                    break

    def _catch_up(self, feed: Feed) -> None:
        self._begin(self._read_on(feed))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read_on(self, feed: Feed) -> None:
        """Read from the journal until the feed is where the engine is."""
        try:
            while feed.number in self._feeds:
                await feed.reader.room()
                given = 0
                for entry in self._entries(feed):
                    if feed.give(entry) and self._is_last(feed, entry):
                        self._end(feed)
                        return
                    given += 1
                    if given % _CHUNK == 0 or feed.given_bytes > _CHUNK_BYTES:
                        feed.given_bytes = 0
                        await asyncio.sleep(0)
                        await feed.reader.room()
                        if feed.number not in self._feeds:
                            return
                behind = feed.next_seq <= self.published_seq
                if feed.run is None and behind and not given:
                    # Acknowledged but not synced yet (`durability = "interval"`): soon it is.
                    await asyncio.sleep(_SYNC_SECONDS)
                elif not behind or not given:
                    feed.next_seq = max(feed.next_seq, self.published_seq + 1)
                    feed.live = True
                    if self._is_over(feed):
                        self._end(feed)
                    return
        except ConnectionError:
            self._feeds.pop(feed.number, None)

    def _entries(self, feed: Feed) -> Iterator[Entry]:
        """What the feed has still to be given. Of one run, only its own records are read."""
        if feed.run is None:
            for _, entry in self._engine.journal.read(feed.next_seq):
                if entry.seq > self.published_seq:
                    return
                yield entry
            return
        for entry in self._lookup.entries(feed.run):
            if feed.next_seq <= entry.seq <= self.published_seq:
                yield entry

    def _is_over(self, feed: Feed) -> bool:
        """Has the followed run ended before the feed began?"""
        if feed.run is None or self._lookup.row(feed.run) is None:
            return False
        live = self._lookup.live(feed.run)
        return live is None or live.finished

    def _is_last(self, feed: Feed, entry: Entry) -> bool:
        """Did the followed run end for now with `entry`? Else somebody has sent it on since."""
        assert feed.run is not None
        live = self._lookup.live(feed.run)
        if live is not None:
            return live.finished and entry.at_us >= live.finished_us
        row = self._lookup.row(feed.run)
        return row is None or entry.seq >= row.finished_seq

    def _end(self, feed: Feed) -> None:
        """The followed run has ended: say how, and close."""
        assert feed.run is not None
        self._feeds.pop(feed.number, None)
        feed.reader.notify("feed.end", {"feed": feed.number, "run": self._run_object(feed.run)})


def _is_of(record: r.AnyRecord, kinds: tuple[str, ...]) -> bool:
    """Is the record of one of these kinds, told by their beginnings? (Of none: of any.)"""
    return not kinds or str(record.__struct_config__.tag).startswith(kinds)


def first_seq_since(journal: Journal, since_us: int, next_seq: int) -> int:
    """The first entry not older than `since_us`; `next_seq` if there is none. Found by halves,
    since time does not run backwards in a journal."""
    return 1 + bisect_left(
        range(1, next_seq), True, key=lambda seq: _at_us(journal, seq) >= since_us
    )


def _at_us(journal: Journal, seq: int) -> int:
    """The time of the first entry from `seq` on that is kept."""
    return next((entry.at_us for _, entry in journal.read(seq)), sys.maxsize)
