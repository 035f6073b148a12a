"""`event.*`: sends events, and lists those that are kept."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from msgspec import Raw

from stackshift_jobs.errors import Usage
from stackshift_jobs.values.names import check_key, check_name
from stackshiftd.core.state.entries import PAGE_BYTES
from stackshiftd.core.state.events import Kept, address_of, kept_json
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.params import Answer, Params, Reads, Table, within
from stackshiftd.shell.requests import Requests, SendEvent, answered
from stackshiftd.shell.work import Work

MAX_LIST: Final = 1000
LOOKS: Final = 1000
"""Events that are examined in one part of the work."""


class ListEvents(Params):
    """Which events to list; an empty `correlation_key` matches only events without one. `cursor`
    comes from the previous page."""

    name: str | None = None
    correlation_key: str | None = None
    limit: int = 100
    cursor: str | None = None


class Events:
    """Sends events and lists those that no run has consumed yet."""

    def __init__(self, engine: Engine, requests: Requests) -> None:
        self._engine = engine
        self._requests = requests
        self.reads: Reads = {"event.list": (ListEvents, self.list)}
        self.table: Table = {"event.send": (SendEvent, self.send)}

    def send(self, params: SendEvent, answer: Answer) -> None:
        """Send an event; answer `{id, name, correlation_key, resumed[], kept_until}`."""
        self._engine.submit(self._requests.send(params), answered(answer))

    def list(self, params: ListEvents) -> Work:
        """The work that leads to `{events[], cursor}`: a page of kept events, newest first."""
        within(params.limit, 1, MAX_LIST, "limit")
        if params.name is not None:
            check_name(params.name, "event")
        if params.correlation_key:
            check_key(params.correlation_key, "a correlation key")
        before = self._before(params.cursor)
        if params.name is not None and params.correlation_key is not None:
            address = address_of(params.name, params.correlation_key)
            candidates = list(self._engine.state.events.at(address))[::-1]
        else:
            candidates = list(self._engine.state.events.kept.values())
        return self._list(params, candidates, before)

    def _list(self, params: ListEvents, candidates: Sequence[Kept], before: int | None) -> Work:
        """A page of `candidates`, which are in order of sequence numbers."""
        now_us = self._engine.now_us()
        page: list[Kept] = []
        size = 0
        cursor = None
        first = len(candidates)
        if before is not None:
            first = bisect_left(candidates, before, key=lambda event: event.seq)
        for looked, at in enumerate(range(first - 1, -1, -1), 1):
            if looked % LOOKS == 0:
                yield None
            event = candidates[at]
            if not (
                event.expires_us > now_us
                and params.name in (None, event.name)
                and params.correlation_key in (None, event.correlation_key)
            ):
                continue
            page.append(event)
            size += len(event.payload)
            if len(page) == params.limit or size > PAGE_BYTES:
                cursor = str(event.seq)
                break
        # Meanwhile some may have been consumed, or undone because the disk was full.
        kept = self._engine.state.events.kept
        events = [Raw(kept_json(event)) for event in page if event.id in kept]
        return {"events": events, "cursor": cursor}

    def _before(self, cursor: str | None) -> int | None:
        if cursor is None:
            return None
        if not cursor.isascii() or not cursor.isdecimal() or len(cursor) > 19:
            raise Usage(f"{cursor!r} is not a cursor of this list")
        return int(cursor)
