"""What a run remembers of the calls of its handler."""

from __future__ import annotations

from msgspec import Raw

from stackshiftd.core.state.state import Body, Call, CallKind, Phase, Run, Spilled, State


def keep(state: State, raw: Raw, seq: int) -> Body:
    """What memory keeps of a JSON body: a copy, or where it lies if it is large."""
    kept = bytes(raw)
    return kept if len(kept) <= state.spill_bytes else Spilled(seq, len(kept))


def size(kept: Body | None) -> int:
    """How many bytes of JSON it is."""
    if kept is None:
        return 0
    return len(kept) if type(kept) is bytes else kept.size  # type: ignore[union-attr]


def note(run: Run, kept: Body | None) -> None:
    """Something of the run is on record that was not before."""
    run.progressed = True
    run.bytes_recorded += size(kept)


def remember(state: State, run_id: str | None, step: str, seq: int, body: bytes) -> None:
    """The call `step` of a handler has its answer; for none (a client, a step's function) nothing
    is remembered."""
    if run_id is None or not step:
        return
    run = state.runs[run_id]
    kept = keep(state, Raw(body), seq)
    run.calls[step] = Call(CallKind.VALUE, Phase.COMPLETED, seq, kept)
    note(run, kept)
