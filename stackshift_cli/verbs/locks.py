"""`state lock|unlock|locks`: acquires a lock; extends and releases it by its token; lists locks.

A lock that is not renewed expires with its ttl. `state lock KEY -- COMMAND` renews it
(`flows.locks.hold`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from time import monotonic
from typing import Any, Final

from stackshift_cli.arguments import Given
from stackshift_cli.daemon.feed import PASSING, until_back
from stackshift_cli.daemon.session import Session
from stackshift_cli.output import messages
from stackshift_cli.output.confirm import confirmed
from stackshift_cli.output.safe_text import safe
from stackshift_cli.output.terminal import draws
from stackshift_cli.render import tsv
from stackshift_jobs.calls.drive import drive
from stackshift_jobs.calls.locks import (
    acquire,
    acquire_call,
    extend_call,
    release,
)
from stackshift_jobs.errors import DaemonUnavailable, LockHeld, NotFound, Usage
from stackshift_jobs.values.limits import MAX_HOLDER, MAX_HOLDERS
from stackshift_jobs.wire.retransmit import uncertain

_PAGE: Final = 1000
_MANY: Final = 10_000_000
_MAX_TOKEN: Final = 2**63 - 1
_MANY_REQUESTS: Final = 1000
"""A request is repeated after each restart of the daemon; waiting for that has its own limit."""
_COMMAND_TTL_MS: Final = 30_000
"""How long a lock outlives a command whose `stackshift` was killed, without `--ttl`."""


def lock(session: Session, given: Given) -> int:
    """`state lock KEY`: acquire the lock and print its token; with `--token`, extend the lock; with
    COMMAND, run that under the lock and return its status."""
    key, command = given.word("key"), given.texts("command")
    ttl_ms = given.positive_ms("ttl", "write 30s")
    if given.text("token") is not None:
        return _extend(session, given, key, ttl_ms)
    if command:
        from stackshift_cli.flows.locks.hold import run_holding

        ttl_ms = _COMMAND_TTL_MS if ttl_ms is None else ttl_ms
        held = _acquired(session, given, key, ttl_ms, _holder_of(command[0]))
        return run_holding(session, held, ttl_ms, command)
    if ttl_ms is None:
        raise Usage(
            "a lock without a command needs --ttl, or it would never expire",
            hint="add --ttl 30s, or -- COMMAND",
        )
    # The holder is the script that called us: this process is gone when a person looks.
    holder = f"stackshift state lock, for pid {os.getppid()}"
    return _print(session, _acquired(session, given, key, ttl_ms, holder))


def unlock(session: Session, given: Given) -> int:
    """`state unlock KEY --token N`: release the lock; with `--force`, take it away from whoever
    holds it, after confirmation."""
    key, token = given.word("key"), given.whole("token", 0, _MAX_TOKEN)
    if given.flag("force"):
        return _take_away(session, given, key, token)
    if token is None:
        raise Usage("--token is missing", hint="it is the number that state lock printed")
    # It is not known here whether the lock has expired: after a repeat it is not ours either way.
    calls = release(key, token, lambda: False, _MANY_REQUESTS)
    _of_token(lambda: drive(calls, _Persistent(session)))
    if session.json:
        messages.data(messages.compact({"key": key, "token": token}))
    else:
        session.say(f"{safe(key)} released")
    return 0


def _take_away(session: Session, given: Given, key: str, token: int | None) -> int:
    """Release the lock of whoever holds it. Only that holder loses it: its token is sent along."""
    locks: list[dict[str, Any]] = session.call("lock.list", {"prefix": key, "limit": 1})["locks"]
    lock = locks[0] if locks else None
    if lock is None or lock["key"] != key or lock["token"] is None:
        raise NotFound(f"nobody holds lock {key!r}", hint="stackshift state locks")
    holdings = [each for each in lock["held_by"] if token in (None, each["token"])]
    if len(holdings) > 1:
        several = [f"{each['token']} ({_who(each)})" for each in holdings]
        raise Usage(
            f"lock {key!r} has {len(holdings)} holders, with the tokens {', '.join(several)}",
            hint=f"stackshift state unlock {key} --force --token N takes it away from one",
        )
    # Of a token that nobody has, the daemon says who holds the lock.
    holder = _who(holdings[0] if holdings else lock)
    if not confirmed(f"take lock {key} away from {holder}", given.flag("yes")):
        return 0
    token = lock["token"] if token is None else token
    released = session.call("lock.release", {"key": key, "token": token, "force": True})
    if session.json:
        messages.data(messages.compact(released))
    else:
        session.say(f"{safe(key)} taken away from {safe(holder)}")
    return 0


def _who(holding: Mapping[str, Any]) -> str:
    return str(holding["run"] or holding["holder"] or "a client")


def list_(session: Session, given: Given) -> int:
    """`state locks [PREFIX]`: list the locks by key, with their holders, a line each, and how many
    wait."""
    locks = _locks(session, given.text("prefix") or "", given.whole("limit", 1, _MANY) or _MANY)
    if session.json:
        messages.data(messages.compact(list(locks)))
    elif draws(session.options):
        from stackshift_cli.render.kept import print_locks

        if drawn := list(_by_holder(locks)):
            print_locks(session.options, drawn)
        else:
            session.say("no locks")
    else:
        for each in _by_holder(locks):
            row = {**each, "holder": each["run"] or each["holder"]}
            messages.data(tsv.columns(row, tsv.LOCK_COLUMNS))
    return 0


def _by_holder(locks: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Each lock once for each of its holders; once if it changes hands."""
    for lock in locks:
        if not lock["held_by"]:
            yield lock
        for holding in lock["held_by"]:
            yield {**lock, **holding}


def _locks(session: Session, prefix: str, limit: int) -> Iterator[dict[str, Any]]:
    params: dict[str, Any] = {"prefix": prefix}
    while limit > 0:
        page = session.call("lock.list", {**params, "limit": min(limit, _PAGE)})
        yield from page["locks"]
        limit -= len(page["locks"])
        if page["next"] is None:
            return
        params["after"] = page["next"]


def _extend(session: Session, given: Given, key: str, ttl_ms: int | None) -> int:
    if given.texts("command") or given.text("wait") or given.text("holders"):
        raise Usage("--token extends a lock that is held; leave out COMMAND, --wait and --holders")
    if ttl_ms is None:
        raise Usage("--token needs --ttl: how long to hold the lock from now on", hint="--ttl 30s")
    token = given.whole("token", 0, _MAX_TOKEN) or 0
    call = extend_call(key, token, ttl_ms / 1000)
    return _print(session, _of_token(lambda: session.call(*call)))


def _of_token(ask: Callable[[], Any]) -> Any:
    """The result of `ask`, a request that names the lock's token. If another holder has the lock,
    the hint is not to wait, as it is when acquiring."""
    try:
        return ask()
    except LockHeld as bad:
        owner = bad.fields.get("owner")
        hint = f"stackshift runs show {owner}" if owner else "stackshift state locks"
        raise LockHeld(bad.message, hint=hint, **bad.fields) from bad


class _Persistent:
    """Sends lock requests, and waits for the daemon to come back when it restarts. The calls of
    `calls.locks` are then repeated, which has the effect of making them once."""

    def __init__(self, session: Session) -> None:
        self._session = session
        session.connection()  # If no daemon can be reached at first, do not wait for one.

    def call(self, method: str, params: Mapping[str, Any]) -> Any:
        """The result of a request. It may take as long as any request of the session, plus the time
        that it waits for the lock."""
        try:
            return self._session.call(method, params, params.get("wait_ms", 0) / 1000)
        except DaemonUnavailable as bad:
            if bad.fields.get("reason") not in PASSING:
                raise
            for _ in until_back(self._session, bad):
                pass
            raise uncertain(method, bad) from bad


def _print(session: Session, held: dict[str, Any]) -> int:
    if session.json:
        messages.data(messages.compact(held))
    else:
        messages.data(str(held["token"]))
        session.say(f"{safe(held['key'])} is held until {messages.moment(held['expires_at'])}")
    return 0


def _holder_of(program: str) -> str:
    """`import.sh (pid 4711)`: the pid is our own, because the program has none yet."""
    name = "".join(c if c.isprintable() else "?" for c in os.path.basename(program))  # noqa: PTH119
    return f"{name[: MAX_HOLDER - 20]} (pid {os.getpid()})"


def _acquired(session: Session, given: Given, key: str, ttl_ms: int, holder: str) -> dict[str, Any]:
    """Acquire the lock; with `--wait`, wait for it, even across a restart of the daemon."""
    wait_ms = given.duration_ms("wait") or 0
    # One asker for all requests: if the lock was granted before the connection broke, the repeated
    # request finds that it holds the lock.
    asker = os.urandom(16).hex()
    call = acquire_call(
        key,
        ttl=ttl_ms / 1000,
        wait=wait_ms / 1000,
        holder=holder,
        asker=asker,
        holders=given.whole("holders", 1, MAX_HOLDERS) or 1,
    )
    try:
        return dict(drive(acquire(call, monotonic, _MANY_REQUESTS), _Persistent(session)))
    except LockHeld as bad:
        raise _held(key, bad, bool(wait_ms)) from bad


def _held(key: str, bad: LockHeld, waited: bool) -> LockHeld:
    """The error for a lock that another holder has, with the holder and the expiry."""
    owner, until = bad.fields.get("owner"), bad.fields.get("expires_at")
    who = owner or bad.fields.get("holder")
    if not who:
        return bad
    text = f"the lock {key!r} is held by {who}" + (f" until {until}" if until else "")
    hint = f"stackshift runs show {owner}" if owner else ""
    return LockHeld(text, hint=hint if waited or owner else "--wait 30s waits for it", **bad.fields)
