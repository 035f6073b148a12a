"""`ctx.state` and `ctx.events` of a `def` handler.

Each call of the handler happens exactly once and is answered from the record on every later pass;
inside a step's function it acts at once, and again if the function runs again. `calls.state` and
`calls.events` define what is sent, `requests` how it is recorded, `locks` how locks are held.
"""

from __future__ import annotations

from datetime import datetime
from types import TracebackType
from typing import Any, cast

from stackshift_jobs.calls import events, state
from stackshift_jobs.calls.drive import Call
from stackshift_jobs.calls.locks import among, lifetime_ms
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

    Keys are 1 to 512 bytes of text. An entry that has expired counts as absent. A read is recorded
    like a write: to see an entry change, read it inside a step. Calls for the same key in several
    tasks or threads of a handler each need a `name`, as steps do.
    """

    def __init__(self, pass_: Pass, port: Port) -> None:
        self._pass = pass_
        self._port = port

    def get(
        self, key: str, default: Any = None, *, returns: Any = None, name: str | None = None
    ) -> Any:
        """The value at `key`, as the type `returns` if given; `default` if there is none. Raises
        `PayloadRefused` if the value does not fit."""
        return state.value(self._ask(key, state.get(key), name), default, returns)

    def entry(self, key: str, *, name: str | None = None) -> StateEntry | None:
        """The entry at `key`, with its value and its version (for `if_version`); None if there is
        none."""
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
        """Write `value` at `key`; returns the entry's new version. Without `ttl` or `expires_at`
        the entry does not expire.

        Raises `Conflict` if the entry's version is not `if_version` (0: there is no entry), or if
        there is an entry and `if_absent` is set; `PayloadRefused` for what JSON cannot hold.
        """
        call = state.set_(
            key, value, ttl=ttl, expires_at=expires_at, if_version=if_version, if_absent=if_absent
        )
        return state.version(self._ask(key, call, name))

    def delete(self, key: str, *, if_version: int | None = None, name: str | None = None) -> bool:
        """Remove the entry at `key`; returns whether there was one. Raises `Conflict` if its
        version is not `if_version`."""
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
        """Add `by` to the number at `key` (0 if there is none); returns the new number. Without
        `ttl` its expiry stays the same. Raises `Conflict` if the value is not a number."""
        return state.number(self._ask(key, state.increment(key, by, ttl=ttl), name))

    def history(self, key: str, limit: int = 50, *, name: str | None = None) -> list[StateChange]:
        """The last `limit` changes of the entry at `key`, newest first, as far back as the journal
        goes."""
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
        holders: int = 1,
        name: str | None = None,
    ) -> RunLock:
        """The lock `key`, for a `with` block. The run holds it until it leaves the block for good,
        also during waits inside it, but not longer than `ttl` if that is given.

        Entering the block waits for the lock durably, first come, first served: as long as it
        takes, or up to `wait`, and then raises `LockHeld`. With `holders`, so many may hold it at a
        time: each names its number, and the smallest counts. A lock cannot be acquired inside a
        step, nor twice at a time by one run.
        """
        return RunLock(self._pass, self._port, key, ttl, wait, holders, name)

    def _ask(self, key: str, call: Call, name: str | None) -> Any:
        step = self._pass.identify_call(call[0], key, name=name)
        return drive(ask(self._pass, step, call), self._port)


class RunEvents:
    """Sends events, each exactly once."""

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
        """Send an event to the runs that are waiting for it. If there are none, it is kept for
        `ttl` (default 7d) for the first later wait.

        The event is sent once even without an `idempotency_key`, which is for senders that do not
        know of each other. `call_name` distinguishes sends with the same name and correlation key
        in different branches of a handler.
        """
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
    """The subject of the call that sends an event: `email.verified [user:1]`."""
    return f"{name} [{correlation_key}]" if correlation_key else name


class Block:
    """A lock and its block, for both kinds of handler: what is asked for, and what is held. An
    object is one acquisition, and gets its identity when it is created."""

    def __init__(
        self,
        pass_: Pass,
        key: str,
        ttl: Duration | None,
        wait: Duration | None,
        holders: int,
        name: str | None,
    ) -> None:
        self.key = check_key(key, "the key of a lock")
        self._ttl_ms = 0 if ttl is None else lifetime_ms(ttl)
        self._wait_ms = None if wait is None else milliseconds(wait, "wait")
        self._among = among(holders)
        self._pass = pass_
        self._step = pass_.identify_call("lock", key, "lock", name)
        self._held: locks.LockBlock | None = None
        pass_.unawaited[self._step] = None

    @property
    def token(self) -> int:
        """The fencing token: higher than that of every earlier holder, including this run before it
        lost the lock in a crash."""
        return self._mine().token

    @property
    def expires_at(self) -> datetime | None:
        """Until when the lock is held, by the daemon's clock; None without a ttl."""
        return self._mine().expires_at

    def _mine(self) -> locks.LockBlock:
        if self._held is None:
            raise Usage(
                f"the lock {self.key!r} is not held", hint="with ctx.state.lock(...) as lock:"
            )
        return self._held

    def _taking(self) -> Steps:
        if self._held is not None:
            raise Usage(
                f"the lock {self.key!r} was entered twice", hint="call ctx.state.lock(...) again"
            )
        self._pass.unawaited.pop(self._step, None)
        return locks.acquire(
            self._pass, self._step, self.key, self._ttl_ms, self._wait_ms, self._among
        )

    def _enter(self, held: locks.LockBlock) -> None:
        self._held = held
        locks.inside.set((*locks.inside.get(), held))

    def _extending(self, step: str, ttl: Duration) -> Steps:
        held = self._mine()
        if not held.is_open:
            raise Usage(f"the block of lock {self.key!r} has ended")
        return locks.extend(self._pass, step, held, lifetime_ms(ttl))

    def _leaving(self, bad: BaseException | None) -> Steps | None:
        """What to do at the end of the block; None if the pass is being unwound, because the run
        is still in the block."""
        held = self._mine()
        locks.inside.set(tuple(block for block in locks.inside.get() if block is not held))
        if self._pass.unwinding is not None:
            return None
        return locks.release(self._pass, held, raised=bad is not None)


class RunLock(Block):
    """A lock from `ctx.state.lock`. If it expires within its block, the next call on `ctx` there
    raises `LockLost`, and so does leaving the block, unless another exception ends it."""

    def __init__(
        self,
        pass_: Pass,
        port: Port,
        key: str,
        ttl: Duration | None,
        wait: Duration | None,
        holders: int,
        name: str | None,
    ) -> None:
        super().__init__(pass_, key, ttl, wait, holders, name)
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
        """Hold the lock for `ttl` from now on. Raises `LockLost` if the run has lost it."""
        step = self._pass.identify_call("lock.extend", self.key)
        drive(self._extending(step, ttl), self._port)
