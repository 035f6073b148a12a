"""`ctx.state` and `ctx.events` of a `def` handler.

Each call of the handler happens exactly once and is answered from the record on every later pass;
inside a step's function it acts at once, and again if the function runs again. What is asked is
`state_calls`' and `event_calls`', how it is recorded `asking`'s, how locks are held `holding`'s.
"""

from __future__ import annotations

from datetime import datetime
from types import TracebackType
from typing import Any, cast

from stackshift_jobs.calls import events, state
from stackshift_jobs.calls.locks import lifetime_ms
from stackshift_jobs.calls.state import Call
from stackshift_jobs.errors import StackshiftError, Usage
from stackshift_jobs.handler import locks
from stackshift_jobs.handler.ops import Steps
from stackshift_jobs.handler.ports import Port, drive
from stackshift_jobs.handler.replay import Pass
from stackshift_jobs.handler.requests import ask, ask_all
from stackshift_jobs.values.durations import Duration, milliseconds
from stackshift_jobs.values.names import check_key
from stackshift_jobs.values.stored import SentEvent, StateChange, StateEntry


class RunState:
    """The project's durable entries: `key → value`, each with a version and perhaps an expiry.

    Keys are 1 to 512 bytes of text. An entry that has expired is as one that is not there. A read
    is recorded like a write: to see how an entry changes, read it inside a step. Calls about one
    key in several tasks or threads of a handler need a `name` each, as steps do.
    """

    def __init__(self, pass_: Pass, port: Port) -> None:
        self._pass = pass_
        self._port = port

    def get(self, key: str, default: Any = None, *, name: str | None = None) -> Any:
        """The value of `key`, `default` if there is none."""
        return state.value(self._ask(key, state.get(key), name), default)

    def entry(self, key: str, *, name: str | None = None) -> StateEntry | None:
        """The entry of `key`: its value, and its version, to be given as `if_version`."""
        return state.entry(self._ask(key, state.get(key), name))

    def set(
        self,
        key: str,
        value: Any,
        *,
        ttl: Duration | None = None,
        expires_at: datetime | str | None = None,
        if_version: int | None = None,
        if_absent: bool = False,
        name: str | None = None,
    ) -> int:
        """Write `value`; its version. Without `ttl` or `expires_at` it stays until it is written
        again.

        Raises `Conflict` if the entry's version is not `if_version` (0: there is none), or if there
        is one with `if_absent`; `PayloadRefused` for what JSON cannot hold.
        """
        call = state.set_(
            key, value, ttl=ttl, expires_at=expires_at, if_version=if_version, if_absent=if_absent
        )
        return state.version(self._ask(key, call, name))

    def delete(self, key: str, *, if_version: int | None = None, name: str | None = None) -> bool:
        """Remove the entry; was there one? Raises `Conflict` if its version is not `if_version`."""
        call = state.delete(key, if_version=if_version)
        return state.existed(self._ask(key, call, name))

    def increment(
        self,
        key: str,
        by: int | float = 1,
        *,
        ttl: Duration | None = None,
        name: str | None = None,
    ) -> int | float:
        """Add `by` to the number at `key` (0 if there is none); the new number. Without `ttl` its
        expiry stays. Raises `Conflict` if something else than a number is there."""
        return state.number(self._ask(key, state.increment(key, by, ttl=ttl), name))

    def history(self, key: str, limit: int = 50, *, name: str | None = None) -> list[StateChange]:
        """The last changes of `key`, newest first, as far back as the journal is kept."""
        step = self._pass.identify_call("state.history", key, name=name)
        calls = state.history(key, limit)
        return cast("list[StateChange]", drive(ask_all(self._pass, step, calls), self._port))

    def list(self, prefix: str = "", *, name: str | None = None) -> list[StateEntry]:
        """All entries whose key begins with `prefix`, in the order of their keys."""
        step = self._pass.identify_call("state.list", prefix, name=name)
        calls = state.listing(prefix)
        return cast("list[StateEntry]", drive(ask_all(self._pass, step, calls), self._port))

    def lock(
        self,
        key: str,
        *,
        ttl: Duration | None = None,
        wait: Duration | None = None,
        name: str | None = None,
    ) -> RunLock:
        """The lock `key`, for a `with` block. The run holds it until it leaves the block for good,
        also while it waits in it; with `ttl` no longer than that.

        Waits for it durably, first come first served: as long as it takes, or up to `wait` and
        then raises `LockHeld`. Not to be had inside a step, nor twice at a time in one run.
        """
        return RunLock(self._pass, self._port, key, ttl, wait, name)

    def _ask(self, key: str, call: Call, name: str | None) -> Any:
        step = self._pass.identify_call(call[0], key, name=name)
        return drive(ask(self._pass, step, call), self._port)


class RunEvents:
    """Events that the handler sends, each once."""

    def __init__(self, pass_: Pass, port: Port) -> None:
        self._pass = pass_
        self._port = port

    def send(
        self,
        name: str,
        payload: Any = None,
        *,
        correlation_key: str | None = None,
        idempotency_key: str | None = None,
        idempotency_ttl: Duration | None = None,
        ttl: Duration | None = None,
        call_name: str | None = None,
    ) -> SentEvent:
        """Send an event to the runs that wait for it; nobody waiting, it is kept for `ttl` (7 days
        if none is given) for the first that will. No `idempotency_key` is needed for it to be sent
        once: that is for senders who do not know of each other. `call_name` tells sends of one name
        and correlation key in branches of a handler apart."""
        call = events.send(
            name,
            payload,
            correlation_key=correlation_key,
            idempotency_key=idempotency_key,
            idempotency_ttl=idempotency_ttl,
            ttl=ttl,
        )
        subject = sent_subject(name, correlation_key)
        step = self._pass.identify_call("event.send", subject, name=call_name)
        return events.sent(drive(ask(self._pass, step, call), self._port))


def sent_subject(name: str, correlation_key: str | None) -> str:
    """What the call that sends an event is about: `email.verified [user:1]`."""
    return f"{name} [{correlation_key}]" if correlation_key else name


class Block:
    """What the locks of both kinds of handler know: what is asked for, and what is held. One object
    is one acquisition; its identity is taken when it is made."""

    def __init__(
        self,
        pass_: Pass,
        key: str,
        ttl: Duration | None,
        wait: Duration | None,
        name: str | None,
    ) -> None:
        self.key = check_key(key, "the key of a lock")
        self._ttl_ms = 0 if ttl is None else lifetime_ms(ttl)
        self._wait_ms = None if wait is None else milliseconds(wait)
        self._pass = pass_
        self._step = pass_.identify_call("lock", key, "lock", name)
        self._held: locks.LockBlock | None = None
        pass_.unawaited.add(self._step)

    @property
    def token(self) -> int:
        """The fencing token: higher than that of all who held the lock before, and of this run
        before it was lost in a crash."""
        return self._mine().token

    @property
    def expires_at(self) -> datetime | None:
        """Until when it is held, by the daemon's time; None without a ttl."""
        return self._mine().expires_at

    def _mine(self) -> locks.LockBlock:
        if self._held is None:
            raise Usage(
                f"the lock {self.key!r} is not held", hint="with ctx.state.lock(...) as lock:"
            )
        return self._held

    def _taking(self) -> Steps:
        if self._held is not None:
            raise Usage(f"the lock {self.key!r} was entered twice", hint="make another")
        self._pass.unawaited.discard(self._step)
        return locks.acquire(self._pass, self._step, self.key, self._ttl_ms, self._wait_ms)

    def _enter(self, held: locks.LockBlock) -> None:
        self._held = held
        locks.inside.set((*locks.inside.get(), held))

    def _extending(self, step: str, ttl: Duration) -> Steps:
        held = self._mine()
        if not held.is_open:
            raise Usage(f"the block of lock {self.key!r} was left")
        return locks.extend(self._pass, step, held, lifetime_ms(ttl))

    def _leaving(self, bad: BaseException | None) -> Steps | None:
        """What is to be done at the end of the block: nothing where the pass is left, since the run
        goes on in it."""
        held = self._mine()
        locks.inside.set(tuple(each for each in locks.inside.get() if each is not held))
        if self._pass.unwinding is not None:
            return None
        return locks.release(self._pass, held, raised=bad is not None)


class RunLock(Block):
    """A lock of `ctx.state.lock`. Leaving its block raises `LockLost` if it ran out meanwhile,
    unless another exception is on its way; so does each call on `ctx` within it."""

    def __init__(
        self,
        pass_: Pass,
        port: Port,
        key: str,
        ttl: Duration | None,
        wait: Duration | None,
        name: str | None,
    ) -> None:
        super().__init__(pass_, key, ttl, wait, name)
        self._port = port

    def __enter__(self) -> RunLock:
        self._enter(drive(self._taking(), self._port))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, bad: BaseException | None, at: TracebackType | None
    ) -> None:
        leaving = self._leaving(bad)
        if leaving is None:
            return
        try:
            drive(leaving, self._port)
        except StackshiftError:
            if bad is None:
                raise

    def extend(self, ttl: Duration) -> None:
        """Hold it for `ttl` from now on. Raises `LockLost` if the run has lost it."""
        step = self._pass.identify_call("lock.extend", self.key)
        drive(self._extending(step, ttl), self._port)
