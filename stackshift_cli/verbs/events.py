"""`event send|list`: send an event, and list the events that are kept.

`send` has a fast path, so this module imports nothing that costs time.
"""

from __future__ import annotations

from stackshift_cli.arguments import Given
from stackshift_cli.daemon.session import Session
from stackshift_cli.flows.start_params import NO_PAYLOAD, field_notes, payload_given
from stackshift_cli.output import messages
from stackshift_jobs.errors import Usage

TYPE_CHECKING = False  # See `stackshift_jobs.errors`: loading `typing` takes too long here.
if TYPE_CHECKING:
    from typing import Any, Final

_NAMED_RUNS: Final = 5
"""Resumed runs are named in a message up to this number; more are counted."""
_PAGE: Final = 1000


def send(session: Session, given: Given) -> int:
    """`event send NAME`: print its id (`--json`: an object with what it did), and on stderr what
    it did. The event is durable when this returns."""
    params: dict[str, Any] = {"name": given.word("name")}
    for name in ("correlation_key", "idempotency_key"):
        if (text := given.text(name)) is not None:
            params[name] = text
    for name in ("idempotency_ttl", "ttl"):
        if (ms := given.duration_ms(name)) is not None:
            params[f"{name}_ms"] = ms
    if "idempotency_ttl_ms" in params and "idempotency_key" not in params:
        raise Usage("--idempotency-ttl requires --idempotency-key")
    if (payload := payload_given(given)) is not NO_PAYLOAD:
        params["payload"] = payload
    for note in field_notes(given):
        session.say(note)
    sent = session.call("event.send", params)
    if session.json:
        messages.data(messages.compact(sent))
    else:
        messages.data(str(sent["id"]))
        session.say(_did(sent))
    return 0


def _did(sent: dict[str, Any]) -> str:
    """`resumed run_…`, `kept until …`, or that it was not kept."""
    runs = sent["resumed"]
    if len(runs) > _NAMED_RUNS:
        did = f"resumed {len(runs)} runs"
    elif runs:
        did = f"resumed {', '.join(runs)}"
    elif sent["kept_until"]:
        did = (
            f"kept until {messages.moment(sent['kept_until'])} for the first run that waits for it"
        )
    else:
        did = "no run was waiting for it, and it was not kept"
    if sent["reused"]:
        return f"reused {sent['id']}, which has this idempotency key; when it was first sent: {did}"
    return did


def list_(session: Session, given: Given) -> int:
    """`event list`: list the events that are kept, newest first."""
    from stackshift_cli.output.terminal import draws
    from stackshift_cli.render import tsv

    limit = given.whole("limit", 1, 10_000_000) or 50
    names = ("name", "correlation_key")
    params = {name: text for name in names if (text := given.text(name)) is not None}
    events, is_cut = _pages(session, params, limit)
    if session.json:
        messages.data(messages.compact(events))
    elif draws(session.options):
        from stackshift_cli.render.kept import print_events

        if events:
            print_events(session.options, events)
        else:
            session.say("no events")
    else:
        for event in events:
            messages.data(tsv.columns(event, tsv.EVENT_COLUMNS))
    if is_cut:
        session.say(f"showing the newest {limit}; use --limit N to see more")
    return 0


def _pages(
    session: Session, params: dict[str, Any], limit: int
) -> tuple[list[dict[str, Any]], bool]:
    """At most `limit` events, and whether there may be more."""
    events: list[dict[str, Any]] = []
    while True:
        left = min(limit - len(events), _PAGE)
        page = session.call("event.list", {**params, "limit": left})
        events += page["events"]
        cursor: str | None = page["cursor"]
        if cursor is None or len(events) >= limit:
            return events, cursor is not None
        params = {**params, "cursor": cursor}
