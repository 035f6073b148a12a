"""Feeds: send durable records to followers as they come, from any sequence number on.

A feed is live while its reader keeps up. When its connection's buffer is full, the feed only
remembers the next sequence number; when there is room again, it reads from the journal until it has
caught up. So no feed makes the daemon hold records, and none misses or repeats one.
"""

from __future__ import annotations

import asyncio
import sys
from bisect import bisect_left
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, Protocol

from msgspec import Raw

from stackshift_jobs.errors import Busy, StackshiftError
from stackshiftd.core import records as r
from stackshiftd.core.records import Entry, entry_json
from stackshiftd.journal.interface import Journal
from stackshiftd.shell.damage import Damage
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.views.lookup import Lookup

_CHUNK: Final = 256
_CHUNK_BYTES: Final = 256 << 10
"""Bytes sent to one feed before checking whether its reader keeps up."""
MAX_FEEDS: Final = 100
"""The most feeds of one connection."""
_SYNC_SECONDS: Final = 0.05
_ENDS: Final = frozenset((r.RunCompleted, r.RunFailed, r.RunCancelled))
_QUIET: Final = frozenset((r.JournalWatermark,))


class Reader(Protocol):
    """The connection of a follower."""

    def notify(self, method: str, params: Any) -> None:
        """Send a notification."""

    def notify_later(self, method: str, read: Callable[[], Any]) -> None:
        """Send a notification whose params are read once there is room for them."""

    @property
    def full(self) -> bool:
        """True if the reader is too slow and much is unread."""

    async def room(self) -> None:
        """Wait until it can take more; raises `ConnectionError` if it is gone."""


class Feed:
    """One follower of all records, of those of one run, or of some kinds (by their beginnings)."""

    def __init__(
        self,
        number: int,
        reader: Reader,
        run: str | None,
        next_seq: int,
        kinds: tuple[str, ...] = (),
        entry_json: Callable[[Entry], bytes] = entry_json,
    ) -> None:
        self._entry_json = entry_json
        self.number = number
        self.reader = reader
        self.run = run
        self.next_seq = next_seq
        self.kinds = kinds
        self.live = False
        self.sent_bytes = 0
        """Bytes sent since the last check whether the reader keeps up."""

    def send(self, entry: Entry) -> bool:
        """Send an entry if it is for this feed; true if it ends the followed run (which may have
        been retried since)."""
        if entry.seq < self.next_seq:
            return False
        self.next_seq = entry.seq + 1
        record = entry.record
        if type(record) in _QUIET or not _is_of(record, self.kinds):
            return False
        if self.run is not None and getattr(record, "run", None) != self.run:
            return False
        line = self._entry_json(entry)
        self.sent_bytes += len(line)
        self.reader.notify("feed.record", {"feed": self.number, "record": Raw(line)})
        return self.run is not None and type(record) in _ENDS


class Feeds:
    """All feeds. `published_seq` is the last record that was published to them."""

    def __init__(
        self,
        engine: Engine,
        lookup: Lookup,
        ended: Callable[[str], Callable[[], dict[str, Any]]],
        damage: Damage,
        entry_json: Callable[[Entry], bytes] = entry_json,
    ) -> None:
        self._entry_json = entry_json
        self._engine = engine
        self._lookup = lookup
        self._ended = ended
        """Returns a function that builds the run object of a run that has ended."""
        self._damage = damage
        self._part = asyncio.Lock()
        self._feeds: dict[int, Feed] = {}
        self._count = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.published_seq = 0

    def open(
        self, reader: Reader, run: str | None, next_seq: int, kinds: tuple[str, ...] = ()
    ) -> int:
        """Begin a feed at the record `next_seq` and return its number. Raises `Busy` if this
        reader has `MAX_FEEDS`."""
        if sum(feed.reader is reader for feed in self._feeds.values()) >= MAX_FEEDS:
            raise Busy(
                f"{MAX_FEEDS} feeds are already open on this connection",
                hint="use another connection",
            )
        self._count += 1
        feed = Feed(self._count, reader, run, next_seq, kinds, self._entry_json)
        self._feeds[self._count] = feed
        self._catch_up(feed)
        return feed.number

    def last_seq(
        self, count: int, next_seq: int, kinds: tuple[str, ...], found: Callable[[Any], None]
    ) -> None:
        """Find where to begin so that `count` records (of those that feeds show) come before
        `next_seq`. Calls `found` with that sequence number, or with an error if the journal cannot
        be read. The journal is searched in slices, so that a long one does not block everything
        else."""
        self._begin(self._tell_last_seq(count, next_seq, kinds, found))

    async def _tell_last_seq(
        self, count: int, next_seq: int, kinds: tuple[str, ...], found: Callable[[Any], None]
    ) -> None:
        try:
            found(await self._last_seq(count, next_seq, kinds or ("",)))
        except StackshiftError as damaged:
            self._damage.note(damaged)
            found(damaged)

    async def _last_seq(self, count: int, next_seq: int, kinds: tuple[str, ...]) -> int:
        seqs: set[int] = set()
        for kind in kinds if count else ():
            of_kind = 0
            for part in self._engine.journal.search((b'"kind":"%s' % kind.encode(),)):
                if part is None:
                    await self._others()
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
        """End a feed of this reader; false if it has no such feed."""
        feed = self._feeds.get(number)
        if feed is None or feed.reader is not reader:
            return False
        del self._feeds[number]
        return True

    def close_all(self, reader: Reader) -> None:
        """End all feeds of a reader that is gone."""
        self._feeds = {n: feed for n, feed in self._feeds.items() if feed.reader is not reader}

    def published(self, entries: list[Entry]) -> None:
        """Send `entries`, which are durable now, to the live feeds."""
        if entries:
            self.published_seq = entries[-1].seq
        for feed in list(self._feeds.values()):
            if not feed.live:
                continue
            if feed.reader.full:
                feed.live = False
                self._catch_up(feed)
                continue
            feed.sent_bytes = 0
            for entry in entries:
                if feed.send(entry) and self._is_last(feed, entry):
                    self._end(feed)
                    break
                if feed.sent_bytes > _CHUNK_BYTES:
                    # The rest of a large batch is read from the journal, at the reader's pace.
                    feed.live = False
                    self._catch_up(feed)
                    break

    async def _others(self) -> None:
        """Let others have their turn. Of all feeds that read the journal, one goes on in each turn
        of the loop: so many feeds cost others no more than one does."""
        async with self._part:
            await asyncio.sleep(0)

    def _catch_up(self, feed: Feed) -> None:
        self._begin(self._read_on(feed))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read_on(self, feed: Feed) -> None:
        """Send entries from the journal until the feed has caught up with the engine."""
        try:
            while feed.number in self._feeds:
                await feed.reader.room()
                await self._others()
                sent = 0
                for entry in self._entries(feed):
                    if feed.send(entry) and self._is_last(feed, entry):
                        self._end(feed)
                        return
                    sent += 1
                    if sent % _CHUNK == 0 or feed.sent_bytes > _CHUNK_BYTES:
                        feed.sent_bytes = 0
                        await self._others()
                        await feed.reader.room()
                        if feed.number not in self._feeds:
                            return
                behind = feed.next_seq <= self.published_seq
                if feed.run is None and behind and not sent:
                    # Acknowledged but not yet synced (`durability = "interval"`): it will be soon.
                    await asyncio.sleep(_SYNC_SECONDS)
                elif not behind or not sent:
                    feed.next_seq = max(feed.next_seq, self.published_seq + 1)
                    feed.live = True
                    if self._is_over(feed):
                        self._end(feed)
                    return
        except ConnectionError:
            self._feeds.pop(feed.number, None)
        except StackshiftError as damaged:
            self._damage.note(damaged)
            self._feeds.pop(feed.number, None)
            feed.reader.notify("feed.end", {"feed": feed.number, "error": damaged.as_json()})

    def _entries(self, feed: Feed) -> Iterator[Entry]:
        """The published entries that the feed has not got yet. For a feed of one run, only that
        run's records are read."""
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
        """True if the followed run had ended before the feed began."""
        if feed.run is None or self._lookup.row(feed.run) is None:
            return False
        live = self._lookup.live(feed.run)
        return live is None or live.finished

    def _is_last(self, feed: Feed, entry: Entry) -> bool:
        """True if `entry` is the current end of the followed run; false if the run was retried
        since."""
        assert feed.run is not None
        live = self._lookup.live(feed.run)
        if live is not None:
            return live.finished and entry.at_us >= live.finished_us
        row = self._lookup.row(feed.run)
        return row is None or entry.seq >= row.finished_seq

    def _end(self, feed: Feed) -> None:
        """Close a feed whose run has ended: send `feed.end` with the run object."""
        assert feed.run is not None
        self._feeds.pop(feed.number, None)
        number, run = feed.number, self._ended(feed.run)

        def params() -> dict[str, Any]:
            try:
                return {"feed": number, "run": run()}
            except StackshiftError as damaged:
                self._damage.note(damaged)
                return {"feed": number, "error": damaged.as_json()}

        feed.reader.notify_later("feed.end", params)


def _is_of(record: r.AnyRecord, kinds: tuple[str, ...]) -> bool:
    """True if the record's kind begins with one of `kinds`, or if `kinds` is empty."""
    return not kinds or str(record.__struct_config__.tag).startswith(kinds)


def first_seq_since(journal: Journal, since_us: int, next_seq: int) -> int:
    """The first entry not older than `since_us`; `next_seq` if there is none. A binary search,
    since time does not run backwards in a journal."""
    return 1 + bisect_left(
        range(1, next_seq), True, key=lambda seq: _at_us(journal, seq) >= since_us
    )


def _at_us(journal: Journal, seq: int) -> int:
    """The time of the first kept entry from `seq` on."""
    return next((entry.at_us for _, entry in journal.read(seq)), sys.maxsize)
