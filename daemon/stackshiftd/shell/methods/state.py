"""`state.*`: reads and writes of state entries by clients."""

from __future__ import annotations

from typing import Any

from msgspec import Raw

from stackshiftd.core.commands import Tick
from stackshiftd.core.state.entries import entry_json, page_json
from stackshiftd.journal.line_format import text_in_line
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.params import Answer, Reads, Table
from stackshiftd.shell.requests import (
    DeleteState,
    GetState,
    IncrementState,
    ListState,
    Requests,
    SetState,
    answered,
)
from stackshiftd.shell.views.entry_history import EntryHistory, StateHistory


class StateMethods:
    """Reads and writes state entries."""

    def __init__(self, engine: Engine, requests: Requests, history: EntryHistory) -> None:
        self._engine = engine
        self._requests = requests
        self.reads: Reads = {
            "state.get": (GetState, self.get),
            "state.list": (ListState, self.list),
            "state.history": (StateHistory, history.read),
        }
        self.table: Table = {
            "state.set": (SetState, self.set),
            "state.delete": (DeleteState, self.delete),
            "state.increment": (IncrementState, self.increment),
        }

    def get(self, params: GetState) -> Raw | None:
        """The entry, or null if there is none or it has expired."""
        return self.entry(self._requests.get(params).key)

    def entry(self, key: str) -> Raw | None:
        """The entry under `key`, as JSON; None if there is none or it has expired."""
        self._note_expiry()
        found = self._engine.state.values.get(key, self._engine.now_us())
        return Raw(entry_json(key, found)) if found is not None else None

    def list(self, params: ListState) -> Raw:
        """A page of entries in order of their keys, and the key to continue after."""
        command = self._requests.list(params)
        self._note_expiry()
        values, now_us = self._engine.state.values, self._engine.now_us()
        return Raw(page_json(values, command.prefix, command.after, command.limit, now_us))

    def set(self, params: SetState, answer: Answer) -> None:
        """Write an entry; answer it as written, or a `Conflict` if its condition is not met."""
        self._engine.submit(self._requests.set(params), answered(answer))

    def delete(self, params: DeleteState, answer: Answer) -> None:
        """Delete an entry; answer `{key, deleted, version}`, `deleted` false if there was none."""

        def deleted(reply: Any) -> None:
            body = getattr(reply, "body", None)
            if body is None:
                answer(reply)
            else:
                answer(Raw(b'{"key":%s,%s' % (text_in_line(params.key), bytes(body)[1:])))

        self._engine.submit(self._requests.delete(params), deleted)

    def increment(self, params: IncrementState, answer: Answer) -> None:
        """Add to a number; answer the entry with its new value."""
        self._engine.submit(self._requests.increment(params), answered(answer))

    def _note_expiry(self) -> None:
        """Record entries that have expired before a reader sees that: so they stay expired, even if
        the clock is set back and the daemon restarted."""
        expiries = self._engine.state.expiries
        if expiries and expiries[0].due_us <= self._engine.now_us():
            self._engine.submit(Tick(self._requests.remember_ms))
