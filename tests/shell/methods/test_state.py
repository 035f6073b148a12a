"""State entries for clients and handlers, with a damaged journal or an odd clock."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec import Raw

from helpers.deadline import until
from stackshift_jobs.errors import JournalDamaged
from stackshift_jobs.project.config import load_config
from stackshiftd.core import commands as c
from stackshiftd.journal.memory import MemoryJournal
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.ids import Ids
from stackshiftd.shell.requests import Requests, SetState
from stackshiftd.shell.tasks import Tasks
from stackshiftd.shell.views.entry_history import EntryHistory, StateHistory
from stackshiftd.shell.workers.dispatcher import Dispatcher


class Damaged(MemoryJournal):
    """A journal whose search fails because of damage."""

    def search(self, _words: Any) -> Iterator[Any]:
        """Raise at the first step."""
        raise JournalDamaged("there is no complete line", hint="stackshift journal verify")
        yield None


@pytest.fixture
def requests(tmp_path: Path) -> Requests:
    """Turns params into commands."""
    (tmp_path / "stackshift.toml").write_text("")
    return Requests(load_config(tmp_path, {}), Ids())


def look_back(requests: Requests) -> tuple[Any, Any]:
    """The answers to a client and a handler about a key whose history cannot be read."""

    async def look() -> tuple[Any, Any]:
        told, posted = list[Any](), list[Any]()
        engine = Engine(Damaged())
        engine.submit = lambda command, *_, **__: posted.append(command)  # type: ignore[method-assign]
        history = EntryHistory(engine, Tasks())
        made = Dispatcher(*cast(Any, (engine, None, None, None, None, requests, history)))
        history.answer(StateHistory("k"), told.append)
        link = SimpleNamespace(stopping=())
        asked = c.Ask("run_1", 1, 7, "[state.history k]", "state.history", Raw(b'{"key":"k"}'))
        made.heard(cast(Any, link), asked)
        await until(lambda: told and posted, "both to be told")
        return told[0], posted[0]

    return asyncio.run(look())


def test_history_that_cannot_be_read_is_told_as_such(requests: Requests) -> None:
    """Client and handler get the error: neither waits forever because of a damaged journal."""
    told, posted = look_back(requests)
    assert isinstance(told, JournalDamaged)
    assert isinstance(posted, c.RefuseCall)
    assert (posted.call, json.loads(bytes(posted.error))["code"]) == (7, told.code)


def test_entry_that_expired_at_the_beginning_of_time_has_expired(requests: Requests) -> None:
    """An expiry at time zero is not confused with the zero that means no expiry."""
    command = requests.set(SetState("k", Raw(b"1"), expires_at="1970-01-01T00:00:00Z"))
    assert command.expires_us > 0
