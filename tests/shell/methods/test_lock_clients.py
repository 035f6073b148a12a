"""Clients that request a lock and disconnect, at every stage; one that reconnects is told the
current state."""

from __future__ import annotations

import asyncio
import json
from array import array
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from helpers.deadline import until
from stackshift_jobs.project.config import load_config
from stackshiftd.core.effects import Effect, Granted
from stackshiftd.journal.interface import Full, Owner
from stackshiftd.journal.memory import MemoryJournal
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.ids import Ids
from stackshiftd.shell.methods import locks as shell_locks
from stackshiftd.shell.methods.locks import Locks
from stackshiftd.shell.methods.waiters import Waiters
from stackshiftd.shell.requests import AcquireLock, ReleaseLock, Requests


class Client:
    """One connection, and the answers it got."""

    def __init__(self, shop: Shop) -> None:
        self.answers: list[Any] = []
        self._shop = shop

    def ask(self, asker: str, wait_ms: int = 3_600_000, key: str = "k") -> None:
        """Ask for the lock `key` as `asker`, by default for an hour."""
        params = AcquireLock(key, ttl_ms=3_600_000, wait_ms=wait_ms, asker=asker)
        self._shop.locks.acquire(self, params, self.answers.append)

    def leave(self) -> None:
        """Disconnect."""
        self._shop.waiters.forget(self)

    @property
    def token(self) -> int:
        """The token in its last answer, which granted a lock."""
        return int(json.loads(bytes(self.answers[-1]))["token"])


class Shop:
    """An engine with its locks, and nothing else. Implements `engine.EffectSink`."""

    def __init__(self, root: Path) -> None:
        self.journal = MemoryJournal()
        self.engine = Engine(self.journal)
        self.waiters = Waiters()
        self.locks = Locks(self.engine, Requests(load_config(root, {}), Ids()), self.waiters)
        self.engine.attach(cast(Any, self))
        self.on_published: Callable[[], None] = lambda: None

    def perform(self, effect: Effect, _source: Any, _at_us: int) -> None:
        """Pass grants on to the locks."""
        if isinstance(effect, Granted):
            self.locks.granted(effect)

    def published(self, _entries: Any) -> None:
        """Call what the test has set."""
        self.on_published()

    def fill_slots(self, _now_us: int) -> None:
        """There are no workers."""

    def finished(self, run: Any, row: Any) -> None:
        """There are no runs."""

    def lengthened(self, run: str, places: array[int]) -> None:
        """There is no history."""

    def timers_moved(self) -> None:
        """There is no alarm."""

    def failed(self, error: BaseException) -> None:
        """Fail the test."""
        raise error

    def release(
        self, token: int, answer: Callable[[Any], None] = lambda _answer: None, key: str = "k"
    ) -> None:
        """Release the lock `key` as a client with its `token` does."""
        self.locks.release(ReleaseLock(key, token), answer)

    async def quiet(self) -> None:
        """Wait until everything is durable, including what followed from that."""
        await until(lambda: self.engine.idle, "all to be durable")

    @property
    def holder(self) -> int:
        """The token under which the lock is held; 0 if it is free."""
        lock = self.engine.state.locks.get("k")
        return lock.holding.token if lock is not None and lock.holding is not None else 0


Play = Callable[[Callable[[Shop], Awaitable[None]]], None]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Plays a scene in a new shop."""
    monkeypatch.setattr(shell_locks, "AGAIN_SECONDS", 0.01)
    (tmp_path / "stackshift.toml").write_text("")

    def played(scene: Callable[[Shop], Awaitable[None]]) -> None:
        async def main() -> None:
            shop = Shop(tmp_path)
            await shop.engine.claim(Owner(1, "1"))
            await shop.quiet()
            await scene(shop)

        asyncio.run(main())

    return played


def test_lock_is_not_kept_for_a_client_that_left_before_it_was_told(play: Play) -> None:
    """The lock was free and is free again: nobody can know its token."""

    async def scene(shop: Shop) -> None:
        first, other = Client(shop), Client(shop)
        shop.journal.hold()
        first.ask("a")
        first.leave()
        shop.journal.release()
        await shop.quiet()
        other.ask("b", wait_ms=0)
        await shop.quiet()
        assert other.token == shop.holder

    play(scene)


def test_client_that_left_before_it_stood_in_the_line_does_not_stand_there(play: Play) -> None:
    """Its request became durable only after it had disconnected."""

    async def scene(shop: Shop) -> None:
        first, second, third = Client(shop), Client(shop), Client(shop)
        first.ask("a")
        await shop.quiet()
        shop.journal.hold()
        second.ask("b")
        second.leave()
        shop.journal.release()
        third.ask("c")
        await shop.quiet()
        shop.release(first.token)
        await shop.quiet()
        assert third.token == shop.holder

    play(scene)


def test_client_that_comes_back_as_its_lock_is_given_has_it(play: Play) -> None:
    """The grant went to its old connection; the lock is kept, since the new one learns of it."""

    async def scene(shop: Shop) -> None:
        first, old, new = Client(shop), Client(shop), Client(shop)
        first.ask("a")
        old.ask("b")
        await shop.quiet()
        shop.journal.hold()
        shop.release(first.token)
        old.leave()
        new.ask("b")
        shop.journal.release()
        await shop.quiet()
        assert new.token == shop.holder

    play(scene)


def test_client_that_comes_back_before_it_is_missed_keeps_its_place(play: Play) -> None:
    """Its old connection ends after the new one has asked, and removes nothing."""

    async def scene(shop: Shop) -> None:
        first, old, new = Client(shop), Client(shop), Client(shop)
        first.ask("a")
        old.ask("b")
        await shop.quiet()
        shop.journal.hold()
        new.ask("b")
        old.leave()
        shop.journal.release()
        await shop.quiet()
        shop.release(first.token)
        await shop.quiet()
        assert new.token == shop.holder
        assert old.answers == []

    play(scene)


def test_asker_waits_for_several_locks(play: Play) -> None:
    """A wait for one lock does not replace a wait for another."""

    async def scene(shop: Shop) -> None:
        first, both = Client(shop), Client(shop)
        first.ask("a")
        first.ask("a", key="other")
        await shop.quiet()
        both.ask("b")
        both.ask("b", key="other")
        await shop.quiet()
        for each in [json.loads(bytes(told)) for told in first.answers]:
            shop.release(each["token"], key=each["key"])
        await shop.quiet()
        told = [json.loads(bytes(each))["key"] for each in both.answers]
        assert told == ["k", "other"]

    play(scene)


def test_wait_whose_lock_came_to_nothing_for_want_of_room_ends_in_time(play: Play) -> None:
    """Its timeout passed while it seemed about to be granted the lock."""

    async def scene(shop: Shop) -> None:
        first, second = Client(shop), Client(shop)
        first.ask("a")
        second.ask("b", wait_ms=100)
        await shop.quiet()
        over_at = asyncio.get_running_loop().time() + 0.11
        shop.journal.hold()
        refused: list[Any] = []
        shop.release(first.token, refused.append)
        await until(lambda: asyncio.get_running_loop().time() > over_at, "its time to pass")
        assert second.answers == []
        shop.journal.fail_next(Full("no room"))
        shop.journal.release()
        await until(lambda: refused, "the release to be refused")
        await until(lambda: second.answers, "the wait to end")

    play(scene)


def test_lock_of_a_client_that_is_gone_is_given_back_when_there_is_room(play: Play) -> None:
    """A full disk only delays the release; the lock is not kept for nobody."""

    async def scene(shop: Shop) -> None:
        first = Client(shop)
        first.ask("a")
        first.leave()
        shop.on_published = lambda: shop.journal.fail_next(Full("no room"))
        await until(lambda: shop.engine.room.read_only, "want of room")
        await until(lambda: shop.holder, "the state to be back")
        shop.on_published = lambda: None
        shop.engine.look_for_room()
        await until(lambda: not shop.holder, "it to be given back")

    play(scene)
