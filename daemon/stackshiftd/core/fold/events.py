"""The fold of `event.*`: which events are kept, and what happens to them. (The ends of waits are in
the records of their runs.)"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from stackshift_jobs.values.durations import from_rfc3339
from stackshiftd.core import records as r
from stackshiftd.core.fold.recorded import remember
from stackshiftd.core.state.events import MAX_KEPT_PAYLOAD, Kept, SentKey, address_of, sent_json
from stackshiftd.core.state.expiry import EVENT
from stackshiftd.core.state.state import State


def _received(state: State, entry: r.Entry, record: r.EventReceived) -> None:
    payload = bytes(record.payload)
    if record.kept_until is not None:
        expires_us = from_rfc3339(record.kept_until)
        address = address_of(record.name, record.correlation_key)
        state.events.keep(
            Kept(record.event, entry.seq, address, payload, entry.at_us, expires_us, record.key)
        )
        state.set_expiry(expires_us, EVENT, record.event)
    if record.key is not None:
        sent = SentKey(
            record.event,
            record.name,
            record.correlation_key,
            record.digest,
            payload if len(payload) <= MAX_KEPT_PAYLOAD else b"",
            entry.at_us + record.key_ttl_ms * 1000,
            record.resumed,
        )
        state.events.take_key(record.key, sent, entry.at_us)
    remember(state, record.run, record.step, entry, sent_json(record))


def _returned(state: State, _entry: r.Entry, record: r.EventReturned) -> None:
    if record.kept_until is None:
        return
    expires_us = from_rfc3339(record.kept_until)
    address = address_of(record.name, record.correlation_key)
    at_us = from_rfc3339(record.received_at)
    payload = bytes(record.payload)
    state.events.keep_again(
        Kept(record.event, record.place, address, payload, at_us, expires_us, None)
    )
    state.set_expiry(expires_us, EVENT, record.event)


def _expired(state: State, _entry: r.Entry, record: r.EventExpired) -> None:
    state.events.drop(record.event)


def consumed(state: State, run: str, event_id: str) -> None:
    """Remove a kept event, which the run has received, and note that under its key."""
    event = state.events.drop(event_id)
    if event is None or event.key is None:
        return
    sent = state.events.keys.get(event.key)
    if sent is not None and sent.event == event_id:
        state.events.keys[event.key] = msgspec.structs.replace(sent, resumed=[run])


BY_TYPE: Final[dict[type[r.Record], Callable[[State, r.Entry, Any], None]]] = {
    r.EventReceived: _received,
    r.EventReturned: _returned,
    r.EventExpired: _expired,
}
