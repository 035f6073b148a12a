"""A lock held by an application, for as long as a `with` block: `Lock`, and `AsyncLock`.

Nothing renews it: who works longer than its `ttl` calls `extend`, or loses it. What it protects can
tell late writes of one who has lost it by the fencing token, which grows with each holder.

Invariants: one object is one acquisition; a broken connection takes it once and gives it back once
(`lock_calls`); a lock that was lost is never left without a word; who gives up waiting for one
(cancelled, Ctrl-C) stands in its line no more.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from datetime import datetime
from time import monotonic
from types import TracebackType
from typing import Any, Final

from stackshift_jobs.calls import locks
from stackshift_jobs.calls.drive import AsyncCaller, Caller, Calls, drive, drive_awaited
from stackshift_jobs.errors import StackshiftError, Usage
from stackshift_jobs.values.durations import Duration


class _ClientLock:
    """What both kinds of lock know: what is asked for, and what is held."""

    def __init__(self, key: str, ttl: Duration, wait: Duration | None) -> None:
        self._asked = locks.acquire_call(
            key, ttl=ttl, wait=wait, holder=_this_program(), asker=os.urandom(16).hex()
        )
        self.key = key
        self._held: locks.HeldLock | None = None
        self._ends_at = 0.0
        self._is_released = False

    @property
    def token(self) -> int:
        """The fencing token: higher than that of all who held the lock before."""
        return self._mine().token

    @property
    def expires_at(self) -> datetime:
        """Until when it is held, by the daemon's time."""
        return self._mine().expires_at

    def _mine(self) -> locks.HeldLock:
        if self._held is None:
            raise Usage(f"the lock {self.key!r} is not held", hint="with state.lock(...) as lock:")
        return self._held

    def _acquire_calls(self) -> Calls[locks.HeldLock]:
        if self._held is not None:
            raise Usage(f"the lock {self.key!r} was entered twice", hint="make another")
        return locks.acquire(self._asked, monotonic)

    def _withdraw_calls(self) -> Calls[None]:
        return locks.withdraw(self._asked)

    def _extend_calls(self, ttl: Duration) -> Calls[locks.HeldLock]:
        if self._is_released:
            raise Usage(f"the lock {self.key!r} was given back")
        return locks.extend(self.key, self._mine().token, ttl)

    def _note_held(self, held: locks.HeldLock, ttl_ms: int) -> None:
        self._held = held
        self._ends_at = monotonic() + ttl_ms / 1000

    def _release_calls(self) -> Calls[None]:
        self._is_released = True
        return locks.release(self.key, self.token, lambda: monotonic() >= self._ends_at)


class Lock(_ClientLock):
    """A lock of `State.lock`. Entering takes it, leaving gives it back.

    Leaving raises `LockLost` if it ran out meanwhile, unless another exception is on its way.
    """

    def __init__(self, caller: Caller, key: str, ttl: Duration, wait: Duration | None) -> None:
        super().__init__(key, ttl, wait)
        self._caller = caller

    def __enter__(self) -> Lock:
        try:
            held = drive(self._acquire_calls(), self._caller)
        except (TimeoutError, KeyboardInterrupt):
            with suppress(StackshiftError, TimeoutError):
                drive(self._withdraw_calls(), self._caller)
            raise
        self._note_held(held, self._asked[1]["ttl_ms"])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, bad: BaseException | None, at: TracebackType | None
    ) -> None:
        try:
            drive(self._release_calls(), self._caller)
        except (StackshiftError, TimeoutError):
            if bad is None:
                raise

    def extend(self, ttl: Duration) -> None:
        """Hold it for `ttl` from now on. Raises `LockLost` if it is ours no longer."""
        held = drive(self._extend_calls(ttl), self._caller)
        self._note_held(held, locks.lifetime_ms(ttl))


class AsyncLock(_ClientLock):
    """`Lock`, awaited."""

    def __init__(self, caller: AsyncCaller, key: str, ttl: Duration, wait: Duration | None) -> None:
        super().__init__(key, ttl, wait)
        self._caller = caller

    async def __aenter__(self) -> AsyncLock:
        try:
            held = await drive_awaited(self._acquire_calls(), self._caller)
        except StackshiftError:
            raise
        except BaseException:
            self._give_up_beside()
            raise
        self._note_held(held, self._asked[1]["ttl_ms"])
        return self

    def _give_up_beside(self) -> None:
        """In a task of its own: who was cancelled is not kept by it."""
        import asyncio  # Is there already, where anything is awaited; a program's start is not.

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
            await drive_awaited(self._release_calls(), self._caller)
        except (StackshiftError, TimeoutError):
            if bad is None:
                raise

    async def extend(self, ttl: Duration) -> None:
        """Hold it for `ttl` from now on; see `Lock.extend`."""
        held = await drive_awaited(self._extend_calls(ttl), self._caller)
        self._note_held(held, locks.lifetime_ms(ttl))


_withdrawing: Final[set[Any]] = set()
"""Tasks under way: their loop does not hold on to them."""


def _this_program() -> str:
    """Who holds it, for people: `import.py (pid 4711)`."""
    name = os.path.basename(sys.argv[0] if sys.argv else "") or "python"  # noqa: PTH119
    return f"{name[:100]} (pid {os.getpid()})"
