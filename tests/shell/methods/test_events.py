"""Lists of kept events, when there are very many of them and they come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stackshift_jobs.project.config import load_config
from stackshiftd.core.state.events import Kept, address_of
from stackshiftd.journal.memory import MemoryJournal
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.ids import Ids
from stackshiftd.shell.methods import events as shell_events
from stackshiftd.shell.methods.events import Events, ListEvents
from stackshiftd.shell.requests import Requests

MANY = 200
List = Callable[..., tuple[int, Any]]


@pytest.fixture
def list_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> List:
    """Lists some of `MANY` kept events, calling `meanwhile` during that; returns how many turns
    other tasks got, and the page."""
    monkeypatch.setattr(shell_events, "LOOKS", 10)
    (tmp_path / "stackshift.toml").write_text("")

    def listed(
        meanwhile: Callable[[Engine], None] = lambda _engine: None, **params: Any
    ) -> tuple[int, Any]:
        async def main() -> tuple[int, Any]:
            engine = Engine(MemoryJournal())
            for at in range(1, MANY + 1):
                address = address_of(f"n{at % 2}", f"k{at}")
                engine.state.events.keep(
                    Kept(f"e{at}", at, address, b"1", 0, 4_000_000_000_000_000, None)
                )
            requests = Requests(load_config(tmp_path, {}), Ids())
            work = Events(engine, requests).list(ListEvents(**params))
            turns = 0
            while True:
                try:
                    next(work)
                except StopIteration as ended:
                    return turns, ended.value
                meanwhile(engine)
                turns += 1

        return asyncio.run(main())

    return listed


def numbers(page: Any) -> list[int]:
    """The numbers of the events on a page."""
    return [int(bytes(each).split(b'"')[3][1:]) for each in page["events"]]


def test_others_have_their_turn_while_events_are_looked_through(list_events: List) -> None:
    """Other tasks get turns even if few events match, or none."""
    turns, page = list_events(name="n1", correlation_key=None, limit=1000, cursor="100")
    assert numbers(page) == list(range(99, 0, -2))
    assert page["cursor"] is None
    assert turns >= 9
    turns, page = list_events(name="absent")
    assert (numbers(page), page["cursor"]) == ([], None)
    assert turns >= MANY / 10


def test_pages_follow_each_other(list_events: List) -> None:
    """Following the cursors, every event is listed once, newest first."""
    seen, cursor = list[int](), None
    while True:
        _, page = list_events(limit=7, cursor=cursor)
        seen += numbers(page)
        cursor = page["cursor"]
        if cursor is None:
            break
    assert seen == list(range(MANY, 0, -1))


def test_event_that_is_gone_meanwhile_is_not_told(list_events: List) -> None:
    """An event that is consumed or undone during the search is not listed."""

    def consume(engine: Engine) -> None:
        engine.state.events.drop(f"e{MANY}")

    _, page = list_events(consume, limit=1000)
    assert numbers(page) == list(range(MANY - 1, 0, -1))
