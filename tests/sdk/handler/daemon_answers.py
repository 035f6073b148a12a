"""The daemon's answers to an `Ask`, as far as a pass can see: by the rules of the interface,
without any state of its own but the record."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from stackshift_jobs.errors import LockLost, StackshiftError
from stackshift_jobs.handler import ops
from stackshift_jobs.values.durations import rfc3339
from stackshift_jobs.values.strict_json import dumps

if TYPE_CHECKING:
    from sdk.handler.passes import Record


def answer(record: Record, op: ops.Ask) -> ops.Recorded:
    """Record what `op` asks for, and return the answer."""
    params = json.loads(op.params)
    refusal = record.refusals.get(op.step or op.method)
    if refusal is not None:
        return _refuse(record, op, refusal)
    if op.method == "lock.check":
        return _check(record, op, params["lock"])
    if op.method == "lock.release":
        return _leave(record, params["lock"], params["raised"])
    if op.method == "lock.acquire":
        return _acquire(record, op, params)
    if op.method == "lock.extend":
        return _extend(record, op, params)
    if op.method == "event.wait":
        due_us = record.clock.us + params["timeout_ms"] * 1000 if params["timeout_ms"] else 0
        record.recorded_calls[op.step] = ops.RecordedCall("event", "waiting", due_us=due_us)
        return ops.Recorded(due_us)
    body = dumps(record.answers[op.step or op.method])
    if op.step:
        record.recorded_calls[op.step] = ops.RecordedCall("value", "completed", body)
    return ops.Recorded(body=body)


def _refuse(record: Record, op: ops.Ask, error: StackshiftError) -> ops.Recorded:
    if op.step:
        body = dumps(error.as_json())
        record.recorded_calls[op.step] = ops.RecordedCall("refused", "failed", body)
    return ops.Recorded(error=error.as_json())


def token(record: Record, key: str, ttl_ms: int) -> ops.RecordedCall:
    """The record of a lock that is acquired now."""
    due_us = record.clock.us + ttl_ms * 1000 if ttl_ms else 0
    until = rfc3339(due_us) if due_us else None
    body = {"key": key, "token": len(record.told), "expires_at": until}
    return ops.RecordedCall("lock", "completed", dumps(body), due_us=due_us)


def _acquire(record: Record, op: ops.Ask, params: dict[str, Any]) -> ops.Recorded:
    if params["key"] in record.busy:
        record.recorded_calls[op.step] = ops.RecordedCall("lock", "waiting")
        return ops.Recorded()
    known = record.recorded_calls[op.step] = token(record, params["key"], params["ttl_ms"])
    return ops.Recorded(body=known.body)


def _extend(record: Record, op: ops.Ask, params: dict[str, Any]) -> ops.Recorded:
    known = token(record, params["key"], params["ttl_ms"])
    if op.step:
        record.recorded_calls[op.step] = ops.RecordedCall("value", "completed", known.body)
    lock = f"[lock {params['key']}]"
    record.recorded_calls[lock] = known
    return ops.Recorded(body=known.body)


def _held(record: Record, lock: str) -> bool:
    known = record.recorded_calls[lock]
    return known.phase == "completed" and not 0 < known.due_us <= record.clock.us


def _check(record: Record, op: ops.Ask, lock: str) -> ops.Recorded:
    if _held(record, lock):
        return ops.Recorded(body=b"true")
    known = record.recorded_calls[lock] = record.recorded_calls[lock]._replace(phase="gone")
    key = json.loads(known.body or b"{}")["key"]
    return _refuse(record, op, LockLost("it ran out", key=key))


def _leave(record: Record, lock: str, raised: bool) -> ops.Recorded:
    held = _held(record, lock)
    phase = "released" if held and not raised else "gone"
    record.recorded_calls[lock] = record.recorded_calls[lock]._replace(phase=phase)
    return ops.Recorded(body=dumps({"held": held}))
