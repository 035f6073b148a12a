"""What a call on `ctx` was answered with, now or on an earlier pass: its record, or a refusal.

A refusal is the daemon's, and may stand under the identity of any call. It is raised as the error
that it was on the first pass, and knows its call: not caught, it fails the attempt, and the next
attempt asks anew.
"""

from __future__ import annotations

import json
from typing import Any

from stackshift_jobs.errors import StackshiftError, from_json
from stackshift_jobs.handler.ops import Recorded, RecordedCall
from stackshift_jobs.handler.replay import Pass


def recalled(pass_: Pass, key: str) -> RecordedCall | None:
    """What is on record of the call `key`. Raises the error that it was refused with."""
    known = pass_.recorded_calls.get(key)
    if known is not None and known.kind == "refused":
        raise refusal(key, read(known.body))
    return known


def granted(key: str, answer: Recorded) -> Recorded:
    """The answer to the call `key`. Raises the error that it is refused with."""
    if answer.error is not None:
        raise refusal(key, answer.error)
    return answer


def refusal(key: str, error: dict[str, Any]) -> StackshiftError:
    """The error of a refused call."""
    refused = from_json(error)
    if key:
        refused.fields["step"] = key
    return refused


def read(body: bytes | None) -> Any:
    """The value of a body: JSON, or none."""
    return json.loads(body) if body is not None else None
