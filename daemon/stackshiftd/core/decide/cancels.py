"""Cancelling runs at the request of a person: at once, or gently.

Gently, a handler is told, by `Cancelling` at a place in the order of its outcomes that is recorded,
and goes on: its steps are recorded as ever, so what it does to clean up survives a crash. The run
is cancelled when the handler has ended, or when its grace is over. A run that has never begun has
nothing to clean up, and is cancelled at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from msgspec import Raw

from stackshift_jobs.values.durations import rfc3339
from stackshift_jobs.values.limits import CANCEL_GRACE_MS
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.decide.ends import cancel, cancel_told, with_children
from stackshiftd.core.decide.gentle import is_untold, may_be_told, queued
from stackshiftd.core.effects import Acknowledge, Changed, Decision, Effect, Interrupt
from stackshiftd.core.state.state import Run, State, Status

_NOT_YET: Final = Raw(b"false")


def cancel_run(state: State, command: c.CancelRun, now_us: int) -> Decision:
    """Cancel the run, and those that it called. A finished or unknown run stays as it is."""
    run = state.runs.get(command.run)
    if run is None or run.finished:
        return Decision(reply=Changed(command.run, False))
    runs = list(_with_all_children(state, run)) if command.children else [run]
    if command.gently:
        return _cancel_gently(state, command, run, runs, now_us)
    decision = cancel(state, runs, "requested", now_us)
    return Decision(decision.records, decision.effects, Changed(run.id, True))


def _with_all_children(state: State, run: Run) -> Iterator[Run]:
    """The run, and before it all unfinished runs that it or one of them has started."""
    for child in list(state.runs.values()):
        if child.parent == run.id and not child.finished:
            yield from _with_all_children(state, child)
    yield run


def _cancel_gently(
    state: State, command: c.CancelRun, run: Run, runs: list[Run], now_us: int
) -> Decision:
    """Have the runs, and all that they called, told that they are to be cancelled; cancel those
    that have never begun."""
    known = run.cancelling is not None and command.grace_ms is None and not command.children
    if known or run.undoing is not None:
        return Decision(reply=Changed(run.id, False))
    grace_ms = CANCEL_GRACE_MS if command.grace_ms is None else command.grace_ms
    grace_at = rfc3339(now_us + grace_ms * 1000)
    family = {each.id: each for top in runs for each in with_children(state, top)}
    told = {name: each for name, each in family.items() if each.attempt and not each.undoing}
    records: list[r.AnyRecord] = []
    effects: list[Effect] = []
    for each in told.values():
        first = [name for name, other in told.items() if other.parent == each.id]
        reason = "requested" if each is run else "parent"
        records.append(r.CancelRequested(each.id, reason, grace_at, first))
        if each.cancelling is not None:
            continue  # It knows.
        if each.status is Status.RUNNING:
            effects.append(Interrupt(each.id, each.token))
        elif not first:
            records.extend(queued(state, each))
    never = [each for each in family.values() if not each.attempt]
    if never:
        reason = "requested" if run in never else "parent"
        over = cancel(state, never, reason, now_us, len(records), untold=frozenset(told))
        records.extend(over.records)
        effects.extend(over.effects)
    return Decision(tuple(records), tuple(effects), Changed(run.id, True))


def raise_cancel(state: State, run: Run, command: c.RaiseCancel, _now_us: int) -> Decision:
    """Record where the handler is told, or answer that others have to end before."""
    if not is_untold(run):
        return Decision((), (Acknowledge(command.call),))
    if not may_be_told(state, run):
        return Decision((), (Acknowledge(command.call, body=_NOT_YET),))
    raised = r.CancelRaised(run.id, run.attempt, command.step)
    return Decision((raised,), (Acknowledge(command.call),))


def finish_cancel(state: State, run: Run, _command: c.FinishCancel, now_us: int) -> Decision:
    """Cancel a run whose handler has ended after it was told."""
    return cancel_told(state, run, now_us)
