"""What clients and handlers may ask alike, from params to a command: state, locks, events.

One reading of each method's params, for requests on the socket and for calls of `ctx`. What a
worker sends was checked by the SDK when it was encoded; what a client sends is checked here.
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
from stackshift_jobs.values.names import check_key, check_name
from stackshift_jobs.values.strict_json import canonical, dumps, loads
from stackshiftd.core import commands as c
from stackshiftd.shell.ids import Ids
from stackshiftd.shell.params import KEY_TTL_MS, Params, within

EVENT_TTL_MS: Final = 7 * 86_400_000
MAX_PAGE: Final = 1000
MAX_EVENTS: Final = 32
"""Events that one wait may name."""
MAX_HOLDER: Final = 128
ON_TIMEOUT: Final = ("fail", "continue", "cancel")


class GetState(Params):
    key: str


class ListState(Params):
    prefix: str = ""
    limit: int = MAX_PAGE
    after: str | None = None


class SetState(Params):
    key: str
    value: Raw
    ttl_ms: int | None = None
    expires_at: str | None = None
    if_version: int | None = None
    if_absent: bool = False


class DeleteState(Params):
    key: str
    if_version: int | None = None


class IncrementState(Params):
    key: str
    by: Raw = Raw(b"1")
    ttl_ms: int | None = None


class SendEvent(Params):
    name: str
    payload: Raw = Raw(b"{}")
    correlation_key: str | None = None
    idempotency_key: str | None = None
    idempotency_ttl_ms: int | None = None
    ttl_ms: int | None = None


class AwaitEvent(Params):
    """Of a handler alone. A pair is a name and a correlation key, empty for none."""

    events: list[tuple[str, str]]
    timeout_ms: int | None = None
    on_timeout: str = "fail"


class AcquireLock(Params):
    """A client gives `ttl_ms` and `asker`; for a handler `ttl_ms` 0 is none, `wait_ms` None for
    ever."""

    key: str
    ttl_ms: int = 0
    wait_ms: int | None = None
    holder: str = ""
    asker: str = ""


class ExtendLock(Params):
    key: str
    ttl_ms: int
    token: int = 0


class ReleaseLock(Params):
    """Of a client."""

    key: str
    token: int


class ReleaseOwnLock(Params):
    """Of a handler: the block is left that it entered by the call `lock`."""

    lock: str
    raised: bool = False


class CheckLock(Params):
    """Of a handler: does it still hold what it took by the call `lock`?"""

    lock: str


class Requests:
    """Makes commands of params."""

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
            }.items()
        }

    def of_handler(self, ask: c.Ask) -> c.Asking:
        """The command for what a handler requests. Raises what is wrong with it."""
        found = self._of_handlers.get(ask.method)
        if found is None:
            raise Usage(f"{ask.method!r} is nothing that a handler can ask for")
        decode, make = found
        try:
            params = decode(bytes(ask.params))
        except msgspec.MsgspecError as bad:
            raise Usage(f"{ask.method}: {bad}") from bad
        made: c.Asking = make(params, False)
        return msgspec.structs.replace(
            made, run=ask.run, token=ask.token, call=ask.call, step=ask.step
        )

    # --- State -----------------------------------------------------------------------------

    def get(self, params: GetState, strict: bool = True) -> c.ReadState:
        return c.ReadState(key=check_key(params.key, "a state key"))

    def list(self, params: ListState, strict: bool = True) -> c.ListState:
        if params.prefix:
            check_key(params.prefix, "a prefix of state keys")
        limit = within(params.limit, 1, MAX_PAGE, "limit")
        return c.ListState(prefix=params.prefix, after=params.after or "", limit=limit)

    def set(self, params: SetState, strict: bool = True) -> c.SetState:
        if params.ttl_ms is not None and params.expires_at is not None:
            raise Usage("ttl_ms and expires_at exclude each other")
        if params.if_absent and params.if_version is not None:
            raise Usage("if_absent and if_version exclude each other")
        if params.if_version is not None and params.if_version < 0:
            raise Usage(f"if_version is {params.if_version}", hint="0 means: only if absent")
        return c.SetState(
            key=check_key(params.key, "a state key"),
            value=self._json(params.value, strict),
            ttl_ms=_ttl(params.ttl_ms),
            expires_us=_moment(params.expires_at) if params.expires_at is not None else 0,
            if_version=params.if_version,
            if_absent=params.if_absent,
        )

    def delete(self, params: DeleteState, strict: bool = True) -> c.DeleteState:
        return c.DeleteState(
            key=check_key(params.key, "a state key"),
            remember_ms=self.remember_ms,
            if_version=params.if_version,
        )

    def increment(self, params: IncrementState, strict: bool = True) -> c.IncrementState:
        return c.IncrementState(
            key=check_key(params.key, "a state key"),
            by=self._json(params.by, strict),
            ttl_ms=_ttl(params.ttl_ms),
        )

    # --- Events ----------------------------------------------------------------------------

    def send(self, params: SendEvent, strict: bool = True) -> c.SendEvent:
        key = params.idempotency_key
        if key is None and params.idempotency_ttl_ms is not None:
            raise Usage("idempotency_ttl_ms is given without an idempotency_key")
        name = check_name(params.name, "event")
        correlation_key = _correlation(params.correlation_key)
        payload = self._json(params.payload, strict)
        digest = ""
        if key is not None:
            check_key(key, "an idempotency key")
            known_by = [name, correlation_key, msgspec.json.decode(payload)]
            digest = sha256(canonical(known_by)).hexdigest()
        ttl_ms = EVENT_TTL_MS if params.ttl_ms is None else params.ttl_ms
        key_ttl_ms = params.idempotency_ttl_ms
        return c.SendEvent(
            event=self._ids.event(),
            name=name,
            payload=payload,
            correlation_key=correlation_key,
            ttl_ms=within(ttl_ms, 0, MAX_DURATION_MS, "ttl_ms"),
            key=key,
            key_ttl_ms=within(
                KEY_TTL_MS if key_ttl_ms is None else key_ttl_ms,
                0,
                MAX_DURATION_MS,
                "idempotency_ttl_ms",
            ),
            digest=digest,
        )

    def wait(self, params: AwaitEvent, strict: bool = True) -> c.AwaitEvent:
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

    # --- Locks -----------------------------------------------------------------------------

    def acquire(self, params: AcquireLock, strict: bool = True) -> c.AcquireLock:
        if strict:
            within(params.ttl_ms, 1, MAX_DURATION_MS, "ttl_ms")
            check_key(params.asker, "the asker of a lock")
        wait_ms = _ttl(params.wait_ms, "wait_ms")
        if len(params.holder) > MAX_HOLDER:
            raise Usage(f"holder is over {MAX_HOLDER} characters")
        return c.AcquireLock(
            key=check_key(params.key, "the key of a lock"),
            ttl_ms=within(params.ttl_ms, 0, MAX_DURATION_MS, "ttl_ms"),
            wait_ms=0 if strict and wait_ms is None else wait_ms,
            asker=params.asker if strict else "",
            holder=params.holder if strict else "",
        )

    def extend(self, params: ExtendLock, strict: bool = True) -> c.ExtendLock:
        return c.ExtendLock(
            key=check_key(params.key, "the key of a lock"),
            ttl_ms=within(params.ttl_ms, 1, MAX_DURATION_MS, "ttl_ms"),
            lock_token=params.token,
        )

    def release(self, params: ReleaseLock) -> c.ReleaseLock:
        key = check_key(params.key, "the key of a lock")
        return c.ReleaseLock(key=key, lock_token=params.token)

    def release_own(self, params: ReleaseOwnLock, strict: bool = True) -> c.ReleaseLock:
        return c.ReleaseLock(lock=params.lock, raised=params.raised)

    def check(self, params: CheckLock, strict: bool = True) -> c.CheckLock:
        return c.CheckLock(lock=params.lock)

    def _json(self, raw: Raw, strict: bool) -> bytes:
        """A value as ASCII JSON, checked."""
        if not strict:
            return bytes(raw)
        return dumps(loads(bytes(raw), self._value_bytes), self._value_bytes)


def _ttl(ttl_ms: int | None, what: str = "ttl_ms") -> int | None:
    return within(ttl_ms, 0, MAX_DURATION_MS, what) if ttl_ms is not None else None


def _moment(text: str) -> int:
    """A time; the very first one, which stands for none elsewhere, is as long past as the next."""
    return max(1, parse_time(text))


def _correlation(key: str | None) -> str:
    """A correlation key, as the core has it: empty for none. Raises `Usage` for one that is given
    and empty, which a script may have meant to fill."""
    return "" if key is None else check_key(key, "a correlation key")


def answered(answer: Callable[[Any], None]) -> Callable[[Any], None]:
    """Gives the body of the core's reply to `answer`, or the error."""
    return lambda reply: answer(getattr(reply, "body", reply))
