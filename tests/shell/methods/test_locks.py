"""Clients that ask for locks are answered once, and leave nothing behind when they are gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, cast

import pytest

from stackshift_jobs.errors import LockHeld, StackshiftError
from stackshiftd.core import records as r
from stackshiftd.core.decide.decide import decide
from stackshiftd.core.effects import Granted
from stackshiftd.core.fold.fold import fold
from stackshiftd.core.state.state import State
from stackshiftd.shell.methods.locks import Locks
from stackshiftd.shell.requests import AcquireLock, ReleaseLock, Requests


class SlowEngine:
    """Decides at once, and lets go of what follows when it is told to (`sync`)."""

    def __init__(self) -> None:
        self.state = State()
        self.us = 1_795_000_000_000_000
        self.held_back: list[Callable[[], None]] = []
        self.locks: Any = None

    def now_us(self) -> int:
        return self.us

    def submit(self, command: Any, reply: Any = None, source: Any = None) -> None:
        try:
            decision = decide(self.state, command, self.us)
        except StackshiftError as refused:
            self.when_durable(reply, refused)
            return
        for record in decision.records:
            fold(self.state, r.Entry(self.state.seq + 1, self.us, record))
        self.when_durable(reply, decision.reply)
        for effect in decision.effects:
            if isinstance(effect, Granted):
                self.held_back.append(partial(self._granted, effect))

    def _granted(self, effect: Granted) -> None:
        self.locks.granted(effect)

    def when_durable(self, reply: Any, answer: Any) -> None:
        if reply is not None:
            self.held_back.append(lambda: reply(answer))

    def sync(self) -> None:
        while self.held_back:
            self.held_back.pop(0)()

    def owner(self, key: str = "k") -> str:
        lock = self.state.locks.get(key)
        return lock.holding.asker if lock is not None and lock.holding is not None else ""

    def line(self, key: str = "k") -> list[str]:
        return list(self.state.locks[key].line) if key in self.state.locks else []


class Answers(list[Any]):
    """What one client was told: bodies, and codes of errors."""

    def __call__(self, answer: Any) -> None:
        self.append(answer if isinstance(answer, StackshiftError) else json.loads(bytes(answer)))


@pytest.fixture
def tell() -> Callable[[Callable[[SlowEngine], Coroutine[Any, Any, None]]], None]:
    """Runs a story in a loop, with locks beside an engine."""

    def run(story: Callable[[SlowEngine], Coroutine[Any, Any, None]]) -> None:
        async def tell() -> None:
            engine = SlowEngine()
            requests = Requests.__new__(Requests)
            engine.locks = Locks(cast(Any, engine), requests)
            await story(engine)

        asyncio.run(asyncio.wait_for(tell(), 30))

    return run


def ask(engine: SlowEngine, asker: str, owner: object, wait_ms: int = 0) -> Answers:
    answers = Answers()
    params = AcquireLock(key="k", ttl_ms=60_000, wait_ms=wait_ms, asker=asker, holder=asker)
    engine.locks.acquire(owner, params, answers)
    return answers


Tell = Callable[[Callable[[SlowEngine], Coroutine[Any, Any, None]]], None]


def test_client_that_is_gone_before_it_stands_in_line_durably_leaves_it(tell: Tell) -> None:
    """The lock is not given to nobody, to be held until its time has passed."""

    async def story(engine: SlowEngine) -> None:
        held = ask(engine, "c1", 1)
        engine.sync()
        gone = ask(engine, "c2", 2, wait_ms=60_000)
        engine.locks.forget(2)
        engine.sync()
        assert engine.line() == []
        engine.locks.release(ReleaseLock(key="k", token=held[0]["token"]), Answers())
        engine.sync()
        assert (engine.owner(), gone) == ("", [])

    tell(story)


def test_client_that_is_gone_before_it_holds_durably_gives_the_lock_back(tell: Tell) -> None:
    """At once, and from the line: the next has it."""

    async def story(engine: SlowEngine) -> None:
        ask(engine, "c1", 1)
        waits = ask(engine, "c2", 2, wait_ms=60_000)
        last = ask(engine, "c3", 3, wait_ms=60_000)
        engine.locks.forget(1)
        assert engine.owner() == "c1"
        engine.sync()
        assert (engine.owner(), waits[0]["key"]) == ("c2", "k")
        engine.locks.release(ReleaseLock(key="k", token=waits[0]["token"]), Answers())
        engine.locks.forget(3)
        engine.sync()
        assert (engine.owner(), last) == ("", [])

    tell(story)


def test_client_that_comes_back_keeps_what_it_asked_for(tell: Tell) -> None:
    """On another connection, whether the end of the first one is noticed before or after."""

    async def story(engine: SlowEngine) -> None:
        for noticed_first in (True, False):
            ask(engine, "c1", 1)
            if noticed_first:
                engine.locks.forget(1)
            again = ask(engine, "c1", 2)
            engine.locks.forget(1)
            engine.sync()
            assert engine.owner() == "c1"
            engine.locks.release(ReleaseLock(key="k", token=again[0]["token"]), Answers())
            engine.sync()

    tell(story)


def test_client_that_comes_back_keeps_its_place(tell: Tell) -> None:
    """And is answered on the connection that it has, once."""

    async def story(engine: SlowEngine) -> None:
        held = ask(engine, "c1", 1)
        first = ask(engine, "c2", 2, wait_ms=60_000)
        engine.sync()
        again = ask(engine, "c2", 3, wait_ms=60_000)
        engine.locks.forget(2)
        engine.sync()
        assert engine.line() == ["c2"]
        engine.locks.release(ReleaseLock(key="k", token=held[0]["token"]), Answers())
        engine.sync()
        assert (first, len(again), engine.owner()) == ([], 1, "c2")

    tell(story)


def test_client_whose_wait_is_over_is_told_who_holds_the_lock_then(tell: Tell) -> None:
    """Not who held it when the wait began; and it stands in the line no more."""

    async def story(engine: SlowEngine) -> None:
        held = ask(engine, "c1", 1)
        ask(engine, "c2", 2, wait_ms=60_000)
        waits = ask(engine, "c3", 3, wait_ms=1)
        engine.sync()
        engine.locks.release(ReleaseLock(key="k", token=held[0]["token"]), Answers())
        engine.sync()
        while engine.line():
            await asyncio.sleep(0.001)
        engine.sync()
        (refused,) = waits
        assert isinstance(refused, LockHeld)
        assert refused.fields["holder"] == "c2"

    tell(story)
