"""Locks that an application holds for the duration of a `with` block: `Lock` and `AsyncLock`.

Nothing renews them: a block that takes longer than the `ttl` must call `extend`, or it loses the
lock. What the lock protects can recognize late writes of a former holder by the fencing token,
which grows with each holder.

Invariants: an object acquires its lock only once; even if the connection breaks, the lock is
acquired once and released once (`calls.locks`); losing a lock is always an error by the end of the
block; a caller that gives up waiting (cancelled, Ctrl-C) leaves the line.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import datetime
from time import monotonic
from types import TracebackType
from typing import Any, Final

from stackshift_jobs.calls import locks
from stackshift_jobs.calls.drive import AsyncCaller, Caller, Calls, drive, drive_awaited
from stackshift_jobs.errors import LockHeld, NotFound, StackshiftError, Usage
from stackshift_jobs.values.durations import Duration


class _ClientLock:
    """The common part of both kinds of lock: the request, and the lock once it is held."""

    def __init__(self, key: str, ttl: Duration, wait: Duration | None, holders: int) -> None:
        self._request = locks.acquire_call(
            key,
            ttl=ttl,
            wait=wait,
            holder=_this_program(),
            asker=os.urandom(16).hex(),
            holders=holders,
        )
        self.key = key
        self._held: locks.HeldLock | None = None
        self._ends_at = 0.0
        self._is_released = False

    @property
    def token(self) -> int:
        """The fencing token: higher than those of all earlier holders. Raises `Usage` before the
        lock is held."""
        return self._holding().token

    @property
    def expires_at(self) -> datetime:
        """When it expires, in daemon time. Raises `Usage` before the lock is held."""
        return self._holding().expires_at

    def _holding(self) -> locks.HeldLock:
        if self._held is None:
            raise Usage(f"the lock {self.key!r} is not held", hint="with state.lock(...) as lock:")
        return self._held

    def _acquire_calls(self) -> Calls[Any]:
        if self._held is not None:
            raise Usage(f"the lock {self.key!r} was entered twice", hint="make another")
        return locks.acquire(self._request, monotonic)

    def _withdraw_calls(self) -> Calls[None]:
        return locks.withdraw(self._request)

    def _extend_call(self, ttl: Duration) -> tuple[str, dict[str, Any]]:
        if self._is_released:
            raise Usage(f"the lock {self.key!r} was released")
        return locks.extend_call(self.key, self._holding().token, ttl)

    def _release_calls(self) -> Calls[None]:
        self._is_released = True
        return locks.release(self.key, self.token, lambda: monotonic() >= self._ends_at)

    def _note_held(self, result: Any, ttl_ms: int) -> None:
        self._held = locks.held(result)
        self._ends_at = monotonic() + ttl_ms / 1000

    @contextmanager
    def _losing(self) -> Generator[None]:
        """Raise `LockLost` if the daemon says that the lock is no longer ours."""
        try:
            yield
        except (NotFound, LockHeld) as why:
            raise locks.lost(self.key, why) from why


class Lock(_ClientLock):
    """A lock from `State.lock`. Entering acquires it, leaving releases it.

    Leaving raises `LockLost` if it expired meanwhile, unless another exception is being raised.
    """

    def __init__(
        self, caller: Caller, key: str, ttl: Duration, wait: Duration | None, holders: int = 1
    ) -> None:
        super().__init__(key, ttl, wait, holders)
        self._caller = caller

    def __enter__(self) -> Lock:
        try:
            held = drive(self._acquire_calls(), self._caller)
        except (TimeoutError, KeyboardInterrupt):
            with suppress(StackshiftError, TimeoutError):
                drive(self._withdraw_calls(), self._caller)
            raise
        self._note_held(held, self._request[1]["ttl_ms"])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, bad: BaseException | None, at: TracebackType | None
    ) -> None:
        try:
            with self._losing():
                drive(self._release_calls(), self._caller)
        except (StackshiftError, TimeoutError):
            if bad is None:
                raise

    def extend(self, ttl: Duration) -> None:
        """Hold it for `ttl` from now on. Raises `LockLost` if it is no longer ours."""
        call = self._extend_call(ttl)
        with self._losing():
            self._note_held(self._caller.call(*call), locks.lifetime_ms(ttl))


class AsyncLock(_ClientLock):
    """Like `Lock`, for `async with`."""

    def __init__(
        self, caller: AsyncCaller, key: str, ttl: Duration, wait: Duration | None, holders: int = 1
    ) -> None:
        super().__init__(key, ttl, wait, holders)
        self._caller = caller

    async def __aenter__(self) -> AsyncLock:
        try:
            held = await drive_awaited(self._acquire_calls(), self._caller)
        except StackshiftError:
            raise
        except BaseException:
            self._give_up_beside()
            raise
        self._note_held(held, self._request[1]["ttl_ms"])
        return self

    def _give_up_beside(self) -> None:
        """Leave the line in a separate task, so that this does not delay the cancellation."""
        import asyncio  # Loaded already if this is awaited; other programs start faster without.

        task = asyncio.get_running_loop().create_task(self._withdraw())
        _withdrawing.add(task)
        task.add_done_callback(_withdrawing.discard)

    async def _withdraw(self) -> None:
        with suppress(StackshiftError, TimeoutError):
            await drive_awaited(self._withdraw_calls(), self._caller)

    async def __aexit__(
        self, kind: type[BaseException] | None, bad: BaseException | None, at: TracebackType | None
    ) -> None:
        try:
            with self._losing():
                await drive_awaited(self._release_calls(), self._caller)
        except (StackshiftError, TimeoutError):
            if bad is None:
                raise

    async def extend(self, ttl: Duration) -> None:
        """Hold it for `ttl` from now on. Raises `LockLost` if it is no longer ours."""
        call = self._extend_call(ttl)
        with self._losing():
            self._note_held(await self._caller.call(*call), locks.lifetime_ms(ttl))


_withdrawing: Final[set[Any]] = set()
"""Tasks under way, because their loop keeps only weak references to them."""


def _this_program() -> str:
    """A description of this program as a holder, for people: `import.py (pid 4711)`."""
    name = os.path.basename(sys.argv[0] if sys.argv else "") or "python"  # noqa: PTH119
    return f"{name[:100]} (pid {os.getpid()})"
