"""Decisions about state entries: reads, writes and expiry."""

from __future__ import annotations

import json
from math import isfinite

from msgspec import Raw

from stackshift_jobs.errors import Conflict, PayloadRefused, StackshiftError
from stackshift_jobs.values.durations import rfc3339
from stackshift_jobs.values.limits import MAX_DIGITS
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.decide.replies import Asker
from stackshiftd.core.effects import Decision
from stackshiftd.core.state.entries import CLIENT, Value, entry_json, page_json, written_json
from stackshiftd.core.state.state import State


def read(state: State, command: c.ReadState, now_us: int) -> bytes:
    """The entry under a key, or null, as JSON."""
    value = state.values.get(command.key, now_us)
    return entry_json(command.key, value) if value is not None else b"null"


def page(state: State, command: c.ListState, now_us: int) -> bytes:
    """A page of entries, ordered by key; see `page_json`."""
    return page_json(state.values, command.prefix, command.after, command.limit, now_us)


def set_value(state: State, who: Asker, command: c.SetState, now_us: int) -> Decision:
    """Write a value. Refused with `Conflict` if its condition is not met."""
    value = state.values.get(command.key, now_us)
    refusal = _unmet(command.key, value, command.if_version, command.if_absent)
    if refusal is not None:
        return who.refuse(refusal)
    expires_us = command.expires_us
    if command.ttl_ms is not None:
        expires_us = now_us + command.ttl_ms * 1000
    return _write(state, who, command.key, command.value, "set", expires_us, now_us)


def increment(state: State, who: Asker, command: c.IncrementState, now_us: int) -> Decision:
    """Add to a number, or to 0 if there is no entry. Refused with `Conflict` if the entry is not a
    number, and with `PayloadRefused` if the sum is out of range."""
    value = state.values.get(command.key, now_us)
    summed = _sum(command, value)
    if isinstance(summed, StackshiftError):
        return who.refuse(summed)
    expires_us = value.expires_us if value is not None else 0
    if command.ttl_ms is not None:
        expires_us = now_us + command.ttl_ms * 1000
    return _write(state, who, command.key, summed, "increment", expires_us, now_us)


def delete(state: State, who: Asker, command: c.DeleteState, now_us: int) -> Decision:
    """Delete an entry, if it exists. Refused with `Conflict` if its condition is not met."""
    value = state.values.get(command.key, now_us)
    refusal = _unmet(command.key, value, command.if_version, False)
    if refusal is not None:
        return who.refuse(refusal)
    if value is None:
        return who.answer_read(b'{"deleted":false,"version":null}')
    version = value.version + 1
    until = rfc3339(now_us + command.remember_ms * 1000)
    record = r.StateDeleted(command.key, version, until, who.id, who.attempt, who.step)
    return who.answer(b'{"deleted":true,"version":%d}' % version, (record,))


def expire(state: State, key: str, now_us: int, remember_ms: int) -> Decision:
    """Expire an entry whose time has passed; its version is remembered for `remember_ms`."""
    value = state.values.by_key[key]
    until = rfc3339(now_us + remember_ms * 1000)
    return Decision((r.StateExpired(key, value.version, until),))


def _write(
    state: State, who: Asker, key: str, value: bytes, op: str, expires_us: int, now_us: int
) -> Decision:
    version = state.values.version(key, now_us) + 1
    record = r.StateSet(
        key,
        Raw(value),
        version,
        op,
        rfc3339(expires_us) if expires_us else None,
        who.id,
        who.attempt,
        who.step,
    )
    if who.run is None:
        body = entry_json(key, Value(value, version, expires_us, now_us, CLIENT))
    else:
        body = written_json(record)
    return who.answer(body, (record,))


def _unmet(
    key: str, value: Value | None, if_version: int | None, if_absent: bool
) -> Conflict | None:
    """The error of a write whose condition the present entry does not meet; None if it does."""
    version = value.version if value is not None else None
    if (if_absent or if_version == 0) and value is not None:
        return Conflict(
            f"state key {key!r} already exists, at version {version}", key=key, version=version
        )
    if if_version and if_version != version:
        present = f"is at version {version}" if version is not None else "does not exist"
        return Conflict(
            f"state key {key!r} {present}, expected version {if_version}",
            hint=f"read it again: stackshift state get {key}",
            key=key,
            version=version,
        )
    return None


def _sum(command: c.IncrementState, value: Value | None) -> bytes | StackshiftError:
    """The JSON of the new number, or the error if there is none."""
    try:
        old = json.loads(value.body) if value is not None else 0
        by = json.loads(command.by)
    except ValueError:  # it has more digits than Python reads
        return PayloadRefused(
            f"the number under {command.key!r} has too many digits to add to", path="$"
        )
    if isinstance(old, bool) or not isinstance(old, int | float):
        return Conflict(
            f"state key {command.key!r} holds {_kind(old)}, not a number",
            key=command.key,
            hint=f"stackshift state get {command.key}",
        )
    if isinstance(by, bool) or not isinstance(by, int | float):
        return PayloadRefused(f"cannot add {_kind(by)}: only a number can be added", path="$")
    try:
        summed = old + by
        if isinstance(summed, float) and not isfinite(summed):
            raise OverflowError
        text = json.dumps(summed)
    except (OverflowError, ValueError):
        text = ""
    if not text or len(text.lstrip("-")) > MAX_DIGITS:
        return PayloadRefused(f"the sum under {command.key!r} is out of range", path="$")
    return text.encode("ascii")


def _kind(value: object) -> str:
    names = {str: "a string", bool: "a boolean", dict: "an object", list: "an array"}
    return names.get(type(value), "null")
