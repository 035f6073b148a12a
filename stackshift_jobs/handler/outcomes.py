"""The outcome of a call on `ctx`, from now or from an earlier pass: its record, or a refusal.

The daemon can refuse any call, and the refusal is recorded under the identity of the call. Every
pass raises it as the same error, which names the call: if it is not caught, the attempt fails, and
the next attempt asks again.
"""

from __future__ import annotations

from json import loads
from typing import Any

from stackshift_jobs.errors import StackshiftError, from_json
from stackshift_jobs.handler.ops import Recorded, RecordedCall
from stackshift_jobs.handler.replay import Pass


def recalled(pass_: Pass, key: str) -> RecordedCall | None:
    """The record of the call `key`; None if there is none. Raises the error of a refused call."""
    known = pass_.recorded_calls.get(key)
    if known is not None and known.kind == "refused":
        raise refusal(key, read(known.body))
    return known


def granted(key: str, answer: Recorded) -> Recorded:
    """The answer to the call `key`. Raises its error if the call was refused."""
    if answer.error is not None:
        raise refusal(key, answer.error)
    return answer


def refusal(key: str, error: dict[str, Any]) -> StackshiftError:
    """The error of the refused call `key`, from its form on the wire."""
    refused = from_json(error)
    if key:
        refused.fields["step"] = key
    return refused


def read(body: bytes | None) -> Any:
    """The value of a body, which is JSON; None if there is no body."""
    return loads(body) if body is not None else None
