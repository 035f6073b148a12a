"""Decisions about locks: acquiring, extending, checking and releasing them, and their expiry.

`lock_release` decides who holds a lock next.
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
from stackshiftd.core.state.state import CallKind, Run, State

EMPTY: Final = Lock()
"""A lock that nobody holds or waits for."""


def acquire(state: State, who: Asker, command: c.AcquireLock, now_us: int) -> Decision:
    """Acquire the lock, or join its line. Refused with `LockHeld` if the asker does not wait, and
    with `Usage` if it is a run that already holds the lock or waits for it."""
    if (
        who.run is not None
        and (mistake := _acquired_twice(state, who.run, command.key)) is not None
    ):
        return who.refuse(mistake)
    lock = state.locks.get(command.key, EMPTY)
    release = LockRelease(state, now_us)
    release.release_expired(command.key)
    mine = lock.of_asker(command.asker) if who.run is None else None
    if mine is not None and mine in lock.live(now_us):
        return who.answer(token_json(command.key, mine.token, mine.expires_us))
    if who.run is None and command.asker in lock.line:
        return Decision(reply=Queued(command.asker))
    if release.is_free(command.key, command.holders):
        return _acquire(state, who, command, release, now_us)
    if command.wait_ms == 0:
        return _refuse(who, command, lock, release, now_us)
    return _join_line(who, command, release, now_us)


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
        command.holders,
    )
    records = (*release.records, acquired)
    body = token_json(command.key, state.seq + len(records), expires_us)
    return who.answer(body, records, tuple(release.effects))


def _refuse(
    who: Asker, command: c.AcquireLock, lock: Lock, release: LockRelease, now_us: int
) -> Decision:
    error = held_error(command.key, lock, now_us)
    if who.run is None and release.records:
        # A refusal that is raised has no records: the expiry is left to its timer.
        raise error
    return who.refuse(error, tuple(release.records), tuple(release.effects))


def _join_line(who: Asker, command: c.AcquireLock, release: LockRelease, now_us: int) -> Decision:
    records, effects = tuple(release.records), tuple(release.effects)
    if who.run is None:
        asked = r.LockRequested(
            command.key, command.asker, command.ttl_ms, command.holder, command.holders
        )
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
        holders=command.holders,
    )
    return Decision((*records, waits), (Acknowledge(who.call, due_us), *effects))


def _acquired_twice(state: State, run: Run, key: str) -> Usage | None:
    """The error of a run that already holds the lock or waits for it: another wait would never
    end. None if it does neither."""
    lock = state.locks.get(key, EMPTY)
    if key not in run.locks and place_of(run.id) not in lock.line:
        return None
    return Usage(
        f"this run already holds lock {key!r}, or waits for it",
        hint="acquire it once, around everything that needs it",
    )


def held_error(key: str, lock: Lock, now_us: int) -> LockHeld:
    """The refusal of a lock that another holder has, or is about to acquire. Of several, the one is
    named who has held it longest."""
    live = lock.live(now_us)
    holding = live[0] if live else None
    if holding is None:
        return LockHeld(
            f"lock {key!r} is about to be acquired by another holder", owner=None, key=key
        )
    until = rfc3339(holding.expires_us) if holding.expires_us else None
    text = f"lock {key!r} is held by {holding.run or holding.holder or 'a client'}"
    if len(live) > 1:
        text += f" and {len(live) - 1} more"
    return LockHeld(
        text + (f" until {until[:19]}Z" if until else ""),
        hint=f"stackshift runs why {holding.run}" if holding.run else "wait for it: --wait 1m",
        key=key,
        owner=holding.run or None,
        holder=holding.holder,
        expires_at=until,
    )


def wait_is_over(state: State, run: Run, name: str, now_us: int) -> Decision:
    """Time out a call that waits for a lock: it is refused with `LockHeld`."""
    terms = run.calls[name].wait
    assert terms is not None
    lock = state.locks.get(terms.lock, EMPTY)
    refusal = refusal_json(held_error(terms.lock, lock, now_us))
    return end_wait(run, r.WaitEnded(run.id, name, "timed_out", refusal))


# --- Holding -------------------------------------------------------------------------------


def extend(state: State, who: Asker, command: c.ExtendLock, now_us: int) -> Decision:
    """Extend the lock to `ttl_ms` from now. If it is no longer held, a handler is refused with
    `LockLost`, and a client with `NotFound` or `LockHeld`."""
    lock = state.locks.get(command.key, EMPTY)
    if who.run is None:
        holding = _client_holding(command.key, lock, command.lock_token, now_us)
    elif (own := lock.of_run(who.run.id)) is not None and own in lock.live(now_us):
        holding = own
    else:
        return who.refuse(_lost(command.key, _due_us(who.run, command.key), now_us))
    expires_us = now_us + command.ttl_ms * 1000
    record = r.LockExtended(
        command.key,
        rfc3339(expires_us),
        who.id,
        who.attempt,
        who.step,
        "" if holding.run else holding.asker,
    )
    return who.answer(token_json(command.key, holding.token, expires_us), (record,))


def release(state: State, who: Asker, command: c.ReleaseLock, now_us: int) -> Decision:
    """Release the lock. The answer to a handler says whether it still held it: `{"held":…}`. A
    client that no longer holds it is refused as by `extend`."""
    release = LockRelease(state, now_us)
    if who.run is None:
        lock = state.locks.get(command.key, EMPTY)
        held_by = _holding if command.force else _client_holding
        holding = held_by(command.key, lock, command.lock_token, now_us)
        release.release(command.key, holding, "forced" if command.force else "client")
        body = encode({"key": command.key, "token": holding.token})
        return who.answer(body, tuple(release.records), tuple(release.effects))
    key = _held_by(state, who.run, command.lock)
    if key is None:
        return who.answer(b'{"held":false}')
    # An expiry is recorded before the handler learns of it, so a later pass gets the same answer.
    held = _is_live(state, who.run, key, now_us)
    reason = ("raised" if command.raised else "left") if held else "expired"
    release.release_of(who.run, key, reason)
    body = b'{"held":true}' if held else b'{"held":false}'
    return who.answer(body, tuple(release.records), tuple(release.effects))


def check(state: State, run: Run, command: c.CheckLock, now_us: int) -> Decision:
    """Answer `true` if the run still holds the lock it acquired by the call `lock`. Otherwise the
    call `step`, which it is about to make, is refused with `LockLost`."""
    who = Asker(run, command.call, command.step)
    key = _held_by(state, run, command.lock)
    if key is not None and _is_live(state, run, key, now_us):
        return who.answer(b"true")
    release = LockRelease(state, now_us)
    if key is not None:
        release.release_of(run, key, "expired")
    acquired = run.calls.get(command.lock)
    due_us = acquired.due_us if acquired is not None else 0
    error = _lost(key or _key_of(run, command.lock), due_us, now_us)
    return who.refuse(error, tuple(release.records), tuple(release.effects))


def withdraw(state: State, command: c.WithdrawLock, _now_us: int) -> Decision:
    """Take a client that no longer waits out of the line."""
    lock = state.locks.get(command.key, EMPTY)
    if command.asker not in lock.line:
        return NOTHING
    return Decision((r.LockWithdrawn(command.key, command.asker),))


def expire(state: State, key: str, now_us: int) -> Decision:
    """Expire a lock that holders have held for their ttl."""
    release = LockRelease(state, now_us)
    release.release_expired(key)
    return Decision(tuple(release.records), tuple(release.effects))


def _lost(key: str, due_us: int, now_us: int) -> LockLost:
    """The error for a lock that would expire at `due_us` (0: never), and is lost by `now_us`."""
    if not 0 < due_us <= now_us:
        return LockLost(
            f"lock {key!r} was taken away before this call",
            key=key,
            hint="a person did it by state unlock --force: another may hold it now",
        )
    return LockLost(
        f"lock {key!r} expired at {rfc3339(due_us)[:19]}Z, before this call",
        key=key,
        hint="give it a longer ttl, or extend it: lock.extend(...)",
    )


def _client_holding(key: str, lock: Lock, token: int, now_us: int) -> Holding:
    """The holding of a client that knows its token. Raises `NotFound` if nobody holds the lock, and
    `LockHeld` if another holder does."""
    holding = _holding(key, lock, token, now_us)
    if holding.run:
        raise held_error(key, lock, now_us)
    return holding


def _holding(key: str, lock: Lock, token: int, now_us: int) -> Holding:
    """The same for a holder of any kind: who has seen one with its token means no other."""
    live = lock.live(now_us)
    if not live:
        raise NotFound(f"nobody holds lock {key!r}", key=key)
    for holding in live:
        if holding.token == token:
            return holding
    raise held_error(key, lock, now_us)


def _due_us(run: Run, key: str) -> int:
    """When the lock that the run acquired last under `key` expired, or would have; 0 for never."""
    acquired = [
        call
        for name, call in run.calls.items()
        if call.kind is CallKind.LOCK and _key_of(run, name) == key
    ]
    return max(acquired, key=lambda call: call.seq).due_us if acquired else 0


def _key_of(run: Run, step: str) -> str:
    """The key of the lock that the call `step` acquired, or else `step`."""
    call = run.calls.get(step)
    if call is None or not isinstance(call.body, bytes):
        return step
    return str(decode(call.body).get("key", step))


def _held_by(state: State, run: Run, step: str) -> str | None:
    """The key of the lock that the run holds by its call `step`; None if it holds none by it."""
    for key in run.locks:
        holding = state.locks[key].of_run(run.id)
        if holding is not None and holding.step == step:
            return key
    return None


def _is_live(state: State, run: Run, key: str, now_us: int) -> bool:
    """Has the time of a lock that the run holds not passed?"""
    lock = state.locks[key]
    return lock.of_run(run.id) in lock.live(now_us)
