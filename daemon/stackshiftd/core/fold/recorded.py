"""What a run remembers of the calls of its handler."""

from __future__ import annotations

from msgspec import Raw

from stackshift_jobs.values.strict_json import json_size
from stackshiftd.core import records as r
from stackshiftd.core.state.state import Body, Call, CallKind, Phase, Run, Spilled, State


def keep(state: State, raw: Raw, seq: int) -> Body:
    """What memory keeps of a JSON body: a copy, or the record that contains it if it is large."""
    copy = bytes(raw)
    return copy if len(copy) <= state.spill_bytes else Spilled(seq, json_size(copy))


def size(body: Body | None) -> int:
    """The size of a body as limits count it."""
    if type(body) is bytes:
        return json_size(body)
    return 0 if body is None else body.size  # type: ignore[union-attr]


def keep_noted(state: State, run: Run, raw: Raw, seq: int) -> Body:
    """What `keep` says, for a body by which the run has progressed, and which counts towards its
    limit. (`keep` and `note` in one: every step comes here.)"""
    copy = bytes(raw)
    size = len(copy) if b"\\u" not in copy else json_size(copy)
    run.progressed = True
    run.bytes_recorded += size
    return copy if len(copy) <= state.spill_bytes else Spilled(seq, size)


def note(run: Run, body: Body | None) -> None:
    """Note that the run has progressed, and count `body` towards its limit."""
    run.progressed = True
    if body is not None:
        run.bytes_recorded += size(body)


def remember(state: State, run_id: str | None, step: str, entry: r.Entry, body: bytes) -> None:
    """Remember `body` as the answer to a handler's call `step`. Does nothing for a client or for
    the function of a step, which have no such call."""
    if run_id is None or not step:
        return
    run = state.runs[run_id]
    kept = keep(state, Raw(body), entry.seq)
    run.calls[step] = Call(CallKind.VALUE, Phase.COMPLETED, entry.seq, kept, at_us=entry.at_us)
    note(run, kept)
