"""The fold of `state.*`: how records change state entries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from stackshift_jobs.values.durations import from_rfc3339
from stackshiftd.core import records as r
from stackshiftd.core.fold.recorded import remember
from stackshiftd.core.state.entries import CLIENT, Value, written_json
from stackshiftd.core.state.expiry import STATE
from stackshiftd.core.state.state import State


def _set(state: State, entry: r.Entry, record: r.StateSet) -> None:
    expires_us = from_rfc3339(record.expires_at) if record.expires_at else 0
    value = Value(
        bytes(record.value), record.version, expires_us, entry.at_us, record.run or CLIENT
    )
    state.values.put(record.key, value, entry.at_us)
    if expires_us:
        state.set_expiry(expires_us, STATE, record.key)
    remember(state, record.run, record.step, entry, written_json(record))


def _deleted(state: State, entry: r.Entry, record: r.StateDeleted) -> None:
    _bury(state, entry, record, record.run or CLIENT)
    body = b'{"deleted":true,"version":%d}' % record.version
    remember(state, record.run, record.step, entry, body)


def _expired(state: State, entry: r.Entry, record: r.StateExpired) -> None:
    _bury(state, entry, record, "")


def _bury(state: State, entry: r.Entry, record: r.StateDeleted | r.StateExpired, by: str) -> None:
    until_us = from_rfc3339(record.remembered_until)
    gone = Value(b"", record.version, until_us, entry.at_us, by)
    state.values.put(record.key, gone, entry.at_us)


BY_TYPE: Final[dict[type[r.Record], Callable[[State, r.Entry, Any], None]]] = {
    r.StateSet: _set,
    r.StateDeleted: _deleted,
    r.StateExpired: _expired,
}
