"""Clients that request locks are answered once, and leave nothing behind when they disconnect."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, cast

import msgspec
import pytest

from stackshift_jobs.errors import LockHeld, StackshiftError, Usage
from stackshiftd.core import records as r
from stackshiftd.core.decide.decide import decide
from stackshiftd.core.effects import Granted
from stackshiftd.core.fold.fold import fold
from stackshiftd.core.state.state import State
from stackshiftd.shell.methods.locks import Locks
from stackshiftd.shell.methods.waiters import Waiters
from stackshiftd.shell.requests import AcquireLock, ListLocks, ReleaseLock, Requests
from stackshiftd.shell.work import run_through


class SlowEngine:
    """Decides at once, but delivers replies and effects only at the next `sync`."""

    def __init__(self) -> None:
        self.state = State()
        self.us = 1_795_000_000_000_000
        self.held_back: list[Callable[[], None]] = []
        self.locks: Any = None
        self.waiters = Waiters()

    def now_us(self) -> int:
        """The time, which the test sets."""
        return self.us

    def submit(self, command: Any, reply: Any = None, _source: Any = None) -> None:
        """Decide and fold at once; hold back the reply and what follows."""
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
        """Hold back the reply."""
        if reply is not None:
            self.held_back.append(lambda: reply(answer))

    def sync(self) -> None:
        """Deliver everything held back, and what follows from that."""
        while self.held_back:
            self.held_back.pop(0)()

    def owner(self, key: str = "k") -> str:
        """The asker that holds the lock; empty if it is free."""
        lock = self.state.locks.get(key)
        return lock.holding.asker if lock is not None and lock.holding is not None else ""

    def line(self, key: str = "k") -> list[str]:
        """The askers waiting for the lock, in order."""
        return list(self.state.locks[key].line) if key in self.state.locks else []


class Answers(list[Any]):
    """The answers to one client: bodies, and errors."""

    def __call__(self, answer: Any) -> None:
        """Note an answer: an error as it is, a body as JSON values."""
        self.append(answer if isinstance(answer, StackshiftError) else json.loads(bytes(answer)))


@pytest.fixture
def tell() -> Callable[[Callable[[SlowEngine], Coroutine[Any, Any, None]]], None]:
    """Runs a story in a loop, with locks on a slow engine."""

    def run(story: Callable[[SlowEngine], Coroutine[Any, Any, None]]) -> None:
        async def tell() -> None:
            engine = SlowEngine()
            requests = Requests.__new__(Requests)
            engine.locks = Locks(cast(Any, engine), requests, engine.waiters)
            await story(engine)

        asyncio.run(asyncio.wait_for(tell(), 30))

    return run


def ask(engine: SlowEngine, asker: str, owner: object, wait_ms: int = 0) -> Answers:
    """Ask for the lock on the connection `owner`; return its answers."""
    answers = Answers()
    params = AcquireLock(key="k", ttl_ms=60_000, wait_ms=wait_ms, asker=asker, holder=asker)
    engine.locks.acquire(owner, params, answers)
    return answers


Tell = Callable[[Callable[[SlowEngine], Coroutine[Any, Any, None]]], None]


def test_client_that_is_gone_before_it_stands_in_line_durably_leaves_it(tell: Tell) -> None:
    """Otherwise the lock would go to nobody, and be held until it expires."""

    async def story(engine: SlowEngine) -> None:
        held = ask(engine, "c1", 1)
        engine.sync()
        gone = ask(engine, "c2", 2, wait_ms=60_000)
        engine.waiters.forget(2)
        engine.sync()
        assert engine.line() == []
        engine.locks.release(ReleaseLock(key="k", token=held[0]["token"]), Answers())
        engine.sync()
        assert (engine.owner(), gone) == ("", [])

    tell(story)


def test_client_that_is_gone_before_it_holds_durably_gives_the_lock_back(tell: Tell) -> None:
    """The next client in line gets the lock, whether it was granted at once or after waiting."""

    async def story(engine: SlowEngine) -> None:
        ask(engine, "c1", 1)
        waits = ask(engine, "c2", 2, wait_ms=60_000)
        last = ask(engine, "c3", 3, wait_ms=60_000)
        engine.waiters.forget(1)
        assert engine.owner() == "c1"
        engine.sync()
        assert (engine.owner(), waits[0]["key"]) == ("c2", "k")
        engine.locks.release(ReleaseLock(key="k", token=waits[0]["token"]), Answers())
        engine.waiters.forget(3)
        engine.sync()
        assert (engine.owner(), last) == ("", [])

    tell(story)


def test_client_that_comes_back_keeps_what_it_asked_for(tell: Tell) -> None:
    """It may be on another connection, whether the end of the first is noticed before or after."""

    async def story(engine: SlowEngine) -> None:
        for noticed_first in (True, False):
            ask(engine, "c1", 1)
            if noticed_first:
                engine.waiters.forget(1)
            again = ask(engine, "c1", 2)
            engine.waiters.forget(1)
            engine.sync()
            assert engine.owner() == "c1"
            engine.locks.release(ReleaseLock(key="k", token=again[0]["token"]), Answers())
            engine.sync()

    tell(story)


def test_client_that_comes_back_keeps_its_place(tell: Tell) -> None:
    """It is answered once, on its current connection."""

    async def story(engine: SlowEngine) -> None:
        held = ask(engine, "c1", 1)
        first = ask(engine, "c2", 2, wait_ms=60_000)
        engine.sync()
        again = ask(engine, "c2", 3, wait_ms=60_000)
        engine.waiters.forget(2)
        engine.sync()
        assert engine.line() == ["c2"]
        engine.locks.release(ReleaseLock(key="k", token=held[0]["token"]), Answers())
        engine.sync()
        assert (first, len(again), engine.owner()) == ([], 1, "c2")

    tell(story)


def test_client_whose_wait_is_over_is_told_who_holds_the_lock_then(tell: Tell) -> None:
    """The error names the current holder, not that at the beginning; the client leaves the line."""

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


def test_locks_are_listed_by_key_with_holder_and_line(tell: Tell) -> None:
    """In pages, by prefix; an expired lock has no holder, and a long line is counted."""

    async def story(engine: SlowEngine) -> None:
        for number in range(25):
            ask(engine, f"c{number}", number, wait_ms=60_000)
        for key in ("b", "a", "kk"):
            params = AcquireLock(key=key, ttl_ms=1000, wait_ms=0, asker="x", holder="sync")
            engine.locks.acquire(99, params, Answers())
        engine.sync()

        def listed(**params: Any) -> tuple[list[dict[str, Any]], str | None]:
            pages: list[Any] = []
            run_through(engine.locks.list(ListLocks(**params)), pages.append)
            [page] = pages
            return [msgspec.json.decode(lock) for lock in page["locks"]], page["next"]

        first, after = listed(limit=2)
        assert ([lock["key"] for lock in first], after) == (["a", "b"], "b")
        last, after = listed(limit=2, after="b")
        assert ([lock["key"] for lock in last], after) == (["k", "kk"], None)
        assert [lock["key"] for lock in listed(prefix="kk")[0]] == ["kk"]
        assert (last[0]["holder"], last[0]["run"], last[0]["waiting"]) == ("c0", None, 24)
        assert [each["holder"] for each in last[0]["line"]] == [f"c{n}" for n in range(1, 21)]
        assert (first[0]["token"] > 0, first[0]["expires_at"] > first[0]["since"]) == (True, True)
        engine.us += 1_000_000
        [expired] = listed(prefix="a")[0]
        assert (expired["holder"], expired["token"], expired["since"]) == (None, None, None)
        with pytest.raises(Usage):
            engine.locks.list(ListLocks(limit=0))

    tell(story)
