"""Clients that wait for a state entry are answered once, by what is durable, and leave nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec import Raw

from helpers.deadline import until
from stackshift_jobs.errors import DatabaseUnavailable, DiskFull, Usage
from stackshift_jobs.values.durations import MAX_DURATION_MS
from stackshiftd.core import records as r
from stackshiftd.shell.methods.state_waits import SMALL, StateWaits, WaitState
from stackshiftd.shell.methods.waiters import Waiters
from stackshiftd.shell.work import Later

HOUR_MS = 3_600_000


class Story:
    """State waits over entries that the test sets; what is to be durable first waits for `sync`."""

    def __init__(self) -> None:
        self.entries: dict[str, bytes] = {}
        self.held_back: list[Callable[[Any], None]] = []
        self.waiters = Waiters()
        engine = SimpleNamespace(when_durable=lambda reply, _answer: self.held_back.append(reply))
        self.waits = StateWaits(cast(Any, engine), self.read, self.waiters)

    def read(self, key: str) -> Raw | None:
        """The entry under `key`."""
        return Raw(self.entries[key]) if key in self.entries else None

    def wait(self, key: str = "k", wait_ms: int = HOUR_MS, owner: object = 1) -> list[Any]:
        """Wait for `key` on the connection `owner`; returns its answers."""
        answers: list[Any] = []
        self.waits.wait(owner, WaitState(key, wait_ms), answers.append)
        return answers

    def set(self, key: str = "k", value: bytes = b"1") -> None:
        """Set an entry by a record that becomes durable."""
        self.entries[key] = value
        self.publish(key)

    def publish(self, key: str = "k") -> None:
        """A record of a write of `key` has become durable."""
        record = r.StateSet(key=key, value=Raw(b"1"), version=1)
        self.waits.published([r.Entry(1, 1, record)])

    def sync(self, error: Any = None) -> None:
        """All that was held back is durable, or could not be recorded because of `error`."""
        held_back, self.held_back = self.held_back, []
        for reply in held_back:
            reply(error)

    def is_empty(self) -> bool:
        """Is nothing kept of any wait?"""
        return not self.waits._by_key and not self.waiters._open


@pytest.fixture
def tell() -> Callable[[Callable[[Story], Any]], None]:
    """Runs a story on a loop; nothing of a wait is left at its end."""

    def run(story: Callable[[Story], Any]) -> None:
        async def told() -> None:
            made = Story()
            await story(made)
            assert made.is_empty()

        asyncio.run(asyncio.wait_for(told(), 60))

    return run


Tell = Callable[[Callable[[Story], Any]], None]


def test_wait_for_what_is_there_is_answered_at_once(tell: Tell) -> None:
    """Not before it is durable, like any read."""

    async def story(made: Story) -> None:
        made.entries["k"] = b'{"value":1}'
        answers = made.wait()
        assert answers == []
        made.sync()
        assert answers == [Raw(b'{"value":1}')]

    tell(story)


def test_write_answers_those_who_wait_for_its_key_once(tell: Tell) -> None:
    """On all connections; those who wait for other keys go on."""

    async def story(made: Story) -> None:
        first, second, other = made.wait(), made.wait(owner=2), made.wait("k2")
        made.set()
        made.publish()  # The next write, before the answer to the first.
        made.sync()
        made.publish()
        made.sync()
        assert (first, second, other) == ([Raw(b"1")], [Raw(b"1")], [])
        made.set("k2", b"2")
        made.sync()
        assert other == [Raw(b"2")]

    tell(story)


def test_entry_that_is_gone_again_answers_nobody(tell: Tell) -> None:
    """The wait goes on until there is one."""

    async def story(made: Story) -> None:
        answers = made.wait()
        made.publish()
        made.sync()
        assert answers == []
        made.set()
        made.sync()
        assert answers == [Raw(b"1")]

    tell(story)


@pytest.mark.parametrize("wait_ms", [0, 1])
def test_time_that_is_over_is_answered_with_null(tell: Tell, wait_ms: int) -> None:
    """Once, and when what the answer is based on is durable."""

    async def story(made: Story) -> None:
        answers = made.wait(wait_ms=wait_ms)
        await until(lambda: made.held_back, "the time to be over")
        assert answers == []
        made.sync()
        made.set()
        made.sync()
        assert answers == [None]

    tell(story)


def test_entry_at_the_end_of_the_time_is_the_answer(tell: Tell) -> None:
    """Also one whose record is not durable yet."""

    async def story(made: Story) -> None:
        answers = made.wait(wait_ms=1)
        made.entries["k"] = b"1"
        await until(lambda: made.held_back, "the time to be over")
        made.sync()
        assert answers == [Raw(b"1")]

    tell(story)


def test_client_that_is_gone_is_forgotten(tell: Tell) -> None:
    """With its timer, also if its answer was about to be sent; others go on."""

    async def story(made: Story) -> None:
        gone, other = made.wait(), made.wait(owner=2)
        timer = next(iter(made.waits._by_key["k"].values()))
        made.set()
        made.waiters.forget(1)
        made.sync()
        assert (gone, other, timer.cancelled()) == ([], [Raw(b"1")], True)

    tell(story)


def test_entry_that_could_not_be_recorded_answers_nobody(tell: Tell) -> None:
    """The disk was full: the entry is read again, and here it is not there."""

    async def story(made: Story) -> None:
        made.entries["k"] = b"1"
        answers = made.wait()
        del made.entries["k"]
        made.sync(DiskFull("no room"))
        assert (answers, made.held_back) == ([], [])
        made.set(value=b"2")
        made.sync()
        assert answers == [Raw(b"2")]

    tell(story)


def test_database_that_does_not_answer_is_the_error_of_the_wait(tell: Tell) -> None:
    """As of any read."""

    async def story(made: Story) -> None:
        answers = made.wait()
        made.set()
        made.sync(DatabaseUnavailable("no answer"))
        assert [type(each) for each in answers] == [DatabaseUnavailable]

    tell(story)


def test_large_entry_is_written_when_its_client_has_room(tell: Tell) -> None:
    """Very many may wait for it."""

    async def story(made: Story) -> None:
        answers = made.wait()
        made.set(value=b"1" * (SMALL + 1))
        made.sync()
        assert isinstance(answers[0], Later)
        assert answers[0].read() == Raw(b"1" * (SMALL + 1))

    tell(story)


@pytest.mark.parametrize(
    ("key", "wait_ms"), [("", 1), ("a\nb", 1), ("k", -1), ("k", MAX_DURATION_MS + 1)]
)
def test_invalid_wait_is_refused(tell: Tell, key: str, wait_ms: int) -> None:
    """Nothing of it is kept."""

    async def story(made: Story) -> None:
        with pytest.raises(Usage):
            made.wait(key, wait_ms)
        assert made.held_back == []

    tell(story)
