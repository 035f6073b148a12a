"""Events over the wire: the method and params of a send, and what its result means.

The only place that knows both, for the clients and for `ctx.events`; see `calls.state`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stackshift_jobs.calls.drive import Call
from stackshift_jobs.calls.state import moment
from stackshift_jobs.errors import Usage
from stackshift_jobs.values.durations import Duration, milliseconds
from stackshift_jobs.values.names import check_key, check_name
from stackshift_jobs.values.stored import SentEvent


def send(
    name: str,
    payload: Any = None,
    *,
    correlation_key: str | None = None,
    idempotency_key: str | None = None,
    idempotency_ttl: Duration | None = None,
    ttl: Duration | None = None,
) -> Call:
    """The call that sends an event; `sent` reads its result. Without a payload it sends `{}`."""
    params: dict[str, Any] = {"name": check_name(name, "event")}
    if payload is not None:
        params["payload"] = payload
    if correlation_key is not None:
        params["correlation_key"] = check_key(correlation_key, "a correlation key")
    if idempotency_key is not None:
        params["idempotency_key"] = check_key(idempotency_key, "an idempotency key")
    if idempotency_ttl is not None:
        if idempotency_key is None:
            raise Usage("idempotency_ttl is given without an idempotency_key")
        params["idempotency_ttl_ms"] = milliseconds(idempotency_ttl, "idempotency_ttl")
    if ttl is not None:
        params["ttl_ms"] = milliseconds(ttl, "ttl")
    return "event.send", params


def sent(result: Mapping[str, Any]) -> SentEvent:
    """The result of `event.send`."""
    return SentEvent(
        id=result["id"],
        name=result["name"],
        correlation_key=result["correlation_key"],
        resumed=list(result["resumed"]),
        kept_until=moment(result["kept_until"]),
        reused=bool(result["reused"]),
    )
