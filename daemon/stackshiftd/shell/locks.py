"""`lock.*`: locks as clients take, extend and release them.

A client that waits stands in the line of the core, and is taken out of it when its time passes or
its connection is gone. One that was given the lock when it was gone already gives it back. Whoever
asks is known here from then on until it is answered: its connection may go at any time between.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Raw

from stackshift_jobs.errors import Busy
from stackshiftd.core import commands as c
from stackshiftd.core.effects import Answered, Granted, Queued
from stackshiftd.core.locking import held_error
from stackshiftd.shell.asks import AcquireLock, Asks, ExtendLock, ReleaseLock, answered
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.params import Answer, BoundTable, Table

MAX_WAITS: Final = 1000
"""Of one connection at a time."""


class _Wait(NamedTuple):
    owner: object
    key: str
    answer: Answer


class Locks:
    """Answers each client that asks for a lock once."""

    def __init__(self, engine: Engine, asks: Asks) -> None:
        self._engine = engine
        self._asks = asks
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str, _Wait] = {}
        self.table: Table = {
            "lock.extend": (ExtendLock, self.extend),
            "lock.release": (ReleaseLock, self.release),
        }
        self.bound: BoundTable = {"lock.acquire": (AcquireLock, self.acquire)}

    def acquire(self, owner: object, params: AcquireLock, answer: Answer) -> None:
        command = self._asks.acquire(params)
        if sum(wait.owner is owner for wait in self._waiting.values()) >= MAX_WAITS:
            raise Busy(f"{MAX_WAITS} waits on one connection", hint="use another connection")

        asker, wait = command.asker, _Wait(owner, command.key, answer)
        self._waiting[asker] = wait

        def replied(reply: Any) -> None:
            here = self._waiting.get(asker)
            if isinstance(reply, Queued):
                if here is wait and command.wait_ms is not None:
                    self._loop.call_later(command.wait_ms / 1000, self._give_up, asker, wait)
                return
            if here is wait:
                del self._waiting[asker]
            answered(answer)(reply)
            if here is None and isinstance(reply, Answered):
                self._give_back(reply.body)

        self._engine.submit(command, replied)

    def extend(self, params: ExtendLock, answer: Answer) -> None:
        self._engine.submit(self._asks.extend(params), answered(answer))

    def release(self, params: ReleaseLock, answer: Answer) -> None:
        self._engine.submit(self._asks.release(params), answered(answer))

    def granted(self, effect: Granted) -> None:
        """A client that waited holds the lock."""
        wait = self._waiting.pop(effect.asker, None)
        if wait is not None:
            wait.answer(effect.body)
        else:
            self._give_back(effect.body)

    def _give_back(self, body: Raw) -> None:
        """Let go of what a client was given that is gone."""
        held = msgspec.json.decode(body)
        self._engine.submit(c.ReleaseLock(key=held["key"], lock_token=held["token"]), _ignored)

    def forget(self, owner: object) -> None:
        """The connection is gone."""
        for asker, wait in list(self._waiting.items()):
            if wait.owner is owner:
                del self._waiting[asker]
                self._engine.submit(c.WithdrawLock(wait.key, asker))

    def _give_up(self, asker: str, wait: _Wait) -> None:
        if self._waiting.get(asker) is not wait:
            return
        lock = self._engine.state.locks.get(wait.key)
        if lock is None or asker not in lock.line:
            return  # It has been given the lock just now, and is about to be told.
        del self._waiting[asker]
        refusal = held_error(wait.key, lock, self._engine.now_us())
        self._engine.submit(c.WithdrawLock(wait.key, asker))
        self._engine.when_durable(wait.answer, refusal)


def _ignored(reply: Any) -> None:
    """Whether it was still held makes no difference to a client that is gone."""
