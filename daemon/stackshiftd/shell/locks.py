"""`lock.*`: locks as clients take, extend and release them.

A client that waits stands in the line of the core, and is taken out of it when its time passes or
its connection is gone. One that was given the lock when it was gone already gives it back.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Raw

from stackshift_jobs.errors import Busy, StackshiftError, from_json
from stackshiftd.core import commands as c
from stackshiftd.core.effects import Granted, Queued
from stackshiftd.shell.asks import AcquireLock, Asks, ExtendLock, ReleaseLock, answered
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.params import Answer, BoundTable, Table

MAX_WAITS: Final = 1000
"""Of one connection at a time."""


class _Wait(NamedTuple):
    owner: object
    key: str
    answer: Answer
    refusal: Raw


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

        def replied(reply: Any) -> None:
            if not isinstance(reply, Queued):
                answered(answer)(reply)
                return
            self._waiting[command.asker] = _Wait(owner, command.key, answer, reply.refusal)
            if command.wait_ms is not None:
                self._loop.call_later(command.wait_ms / 1000, self._give_up, command.asker, answer)

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
            return
        held = msgspec.json.decode(effect.body)
        self._engine.submit(c.ReleaseLock(key=held["key"], lock_token=held["token"]), _ignored)

    def forget(self, owner: object) -> None:
        """The connection is gone."""
        for asker, wait in list(self._waiting.items()):
            if wait.owner is owner:
                del self._waiting[asker]
                self._engine.submit(c.WithdrawLock(wait.key, asker))

    def _give_up(self, asker: str, answer: Answer) -> None:
        wait = self._waiting.get(asker)
        if wait is None or wait.answer is not answer:
            return
        if asker not in getattr(self._engine.state.locks.get(wait.key), "line", ()):
            return  # It has been given the lock just now, and is about to be told.
        del self._waiting[asker]
        self._engine.submit(c.WithdrawLock(wait.key, asker))
        refusal: StackshiftError = from_json(msgspec.json.decode(wait.refusal))
        self._engine.when_durable(wait.answer, refusal)


def _ignored(reply: Any) -> None:
    """Whether it was still held makes no difference to a client that is gone."""
