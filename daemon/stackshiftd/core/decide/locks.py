"""What is decided about locks: who gets one, and what becomes of it when it is let go.

See `release` for how one is let go of.
"""

from __future__ import annotations

from typing import Final

from msgspec.json import decode

from stackshift_jobs.errors import LockHeld, LockLost, NotFound, Usage
from stackshift_jobs.values.durations import rfc3339
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.decide.ends import end_wait
from stackshiftd.core.decide.lock_release import LockRelease
from stackshiftd.core.decide.replies import Asker, encode, refusal_json
from stackshiftd.core.effects import (
    NOTHING,
    Acknowledge,
    Decision,
    Queued,
)
from stackshiftd.core.state.locks import Holding, Lock, place_of, token_json
from stackshiftd.core.state.state import Run, State

EMPTY: Final = Lock()
"""One that nobody holds or waits for."""


def acquire(state: State, who: Asker, command: c.AcquireLock, now_us: int) -> Decision:
    """Hold the lock, or stand in its line. Refuses with `LockHeld` who will not wait."""
    if (
        who.run is not None
        and (mistake := _acquired_twice(state, who.run, command.key)) is not None
    ):
        return who.refused(mistake)
    lock = state.locks.get(command.key, EMPTY)
    release = LockRelease(state, now_us)
    if lock.holding is not None and lock.held(now_us) is None:
        release.release(command.key, "expired")
    given = any(isinstance(each, r.LockAcquired) for each in release.records)
    holding = lock.held(now_us)
    if who.run is None and holding is not None and holding.asker == command.asker:
        return who.told(token_json(command.key, holding.token, holding.expires_us))
    if who.run is None and command.asker in lock.line:
        return Decision(reply=Queued(command.asker))
    if holding is None and not given and lock.next(now_us) is None:
        return _acquire(state, who, command, release, now_us)
    if command.wait_ms == 0:
        return _refuse(who, command, lock, release, now_us)
    return _join_line(who, command, lock, release, now_us)


def _acquire(
    state: State, who: Asker, command: c.AcquireLock, release: LockRelease, now_us: int
) -> Decision:
    expires_us = now_us + command.ttl_ms * 1000 if command.ttl_ms else 0
    acquired = r.LockAcquired(
        command.key,
        rfc3339(expires_us) if expires_us else None,
        who.id,
        who.attempt,
        who.step,
        command.asker,
        command.holder,
    )
    records = (*release.records, acquired)
    body = token_json(command.key, state.seq + len(records), expires_us)
    return who.told(body, records, tuple(release.effects))


def _refuse(
    who: Asker, command: c.AcquireLock, lock: Lock, release: LockRelease, now_us: int
) -> Decision:
    error = held_error(command.key, lock, now_us)
    if who.run is None and release.records:
        # A refusal that is raised has no records: what has run out does so by its timer.
        raise error
    return who.refused(error, tuple(release.records), tuple(release.effects))


def _join_line(
    who: Asker, command: c.AcquireLock, lock: Lock, release: LockRelease, now_us: int
) -> Decision:
    records, effects = tuple(release.records), tuple(release.effects)
    if who.run is None:
        asked = r.LockRequested(command.key, command.asker, command.ttl_ms, command.holder)
        return Decision((*records, asked), effects, Queued(command.asker))
    due_us = now_us + command.wait_ms * 1000 if command.wait_ms is not None else 0
    waits = r.WaitStarted(
        who.run.id,
        who.attempt,
        who.step,
        "lock",
        rfc3339(due_us) if due_us else None,
        lock=command.key,
        ttl_ms=command.ttl_ms,
    )
    return Decision((*records, waits), (Acknowledge(who.call, due_us), *effects))


def _acquired_twice(state: State, run: Run, key: str) -> Usage | None:
    """A run that waited for a lock which it holds would wait for ever."""
    lock = state.locks.get(key, EMPTY)
    if key not in run.locks and place_of(run.id) not in lock.line:
        return None
    return Usage(
        f"this run has lock {key!r} already, or waits for it",
        hint="take it once, around all that needs it",
    )


def held_error(key: str, lock: Lock, now_us: int) -> LockHeld:
    """What somebody is told who does not get the lock."""
    holding = lock.held(now_us)
    if holding is None:
        return LockHeld(f"lock {key!r} is about to be given to another", owner=None, key=key)
    until = rfc3339(holding.expires_us) if holding.expires_us else None
    told = f"lock {key!r} is held by {holding.run or holding.holder or 'a client'}"
    return LockHeld(
        told + (f" until {until[:19]}Z" if until else ""),
        hint=f"stackshift runs why {holding.run}" if holding.run else "wait for it: --wait 1m",
        key=key,
        owner=holding.run or None,
        holder=holding.holder,
        expires_at=until,
    )


def wait_is_over(state: State, run: Run, name: str, now_us: int) -> Decision:
    """The time of a call that waits for a lock has passed: it is refused."""
    terms = run.calls[name].wait
    assert terms is not None
    lock = state.locks.get(terms.lock, EMPTY)
    refusal = refusal_json(held_error(terms.lock, lock, now_us))
    return end_wait(state, run, r.WaitEnded(run.id, name, "timed_out", refusal))


# --- Holding -------------------------------------------------------------------------------


def extend(state: State, who: Asker, command: c.ExtendLock, now_us: int) -> Decision:
    """Hold it until `ttl_ms` from now. A handler that has it no more is refused with `LockLost`, a
    client with `NotFound` or `LockHeld`."""
    lock = state.locks.get(command.key, EMPTY)
    if who.run is None:
        holding = _clients(command.key, lock, command.lock_token, now_us)
    elif (found := lock.held(now_us)) is not None and found.run == who.run.id:
        holding = found
    else:
        return who.refused(_lost(command.key))
    expires_us = now_us + command.ttl_ms * 1000
    record = r.LockExtended(command.key, rfc3339(expires_us), who.id, who.attempt, who.step)
    return who.told(token_json(command.key, holding.token, expires_us), (record,))


def release(state: State, who: Asker, command: c.ReleaseLock, now_us: int) -> Decision:
    """Let it go. For a handler, whether it still had it: `{"held":…}`; a client is refused as by
    `extend`."""
    release = LockRelease(state, now_us)
    if who.run is None:
        lock = state.locks.get(command.key, EMPTY)
        holding = _clients(command.key, lock, command.lock_token, now_us)
        release.release(command.key, "client")
        body = encode({"key": command.key, "token": holding.token})
        return who.told(body, tuple(release.records), tuple(release.effects))
    key = _held_by(state, who.run, command.lock)
    if key is None:
        return who.told(b'{"held":false}')
    # That it ran out is on record before the handler knows: a later pass is told the same.
    held = state.locks[key].held(now_us) is not None
    release.release(key, ("raised" if command.raised else "left") if held else "expired")
    body = b'{"held":true}' if held else b'{"held":false}'
    return who.told(body, tuple(release.records), tuple(release.effects))


def check(state: State, run: Run, command: c.CheckLock, now_us: int) -> Decision:
    """Whether the run still holds what it acquired by the call `lock`; if not, the call `step` that
    it is about to make is refused with `LockLost`."""
    who = Asker(run, command.call, command.step)
    key = _held_by(state, run, command.lock)
    if key is not None and state.locks[key].held(now_us) is not None:
        return who.told(b"true")
    release = LockRelease(state, now_us)
    if key is not None:
        release.release(key, "expired")
    acquired = run.calls.get(command.lock)
    error = _lost(key or _key_of(run, command.lock), acquired.due_us if acquired is not None else 0)
    return who.refused(error, tuple(release.records), tuple(release.effects))


def withdraw(state: State, command: c.WithdrawLock, now_us: int) -> Decision:
    """A client waits no more."""
    lock = state.locks.get(command.key, EMPTY)
    if command.asker not in lock.line:
        return NOTHING
    return Decision((r.LockWithdrawn(command.key, command.asker),))


def expire(state: State, key: str, now_us: int) -> Decision:
    """The time of the holder has passed."""
    release = LockRelease(state, now_us)
    release.release(key, "expired")
    return Decision(tuple(release.records), tuple(release.effects))


def _lost(key: str, due_us: int = 0) -> LockLost:
    """`due_us`: when its time had passed, as far as is known."""
    when = f" at {rfc3339(due_us)[:19]}Z," if due_us else ""
    return LockLost(
        f"lock {key!r} ran out{when} before this call",
        key=key,
        hint="give it a longer ttl, or extend it: lock.extend(...)",
    )


def _clients(key: str, lock: Lock, token: int, now_us: int) -> Holding:
    """The holding of the client that knows its token."""
    holding = lock.held(now_us)
    if holding is None:
        raise NotFound(f"nobody holds lock {key!r}", key=key)
    if holding.run or holding.token != token:
        raise held_error(key, lock, now_us)
    return holding


def _key_of(run: Run, step: str) -> str:
    """The key of the lock that the call `step` once took."""
    found = run.calls.get(step)
    if found is None or not isinstance(found.body, bytes):
        return step
    return str(decode(found.body).get("key", step))


def _held_by(state: State, run: Run, step: str) -> str | None:
    """The key of the lock that the run holds by its call `step`."""
    for key in run.locks:
        holding = state.locks[key].holding
        if holding is not None and holding.run == run.id and holding.step == step:
            return key
    return None
