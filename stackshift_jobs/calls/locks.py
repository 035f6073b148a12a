"""Locks over the wire: how a lock is taken, extended and given back, whatever happens on the way.

The one place that knows it, for both clients; `ctx.state.lock` uses the params alone. What takes
several requests is a generator that yields calls and is sent results, or has the error thrown in
that a request ended with. Nothing here sends anything or reads a clock that is not handed in.

Invariants: a request whose connection broke is repeated so that the lock is taken once and given
back once: the daemon knows who asks by `asker`, and whose lock it is by its token. All tries
together wait no longer than was asked.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from stackshift_jobs.calls.state import Call
from stackshift_jobs.errors import DaemonUnavailable, LockHeld, LockLost, NotFound, Usage
from stackshift_jobs.values.durations import Duration, milliseconds
from stackshift_jobs.values.names import check_key

MAX_HOLDER: Final = 128
"""Characters of the text that tells people who holds a lock."""
MAX_TRIES: Final = 5
"""Of one request whose connection breaks each time."""


class HeldLock(NamedTuple):
    """A lock that was taken: its fencing token, and until when (by daemon time) it is ours."""

    key: str
    token: int
    expires_at: datetime


def acquire_call(
    key: str, *, ttl: Duration, wait: Duration | None, holder: str, asker: str
) -> Call:
    """Result: `held`. Without `wait` it is refused at once where another holds it."""
    return "lock.acquire", {
        "key": _key(key),
        "ttl_ms": lifetime_ms(ttl),
        "wait_ms": 0 if wait is None else milliseconds(wait),
        "holder": "".join(c if c.isprintable() else "?" for c in holder[:MAX_HOLDER]),
        "asker": asker,
    }


def extend_call(key: str, token: int, ttl: Duration) -> Call:
    """Result: `held`, from now on for `ttl`."""
    return "lock.extend", {"key": _key(key), "token": token, "ttl_ms": lifetime_ms(ttl)}


def release_call(key: str, token: int) -> Call:
    """Give it back."""
    return "lock.release", {"key": _key(key), "token": token}


def held(result: Mapping[str, Any]) -> HeldLock:
    """What `lock.acquire` and `lock.extend` give."""
    return HeldLock(result["key"], result["token"], datetime.fromisoformat(result["expires_at"]))


def lost(key: str, why: LockHeld | NotFound) -> LockLost:
    """The error for a lock that turned out to be ours no longer."""
    return LockLost(
        f"the lock {key!r} was lost: {why.message}",
        hint="what it protected may have been done by another meanwhile",
        key=key,
    )


def lifetime_ms(ttl: Duration) -> int:
    """Milliseconds of a lock's `ttl`; raises `Usage` for none."""
    ms = milliseconds(ttl)
    if ms == 0:
        raise Usage("a lock's ttl cannot be 0", hint="write 30s")
    return ms


def acquire(call: Call, clock: Callable[[], float]) -> Generator[Call, Any, HeldLock]:
    """Take the lock that `call` (of `acquire_call`) asks for; raises `LockHeld`."""
    method, params = call
    began = clock()
    for tries_left in reversed(range(MAX_TRIES)):
        waited_ms = int((clock() - began) * 1000)
        try:
            result = yield method, {**params, "wait_ms": max(0, params["wait_ms"] - waited_ms)}
            return held(result)
        except DaemonUnavailable as gone:
            if not tries_left or not gone.fields.get("may_have_happened"):
                raise
    raise AssertionError("the last try returns or raises")


def withdraw(call: Call) -> Generator[Call, Any, None]:
    """Give up what `call` (of `acquire_call`) asks for: leave the line, and release the lock if it
    was acquired in the meantime without anybody knowing."""
    method, params = call
    try:
        # Asked once more by the same asker, it waits no longer than this says.
        taken = held((yield method, {**params, "wait_ms": 0}))
        yield release_call(taken.key, taken.token)
    except (LockHeld, NotFound):
        return


def extend(key: str, token: int, ttl: Duration) -> Generator[Call, Any, HeldLock]:
    """Hold it for `ttl` from now on; raises `LockLost` if it is ours no longer."""
    try:
        return held((yield extend_call(key, token, ttl)))
    except (NotFound, LockHeld) as why:
        raise lost(key, why) from why


def release(key: str, token: int, is_over: Callable[[], bool]) -> Generator[Call, Any, None]:
    """Give the lock back; raises `LockLost` if it was ours no longer. `is_over`: has its time
    passed, as far as one can tell here?"""
    repeated = False
    for tries_left in reversed(range(MAX_TRIES)):
        try:
            yield release_call(key, token)
            return
        except (NotFound, LockHeld) as why:
            # Within its time only we could give it back: so the try whose reply was lost has.
            if repeated and not is_over():
                return
            raise lost(key, why) from why
        except DaemonUnavailable as gone:
            if not tries_left or not gone.fields.get("may_have_happened"):
                raise
            repeated = True


def _key(key: str) -> str:
    return check_key(key, "the key of a lock")
