"""`lock.*`: locks as clients take, extend and release them.

A client that waits stands in the line of the core, and is taken out of it when its time passes or
its connection is gone. Invariants:

- Nobody holds a lock without having been told: who was given one when its connection was gone gives
  it back. But whoever asks for it meanwhile as the same `asker` is the same client on another
  connection: it is told that it holds it, and then that is so.
- An asker waits for a key once, on the connection on which it asked last.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec
from msgspec import Raw

from stackshift_jobs.errors import Busy, DiskFull
from stackshiftd.core import commands as c
from stackshiftd.core.decide.locks import held_error
from stackshiftd.core.effects import Answered, Granted, Queued
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.params import Answer, BoundTable, Table
from stackshiftd.shell.requests import AcquireLock, ExtendLock, ReleaseLock, Requests, answered

MAX_WAITS: Final = 1000
"""Of one connection at a time."""
AGAIN_SECONDS: Final = 1.0
"""Between two tries of what could not be recorded for want of room."""

Place = tuple[str, str]
"""A key, and who asks for it."""


class _Ask:
    """One request: of which connection, and whether that is gone."""

    __slots__ = ("answer", "gone", "owner", "place")

    def __init__(self, owner: object, place: Place, answer: Answer) -> None:
        self.owner = owner
        self.place = place
        self.answer = answer
        self.gone = False


class Locks:
    """Answers each client that asks for a lock once."""

    def __init__(self, engine: Engine, requests: Requests) -> None:
        self._engine = engine
        self._requests = requests
        self._loop = asyncio.get_running_loop()
        self._of: dict[object, set[_Ask]] = {}
        """What each connection is not answered yet."""
        self._asked: dict[Place, int] = {}
        """How many requests are decided, and not durable yet."""
        self._waiting: dict[Place, _Ask] = {}
        self._unwanted: set[Place] = set()
        """Held by clients that are gone, and could not be given back yet."""
        self.table: Table = {
            "lock.extend": (ExtendLock, self.extend),
            "lock.release": (ReleaseLock, self.release),
        }
        self.bound: BoundTable = {"lock.acquire": (AcquireLock, self.acquire)}

    def acquire(self, owner: object, params: AcquireLock, answer: Answer) -> None:
        command = self._requests.acquire(params)
        if len(self._of.get(owner, ())) >= MAX_WAITS:
            raise Busy(f"{MAX_WAITS} waits on one connection", hint="use another connection")
        place = (command.key, command.asker)
        ask = _Ask(owner, place, answer)
        self._of.setdefault(owner, set()).add(ask)
        self._asked[place] = self._asked.get(place, 0) + 1
        self._unwanted.discard(place)

        def replied(reply: Any) -> None:
            self._asked[place] -= 1
            if not self._asked[place]:
                del self._asked[place]
            if isinstance(reply, Queued):
                self._wait(ask, command.wait_ms)
                return
            self._close(ask)
            answered(answer)(reply)
            if ask.gone and isinstance(reply, Answered):
                self._give_back(place, reply.body)

        self._engine.submit(command, replied)

    def extend(self, params: ExtendLock, answer: Answer) -> None:
        self._engine.submit(self._requests.extend(params), answered(answer))

    def release(self, params: ReleaseLock, answer: Answer) -> None:
        self._engine.submit(self._requests.release(params), answered(answer))

    def granted(self, effect: Granted) -> None:
        """A client that waited holds the lock."""
        place = (msgspec.json.decode(effect.body)["key"], effect.asker)
        ask = self._take(place)
        if ask is not None:
            ask.answer(effect.body)
        else:
            self._give_back(place, effect.body)

    def forget(self, owner: object) -> None:
        """The connection is gone."""
        for ask in self._of.pop(owner, set()):
            ask.gone = True
            if self._waiting.get(ask.place) is ask:
                del self._waiting[ask.place]
                self._withdraw(ask.place)

    def _close(self, ask: _Ask) -> None:
        """It is answered, or is not to be."""
        owned = self._of.get(ask.owner)
        if owned is not None:
            owned.discard(ask)
            if not owned:
                del self._of[ask.owner]

    # --- Waiting ---------------------------------------------------------------------------

    def _wait(self, ask: _Ask, wait_ms: int | None) -> None:
        if ask.gone:
            if ask.place not in self._waiting:
                self._withdraw(ask.place)
            return
        self._take(ask.place)
        self._waiting[ask.place] = ask
        if wait_ms is not None:
            self._loop.call_later(wait_ms / 1000, self._give_up, ask)

    def _take(self, place: Place) -> _Ask | None:
        """Who waits there, and does so no more."""
        ask = self._waiting.pop(place, None)
        if ask is not None:
            self._close(ask)
        return ask

    def _withdraw(self, place: Place) -> None:
        """Leave the line, unless somebody is about to hear that it stands there."""
        if place not in self._asked:
            self._engine.submit(c.WithdrawLock(*place))

    def _give_up(self, ask: _Ask) -> None:
        if self._waiting.get(ask.place) is not ask:
            return
        key, asker = ask.place
        lock = self._engine.state.locks.get(key)
        if lock is None or asker not in lock.line:
            # It has been given the lock just now, and is about to be told; or that comes to
            # nothing for want of room, and it stands in the line again.
            self._loop.call_later(AGAIN_SECONDS, self._give_up, ask)
            return
        refusal = held_error(key, lock, self._engine.now_us())
        self._take(ask.place)
        self._withdraw(ask.place)
        self._engine.when_durable(ask.answer, refusal)

    # --- Giving back -----------------------------------------------------------------------

    def _give_back(self, place: Place, body: Raw) -> None:
        """Nobody was told of the lock that `body` tells of."""
        if place not in self._asked:
            self._unwanted.add(place)
            self._let_go(place, msgspec.json.decode(body)["token"])

    def _let_go(self, place: Place, token: int) -> None:
        if place not in self._unwanted:
            return

        def replied(reply: Any) -> None:
            if isinstance(reply, DiskFull):
                self._loop.call_later(AGAIN_SECONDS, self._let_go, place, token)
            else:  # Whether it was still held makes no difference to a client that is gone.
                self._unwanted.discard(place)

        self._engine.submit(c.ReleaseLock(key=place[0], lock_token=token), replied)
