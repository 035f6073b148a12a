"""Decisions about events: which runs one resumes, what a wait receives, what a timeout does.

An event and the ends of all waits for it are one append, and so are a wait and the kept event that
it consumes: no event is lost, and none is consumed twice.
"""

from __future__ import annotations

from typing import Final

from msgspec import Raw
from msgspec.json import decode

from stackshift_jobs.errors import Conflict, PayloadRefused
from stackshift_jobs.values.durations import from_rfc3339, rfc3339
from stackshift_jobs.values.limits import EVENT_TTL_MS
from stackshift_jobs.values.strict_json import difference
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.decide.ends import cancel, end_wait, fail_wait
from stackshiftd.core.decide.replies import Asker
from stackshiftd.core.effects import Acknowledge, Decision, Effect, Resolve
from stackshiftd.core.state.events import (
    EventJson,
    Kept,
    SentKey,
    address_of,
    sent_again_json,
    sent_json,
)
from stackshiftd.core.state.state import Call, Run, State

MAX_RESUMED_BYTES: Final = 256 << 20
"""The payload is recorded once for each wait that an event ends; this bounds their total in one
append."""


def send(state: State, who: Asker, command: c.SendEvent, now_us: int) -> Decision:
    """End every wait for the event; if there is none, keep it. An event whose idempotency key was
    used before is the same event; if its content differs, it is refused with `Conflict`."""
    sent = state.events.owner(command.key, now_us) if command.key is not None else None
    if sent is not None and sent.digest != command.digest:
        return who.refuse(_conflict(command, sent))
    if sent is not None:
        return who.answer_read(sent_again_json(sent, state.events.kept.get(sent.event), now_us))
    address = address_of(command.name, command.correlation_key)
    event = Kept(command.event, 0, address, command.payload, now_us, 0, command.key)
    ended, effects = _deliver(state, event, now_us)
    kept = not ended and command.ttl_ms > 0
    if len(ended) * len(command.payload) > MAX_RESUMED_BYTES:
        return who.refuse(_too_large(len(ended), len(command.payload)))
    received = r.EventReceived(
        event=command.event,
        name=command.name,
        payload=Raw(command.payload),
        correlation_key=command.correlation_key,
        kept_until=rfc3339(now_us + command.ttl_ms * 1000) if kept else None,
        resumed=_runs_of(ended),
        key=command.key,
        key_ttl_ms=command.key_ttl_ms if command.key is not None else 0,
        digest=command.digest,
        run=who.id,
        attempt=who.attempt,
        step=who.step,
    )
    return who.answer(sent_json(received), (received, *ended), tuple(effects))


def _deliver(state: State, event: Kept, now_us: int) -> tuple[list[r.AnyRecord], list[Effect]]:
    """End all waits for the event."""
    waiting = [
        (state.runs[run_id], name)
        for run_id, name in state.events.listening.get(event.address, ())
        # One that has timed out is about to be recorded as that by its timer.
        if not 0 < state.runs[run_id].calls[name].due_us <= now_us
    ]
    ended: list[r.AnyRecord] = []
    effects: list[Effect] = []
    for run, name in waiting:
        wait_end = end_wait(run, _gets(run, name, event, shared=len(waiting) > 1))
        ended.extend(wait_end.records)
        effects.extend(wait_end.effects)
    return ended, effects


def _runs_of(ended: list[r.AnyRecord]) -> list[str]:
    return list(dict.fromkeys(end.run for end in ended if isinstance(end, r.WaitEnded)))


def give_back(
    state: State, run: Run, call: Call, withdrawn: r.CallWithdrawn, body: bytes, now_us: int
) -> Decision:
    """Withdraw a call that has received the event `body` (as a handler gets it), which the handler
    has not seen: the event ends the waits for it, or is kept again. One that others have received
    too is not given back."""
    got = decode(body, type=EventJson)
    if got.id is None or got.shared:
        return Decision((withdrawn,))
    address = address_of(got.name, got.correlation_key or "")
    at_us = from_rfc3339(got.received_at or "")
    event = Kept(got.id, call.seq, address, bytes(got.payload), at_us, 0, None)
    ended, effects = _deliver(state, event, now_us)
    returned = r.EventReturned(
        event.id,
        event.name,
        got.payload,
        run.id,
        withdrawn.step,
        got.received_at or "",
        call.seq,
        event.correlation_key,
        None if ended else rfc3339(now_us + EVENT_TTL_MS * 1000),
        _runs_of(ended),
    )
    return Decision((withdrawn, returned, *ended), tuple(effects))


def _too_large(runs: int, size: int) -> PayloadRefused:
    return PayloadRefused(
        f"the event would end {runs} waits with a payload of {size} bytes each; the limit is "
        f"{MAX_RESUMED_BYTES} bytes in total",
        hint="store the payload in state, and send its key",
        path="$",
    )


def _conflict(command: c.SendEvent, sent: SentKey) -> Conflict:
    lines: list[str] = []
    if sent.name != command.name:
        lines.append(f"name: {sent.name} → {command.name}")
    if sent.correlation_key != command.correlation_key:
        before, now = sent.correlation_key or "none", command.correlation_key or "none"
        lines.append(f"correlation key: {before} → {now}")
    if sent.payload:
        lines += difference(decode(sent.payload), decode(command.payload))
    return Conflict(
        f"idempotency key {command.key!r} belongs to {sent.event}, a different event",
        hint="use another key",
        owner=sent.event,
        difference=lines,
    )


def await_event(state: State, run: Run, command: c.AwaitEvent, now_us: int) -> Decision:
    """Wait for the first of several events; an event that is kept already ends the wait at once."""
    due_us = now_us + command.timeout_ms * 1000 if command.timeout_ms is not None else 0
    waits = r.WaitStarted(
        run.id,
        run.attempt,
        command.step,
        "event",
        rfc3339(due_us) if due_us else None,
        events=command.events,
        on_timeout=command.on_timeout,
    )
    addresses = [address_of(name, key) for name, key in command.events]
    event = state.events.oldest(addresses, now_us)
    if event is None:
        return Decision((waits,), (Acknowledge(command.call, due_us),))
    resolve = Resolve(run.id, command.token, command.step)
    return Decision((waits, _gets(run, command.step, event)), (Acknowledge(command.call), resolve))


def _gets(run: Run, step: str, event: Kept, *, shared: bool = False) -> r.WaitEnded:
    return r.WaitEnded(
        run.id,
        step,
        result=Raw(event.payload),
        event=event.id,
        name=event.name,
        correlation_key=event.correlation_key,
        received_at=rfc3339(event.at_us),
        shared=shared,
    )


def expire(state: State, event_id: str) -> Decision:
    """Expire a kept event: no wait consumed it in time."""
    event = state.events.kept[event_id]
    return Decision((r.EventExpired(event.id, event.name, event.correlation_key),))


def wait_is_over(state: State, run: Run, name: str, now_us: int) -> Decision:
    """Time out a wait: the run continues, fails or is cancelled, as the wait's terms say."""
    terms = run.calls[name].wait
    assert terms is not None
    first, key = terms.events[0]
    ended = r.WaitEnded(run.id, name, "timed_out", name=first, correlation_key=key)
    if terms.on_timeout == "continue":
        return end_wait(run, ended)
    if terms.on_timeout == "cancel":
        cancelled = cancel(state, (run,), "timeout", now_us, before=1)
        return Decision((ended, *cancelled.records), cancelled.effects)
    return fail_wait(state, run, name, ended, _timeout_text(terms.events), now_us)


def _timeout_text(events: list[tuple[str, str]]) -> str:
    names = " or ".join(f"{name} [{key}]" if key else name for name, key in events)
    return f"no event arrived in time: {names}"
