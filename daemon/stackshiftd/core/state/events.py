"""Events in memory: kept events, the waits for events, and idempotency keys.

Laws:

- An event that arrives while a run waits for it is not kept. A kept event is consumed by one wait,
  oldest event first, or expires by a record. If that wait is withdrawn before its handler saw the
  event, it goes to the next wait or is kept again.
- The waits are an index over the runs' calls; the kept events are not an index of anything.
- Memory holds every event that is neither expired nor consumed, whole, and no other event.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush
from typing import Final

import msgspec
from msgspec import Raw

from stackshift_jobs.values.durations import rfc3339
from stackshiftd.core import records as r

encode: Final = msgspec.json.Encoder().encode

SEPARATOR: Final = "\n"
"""Between a name and a correlation key: neither can contain it."""
MAX_KEPT_PAYLOAD: Final = 4096
"""Payloads up to this many bytes are kept with their idempotency key, so that a conflict can show
the difference."""


def address_of(name: str, correlation_key: str) -> str:
    """What events and waits are matched by. An empty correlation key matches only an empty one."""
    return f"{name}{SEPARATOR}{correlation_key}"


class Kept(msgspec.Struct, frozen=True, gc=False):
    """An event that no run waited for, kept until a wait consumes it or it expires."""

    id: str
    seq: int
    """Sequence number of its `event.received`; kept events are ordered by it."""
    address: str
    payload: bytes
    at_us: int
    expires_us: int
    key: str | None

    @property
    def name(self) -> str:
        """The event's name, from its address."""
        return self.address.partition(SEPARATOR)[0]

    @property
    def correlation_key(self) -> str:
        """Its correlation key, from its address; empty for none."""
        return self.address.partition(SEPARATOR)[2]


class SentKey(msgspec.Struct, frozen=True):
    """The event that an idempotency key stands for. `payload` is empty if it was over
    `MAX_KEPT_PAYLOAD`."""

    event: str
    name: str
    correlation_key: str
    digest: str
    payload: bytes
    expires_us: int
    resumed: list[str]


class Events:
    """All kept events, waits and keys. Anyone may read it; only the fold changes it."""

    __slots__ = ("_at", "_key_expiry", "bytes", "kept", "keys", "listening")

    def __init__(self) -> None:
        self.kept: dict[str, Kept] = {}
        """By id, oldest first."""
        self._at: dict[str, str | OrderedDict[str, None]] = {}
        """Ids by address, oldest first: a single id, as nearly always, or several. (A plain dict is
        slow to find its first key after many deletions at its front.)"""
        self.bytes = 0
        """Total size of the kept events: payloads, names and keys."""
        self.listening: dict[str, dict[tuple[str, str], None]] = {}
        """Address → (run, step) of the waits for it, in the order in which they began."""
        self.keys: dict[str, SentKey] = {}
        self._key_expiry: list[tuple[int, str]] = []

    # --- Kept events -----------------------------------------------------------------------

    def keep(self, event: Kept) -> None:
        """Keep the event for the next wait that matches."""
        self.kept[event.id] = event
        self.bytes += _size(event)
        found = self._at.get(event.address)
        if found is None:
            self._at[event.address] = event.id
        elif isinstance(found, str):
            self._at[event.address] = OrderedDict.fromkeys((found, event.id))
        else:
            found[event.id] = None

    def keep_again(self, event: Kept) -> None:
        """Keep an event that was received before others that are kept, in its old place."""
        self.keep(event)
        self.kept = dict(sorted(self.kept.items(), key=_seq_of))
        found = self._at[event.address]
        if isinstance(found, OrderedDict):
            ids = sorted(found, key=lambda event_id: self.kept[event_id].seq)
            self._at[event.address] = OrderedDict.fromkeys(ids)

    def drop(self, event_id: str) -> Kept | None:
        """Remove an event that was consumed or has expired; returns it, or None if it was not
        kept."""
        event = self.kept.pop(event_id, None)
        if event is None:
            return None
        self.bytes -= _size(event)
        found = self._at[event.address]
        if isinstance(found, OrderedDict):
            del found[event_id]
        if isinstance(found, str) or not found:
            del self._at[event.address]
        return event

    def oldest(self, addresses: Iterable[str], now_us: int) -> Kept | None:
        """The oldest kept event at any of these addresses that has not expired at `now_us`."""
        found = [self._first(address, now_us) for address in addresses]
        return min(
            (event for event in found if event is not None),
            key=lambda event: event.seq,
            default=None,
        )

    def at(self, address: str) -> Iterator[Kept]:
        """The events kept at `address`, newest first."""
        found = self._at.get(address, ())
        for event_id in (found,) if isinstance(found, str) else reversed(found):
            yield self.kept[event_id]

    def _first(self, address: str, now_us: int) -> Kept | None:
        found = self._at.get(address, ())
        for event_id in (found,) if isinstance(found, str) else found:
            event = self.kept[event_id]
            if event.expires_us > now_us:
                return event
        return None

    # --- Waits -----------------------------------------------------------------------------

    def listen(self, addresses: Iterable[str], run: str, step: str) -> None:
        """Register the call `step` of the run as waiting for an event at any of these addresses."""
        for address in addresses:
            self.listening.setdefault(address, {})[(run, step)] = None

    def hush(self, addresses: Iterable[str], run: str, step: str) -> None:
        """Undo `listen`."""
        for address in addresses:
            waiting = self.listening.get(address)
            if waiting is not None:
                waiting.pop((run, step), None)
                if not waiting:
                    del self.listening[address]

    # --- Keys ------------------------------------------------------------------------------

    def owner(self, key: str, now_us: int) -> SentKey | None:
        """The event that the key stands for at `now_us`, if any."""
        sent = self.keys.get(key)
        return sent if sent is not None and sent.expires_us > now_us else None

    def take_key(self, key: str, sent: SentKey, now_us: int) -> None:
        """Let the key stand for this event, and forget up to two keys that have expired."""
        self.keys[key] = sent
        heappush(self._key_expiry, (sent.expires_us, key))
        # Up to two removals for one new key, as with keys of runs: the moment is not observable.
        for _ in range(2):
            if not self._key_expiry or self._key_expiry[0][0] > now_us:
                return
            expires_us, old = heappop(self._key_expiry)
            kept = self.keys.get(old)
            if kept is not None and kept.expires_us == expires_us:
                del self.keys[old]

    def forget_keys(self, now_us: int) -> None:
        """Forget all keys that have expired at `now_us`."""
        self.restore_keys(
            {key: sent for key, sent in self.keys.items() if sent.expires_us > now_us}
        )

    def restore_keys(self, keys: dict[str, SentKey]) -> None:
        """Replace all keys by these."""
        self.keys = keys
        self._key_expiry = [(sent.expires_us, key) for key, sent in keys.items()]
        heapify(self._key_expiry)


def _seq_of(item: tuple[str, Kept]) -> int:
    return item[1].seq


def _size(event: Kept) -> int:
    return len(event.payload) + len(event.address)


# --- Answers -------------------------------------------------------------------------------


class SentJson(msgspec.Struct, frozen=True):
    """The answer to the sender of an event."""

    id: str
    name: str
    correlation_key: str | None
    resumed: list[str]
    kept_until: str | None
    reused: bool


class EventJson(msgspec.Struct, frozen=True, omit_defaults=True):
    """The event as a waiting handler receives it. `shared`: it ended other waits too."""

    id: str | None
    name: str
    correlation_key: str | None
    payload: Raw
    received_at: str | None
    timed_out: bool
    shared: bool = False


class KeptJson(msgspec.Struct, frozen=True):
    """A kept event in a list."""

    id: str
    name: str
    correlation_key: str | None
    payload: Raw
    received_at: str
    kept_until: str


def sent_json(record: r.EventReceived) -> bytes:
    """The answer to the sender of a new event."""
    return encode(
        SentJson(
            record.event,
            record.name,
            record.correlation_key or None,
            record.resumed,
            record.kept_until,
            False,
        )
    )


def sent_again_json(sent: SentKey, kept: Kept | None, now_us: int) -> bytes:
    """The answer to a repeated send. `kept` is the event if it is still kept, else None."""
    until = None
    if kept is not None and kept.expires_us > now_us:
        until = rfc3339(kept.expires_us)
    return encode(
        SentJson(sent.event, sent.name, sent.correlation_key or None, sent.resumed, until, True)
    )


def event_json(record: r.WaitEnded) -> bytes:
    """What a handler receives when its wait for an event has ended."""
    timed_out = record.status == "timed_out"
    return encode(
        EventJson(
            record.event or None,
            record.name,
            record.correlation_key or None,
            record.result,
            record.received_at or None,
            timed_out,
            record.shared,
        )
    )


def kept_json(event: Kept) -> bytes:
    """A kept event, as lists show it."""
    return encode(
        KeptJson(
            event.id,
            event.name,
            event.correlation_key or None,
            Raw(event.payload),
            rfc3339(event.at_us),
            rfc3339(event.expires_us),
        )
    )
