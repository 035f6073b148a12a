"""State entries as they are in the state: durable values under keys, with version and expiry.

Laws:

- A version grows with every write of its key, by one. It is remembered for a while after the entry
  was deleted or has expired (a `Value` that does not live), so that nobody takes an entry that was
  made anew for the one that he has read.
- An entry whose time has passed is never read, whether `state.expired` is on record yet or not.
- A write by a handler is one record with the fact that this run made it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import nsmallest
from typing import Final

import msgspec
from msgspec import Raw

from stackshift_jobs.values.durations import rfc3339
from stackshiftd.core import records as r
from stackshiftd.core.state.heap import Heap

CLIENT: Final = "client"
"""Who wrote it, where it was no run."""
PAGE_BYTES: Final = 1 << 20
"""A list that has come to so many bytes goes on in another page."""

encode: Final = msgspec.json.Encoder().encode


class Value(msgspec.Struct, frozen=True, gc=False):
    """What is known of a key. `expires_us` is 0 for never; for one that does not live (its `body`
    is empty) it is when its version is forgotten."""

    body: bytes
    version: int
    expires_us: int
    updated_us: int
    updated_by: str

    @property
    def lives(self) -> bool:
        return bool(self.body)


class EntryJson(msgspec.Struct, frozen=True):
    """An entry as it is told."""

    key: str
    value: Raw
    version: int
    expires_at: str | None
    updated_at: str
    updated_by: str


class Values:
    """All keys. Read it freely; only the fold writes it."""

    __slots__ = ("_forgotten", "by_key", "bytes", "live", "shape")

    def __init__(self) -> None:
        self.by_key: dict[str, Value] = {}
        self.live = 0
        """How many of them live."""
        self.bytes = 0
        """Of their keys and JSON."""
        self.shape = 0
        """Grows whenever a key comes or goes: what was learnt of their order is good as long as it
        stays."""
        self._forgotten: Heap[tuple[int, str]] = Heap()
        """When which version is forgotten."""

    def get(self, key: str, now_us: int) -> Value | None:
        """The entry under `key` at `now_us`, if there is one."""
        found = self.by_key.get(key)
        if found is None or not found.lives or 0 < found.expires_us <= now_us:
            return None
        return found

    def version(self, key: str, now_us: int) -> int:
        """The last version of `key` that is remembered at `now_us`; 0 for none."""
        found = self.by_key.get(key)
        if found is None or (not found.lives and found.expires_us <= now_us):
            return 0
        return found.version

    def put(self, key: str, value: Value, now_us: int) -> None:
        """`value` is what is known of `key` from now on."""
        before = self.by_key.get(key)
        self._count(key, before, -1)
        self._count(key, value, 1)
        self.shape += (before is not None and before.lives) is not value.lives
        self.by_key[key] = value
        if not value.lives:
            self._forgotten.add((value.expires_us, key), self._is_forgotten)
        # Two looks for one write: what is remembered shrinks while there is anything to forget.
        # When it is forgotten does not show: past its time it is neither found nor part of the
        # state's hash.
        for _ in range(2):
            self._forgotten.settle(self._is_forgotten)
            if not self._forgotten or self._forgotten[0][0] > now_us:
                return
            del self.by_key[self._forgotten[0][1]]

    def _is_forgotten(self, item: tuple[int, str]) -> bool:
        """Is the version under a key one that is forgotten then?"""
        found = self.by_key.get(item[1])
        return found is not None and not found.lives and found.expires_us == item[0]

    def _count(self, key: str, value: Value | None, sign: int) -> None:
        if value is not None and value.lives:
            self.live += sign
            self.bytes += sign * (len(key) + len(value.body))

    def remembered(self, now_us: int) -> Iterator[tuple[str, Value]]:
        """All that is known at `now_us`: what a snapshot holds."""
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


def page_json(
    values: Values, keys: Iterable[str] | None, prefix: str, after: str, limit: int, now_us: int
) -> bytes:
    """`{"entries":[…],"next":key or null}`: entries in order of their keys, of those that begin
    with `prefix` and come after `after`, at most `limit` and about `PAGE_BYTES`. `keys` are all
    candidates in order, where the asker has them; else all keys are looked through."""
    if keys is None:
        keys = nsmallest(
            limit + 1,
            (
                key
                for key in values.by_key
                if key > after and key.startswith(prefix) and values.get(key, now_us) is not None
            ),
        )
    found: list[Raw] = []
    last = None
    size = 0
    for key in keys:
        value = values.get(key, now_us)
        if value is None:
            continue
        if len(found) == limit or size > PAGE_BYTES:
            return b'{"entries":%s,"next":%s}' % (encode(found), encode(last))
        found.append(Raw(entry_json(key, value)))
        size += len(value.body)
        last = key
    return b'{"entries":%s,"next":null}' % encode(found)


def written_json(record: r.StateSet) -> bytes:
    """What the handler that made this write was told, and is told again."""
    if record.op == "increment":
        return b'{"value":%s,"version":%d}' % (bytes(record.value), record.version)
    return b'{"version":%d}' % record.version
