"""How a lock is acquired, extended and released, even if the connection breaks meanwhile.

This is the one place that knows how, for the clients and the command line alike; `ctx.state.lock`
uses only the params. What takes several requests is a generator that yields calls: the result of a
request is sent into it, and an error is thrown into it. Nothing here sends anything, or reads a
clock that is not passed in.

Invariants: a request whose connection broke is repeated in such a way that the lock is acquired
once and released once: the daemon identifies the client by `asker`, and its lock by the token. All
requests together wait no longer than the caller asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from stackshift_jobs.calls.drive import Call
from stackshift_jobs.errors import DaemonUnavailable, LockHeld, LockLost, NotFound, Usage
from stackshift_jobs.values.durations import Duration, milliseconds
from stackshift_jobs.values.limits import MAX_HOLDER, MAX_HOLDERS
from stackshift_jobs.values.names import check_key

MAX_REQUESTS: Final = 5
"""How often a request is made at most, if the connection breaks each time."""


class HeldLock(NamedTuple):
    """A lock that is held: its key, its fencing token, and its expiry (in daemon time)."""

    key: str
    token: int
    expires_at: datetime


def acquire_call(
    key: str,
    *,
    ttl: Duration,
    wait: Duration | None,
    holder: str,
    asker: str,
    holders: int = 1,
) -> Call:
    """The request to acquire a lock, among at most `holders`; `held` reads its result. Without
    `wait` it is refused at once if so many others hold the lock."""
    return "lock.acquire", {
        "key": _key(key),
        "ttl_ms": lifetime_ms(ttl),
        "wait_ms": 0 if wait is None else milliseconds(wait, "wait"),
        "holder": "".join(c if c.isprintable() else "?" for c in holder[:MAX_HOLDER]),
        "asker": asker,
        **among(holders),
    }


def extend_call(key: str, token: int, ttl: Duration) -> Call:
    """The request to hold a lock for `ttl` from now on; `held` reads its result."""
    return "lock.extend", {"key": _key(key), "token": token, "ttl_ms": lifetime_ms(ttl)}


def release_call(key: str, token: int) -> Call:
    """The request to release a lock."""
    return "lock.release", {"key": _key(key), "token": token}


def held(result: Mapping[str, Any]) -> HeldLock:
    """Read the result of `lock.acquire` or `lock.extend`."""
    return HeldLock(result["key"], result["token"], datetime.fromisoformat(result["expires_at"]))


def lost(key: str, why: LockHeld | NotFound) -> LockLost:
    """The error for a holder that, according to the daemon, no longer holds the lock."""
    return LockLost(
        f"the lock {key!r} was lost: {why.message}",
        hint="another holder may have done what the lock protects at the same time",
        key=key,
    )


def among(holders: int) -> dict[str, int]:
    """The param that says how many may hold a lock at a time. Raises `Usage`."""
    if type(holders) is not int or not 1 <= holders <= MAX_HOLDERS:
        raise Usage(f"holders cannot be {holders!r}", hint=f"use 1 to {MAX_HOLDERS}")
    return {"holders": holders} if holders > 1 else {}


def lifetime_ms(ttl: Duration) -> int:
    """Milliseconds of a lock's `ttl`. Raises `Usage` for 0."""
    ms = milliseconds(ttl, "ttl")
    if ms == 0:
        raise Usage("a lock's ttl cannot be 0", hint="write 30s")
    return ms


def acquire(
    call: Call, clock: Callable[[], float], requests: int = MAX_REQUESTS
) -> Generator[Call, Any, Mapping[str, Any]]:
    """Acquire the lock that `call` (from `acquire_call`) asks for, in at most `requests` requests.
    Returns the result, for `held`. `clock` returns seconds. Raises `LockHeld`."""
    method, params = call
    began = clock()
    for left in reversed(range(requests)):
        waited_ms = int((clock() - began) * 1000)
        try:
            result: Mapping[str, Any] = yield (
                method,
                {**params, "wait_ms": max(0, params["wait_ms"] - waited_ms)},
            )
            return result
        except DaemonUnavailable as gone:
            if not left or not gone.fields.get("may_have_happened"):
                raise
    raise AssertionError("the last request returns or raises")


def withdraw(call: Call) -> Generator[Call, Any, None]:
    """Give up acquiring the lock that `call` (from `acquire_call`) asks for: leave the line, and
    release the lock if it was acquired in the meantime."""
    method, params = call
    try:
        # A repeated request by the same asker replaces its wait, and this one does not wait.
        lock = held((yield method, {**params, "wait_ms": 0}))
        yield release_call(lock.key, lock.token)
    except (LockHeld, NotFound):
        return


def release(
    key: str, token: int, is_over: Callable[[], bool], requests: int = MAX_REQUESTS
) -> Generator[Call, Any, None]:
    """Release the lock, in at most `requests` requests. Raises `NotFound` or `LockHeld` if it was
    no longer ours. `is_over`: has its ttl passed, as far as the client can tell?"""
    repeated = False
    for left in reversed(range(requests)):
        try:
            yield release_call(key, token)
            return
        except (NotFound, LockHeld):
            # Within its ttl only we could release it, so the request whose reply was lost did.
            if repeated and not is_over():
                return
            raise
        except DaemonUnavailable as gone:
            if not left or not gone.fields.get("may_have_happened"):
                raise
            repeated = True


def _key(key: str) -> str:
    return check_key(key, "the key of a lock")
