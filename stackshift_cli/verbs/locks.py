"""`state lock|unlock`: taking a lock, extending it and giving it back, by its token.

A lock that nobody renews ends with its ttl. `state lock KEY -- COMMAND` is `holding`'s, which does
renew it.
"""

from __future__ import annotations

import os
from time import monotonic
from typing import Any, Final

from stackshift_cli.arguments import Given
from stackshift_cli.daemon.feed import PASSING, until_back
from stackshift_cli.daemon.session import Session
from stackshift_cli.output import messages
from stackshift_cli.output.safe_text import safe
from stackshift_jobs.calls.locks import MAX_HOLDER
from stackshift_jobs.errors import DaemonUnavailable, LockHeld, Usage

_MAX_TOKEN: Final = 2**63 - 1
_COMMAND_TTL_MS: Final = 30_000
"""How long a lock outlives a command whose `stackshift` was killed, where `--ttl` does not say."""


def lock(session: Session, given: Given) -> int:
    """`state lock KEY`: the token; with `--token` it is extended; with COMMAND, its status."""
    key, command = given.word("key"), given.texts("command")
    ttl_ms = given.duration_ms("ttl")
    if ttl_ms == 0:
        raise Usage("--ttl cannot be 0: a lock is held for some time", hint="write 30s")
    if given.text("token") is not None:
        return _extend(session, given, key, ttl_ms)
    if command:
        from stackshift_cli.flows.lock_hold import run_holding

        ttl_ms = _COMMAND_TTL_MS if ttl_ms is None else ttl_ms
        held = _acquired(session, given, key, ttl_ms, _holder_of(command[0]))
        return run_holding(session, held, ttl_ms, command)
    if ttl_ms is None:
        raise Usage(
            "a lock that no command holds needs an end", hint="add --ttl 30s, or -- COMMAND"
        )
    # Who holds it is the script that called us: we are gone when somebody looks.
    holder = f"stackshift state lock, for pid {os.getppid()}"
    return _print(session, _acquired(session, given, key, ttl_ms, holder))


def unlock(session: Session, given: Given) -> int:
    """`state unlock KEY --token N`: give it back."""
    key, token = given.word("key"), given.whole("token", 0, _MAX_TOKEN)
    if token is None:
        raise Usage("--token is missing", hint="it is what state lock has printed")
    released = _by_token(session, "lock.release", {"key": key, "token": token})
    if session.json:
        messages.data(messages.compact(released))
    else:
        session.say(f"{safe(key)} released")
    return 0


def _extend(session: Session, given: Given, key: str, ttl_ms: int | None) -> int:
    if given.texts("command") or given.text("wait") is not None:
        raise Usage("--token extends a lock that is held; leave out COMMAND and --wait")
    if ttl_ms is None:
        raise Usage("how long is it to be held from now on?", hint="add --ttl 30s")
    token = given.whole("token", 0, _MAX_TOKEN)
    params = {"key": key, "token": token, "ttl_ms": ttl_ms}
    return _print(session, _by_token(session, "lock.extend", params))


def _by_token(session: Session, method: str, params: dict[str, Any]) -> dict[str, Any]:
    """What the daemon does with the lock that has this token. Where it has another there is nothing
    to wait for, as there is for who wants to take it."""
    try:
        done: dict[str, Any] = session.call(method, params)
        return done
    except LockHeld as bad:
        owner = bad.fields.get("owner")
        hint = f"stackshift runs show {owner}" if owner else "it ran out, and another took it"
        raise LockHeld(bad.message, hint=hint, **bad.fields) from bad


def _print(session: Session, held: dict[str, Any]) -> int:
    if session.json:
        messages.data(messages.compact(held))
    else:
        messages.data(str(held["token"]))
        session.say(f"{safe(held['key'])} is held until {held['expires_at']}")
    return 0


def _holder_of(program: str) -> str:
    """`import.sh (pid 4711)`: the pid is ours, since the program has none yet."""
    name = "".join(c if c.isprintable() else "?" for c in os.path.basename(program))  # noqa: PTH119
    return f"{name[: MAX_HOLDER - 20]} (pid {os.getpid()})"


def _acquired(session: Session, given: Given, key: str, ttl_ms: int, holder: str) -> dict[str, Any]:
    """Take the lock, waiting for it if asked, also across a restart of the daemon."""
    wait_ms = given.duration_ms("wait") or 0
    params = {
        "key": key,
        "ttl_ms": ttl_ms,
        "holder": holder,
        # The same for all that is asked here: a lock that was given before the connection broke is
        # given again, and not to somebody else.
        "asker": os.urandom(16).hex(),
    }
    session.connection()  # Where there is none at first, there is none to wait for.
    deadline = monotonic() + wait_ms / 1000
    while True:
        left_ms = max(0, round((deadline - monotonic()) * 1000)) if wait_ms else 0
        try:
            held: dict[str, Any] = session.call(
                "lock.acquire", {**params, "wait_ms": left_ms}, left_ms / 1000
            )
            return held
        except LockHeld as bad:
            raise _held(key, bad, bool(wait_ms)) from bad
        except DaemonUnavailable as bad:
            if bad.fields.get("reason") not in PASSING:
                raise
            for _ in until_back(session, bad):
                pass


def _held(key: str, bad: LockHeld, waited: bool) -> LockHeld:
    """The error of a lock that is another's: who holds it, and until when."""
    owner, until = bad.fields.get("owner"), bad.fields.get("expires_at")
    who = owner or bad.fields.get("holder")
    if not who:
        return bad
    told = f"the lock {key!r} is held by {who}" + (f" until {until}" if until else "")
    hint = f"stackshift runs show {owner}" if owner else ""
    return LockHeld(told, hint=hint if waited or owner else "--wait 30s waits for it", **bad.fields)
