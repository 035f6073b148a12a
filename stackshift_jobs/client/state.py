"""A client's `.state`, blocking and awaited.

Every write acts at once, and acts again if the program repeats it; a handler uses `ctx.state`,
which acts once. What is sent and what the replies mean is defined in `calls.state` and
`calls.locks`.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import Any

from stackshift_jobs.calls import state
from stackshift_jobs.calls.drive import AsyncTimedCaller, TimedCaller, drive, drive_awaited
from stackshift_jobs.client.locks import AsyncLock, Lock
from stackshift_jobs.values.durations import Duration
from stackshift_jobs.values.stored import StateChange, StateEntry


class State:
    """The project's durable entries: `key → value`, each with a version and perhaps an expiry.

    Keys are 1 to 512 bytes of text. An entry that has expired counts as absent.
    """

    def __init__(self, caller: TimedCaller) -> None:
        self._caller = caller

    def get(
        self,
        key: str,
        default: Any = None,
        *,
        returns: Any = None,
        wait: Duration | None = None,
    ) -> Any:
        """The value at `key`, as the type `returns` if given; `default` if there is none. With
        `wait`, the call waits up to that long until there is one, also while the daemon restarts.
        Raises `PayloadRefused` if the value does not fit."""
        return state.value(self._found(key, wait), default, returns)

    def entry(self, key: str, *, wait: Duration | None = None) -> StateEntry | None:
        """The entry at `key`, with its value and its version (for `if_version`); None if there is
        none, with `wait` also not within that time."""
        return state.entry(self._found(key, wait))

    def _found(self, key: str, wait: Duration | None) -> Any:
        if wait is not None:
            call, seconds = state.wait(key, wait)
            # The time includes a restart of the daemon, which begins to count again.
            with suppress(TimeoutError):
                return self._caller.call(*call, timeout=seconds)
        return self._caller.call(*state.get(key))

    def set(
        self,
        key: str,
        value: Any,
        *,
        ttl: Duration | None = None,
        expires_at: datetime | str | None = None,
        if_version: int | None = None,
        if_absent: bool = False,
    ) -> int:
        """Write `value` at `key`; returns the entry's new version. Without `ttl` or `expires_at`
        the entry does not expire.

        Raises `Conflict` if the entry's version is not `if_version` (0: there is no entry), or if
        there is an entry and `if_absent` is set; `PayloadRefused` for what JSON cannot hold.
        """
        call = state.set_(
            key, value, ttl=ttl, expires_at=expires_at, if_version=if_version, if_absent=if_absent
        )
        return state.version(self._caller.call(*call))

    def delete(self, key: str, *, if_version: int | None = None) -> bool:
        """Remove the entry at `key`; returns whether there was one. Raises `Conflict` if its
        version is not `if_version`."""
        call = state.delete(key, if_version=if_version)
        return state.existed(self._caller.call(*call))

    def increment(
        self, key: str, by: int | float = 1, *, ttl: Duration | None = None
    ) -> int | float:
        """Add `by` to the number at `key` (0 if there is none); returns the new number. Without
        `ttl` its expiry stays the same. Raises `Conflict` if the value is not a number."""
        call = state.increment(key, by, ttl=ttl)
        return state.number(self._caller.call(*call))

    def history(self, key: str, limit: int = 50) -> list[StateChange]:
        """The last `limit` changes of the entry at `key`, newest first, as far back as the journal
        goes."""
        return drive(state.history(key, limit), self._caller)

    def list(self, prefix: str = "") -> list[StateEntry]:
        """All entries whose key begins with `prefix`, in the order of their keys."""
        return drive(state.listing(prefix), self._caller)

    def lock(
        self, key: str, *, ttl: Duration, wait: Duration | None = None, holders: int = 1
    ) -> Lock:
        """The lock `key`, for a `with` block. It is held for `ttl`; only `Lock.extend` renews it.

        Entering the block waits for the lock up to `wait`, first come, first served, and raises
        `LockHeld` if somebody else still holds it then. With `holders`, so many may hold it at a
        time: each names its number, and the smallest counts. Locks and entries are separate: both
        can have the same key.
        """
        return Lock(self._caller, key, ttl, wait, holders)


class AsyncState:
    """`State`, awaited."""

    def __init__(self, caller: AsyncTimedCaller) -> None:
        self._caller = caller

    async def get(
        self,
        key: str,
        default: Any = None,
        *,
        returns: Any = None,
        wait: Duration | None = None,
    ) -> Any:
        """The value at `key`; `default` if there is none, with `wait` also not within that time.
        See `State.get`."""
        return state.value(await self._found(key, wait), default, returns)

    async def entry(self, key: str, *, wait: Duration | None = None) -> StateEntry | None:
        """The entry at `key`; None if there is none. See `State.entry`."""
        return state.entry(await self._found(key, wait))

    async def _found(self, key: str, wait: Duration | None) -> Any:
        if wait is not None:
            call, seconds = state.wait(key, wait)
            with suppress(TimeoutError):
                return await self._caller.call(*call, timeout=seconds)
        return await self._caller.call(*state.get(key))

    async def set(
        self,
        key: str,
        value: Any,
        *,
        ttl: Duration | None = None,
        expires_at: datetime | str | None = None,
        if_version: int | None = None,
        if_absent: bool = False,
    ) -> int:
        """Write `value` at `key`; returns the entry's new version. See `State.set`."""
        call = state.set_(
            key, value, ttl=ttl, expires_at=expires_at, if_version=if_version, if_absent=if_absent
        )
        return state.version(await self._caller.call(*call))

    async def delete(self, key: str, *, if_version: int | None = None) -> bool:
        """Remove the entry at `key`; returns whether there was one. See `State.delete`."""
        call = state.delete(key, if_version=if_version)
        return state.existed(await self._caller.call(*call))

    async def increment(
        self, key: str, by: int | float = 1, *, ttl: Duration | None = None
    ) -> int | float:
        """Add `by` to the number at `key`; returns the new number. See `State.increment`."""
        call = state.increment(key, by, ttl=ttl)
        return state.number(await self._caller.call(*call))

    async def history(self, key: str, limit: int = 50) -> list[StateChange]:
        """The last `limit` changes of the entry at `key`, newest first. See `State.history`."""
        return await drive_awaited(state.history(key, limit), self._caller)

    async def list(self, prefix: str = "") -> list[StateEntry]:
        """All entries whose key begins with `prefix`, in the order of their keys."""
        return await drive_awaited(state.listing(prefix), self._caller)

    def lock(
        self, key: str, *, ttl: Duration, wait: Duration | None = None, holders: int = 1
    ) -> AsyncLock:
        """The lock `key`, for an `async with` block. See `State.lock`."""
        return AsyncLock(self._caller, key, ttl, wait, holders)
