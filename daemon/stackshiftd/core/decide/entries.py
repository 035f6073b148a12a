"""What is decided about state entries: reads, writes, and the end of those that expire."""

from __future__ import annotations

import json
from math import isfinite

from msgspec import Raw

from stackshift_jobs.errors import Conflict, PayloadRefused, StackshiftError
from stackshift_jobs.values.durations import rfc3339
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.decide.replies import Asker
from stackshiftd.core.effects import Decision
from stackshiftd.core.state.entries import CLIENT, Value, entry_json, page_json, written_json
from stackshiftd.core.state.state import State

MAX_DIGITS = 4000
"""Of a number: Python turns no longer ones into text (`sys.int_info`)."""


def read(state: State, command: c.ReadState, now_us: int) -> bytes:
    """The entry under a key, or null."""
    found = state.values.get(command.key, now_us)
    return entry_json(command.key, found) if found is not None else b"null"


def page(state: State, command: c.ListState, now_us: int) -> bytes:
    """A page of entries, in order of their keys."""
    return page_json(state.values, None, command.prefix, command.after, command.limit, now_us)


def set_value(state: State, who: Asker, command: c.SetState, now_us: int) -> Decision:
    """Write a value, if its condition is met (else `Conflict`)."""
    found = state.values.get(command.key, now_us)
    refusal = _unmet(command.key, found, command.if_version, command.if_absent)
    if refusal is not None:
        return who.refused(refusal)
    expires_us = command.expires_us
    if command.ttl_ms is not None:
        expires_us = now_us + command.ttl_ms * 1000
    return _write(state, who, command.key, command.value, "set", expires_us, now_us)


def increment(state: State, who: Asker, command: c.IncrementState, now_us: int) -> Decision:
    """Add to a number; where there is none, to 0. Refuses with `Conflict` where something else is,
    with `PayloadRefused` a sum that is no number."""
    found = state.values.get(command.key, now_us)
    summed = _sum(command, found)
    if isinstance(summed, StackshiftError):
        return who.refused(summed)
    expires_us = found.expires_us if found is not None else 0
    if command.ttl_ms is not None:
        expires_us = now_us + command.ttl_ms * 1000
    return _write(state, who, command.key, summed, "increment", expires_us, now_us)


def delete(state: State, who: Asker, command: c.DeleteState, now_us: int) -> Decision:
    """Delete an entry, if there is one and its condition is met (else `Conflict`)."""
    found = state.values.get(command.key, now_us)
    refusal = _unmet(command.key, found, command.if_version, False)
    if refusal is not None:
        return who.refused(refusal)
    if found is None:
        return who.read(b'{"deleted":false,"version":null}')
    version = found.version + 1
    until = rfc3339(now_us + command.remember_ms * 1000)
    record = r.StateDeleted(command.key, version, until, who.id, who.attempt, who.step)
    return who.told(b'{"deleted":true,"version":%d}' % version, (record,))


def expire(state: State, key: str, now_us: int, remember_ms: int) -> Decision:
    """The time of the entry has passed."""
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
    return who.told(body, (record,))


def _unmet(
    key: str, found: Value | None, if_version: int | None, if_absent: bool
) -> Conflict | None:
    """Why a write under this condition must not happen, if so."""
    version = found.version if found is not None else None
    if (if_absent or if_version == 0) and found is not None:
        return Conflict(
            f"state key {key!r} is there, in version {version}", key=key, version=version
        )
    if if_version and if_version != version:
        told = f"in version {version}" if version is not None else "absent"
        return Conflict(
            f"state key {key!r} is {told}, not in version {if_version}",
            hint=f"read it again: stackshift state get {key}",
            key=key,
            version=version,
        )
    return None


def _sum(command: c.IncrementState, found: Value | None) -> bytes | StackshiftError:
    """The JSON of the new number, or why there is none."""
    try:
        old = json.loads(found.body) if found is not None else 0
        by = json.loads(command.by)
    except ValueError:  # of more digits than Python reads
        return PayloadRefused(f"the number under {command.key!r} is too long to add to", path="$")
    if isinstance(old, bool) or not isinstance(old, int | float):
        return Conflict(
            f"state key {command.key!r} holds {_kind(old)}, not a number",
            key=command.key,
            hint=f"stackshift state get {command.key}",
        )
    if isinstance(by, bool) or not isinstance(by, int | float):
        return PayloadRefused(f"{_kind(by)} cannot be added: only a number can", path="$")
    try:
        summed = old + by
        if isinstance(summed, float) and not isfinite(summed):
            raise OverflowError
        text = json.dumps(summed)
    except (OverflowError, ValueError):
        text = ""
    if not text or len(text) > MAX_DIGITS:
        return PayloadRefused(f"the sum under {command.key!r} is no number JSON holds", path="$")
    return text.encode("ascii")


def _kind(value: object) -> str:
    names = {str: "text", bool: "true or false", dict: "an object", list: "an array"}
    return names.get(type(value), "null")
