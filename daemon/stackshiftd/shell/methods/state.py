"""`state.*`: entries as clients read and write them."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final

from msgspec import Raw

from stackshift_jobs.errors import StackshiftError
from stackshift_jobs.values.durations import rfc3339
from stackshift_jobs.values.names import check_key
from stackshiftd.core import records as r
from stackshiftd.core.commands import Tick
from stackshiftd.core.records import Entry
from stackshiftd.core.state.entries import CLIENT, PAGE_BYTES, entry_json, page_json
from stackshiftd.journal.line_format import text_in_line
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.params import Answer, Params, Table, within
from stackshiftd.shell.requests import (
    Asks,
    DeleteState,
    GetState,
    IncrementState,
    ListState,
    SetState,
    answered,
)

MAX_HISTORY: Final = 1000


class StateHistory(Params):
    key: str
    limit: int = 50
    before_seq: int | None = None


class Store:
    """Reads and writes state entries."""

    def __init__(
        self, engine: Engine, asks: Asks, track: Callable[[Coroutine[Any, Any, None]], None]
    ) -> None:
        self._engine = engine
        self._asks = asks
        self._track = track
        self._sorted: list[str] = []
        self._sorted_of: tuple[int, int] = (-1, -1)
        self.table: Table = {
            "state.get": (GetState, self.get),
            "state.list": (ListState, self.list),
            "state.set": (SetState, self.set),
            "state.delete": (DeleteState, self.delete),
            "state.increment": (IncrementState, self.increment),
            "state.history": (StateHistory, self.history),
        }

    def get(self, params: GetState, answer: Answer) -> None:
        key = self._asks.get(params).key
        self._note_expiry()
        found = self._engine.state.values.get(key, self._engine.now_us())
        body = Raw(entry_json(key, found)) if found is not None else None
        self._engine.when_durable(answer, body)

    def list(self, params: ListState, answer: Answer) -> None:
        asked = self._asks.list(params)
        self._note_expiry()
        values = self._engine.state.values
        keys = self._keys(asked.prefix, asked.after)
        page = page_json(
            values, keys, asked.prefix, asked.after, asked.limit, self._engine.now_us()
        )
        self._engine.when_durable(answer, Raw(page))

    def set(self, params: SetState, answer: Answer) -> None:
        self._engine.submit(self._asks.set(params), answered(answer))

    def delete(self, params: DeleteState, answer: Answer) -> None:
        def deleted(reply: Any) -> None:
            body = getattr(reply, "body", None)
            if body is None:
                answer(reply)
            else:
                answer(Raw(b'{"key":%s,%s' % (text_in_line(params.key), bytes(body)[1:])))

        self._engine.submit(self._asks.delete(params), deleted)

    def increment(self, params: IncrementState, answer: Answer) -> None:
        self._engine.submit(self._asks.increment(params), answered(answer))

    def _note_expiry(self) -> None:
        """What a reader sees to have expired stays so, also if the clock is set back and the daemon
        started anew: something is on record from then on."""
        expiries = self._engine.state.expiries
        if expiries and expiries[0].due_us <= self._engine.now_us():
            self._engine.submit(Tick(self._asks.remember_ms))

    def _keys(self, prefix: str, after: str) -> Iterator[str]:
        """The keys that begin with `prefix` and come after `after`, in order. The order is kept for
        the next page, as long as no key comes or goes."""
        values = self._engine.state.values
        shape = (id(values), values.shape)
        if self._sorted_of != shape:
            self._sorted = sorted(key for key, value in values.by_key.items() if value.lives)
            self._sorted_of = shape
        if after >= prefix:
            start = bisect_right(self._sorted, after)
        else:
            start = bisect_left(self._sorted, prefix)
        for at in range(start, len(self._sorted)):
            key = self._sorted[at]
            if not key.startswith(prefix):
                return
            yield key

    # --- History ---------------------------------------------------------------------------

    def history(self, params: StateHistory, answer: Answer) -> None:
        """Find the writes of a key in the journal, the newest first; a part at a time, so that a
        long journal does not keep all else waiting."""
        check_key(params.key, "a state key")
        within(params.limit, 1, MAX_HISTORY, "limit")
        self._track(self._answered(params, answer))

    async def _answered(self, params: StateHistory, answer: Answer) -> None:
        try:
            await self._look_back(params, answer)
        except StackshiftError as damaged:
            answer(damaged)

    async def _look_back(self, params: StateHistory, answer: Answer) -> None:
        durable = asyncio.Event()
        self._engine.when_durable(lambda _: durable.set(), None)
        await durable.wait()
        changes: list[dict[str, Any]] = []
        size = 0
        words = (b'"kind":"state.', b'"key":%s' % text_in_line(params.key))
        for found in self._engine.journal.search(words):
            if found is None:
                await asyncio.sleep(0)
                continue
            change = _change(found[1], params.key)
            if change is None:
                continue
            if params.before_seq is None or change["seq"] < params.before_seq:
                changes.append(change)
                size += len(bytes(change["value"] or b""))
            # What comes before its first version is of an entry that is forgotten.
            if change["version"] == 1 and change["kind"] != "expired":
                break
            if len(changes) >= params.limit or size > PAGE_BYTES:
                answer({"history": changes, "next": changes[-1]["seq"]})
                return
        answer({"history": changes, "next": None})


def _change(entry: Entry, key: str) -> dict[str, Any] | None:
    """One change of the entry under `key`, as the protocol tells it."""
    record = entry.record
    told: dict[str, Any]
    match record:
        case r.StateSet():
            kind = "incremented" if record.op == "increment" else "set"
            told = {
                "kind": kind, "value": record.value, "expires_at": record.expires_at,
                "by": record.run or CLIENT,
            }  # fmt: skip
        case r.StateDeleted():
            told = {"kind": "deleted", "value": None, "expires_at": None}
            told["by"] = record.run or CLIENT
        case r.StateExpired():
            told = {"kind": "expired", "value": None, "expires_at": None, "by": None}
        case _:
            return None
    if record.key != key:
        return None
    return {"seq": entry.seq, "at": rfc3339(entry.at_us), "version": record.version, **told}
