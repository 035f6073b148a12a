"""`lock.*`: locks as clients acquire, extend and release them.

A client that waits is in the core's line, and is withdrawn from it when it times out or its
connection is gone. Invariants:

- No client holds a lock without knowing it: a lock granted to a client whose connection was gone by
  then is released. But a request by the same `asker` meanwhile comes from the same client on
  another connection: it is answered that it holds the lock, and keeps it.
- An asker waits for a key only once, on the connection on which it asked last.
"""

from __future__ import annotations

import asyncio
import heapq
from itertools import islice
from typing import Any, Final

import msgspec
from msgspec import Raw

from stackshift_jobs.errors import DiskFull
from stackshift_jobs.values.durations import rfc3339
from stackshiftd.core import commands as c
from stackshiftd.core.decide.locks import held_error
from stackshiftd.core.effects import Answered, Granted, Queued
from stackshiftd.core.state.entries import PAGE_BYTES, encode
from stackshiftd.core.state.locks import Lock
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.methods.waiters import Wait, Waiters
from stackshiftd.shell.params import Answer, BoundTable, Reads, Table, within
from stackshiftd.shell.requests import (
    MAX_PAGE,
    AcquireLock,
    ExtendLock,
    ListLocks,
    ReleaseLock,
    Requests,
    answered,
)
from stackshiftd.shell.work import Work

AGAIN_SECONDS: Final = 1.0
"""The pause before something that could not be recorded for lack of room is tried again."""

SHOWN_LINE: Final = 20
"""Those in line whom `lock.list` shows; the others are counted."""
LOOKS: Final = 5000
"""Keys that are looked at in one part of the work of a list."""
ROWS: Final = 50
"""Locks that are shown in one part of it."""

Place = tuple[str, str]
"""The key of a lock, and an asker."""


class Locks:
    """Answers each client that asks for a lock once."""

    def __init__(self, engine: Engine, requests: Requests, waiters: Waiters) -> None:
        self._engine = engine
        self._requests = requests
        self._waiters = waiters
        self._loop = asyncio.get_running_loop()
        self._undecided: dict[Place, int] = {}
        """How many requests for the lock have been submitted and not answered yet."""
        self._in_line: dict[Place, Wait] = {}
        self._unwanted: set[Place] = set()
        """Locks of clients that are gone, which could not be released yet."""
        self.reads: Reads = {"lock.list": (ListLocks, self.list)}
        self.table: Table = {
            "lock.extend": (ExtendLock, self.extend),
            "lock.release": (ReleaseLock, self.release),
        }
        self.bound: BoundTable = {"lock.acquire": (AcquireLock, self.acquire)}

    def acquire(self, owner: object, params: AcquireLock, answer: Answer) -> None:
        """Acquire a lock; answers when it is held, or when `wait_ms` has passed."""
        command = self._requests.acquire(params)
        place = (command.key, command.asker)
        wait = self._waiters.open(
            "lock.acquire", owner, answer, lambda: self._owner_gone(place, wait)
        )
        self._undecided[place] = self._undecided.get(place, 0) + 1
        self._unwanted.discard(place)

        def replied(reply: Any) -> None:
            self._undecided[place] -= 1
            if not self._undecided[place]:
                del self._undecided[place]
            if isinstance(reply, Queued):
                self._join_line(place, wait, command.wait_ms)
                return
            owner_is_connected = wait.is_open
            self._waiters.close(wait)
            answered(answer)(reply)
            if not owner_is_connected and isinstance(reply, Answered):
                self._return_lock(place, reply.body)

        self._engine.submit(command, replied)

    def extend(self, params: ExtendLock, answer: Answer) -> None:
        """Extend a lock."""
        self._engine.submit(self._requests.extend(params), answered(answer))

    def release(self, params: ReleaseLock, answer: Answer) -> None:
        """Release a lock; the next in its line gets it."""
        self._engine.submit(self._requests.release(params), answered(answer))

    def list(self, params: ListLocks) -> Work:
        """The work that leads to `{locks[], next}`: a page of the locks by key, with their holders
        and lines; it ends once it exceeds `PAGE_BYTES`. Raises `Usage`."""
        within(params.limit, 1, MAX_PAGE, "limit")
        return self._list(params)

    def _list(self, params: ListLocks) -> Work:
        locks, after = self._engine.state.locks, params.after or ""
        all_keys = list(locks)
        keys: list[str] = []
        for at in range(0, len(all_keys), LOOKS):
            part = (k for k in all_keys[at : at + LOOKS] if k.startswith(params.prefix))
            keys = heapq.nsmallest(params.limit + 1, (*keys, *(k for k in part if k > after)))
            yield None
        page: list[Raw] = []
        size = 0
        shown = ""
        now_us = self._engine.now_us()
        for key in keys:
            if len(page) == params.limit or size > PAGE_BYTES:
                return {"locks": page, "next": shown}
            shown = key
            if (lock := locks.get(key)) is not None:  # Else it was released meanwhile.
                page.append(Raw(encode(_shown(key, lock, now_us))))
                size += memoryview(page[-1]).nbytes
                if len(page) % ROWS == 0:
                    yield None
        return {"locks": page, "next": None}

    def granted(self, effect: Granted) -> None:
        """Answer the client that waited and now holds the lock; release the lock if the client is
        gone."""
        place = (msgspec.json.decode(effect.body)["key"], effect.asker)
        wait = self._leave_line(place)
        if wait is not None:
            wait.answer(effect.body)
        else:
            self._return_lock(place, effect.body)

    # --- Waiting ---------------------------------------------------------------------------

    def _join_line(self, place: Place, wait: Wait, wait_ms: int | None) -> None:
        if not wait.is_open:
            if place not in self._in_line:
                self._withdraw(place)
            return
        self._leave_line(place)
        self._in_line[place] = wait
        if wait_ms is not None:
            self._loop.call_later(wait_ms / 1000, self._time_out, place, wait)

    def _leave_line(self, place: Place) -> Wait | None:
        """Close and return the wait of this place, if there is one."""
        wait = self._in_line.pop(place, None)
        if wait is not None:
            self._waiters.close(wait)
        return wait

    def _owner_gone(self, place: Place, wait: Wait) -> None:
        if self._in_line.get(place) is wait:
            del self._in_line[place]
            self._withdraw(place)

    def _withdraw(self, place: Place) -> None:
        """Leave the core's line, unless another request of this asker is under way."""
        if place not in self._undecided:
            self._engine.submit(c.WithdrawLock(*place))

    def _time_out(self, place: Place, wait: Wait) -> None:
        if self._in_line.get(place) is not wait:
            return
        key, asker = place
        lock = self._engine.state.locks.get(key)
        if lock is None or asker not in lock.line:
            # The lock has just been granted, and the answer is about to be sent; or, if there is no
            # room to record that, the client will be in the line again.
            self._loop.call_later(AGAIN_SECONDS, self._time_out, place, wait)
            return
        refusal = held_error(key, lock, self._engine.now_us())
        self._leave_line(place)
        self._withdraw(place)
        self._engine.when_durable(wait.answer, refusal)

    # --- Locks of clients that are gone ----------------------------------------------------

    def _return_lock(self, place: Place, body: Raw) -> None:
        """Release the lock in `body`, which was granted to a client that is gone."""
        if place not in self._undecided:
            self._unwanted.add(place)
            self._release_unwanted(place, msgspec.json.decode(body)["token"])

    def _release_unwanted(self, place: Place, token: int) -> None:
        if place not in self._unwanted:
            return

        def replied(reply: Any) -> None:
            if isinstance(reply, DiskFull):
                self._loop.call_later(AGAIN_SECONDS, self._release_unwanted, place, token)
            else:  # Released, or no longer held: the same to a client that is gone.
                self._unwanted.discard(place)

        self._engine.submit(c.ReleaseLock(key=place[0], lock_token=token), replied)


def _shown(key: str, lock: Lock, now_us: int) -> dict[str, Any]:
    """A lock as lists show it. `run`, `holder` and `token` are those of its first holder, and null
    while it changes hands."""
    live = lock.live(now_us)
    held_by = [
        {
            "run": each.run or None,
            "step": each.step or None,
            "holder": each.holder or None,
            "since": rfc3339(each.since_us),
            "expires_at": rfc3339(each.expires_us) if each.expires_us else None,
            "token": each.token,
        }
        for each in live
    ]
    none = dict.fromkeys(("run", "step", "holder", "since", "expires_at", "token"))
    line = [
        {
            "run": waiting.run or None,
            "step": waiting.step or None,
            "holder": waiting.holder or None,
            "until": rfc3339(waiting.until_us) if waiting.until_us else None,
        }
        for waiting in islice(lock.line.values(), SHOWN_LINE)
    ]
    return {
        "key": key,
        **(held_by[0] if held_by else none),
        "waiting": len(lock.line),
        "line": line,
        "holders": min((each.holders for each in live), default=None),
        "held_by": held_by,
    }
