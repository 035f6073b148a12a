"""`event.*`: sending events, and those that are kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from msgspec import Raw

from stackshift_jobs.errors import Usage
from stackshift_jobs.names import check_key, check_name
from stackshiftd.core.events import Kept, address_of, kept_json
from stackshiftd.core.keyvalue import PAGE_BYTES
from stackshiftd.shell.asks import Asks, SendEvent, answered, within
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.params import Answer, Params, Table

MAX_LIST: Final = 1000


class ListEvents(Params):
    name: str | None = None
    correlation_key: str | None = None
    limit: int = 100
    cursor: str | None = None


class Events:
    """Sends events and lists the ones that wait for somebody."""

    def __init__(self, engine: Engine, asks: Asks) -> None:
        self._engine = engine
        self._asks = asks
        self.table: Table = {
            "event.send": (SendEvent, self.send),
            "event.list": (ListEvents, self.list),
        }

    def send(self, params: SendEvent, answer: Answer) -> None:
        self._engine.submit(self._asks.send(params), answered(answer))

    def list(self, params: ListEvents, answer: Answer) -> None:
        within(params.limit, 1, MAX_LIST, "limit")
        if params.name is not None:
            check_name(params.name, "event")
        if params.correlation_key:
            check_key(params.correlation_key, "correlation key")
        found: list[Kept] = []
        size = 0
        cursor = None
        for event in self._matching(params):
            found.append(event)
            size += len(event.payload)
            if len(found) == params.limit or size > PAGE_BYTES:
                cursor = str(event.seq)
                break
        body = {"events": [Raw(kept_json(event)) for event in found], "cursor": cursor}
        self._engine.when_durable(answer, body)

    def _matching(self, params: ListEvents) -> Iterator[Kept]:
        """The newest first."""
        events = self._engine.state.events
        now_us = self._engine.now_us()
        before = self._before(params.cursor)
        if params.name is not None and params.correlation_key is not None:
            found = events.at(address_of(params.name, params.correlation_key))
        else:
            found = iter(reversed(events.kept.values()))
        for event in found:
            if (
                event.expires_us > now_us
                and (before is None or event.seq < before)
                and params.name in (None, event.name)
                and params.correlation_key in (None, event.correlation_key)
            ):
                yield event

    def _before(self, cursor: str | None) -> int | None:
        if cursor is None:
            return None
        if not cursor.isascii() or not cursor.isdecimal() or len(cursor) > 19:
            raise Usage(f"{cursor!r} is no cursor of this list")
        return int(cursor)
