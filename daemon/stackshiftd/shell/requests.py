"""The requests that both clients and handlers can make, from params to a command: state, locks,
events.

Each method's params are read in one place, for requests on the socket and for calls of `ctx`.
Values from a worker were checked by the SDK when they were encoded; those from a client are checked
here (`strict`). All makers of commands raise `Usage`, those with values `PayloadRefused` too.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final

import msgspec
from msgspec import Raw
from msgspec.json import Decoder

from stackshift_jobs.errors import Usage
from stackshift_jobs.project.config import Config
from stackshift_jobs.values.durations import MAX_DURATION_MS, parse_time
from stackshift_jobs.values.labels import check_labels
from stackshift_jobs.values.limits import (
    EVENT_TTL_MS,
    KEY_TTL_MS,
    MAX_EVENTS,
    MAX_HOLDER,
    MAX_HOLDERS,
    ON_TIMEOUT,
)
from stackshift_jobs.values.names import check_key, check_name
from stackshift_jobs.values.strict_json import canonical, dumps, loads
from stackshiftd.core import commands as c
from stackshiftd.shell.ids import Ids
from stackshiftd.shell.params import Params, misfit, within

MAX_PAGE: Final = 1000


class GetState(Params):
    """The params of `state.get`."""

    key: str


class ListState(Params):
    """The params of `state.list`: a page of the keys with a prefix, beginning after `after`."""

    prefix: str = ""
    limit: int = MAX_PAGE
    after: str | None = None


class SetState(Params):
    """The params of `state.set`. Expiry is relative or absolute; `if_version` 0: only if absent."""

    key: str
    value: Raw
    ttl_ms: int | None = None
    expires_at: str | None = None
    if_version: int | None = None
    if_absent: bool = False


class DeleteState(Params):
    """The params of `state.delete`."""

    key: str
    if_version: int | None = None


class IncrementState(Params):
    """The params of `state.increment`; `by` is a number."""

    key: str
    by: Raw = Raw(b"1")
    ttl_ms: int | None = None


class SendEvent(Params):
    """The params of `event.send`; `ttl_ms` is how long the event waits for a run."""

    name: str
    payload: Raw = Raw(b"{}")
    correlation_key: str | None = None
    idempotency_key: str | None = None
    idempotency_ttl_ms: int | None = None
    ttl_ms: int | None = None


class AwaitEvent(Params):
    """The params of `event.wait`, for handlers only. Each event is a name and a correlation key,
    empty for none."""

    events: list[tuple[str, str]]
    timeout_ms: int | None = None
    on_timeout: str = "fail"


class AcquireLock(Params):
    """The params of `lock.acquire`. A client must give `ttl_ms` and `asker`. For a handler,
    `ttl_ms` 0 means no expiry, and `wait_ms` None means to wait for ever. `holders`: how many may
    hold it at a time."""

    key: str
    ttl_ms: int = 0
    wait_ms: int | None = None
    holder: str = ""
    asker: str = ""
    holders: int = 1


class ExtendLock(Params):
    """The params of `lock.extend`; a handler needs no `token`."""

    key: str
    ttl_ms: int
    token: int = 0


class ReleaseLock(Params):
    """The params of `lock.release` by a client. `force`: also from a run, or another client, that
    holds it with this token."""

    key: str
    token: int
    force: bool = False


class ListLocks(Params):
    """The params of `lock.list`: a page of the locks whose keys have a prefix, after `after`."""

    prefix: str = ""
    limit: int = MAX_PAGE
    after: str | None = None


class ReleaseOwnLock(Params):
    """The params of `lock.release` by a handler that leaves the block it entered with the call
    `lock`; `raised` if by an exception."""

    lock: str
    raised: bool = False


class CheckLock(Params):
    """The params of `lock.check`, for handlers only: does it still hold the lock that it acquired
    with the call `lock`?"""

    lock: str


class LabelRun(Params):
    """The params of `run.label`, for handlers only: the labels that the run is given."""

    labels: dict[str, str]


class Requests:
    """Turns params into commands."""

    def __init__(self, config: Config, ids: Ids) -> None:
        self._ids = ids
        self._value_bytes = config.limits.payload_bytes
        self.remember_ms = config.journal.retention_ms
        makers: dict[Any, Callable[..., c.Asking]] = {
            GetState: self.get,
            ListState: self.list,
            SetState: self.set,
            DeleteState: self.delete,
            IncrementState: self.increment,
            SendEvent: self.send,
            AwaitEvent: self.wait,
            AcquireLock: self.acquire,
            ExtendLock: self.extend,
            ReleaseOwnLock: self.release_own,
            CheckLock: self.check,
            LabelRun: self.label,
        }
        self._of_handlers = {
            method: (Decoder(params).decode, makers[params])
            for method, params in {
                "state.get": GetState,
                "state.list": ListState,
                "state.set": SetState,
                "state.delete": DeleteState,
                "state.increment": IncrementState,
                "event.send": SendEvent,
                "event.wait": AwaitEvent,
                "lock.acquire": AcquireLock,
                "lock.extend": ExtendLock,
                "lock.release": ReleaseOwnLock,
                "lock.check": CheckLock,
                "run.label": LabelRun,
            }.items()
        }

    def of_handler(self, ask: c.Ask) -> c.Asking:
        """The command for a request by a handler. Raises `Usage`, also for an unknown method."""
        method = self._of_handlers.get(ask.method)
        if method is None:
            raise Usage(f"{ask.method!r} is not a method for handlers")
        decode, make = method
        try:
            params = decode(bytes(ask.params))
        except msgspec.MsgspecError as bad:
            raise Usage(f"{ask.method}: {misfit(bad)}") from bad
        command: c.Asking = make(params, False)
        return msgspec.structs.replace(
            command, run=ask.run, token=ask.token, call=ask.call, step=ask.step
        )

    # --- State -----------------------------------------------------------------------------

    def get(self, params: GetState, _strict: bool = True) -> c.ReadState:
        """Read one entry."""
        return c.ReadState(key=check_key(params.key, "a state key"))

    def list(self, params: ListState, _strict: bool = True) -> c.ListState:
        """Read a page of at most `MAX_PAGE` entries."""
        if params.prefix:
            check_key(params.prefix, "a prefix of state keys")
        limit = within(params.limit, 1, MAX_PAGE, "limit")
        return c.ListState(prefix=params.prefix, after=params.after or "", limit=limit)

    def set(self, params: SetState, strict: bool = True) -> c.SetState:
        """Write an entry, unless its version or existence is not as required."""
        if params.ttl_ms is not None and params.expires_at is not None:
            raise Usage("only one of ttl_ms and expires_at can be given")
        if params.if_absent and params.if_version is not None:
            raise Usage("only one of if_absent and if_version can be given")
        if params.if_version is not None and params.if_version < 0:
            raise Usage(f"if_version is {params.if_version}", hint="0 means: only if absent")
        return c.SetState(
            key=check_key(params.key, "a state key"),
            value=self._json(params.value, strict, "the value"),
            ttl_ms=_ttl(params.ttl_ms),
            expires_us=_moment(params.expires_at) if params.expires_at is not None else 0,
            if_version=params.if_version,
            if_absent=params.if_absent,
        )

    def delete(self, params: DeleteState, _strict: bool = True) -> c.DeleteState:
        """Delete an entry; its version is remembered for the journal's retention."""
        return c.DeleteState(
            key=check_key(params.key, "a state key"),
            remember_ms=self.remember_ms,
            if_version=params.if_version,
        )

    def increment(self, params: IncrementState, strict: bool = True) -> c.IncrementState:
        """Add to a number; that `by` is one is for the core to check."""
        return c.IncrementState(
            key=check_key(params.key, "a state key"),
            by=self._json(params.by, strict, "by"),
            ttl_ms=_ttl(params.ttl_ms),
        )

    # --- Events ----------------------------------------------------------------------------

    def send(self, params: SendEvent, strict: bool = True) -> c.SendEvent:
        """Send an event with a new id, kept for `EVENT_TTL_MS` by default."""
        key = params.idempotency_key
        if key is None and params.idempotency_ttl_ms is not None:
            raise Usage("idempotency_ttl_ms is given without an idempotency_key")
        name = check_name(params.name, "event")
        correlation_key = _correlation(params.correlation_key)
        payload = self._json(params.payload, strict, "the payload")
        digest = ""
        if key is not None:
            check_key(key, "an idempotency key")
            known_by = [name, correlation_key, msgspec.json.decode(payload)]
            digest = sha256(canonical(known_by)).hexdigest()
        ttl_ms = EVENT_TTL_MS if params.ttl_ms is None else params.ttl_ms
        key_ttl_ms = params.idempotency_ttl_ms
        if key_ttl_ms is None:
            key_ttl_ms = KEY_TTL_MS
        return c.SendEvent(
            event=self._ids.event(),
            name=name,
            payload=payload,
            correlation_key=correlation_key,
            ttl_ms=within(ttl_ms, 0, MAX_DURATION_MS, "ttl_ms"),
            key=key,
            key_ttl_ms=within(key_ttl_ms, 0, MAX_DURATION_MS, "idempotency_ttl_ms"),
            digest=digest,
        )

    def wait(self, params: AwaitEvent, _strict: bool = True) -> c.AwaitEvent:
        """Wait for the first of 1 to `MAX_EVENTS` events."""
        within(len(params.events), 1, MAX_EVENTS, "the number of events")
        if params.on_timeout not in ON_TIMEOUT:
            raise Usage(f"on_timeout is {params.on_timeout!r}", hint=", ".join(ON_TIMEOUT))
        events = [
            (check_name(name, "event"), _correlation(key or None)) for name, key in params.events
        ]
        return c.AwaitEvent(
            events=events,
            timeout_ms=_ttl(params.timeout_ms, "timeout_ms"),
            on_timeout=params.on_timeout,
        )

    # --- Labels ----------------------------------------------------------------------------

    def label(self, params: LabelRun, _strict: bool = True) -> c.LabelRun:
        """Give a run labels."""
        return c.LabelRun(labels=check_labels(params.labels))

    # --- Locks -----------------------------------------------------------------------------

    def acquire(self, params: AcquireLock, strict: bool = True) -> c.AcquireLock:
        """Acquire a lock; a client that gives no `wait_ms` does not wait."""
        if strict:
            within(params.ttl_ms, 1, MAX_DURATION_MS, "ttl_ms")
            check_key(params.asker, "the asker of a lock")
        wait_ms = _ttl(params.wait_ms, "wait_ms")
        if len(params.holder) > MAX_HOLDER:
            raise Usage(f"holder is longer than {MAX_HOLDER} characters")
        return c.AcquireLock(
            key=check_key(params.key, "the key of a lock"),
            ttl_ms=within(params.ttl_ms, 0, MAX_DURATION_MS, "ttl_ms"),
            wait_ms=0 if strict and wait_ms is None else wait_ms,
            asker=params.asker if strict else "",
            holder=params.holder if strict else "",
            holders=within(params.holders, 1, MAX_HOLDERS, "holders"),
        )

    def extend(self, params: ExtendLock, _strict: bool = True) -> c.ExtendLock:
        """Make a lock expire `ttl_ms` from now."""
        return c.ExtendLock(
            key=check_key(params.key, "the key of a lock"),
            ttl_ms=within(params.ttl_ms, 1, MAX_DURATION_MS, "ttl_ms"),
            lock_token=params.token,
        )

    def release(self, params: ReleaseLock) -> c.ReleaseLock:
        """Release a client's lock, by key and token."""
        key = check_key(params.key, "the key of a lock")
        return c.ReleaseLock(key=key, lock_token=params.token, force=params.force)

    def release_own(self, params: ReleaseOwnLock, _strict: bool = True) -> c.ReleaseLock:
        """Release a handler's lock, by the call that acquired it."""
        return c.ReleaseLock(lock=params.lock, raised=params.raised)

    def check(self, params: CheckLock, _strict: bool = True) -> c.CheckLock:
        """Check that a handler still holds a lock, by the call that acquired it."""
        return c.CheckLock(lock=params.lock)

    def _json(self, raw: Raw, strict: bool, what: str) -> bytes:
        """A value as ASCII JSON; if `strict`, after checking it and its size."""
        if not strict:
            return bytes(raw)
        value = loads(bytes(raw), self._value_bytes, what)
        return dumps(value, self._value_bytes, what)


def _ttl(ttl_ms: int | None, what: str = "ttl_ms") -> int | None:
    return within(ttl_ms, 0, MAX_DURATION_MS, what) if ttl_ms is not None else None


def _moment(text: str) -> int:
    """A time in microseconds, at least 1: elsewhere 0 means no time, and 1 is just as long past."""
    return max(1, parse_time(text))


def _correlation(key: str | None) -> str:
    """A correlation key in the core's form, empty for none. Raises `Usage` for a key that is given
    but empty: a script probably meant to fill it."""
    return "" if key is None else check_key(key, "a correlation key")


def answered(answer: Callable[[Any], None]) -> Callable[[Any], None]:
    """A callback that passes the body of the core's reply, or its error, to `answer`."""
    return lambda reply: answer(getattr(reply, "body", reply))
