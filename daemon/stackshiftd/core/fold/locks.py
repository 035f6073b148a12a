"""The fold of `lock.*`: how records acquire and release locks, and who waits in line.

A run's record is also folded where the lock itself is not known (when a run is rebuilt from its own
records, or a snapshot is read): then it changes the run alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from stackshift_jobs.values.durations import from_rfc3339
from stackshiftd.core import records as r
from stackshiftd.core.fold.recorded import note, remember
from stackshiftd.core.fold.transitions import wake
from stackshiftd.core.state.expiry import LOCK
from stackshiftd.core.state.locks import Holding, Lock, Waiting, place_of, token_json
from stackshiftd.core.state.state import Call, CallKind, Phase, Run, State


def _lock(state: State, key: str) -> Lock:
    lock = state.locks.get(key)
    if lock is None:
        lock = state.locks[key] = Lock()
    return lock


def _settle(state: State, key: str) -> None:
    lock = state.locks[key]
    if not lock.holdings and not lock.line:
        del state.locks[key]


def join_line(state: State, run: Run, name: str) -> None:
    """Put the run, whose call `name` waits for a lock, in that lock's line."""
    step = run.calls[name]
    assert step.wait is not None
    terms = step.wait
    waiting = Waiting(step.seq, terms.ttl_ms, step.due_us, run.id, name, holders=terms.holders)
    _lock(state, step.wait.lock).line[place_of(run.id)] = waiting


def leave_line(state: State, run: Run, key: str) -> None:
    """Take the run out of the line of this lock, if it is in it."""
    lock = state.locks.get(key)
    if lock is not None and lock.line.pop(place_of(run.id), None) is not None:
        _settle(state, key)


def _requested(state: State, entry: r.Entry, record: r.LockRequested) -> None:
    waiting = Waiting(
        entry.seq,
        record.ttl_ms,
        0,
        asker=record.asker,
        holder=record.holder,
        holders=record.holders,
    )
    _lock(state, record.key).line[record.asker] = waiting


def _withdrawn(state: State, _entry: r.Entry, record: r.LockWithdrawn) -> None:
    lock = state.locks.get(record.key)
    if lock is not None and lock.line.pop(record.asker, None) is not None:
        _settle(state, record.key)


def _acquired(state: State, entry: r.Entry, record: r.LockAcquired) -> None:
    expires_us = from_rfc3339(record.expires_at) if record.expires_at else 0
    lock = _lock(state, record.key)
    holding = Holding(
        entry.seq,
        expires_us,
        entry.at_us,
        record.run or "",
        record.step,
        record.asker,
        record.holder,
        record.holders,
    )
    lock.holdings = [*lock.holdings, holding]
    if expires_us:
        state.set_expiry(expires_us, LOCK, record.key)
    if record.run is None:
        lock.line.pop(record.asker, None)
        return
    lock.line.pop(place_of(record.run), None)
    run = state.runs[record.run]
    run.locks = (*run.locks, record.key)
    body = token_json(record.key, entry.seq, expires_us)
    run.calls[record.step] = Call(
        CallKind.LOCK, Phase.COMPLETED, entry.seq, body, due_us=expires_us, at_us=entry.at_us
    )
    note(run, body)
    wake(state, run)


def _extended(state: State, entry: r.Entry, record: r.LockExtended) -> None:
    lock = _lock(state, record.key)
    expires_us = from_rfc3339(record.expires_at)
    holding = _found(lock, record)
    token = 0
    if holding is not None:
        holding.expires_us = expires_us
        token = holding.token
        state.set_expiry(expires_us, LOCK, record.key)
        _update_call(state, record.key, holding)
    remember(state, record.run, record.step, entry, token_json(record.key, token, expires_us))


def _released(state: State, entry: r.Entry, record: r.LockReleased) -> None:
    lock = state.locks.get(record.key)
    if lock is not None:
        gone = _found(lock, record)
        lock.holdings = [each for each in lock.holdings if each is not gone]
        _settle(state, record.key)
    run = state.runs.get(record.run or "")
    if run is None:
        return
    run.locks = tuple(key for key in run.locks if key != record.key)
    step = run.calls.get(record.step)
    if step is not None:
        step.phase = Phase.RELEASED if record.reason == "left" else Phase.GONE
        step.released_seq = entry.seq
        run.progressed = True


def _found(lock: Lock, record: r.LockExtended | r.LockReleased) -> Holding | None:
    """The holding that the record is about. Early journals do not name a client; then there was
    one holder."""
    if record.run is not None:
        return lock.of_run(record.run)
    return lock.of_asker(record.asker) if record.asker else lock.holding


def released_since(run: Run, seq: int) -> list[str]:
    """The lock calls whose blocks were left after the record `seq`. That record's step may have run
    inside them, so repeating it means entering them again."""
    return [name for name, step in run.calls.items() if step.released_seq > seq]


def renew(state: State, run: Run, seq: int) -> None:
    """Give the run's locks the new token `seq`, because its execution until now is over."""
    for key in run.locks:
        holding = state.locks[key].of_run(run.id)
        if holding is not None:
            holding.token = seq
            _update_call(state, key, holding)


def _update_call(state: State, key: str, holding: Holding) -> None:
    """Update the call by which a run holds the lock to its present token and expiry."""
    run = state.runs.get(holding.run)
    step = run.calls.get(holding.step) if run is not None else None
    if step is not None:
        step.body = token_json(key, holding.token, holding.expires_us)
        step.due_us = holding.expires_us


def forget_clients(state: State) -> None:
    """Remove clients from all lines: a new daemon has no connection on which one could wait."""
    for key in [key for key, lock in state.locks.items() if lock.line]:
        lock = state.locks[key]
        lock.line = {place: waiting for place, waiting in lock.line.items() if waiting.run}
        _settle(state, key)


BY_TYPE: Final[dict[type[r.Record], Callable[[State, r.Entry, Any], None]]] = {
    r.LockRequested: _requested,
    r.LockWithdrawn: _withdrawn,
    r.LockAcquired: _acquired,
    r.LockExtended: _extended,
    r.LockReleased: _released,
}
