"""`assert_replays`: does a handler, on every pass that a crash could cause, do what is on record?

The record of a run is cut after each of its entries while it was executing, and the handler makes a
pass over what is left (`worker.rehearsal`), which must ask for what the record has next. Nothing is
claimed where what comes next is not the handler's doing: a wait that ends, a worker that is lost.
Nor about passes while the run was suspended: no worker would make them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final, NamedTuple

from stackshift_jobs.errors import error_text
from stackshift_jobs.registry import Job
from stackshiftd.core import records as r
from stackshiftd.core.fold.fold import rebuilt
from stackshiftd.core.records import Entry
from stackshiftd.core.state.state import Body, Phase, Run
from stackshiftd.shell.workers import orders
from stackshiftd.worker.frames import Execute, Recall
from stackshiftd.worker.rehearsal import CHECK, RELEASE, Asked, Rehearsal, rehearse

_NAMES: Final = {
    "run": "step",
    "value": "value",
    "sleep": "sleep",
    "start": "the start of run",
    "child": "the wait for run",
    "event": "the wait for event",
    "lock": "lock",
    RELEASE: "the release of lock",
    CHECK: "the check of a lock before",
}
"""How messages write the kinds of calls."""
MAX_SHOWN: Final = 200
"""Characters of a result that a message shows."""


class Cut(NamedTuple):
    """A place at which the record is cut: `after` is the last record that is left, `following` are
    those behind it; `execute` and `recalls` would start a pass there. `pending` are the calls that
    have no outcome there, and `began` is the sequence number at which the attempt started."""

    after: r.AnyRecord
    following: list[r.AnyRecord]
    execute: Execute
    recalls: list[Recall]
    pending: frozenset[str]
    began: int


def difference(job: Job, entries: list[Entry], seconds: float) -> str | None:
    """How the handler of `job` departs from the record of a run, in one sentence; None if it does
    not. `entries` are those of the run, `seconds` the real time for each pass."""
    kinds = _kinds(entries)
    for cut in _cuts(entries):
        did = rehearse(job, cut.execute, cut.recalls, seconds=seconds)
        found = _stopped(did, seconds) or _departure(cut, did, kinds)
        if found is not None:
            return f"after {_record(cut.after)} the handler {found}"
    return None


# --- The record ----------------------------------------------------------------------------


def _cuts(entries: list[Entry]) -> Iterator[Cut]:
    began = 0
    for number, (entry, run) in enumerate(zip(entries, rebuilt(entries), strict=True), 1):
        if isinstance(entry.record, r.AttemptStarted):
            began = entry.seq
        # To undo what was done, a pass goes over the record only: what follows is not its doing.
        if run.token and not run.finished and run.undoing is None:
            following = [each.record for each in entries[number:]]
            yield Cut(
                entry.record,
                following,
                orders.execute(run, _text),
                orders.recalls(run, _text),
                _pending(run),
                began,
            )


def _text(body: Body) -> bytes:
    assert isinstance(body, bytes), "a run that is rebuilt has its bodies in memory"
    return body


def _pending(run: Run) -> frozenset[str]:
    return frozenset(name for name, call in run.calls.items() if call.phase is Phase.WAITING)


def _kinds(entries: list[Entry]) -> dict[str, set[str]]:
    """The kinds of the calls that a run has made, by identity; a kind is empty if the record does
    not say it."""
    kinds: dict[str, set[str]] = {}
    for entry in entries:
        if (call := _call(entry.record)) is not None:
            kinds.setdefault(call.step, set()).add(call.kind)
    return kinds


def _call(record: r.AnyRecord) -> Asked | None:
    """The call of the handler that a record answers, or begins; None if it is no such record."""
    match record:
        case r.StepCompleted() | r.StepFailed():
            return Asked(record.step, "run", record.input)
        case r.StepStarted():
            return Asked(record.step, "run")
        case r.WaitStarted():
            return Asked(record.step, record.wait)
        case r.ChildStarted():
            return Asked(record.step, "start")
        case r.LockAcquired():
            return Asked(record.step, "lock")
        case r.LockReleased() if record.reason in ("left", "raised"):
            return Asked(record.step, RELEASE)
        case r.CallRefused() | r.CallWithdrawn():
            return Asked(record.step, "")
        case r.ValueRecorded():
            return Asked(record.step, "value")
        case (
            r.StateSet() | r.StateDeleted() | r.LockExtended() | r.EventReceived() | r.RunLabelled()
        ):
            return Asked(record.step, "value") if record.step else None
    return None


_ASIDE: Final = (
    r.ProgressReported,
    r.StepStarted,
    r.CallWithdrawn,
    r.EventReturned,
)
"""Records that say nothing of what a pass at the place before them asks for: what it has begun, or
what it has given up."""


_OUTCOMES: Final = (r.WaitEnded, r.LockAcquired)
"""Records of outcomes that can come while a run executes, and that a pass may not have seen."""


def _next(cut: Cut) -> r.AnyRecord | None:
    """The first of the following records that is the handler's doing; None if something else comes
    first, or nothing at all."""
    for record in cut.following:
        if isinstance(record, _ASIDE) or _is_of_a_function(record):
            continue
        return record if _is_the_handlers(cut, record) else None
    return None


def _is_of_a_function(record: r.AnyRecord) -> bool:
    """Did the function of a step do this itself?"""
    acts = (r.StateSet, r.StateDeleted, r.LockExtended, r.EventReceived, r.RunLabelled)
    return isinstance(record, acts) and not record.step


def _is_the_handlers(cut: Cut, record: r.AnyRecord) -> bool:
    match record:
        case r.LockAcquired():
            return record.step not in cut.pending
        case r.AttemptFailed():
            return record.stopped
        case r.AttemptSuspended() | r.RunCompleted():
            return True
    return _call(record) is not None


# --- The pass ------------------------------------------------------------------------------


def _stopped(did: Rehearsal, seconds: float) -> str | None:
    return f"came to no end within {seconds:g} s of real time" if did.stopped else None


def _departure(cut: Cut, did: Rehearsal, kinds: dict[str, set[str]]) -> str | None:
    """How the pass that the handler `did` departs from what follows the cut; None if it does
    not."""
    following = _next(cut)
    if following is None:
        return None
    if isinstance(following, r.AttemptSuspended) and isinstance(cut.after, _OUTCOMES):
        return None  # It may have come when the worker had dropped the pass already.
    expected = _call(following)
    if expected is not None:
        found = _other_call(cut, did, expected)
    elif isinstance(following, r.AttemptFailed):
        found = _other_error(did, following)
    elif isinstance(following, r.RunCompleted):
        found = _other_result(did, following)
    else:
        found = None if did.waits else f"{_doing(did)}; on record is that it waits"
    return found or _never_recorded(cut, did, kinds) or _left_out(cut, did)


def _other_call(cut: Cut, did: Rehearsal, expected: Asked) -> str | None:
    same = [asked for asked in did.asked if asked.step == expected.step]
    kinds = {expected.kind, CHECK} if expected.kind != RELEASE else {RELEASE}
    if not same:
        late = any(
            isinstance(record, r.CallWithdrawn) and record.step == expected.step
            for record in cut.following
        )
        # One that is given up, but was under way, may be recorded after what made it obsolete.
        if late or expected.step in did.timers or expected.step in did.given_up:
            return None
        return f"{_doing(did)}; on record is {expected.step!r}"
    if expected.kind and not any(asked.kind in kinds for asked in same):
        return f"{_doing(did)}; on record is {_written(expected)}"
    if any(asked.input and expected.input not in ("", asked.input) for asked in same):
        return f"asked for {_written(expected)} with another item than the one on record"
    return None


def _other_error(did: Rehearsal, failed: r.AttemptFailed) -> str | None:
    error = did.error
    if error is not None and (error.type, error.message) == (
        failed.error.type,
        failed.error.message,
    ):
        return None
    return f"{_doing(did)}; on record is that it raised {_error(failed.error)}"


def _other_result(did: Rehearsal, completed: r.RunCompleted) -> str | None:
    if did.result is not None and json.loads(did.result) == json.loads(bytes(completed.result)):
        return None
    return f"{_doing(did)}; on record is that it returned {_json(bytes(completed.result))}"


def _never_recorded(cut: Cut, did: Rehearsal, kinds: dict[str, set[str]]) -> str | None:
    """A call that is nowhere on record, although the attempt did not fail with it under way."""
    if any(isinstance(record, r.AttemptFailed | r.RunCancelled) for record in cut.following):
        return None
    for asked in did.asked:
        if asked.kind not in (CHECK, RELEASE) and asked.step not in kinds:
            return f"asked for {_written(asked)}, which is nowhere on record"
    return None


def _left_out(cut: Cut, did: Rehearsal) -> str | None:
    """A call that this attempt has recorded, and this pass did not make."""
    recorded = {recall.step for recall in cut.recalls if recall.seq > cut.began}
    left_out = [step for step in did.unasked if step in recorded]
    return f"did not ask for {left_out[0]!r}, which is on record" if left_out else None


# --- Words ---------------------------------------------------------------------------------


def _record(record: r.AnyRecord) -> str:
    """`step.completed create-user`"""
    step = getattr(record, "step", "")
    return f"{record.__struct_config__.tag} {step}".rstrip()


def _doing(did: Rehearsal) -> str:
    if did.error is not None:
        return f"raised {_error(did.error)}"
    if did.result is not None:
        return f"returned {_json(did.result)}"
    if did.asked:
        return "asked for " + " and ".join(map(_written, did.asked))
    return "asked for nothing and waits"


def _written(asked: Asked) -> str:
    """`step 'create-user'`"""
    return f"{_NAMES.get(asked.kind, 'call')} {asked.step!r}"


def _error(error: r.Error) -> str:
    return error_text(error.type, error.message)


def _json(text: bytes) -> str:
    shown = text.decode()
    return shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}…"
