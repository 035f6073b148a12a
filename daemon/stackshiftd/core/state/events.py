"""Events as they are in the state: those that are kept, who waits for which, and their keys.

Laws:

- An event that came while somebody waited for it is not kept. One that is kept is consumed by one
  wait, the oldest first, or expires by a record.
- Whoever waits is an index over the runs' calls; the events that are kept are not.
- Memory holds what is unexpired and unconsumed, whole, and nothing else of events.
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
"""Between a name and a correlation key: neither can hold it."""
MAX_KEPT_PAYLOAD: Final = 4096
"""So much of a payload is kept with an idempotency key, to tell what is different."""


def address_of(name: str, correlation_key: str) -> str:
    """What events and waits are matched by. No correlation key matches none."""
    return f"{name}{SEPARATOR}{correlation_key}"


class Kept(msgspec.Struct, frozen=True, gc=False):
    """An event that waits for somebody who waits for it."""

    id: str
    seq: int
    """Of the record that tells of it: which of two is the older."""
    address: str
    payload: bytes
    at_us: int
    expires_us: int
    key: str | None

    @property
    def name(self) -> str:
        return self.address.partition(SEPARATOR)[0]

    @property
    def correlation_key(self) -> str:
        return self.address.partition(SEPARATOR)[2]


class SentKey(msgspec.Struct, frozen=True):
    """Which event an idempotency key stands for. `payload` is empty where it was too long."""

    event: str
    name: str
    correlation_key: str
    digest: str
    payload: bytes
    expires_us: int
    resumed: list[str]


class Events:
    """All of it. Read it freely; only the fold writes it."""

    __slots__ = ("_at", "_key_expiry", "bytes", "kept", "keys", "listening")

    def __init__(self) -> None:
        self.kept: dict[str, Kept] = {}
        """By id, oldest first."""
        self._at: dict[str, str | OrderedDict[str, None]] = {}
        """Ids by address, oldest first: one alone, as nearly always, or several. (A plain dict is
        slow to tell its first key when many before it are gone.)"""
        self.bytes = 0
        """Of the kept ones: payloads, names and keys."""
        self.listening: dict[str, dict[tuple[str, str], None]] = {}
        """Address → (run, step) that wait for it, in the order in which they came."""
        self.keys: dict[str, SentKey] = {}
        self._key_expiry: list[tuple[int, str]] = []

    # --- Kept ones -------------------------------------------------------------------------

    def keep(self, event: Kept) -> None:
        """Keep it for whoever comes."""
        self.kept[event.id] = event
        self.bytes += _size(event)
        found = self._at.get(event.address)
        if found is None:
            self._at[event.address] = event.id
        elif isinstance(found, str):
            self._at[event.address] = OrderedDict.fromkeys((found, event.id))
        else:
            found[event.id] = None

    def drop(self, event_id: str) -> Kept | None:
        """It is consumed, or has expired; it, if it was kept."""
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
        """The oldest kept event at one of these addresses whose time has not passed."""
        found = [self._first(address, now_us) for address in addresses]
        return min(
            (event for event in found if event is not None),
            key=lambda event: event.seq,
            default=None,
        )

    def at(self, address: str) -> Iterator[Kept]:
        """The events that are kept there, newest first."""
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

    # --- Who waits -------------------------------------------------------------------------

    def listen(self, addresses: Iterable[str], run: str, step: str) -> None:
        """The call `step` of the run waits for one of these."""
        for address in addresses:
            self.listening.setdefault(address, {})[(run, step)] = None

    def hush(self, addresses: Iterable[str], run: str, step: str) -> None:
        """It waits no more."""
        for address in addresses:
            waiting = self.listening.get(address)
            if waiting is not None:
                waiting.pop((run, step), None)
                if not waiting:
                    del self.listening[address]

    # --- Keys ------------------------------------------------------------------------------

    def owner(self, key: str, now_us: int) -> SentKey | None:
        """Which event the key stands for at `now_us`."""
        found = self.keys.get(key)
        return found if found is not None and found.expires_us > now_us else None

    def take_key(self, key: str, sent: SentKey, now_us: int) -> None:
        """The key stands for this event."""
        self.keys[key] = sent
        heappush(self._key_expiry, (sent.expires_us, key))
        # Two looks for one new key, as with those of runs: when it is forgotten does not show.
        for _ in range(2):
            if not self._key_expiry or self._key_expiry[0][0] > now_us:
                return
            expires_us, old = heappop(self._key_expiry)
            kept = self.keys.get(old)
            if kept is not None and kept.expires_us == expires_us:
                del self.keys[old]

    def restore_keys(self, keys: dict[str, SentKey]) -> None:
        """These are the keys, and no others."""
        self.keys = keys
        self._key_expiry = [(sent.expires_us, key) for key, sent in keys.items()]
        heapify(self._key_expiry)


def _size(event: Kept) -> int:
    return len(event.payload) + len(event.address)


# --- What is told --------------------------------------------------------------------------


class SentJson(msgspec.Struct, frozen=True):
    """What a sender is told."""

    id: str
    name: str
    correlation_key: str | None
    resumed: list[str]
    kept_until: str | None
    reused: bool


class EventJson(msgspec.Struct, frozen=True):
    """What a handler gets that waited."""

    id: str | None
    name: str
    correlation_key: str | None
    payload: Raw
    received_at: str | None
    timed_out: bool


class KeptJson(msgspec.Struct, frozen=True):
    """A kept event in a list."""

    id: str
    name: str
    correlation_key: str | None
    payload: Raw
    received_at: str
    kept_until: str


def sent_json(record: r.EventReceived) -> bytes:
    """What the sender of a new event is told."""
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
    """What the sender is told of an event that was sent before, and is `kept` still."""
    until = None
    if kept is not None and kept.expires_us > now_us:
        until = rfc3339(kept.expires_us)
    return encode(
        SentJson(sent.event, sent.name, sent.correlation_key or None, sent.resumed, until, True)
    )


def event_json(record: r.WaitEnded) -> bytes:
    """What the handler gets whose wait for an event has ended."""
    timed_out = record.status == "timed_out"
    return encode(
        EventJson(
            record.event or None,
            record.name,
            record.correlation_key or None,
            record.result,
            record.received_at or None,
            timed_out,
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
