"""`ctx.step.wait_for_event` and `wait_for_any`: a durable wait for the first of several events.

The daemon decides what happens to the run when the time is up: a handler that waits with
`on_timeout="fail"` or `"cancel"` does not learn of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final, Literal

from stackshift_jobs.errors import Usage
from stackshift_jobs.handler.locks import guard, inside
from stackshift_jobs.handler.ops import Ask, Park, Recorded, Steps
from stackshift_jobs.handler.outcomes import granted, read, recalled
from stackshift_jobs.handler.replay import Pass
from stackshift_jobs.values.durations import MAX_TIME_US, Duration, milliseconds
from stackshift_jobs.values.limits import MAX_EVENTS, ON_TIMEOUT
from stackshift_jobs.values.names import RESERVED, check_key, check_name
from stackshift_jobs.values.payload_types import check_type, convert
from stackshift_jobs.values.stored import Event

OnTimeout = Literal["fail", "continue", "cancel"]
WhenParentEnds = Literal["cancel", "leave"]
SOME_DAY_US: Final = MAX_TIME_US
"""When a wait without a timeout is due: the event need not come soon, so the pass is not kept in
memory for it."""


def terms(
    events: Iterable[tuple[str, str | None]], timeout: Duration | None, on_timeout: OnTimeout
) -> dict[str, Any]:
    """The params of a wait. Raises `Usage` for an invalid name, key, number of events or option."""
    wanted = [
        [check_name(name, "event"), "" if key is None else check_key(key, "a correlation key")]
        for name, key in events
    ]
    if not 1 <= len(wanted) <= MAX_EVENTS:
        raise Usage(f"cannot wait for {len(wanted)} events", hint=f"use 1 to {MAX_EVENTS}")
    if on_timeout not in ON_TIMEOUT:
        raise Usage(
            f"on_timeout cannot be {on_timeout!r}", hint=f"use one of {', '.join(ON_TIMEOUT)}"
        )
    timeout_ms = None if timeout is None else milliseconds(timeout, "the timeout of a wait")
    return {"events": wanted, "timeout_ms": timeout_ms, "on_timeout": on_timeout}


def name_of(event: str, name: str | None) -> str:
    """The name of a wait: `name`, else the event's. Raises `Usage` if that cannot name a step."""
    if name is None and isinstance(event, str) and not RESERVED.isdisjoint(event):
        raise Usage(
            f"{event!r} is not a valid step name",
            hint="give the wait a name without # [ ] =: name=...",
        )
    return event if name is None else name


def wait_for_event(pass_: Pass, key: str, params: dict[str, Any], returns: Any = None) -> Steps:
    """Wait for the first of the events, or take one that was kept; returns an `Event`, which is
    falsy if the time was up first. Its payload is of the type `returns`.

    Raises `PayloadRefused` for a payload that does not fit, `Usage` for an invalid type."""
    check_type(returns)
    known = recalled(pass_, key)
    if known is None:
        if inside.get():
            yield from guard(pass_, key)
        answer: Recorded = yield Ask(key, "event.wait", pass_.encode(params))
        granted(key, answer)
        known = yield Park(key, answer.due_us or SOME_DAY_US)
    elif known.phase != "completed":
        known = yield Park(key, known.due_us or SOME_DAY_US)
    return _event(key, read(known.body), params["events"], returns)


def _event(key: str, body: dict[str, Any], events: list[list[str]], returns: Any) -> Event:
    if body["timed_out"]:
        return Event(events[0][0] if len(events) == 1 else "", timed_out=True)
    what = f"the payload of event {body['name']!r} (wait {key!r})"
    return Event(
        name=body["name"],
        payload=convert(body["payload"], returns, what),
        correlation_key=body["correlation_key"] or None,
        id=body["id"],
        received_at=datetime.fromisoformat(body["received_at"]),
    )
