"""State entries in memory: durable values under keys, each with a version and an expiry.

Laws:

- Every write of a key increments its version by one. The version is remembered for a while after
  the entry was deleted or has expired (a `Value` that does not live), so that nobody mistakes an
  entry that was created again for the one they read.
- An entry past its expiry is never read, whether `state.expired` has been recorded or not.
- A write by a handler is one record with the fact that this run made it.
- `Values.keys` is an index, of the keys of live entries: what a page of a list costs depends on the
  page, not on how many entries there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec import Raw

from stackshift_jobs.values.durations import rfc3339
from stackshiftd.core import records as r
from stackshiftd.core.state.heap import Heap
from stackshiftd.core.state.sorted_list import SortedList

CLIENT: Final = "client"
"""The writer of an entry that no run wrote."""
PAGE_BYTES: Final = 1 << 20
"""A page of a list ends once its values exceed this many bytes."""

encode: Final = msgspec.json.Encoder().encode


class Value(msgspec.Struct, frozen=True, gc=False):
    """What is known about a key. `expires_us` is 0 for never. In a value that is not live (its
    `body` is empty), `expires_us` is when its version is forgotten."""

    body: bytes
    version: int
    expires_us: int
    updated_us: int
    updated_by: str

    @property
    def lives(self) -> bool:
        """Is there an entry, as opposed to the remembered version of one?"""
        return bool(self.body)


class EntryJson(msgspec.Struct, frozen=True):
    """An entry as clients and handlers see it."""

    key: str
    value: Raw
    version: int
    expires_at: str | None
    updated_at: str
    updated_by: str


class Values:
    """All state entries. Anyone may read it; only the fold changes it."""

    __slots__ = ("_forgotten", "by_key", "bytes", "keys")

    def __init__(self) -> None:
        self.by_key: dict[str, Value] = {}
        self.keys: SortedList[str] = SortedList()
        """Those of live entries, in order."""
        self.bytes = 0
        """The total size of their keys and JSON."""
        self._forgotten: Heap[tuple[int, str]] = Heap()
        """When each remembered version is forgotten."""

    def get(self, key: str, now_us: int) -> Value | None:
        """The entry under `key` at `now_us`, if there is one."""
        value = self.by_key.get(key)
        if value is None or not value.lives or 0 < value.expires_us <= now_us:
            return None
        return value

    def version(self, key: str, now_us: int) -> int:
        """The last version of `key` that is remembered at `now_us`; 0 for none."""
        value = self.by_key.get(key)
        if value is None or (not value.lives and value.expires_us <= now_us):
            return 0
        return value.version

    def put(self, key: str, value: Value, now_us: int) -> None:
        """Store `value` under `key`, and forget up to two remembered versions that are due."""
        before = self.by_key.get(key)
        lived = before is not None and before.lives
        if before is not None and lived:
            self.bytes -= len(key) + len(before.body)
        if value.lives:
            self.bytes += len(key) + len(value.body)
            if not lived:
                self.keys.add(key)
        elif lived:
            self.keys.discard(key)
        self.by_key[key] = value
        if not value.lives:
            self._forgotten.add((value.expires_us, key), self._is_forgotten)
        # Up to two removals for one write: the remembered versions shrink as long as any is due.
        # The moment of removal is not observable: a version past its time is neither found nor
        # part of the state's hash.
        for _ in range(2):
            self._forgotten.settle(self._is_forgotten)
            if not self._forgotten or self._forgotten[0][0] > now_us:
                return
            del self.by_key[self._forgotten[0][1]]

    def forget(self, now_us: int) -> None:
        """Forget all remembered versions that are due at `now_us`."""
        self.by_key = {
            key: value
            for key, value in self.by_key.items()
            if value.lives or value.expires_us > now_us
        }
        self._forgotten.settle(self._is_forgotten)

    def _is_forgotten(self, item: tuple[int, str]) -> bool:
        """Is `item` (a time and a key) when the version under that key is forgotten?"""
        value = self.by_key.get(item[1])
        return value is not None and not value.lives and value.expires_us == item[0]

    def remembered(self, now_us: int) -> Iterator[tuple[str, Value]]:
        """Everything that is known at `now_us`: live entries and remembered versions, which is
        what a snapshot contains."""
        for key, value in self.by_key.items():
            if value.lives or value.expires_us > now_us:
                yield key, value


def entry_json(key: str, value: Value) -> bytes:
    """`{"key":…,"value":…,"version":…,"expires_at":…,"updated_at":…,"updated_by":…}`."""
    return encode(
        EntryJson(
            key,
            Raw(value.body),
            value.version,
            rfc3339(value.expires_us) if value.expires_us else None,
            rfc3339(value.updated_us),
            value.updated_by,
        )
    )


def page_json(values: Values, prefix: str, after: str, limit: int, now_us: int) -> bytes:
    """`{"entries":[…],"next":key or null}`: the entries whose keys begin with `prefix` and sort
    after `after`, ordered by key, at most `limit` and about `PAGE_BYTES`."""
    entries: list[Raw] = []
    last = None
    size = 0
    for key in values.keys.ascending(max(prefix, after), inclusive=after < prefix):
        if not key.startswith(prefix):
            break
        value = values.get(key, now_us)
        if value is None:
            continue
        if len(entries) == limit or size > PAGE_BYTES:
            return b'{"entries":%s,"next":%s}' % (encode(entries), encode(last))
        entries.append(Raw(entry_json(key, value)))
        size += len(value.body)
        last = key
    return b'{"entries":%s,"next":null}' % encode(entries)


def written_json(record: r.StateSet) -> bytes:
    """The answer to the handler that made this write, on this pass and on every later one."""
    if record.op == "increment":
        return b'{"value":%s,"version":%d}' % (bytes(record.value), record.version)
    return b'{"version":%d}' % record.version
