"""`state` for applications: what a client's `.state` is, blocking and awaited.

Every write here acts at once, and again if the program does it again; in a handler `ctx.state` is
right, which does it once. What is asked and what the answers mean is `state_calls`' and
`lock_calls`'.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from stackshift_jobs.calls import state
from stackshift_jobs.calls.drive import AsyncCaller, Caller, drive, drive_awaited
from stackshift_jobs.client.locks import AsyncLock, Lock
from stackshift_jobs.values.durations import Duration
from stackshift_jobs.values.stored import StateChange, StateEntry


class State:
    """The project's durable entries: `key → value`, each with a version and perhaps an expiry.

    Keys are 1 to 512 bytes of text. An entry that has expired is as one that is not there.
    """

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def get(self, key: str, default: Any = None) -> Any:
        """The value of `key`, `default` if there is none."""
        return state.value(self._caller.call(*state.get(key)), default)

    def entry(self, key: str) -> StateEntry | None:
        """The entry of `key`: its value, and its version, to be given as `if_version`."""
        return state.entry(self._caller.call(*state.get(key)))

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
        """Write `value`; its version. Without `ttl` or `expires_at` it stays until it is written
        again.

        Raises `Conflict` if the entry's version is not `if_version` (0: there is none), or if there
        is one with `if_absent`; `PayloadRefused` for what JSON cannot hold.
        """
        call = state.set_(
            key, value, ttl=ttl, expires_at=expires_at, if_version=if_version, if_absent=if_absent
        )
        return state.version(self._caller.call(*call))

    def delete(self, key: str, *, if_version: int | None = None) -> bool:
        """Remove the entry; was there one? Raises `Conflict` if its version is not `if_version`."""
        call = state.delete(key, if_version=if_version)
        return state.existed(self._caller.call(*call))

    def increment(
        self, key: str, by: int | float = 1, *, ttl: Duration | None = None
    ) -> int | float:
        """Add `by` to the number at `key` (0 if there is none); the new number. Without `ttl` its
        expiry stays. Raises `Conflict` if something else than a number is there."""
        call = state.increment(key, by, ttl=ttl)
        return state.number(self._caller.call(*call))

    def history(self, key: str, limit: int = 50) -> list[StateChange]:
        """The last changes of `key`, newest first, as far back as the journal is kept."""
        return drive(state.history(key, limit), self._caller)

    def list(self, prefix: str = "") -> list[StateEntry]:
        """All entries whose key begins with `prefix`, in the order of their keys."""
        return drive(state.listing(prefix), self._caller)

    def lock(self, key: str, *, ttl: Duration, wait: Duration | None = None) -> Lock:
        """The lock `key`, for a `with` block: held for `ttl`, which nothing renews but
        `Lock.extend`. Waits for it up to `wait`, in line with all others; raises `LockHeld` where
        it is still another's then. Locks are apart from entries: both may have the same key."""
        return Lock(self._caller, key, ttl, wait)


class AsyncState:
    """`State`, awaited."""

    def __init__(self, caller: AsyncCaller) -> None:
        self._caller = caller

    async def get(self, key: str, default: Any = None) -> Any:
        """The value of `key`, `default` if there is none."""
        return state.value(await self._caller.call(*state.get(key)), default)

    async def entry(self, key: str) -> StateEntry | None:
        """The entry of `key`; see `State.entry`."""
        return state.entry(await self._caller.call(*state.get(key)))

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
        """Write `value`; its version. See `State.set`."""
        call = state.set_(
            key, value, ttl=ttl, expires_at=expires_at, if_version=if_version, if_absent=if_absent
        )
        return state.version(await self._caller.call(*call))

    async def delete(self, key: str, *, if_version: int | None = None) -> bool:
        """Remove the entry; was there one? See `State.delete`."""
        call = state.delete(key, if_version=if_version)
        return state.existed(await self._caller.call(*call))

    async def increment(
        self, key: str, by: int | float = 1, *, ttl: Duration | None = None
    ) -> int | float:
        """Add `by` to the number at `key`; the new number. See `State.increment`."""
        call = state.increment(key, by, ttl=ttl)
        return state.number(await self._caller.call(*call))

    async def history(self, key: str, limit: int = 50) -> list[StateChange]:
        """The last changes of `key`, newest first; see `State.history`."""
        return await drive_awaited(state.history(key, limit), self._caller)

    async def list(self, prefix: str = "") -> list[StateEntry]:
        """All entries whose key begins with `prefix`; see `State.list`."""
        return await drive_awaited(state.listing(prefix), self._caller)

    def lock(self, key: str, *, ttl: Duration, wait: Duration | None = None) -> AsyncLock:
        """The lock `key`, for an `async with` block; see `State.lock`."""
        return AsyncLock(self._caller, key, ttl, wait)
