"""Follow-ups: the run that a run starts by its end, if its job has `on_failure` or `on_success`.

Its `run.created` is part of the append that ends the run, so it is started exactly once, whatever
is killed; and once more if the run is retried and ends so again. It has no follow-ups itself, so
there are no loops. It waits for a job that no worker has, as every run does.
"""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any, Final

from msgspec import Raw

from stackshift_jobs.errors import PayloadRefused
from stackshift_jobs.values.durations import rfc3339
from stackshift_jobs.values.strict_json import loads
from stackshiftd.core import records as r
from stackshiftd.core.state.state import SPILL_BYTES, Body, Run, State

MOST_TEXT: Final = 4096
"""Characters of an error's message, and of the end of its traceback, in the payload."""
_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base 32, as in every id (`shell.ids`)."""


def follow_up(
    state: State, run: Run, status: str, result: Raw, error: r.Error | None, now_us: int
) -> r.RunCreated | None:
    """The run that `run` starts by ending with `status`; None if it starts none."""
    terms = {"completed": run.on_success, "failed": run.on_failure}.get(status)
    if terms is None:
        return None
    return r.RunCreated(
        run=derived_id(f"{run.id} {state.seq}", now_us),
        job=terms.job,
        queue=terms.queue,
        payload=Raw(_payload(run, status, bytes(result), error, now_us)),
        retry=terms.retry,
        limits=run.limits,
        timeout_ms=terms.timeout_ms,
        priority=terms.priority,
        parent=run.id,
        expires_at=rfc3339(now_us + terms.ttl_ms * 1000) if terms.ttl_ms else None,
        deadline_at=rfc3339(now_us + terms.deadline_ms * 1000) if terms.deadline_ms else None,
    )


def derived_id(origin: str, now_us: int) -> str:
    """An id like any other (a ULID), made of what is known here. `origin` is why there is a run,
    and the place in the journal: a run ends at most once at one place."""
    chance = int.from_bytes(sha256(origin.encode("utf-8", "surrogatepass")).digest()[:10], "big")
    ulid = (now_us // 1000) << 80 | chance
    return "run_" + "".join(_ALPHABET[ulid >> shift & 31] for shift in range(125, -1, -5))


def _payload(run: Run, status: str, result: bytes, error: r.Error | None, now_us: int) -> bytes:
    """The part of the run object that its follow-up is given, as ASCII JSON:

        {"id":"run_…","job":"resize","queue":"media","status":"failed","attempt":3,"payload":{…},
         "result":null,"error":{…},"labels":{},"created_at":"…Z","finished_at":"…Z","omitted":[]}

    A payload or a result that is too large, or nested too deeply, is null and named in `omitted`.
    """
    bodies = {"payload": _body(run.payload), "result": _body(result)}
    omitted = [name for name, body in bodies.items() if body is None]
    fields: dict[str, Any] = {
        "id": run.id,
        "job": run.job,
        "queue": run.queue,
        "status": status,
        "attempt": run.attempt,
        **bodies,
        "error": shown_error(error),
        "labels": run.labels,
        "created_at": rfc3339(run.created_us),
        "finished_at": rfc3339(now_us),
        "omitted": omitted,
    }
    texts = (
        f'"{name}":'
        + (value.decode() if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")))
        for name, value in fields.items()
    )
    return f"{{{','.join(texts)}}}".encode("ascii")


def _body(body: Body) -> bytes | None:
    """The JSON text of a body, if it is at hand, small, and not too deep for one level more."""
    if not isinstance(body, bytes) or len(body) > SPILL_BYTES:
        return None
    try:
        loads(b"[" + body + b"]")
    except PayloadRefused:
        return None
    return body


def shown_error(error: r.Error | None) -> dict[str, Any] | None:
    """The error as a run object has it, bounded."""
    if error is None:
        return None
    shown: dict[str, Any] = {
        "type": error.type,
        "message": error.message[:MOST_TEXT],
        "traceback": error.traceback[-MOST_TEXT:],
    }
    return shown if error.exit_code is None else {**shown, "exit_code": error.exit_code}
