"""The history of a state entry: its writes, found in the journal, newest first."""

from __future__ import annotations

from typing import Any, Final

from stackshift_jobs.values.durations import rfc3339
from stackshift_jobs.values.names import check_key
from stackshiftd.core import records as r
from stackshiftd.core.records import Entry
from stackshiftd.core.state.entries import CLIENT, PAGE_BYTES
from stackshiftd.journal.line_format import text_in_line
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.params import Answer, Params, within
from stackshiftd.shell.tasks import Tasks
from stackshiftd.shell.work import Parked, Work, to_end

MAX_HISTORY: Final = 1000


class StateHistory(Params):
    """At most `limit` changes of `key`; with `before_seq`, only those before that record."""

    key: str
    limit: int = 50
    before_seq: int | None = None


class EntryHistory:
    """Answers `state.history`, for clients and handlers alike."""

    def __init__(self, engine: Engine, tasks: Tasks) -> None:
        self._engine = engine
        self._tasks = tasks

    def read(self, params: StateHistory) -> Work:
        """The work that leads to `{history[], next}`: the writes of a key, newest first, found in
        the journal. `next` is the `before_seq` of the next page, null on the last. Raises `Usage`.
        """
        check_key(params.key, "a state key")
        within(params.limit, 1, MAX_HISTORY, "limit")
        return self._look_back(params)

    def answer(self, params: StateHistory, answer: Answer) -> None:
        """Answer a handler with what `read` leads to. Raises `Usage`."""
        self._tasks.begin(to_end(self.read(params)), answer)

    def _look_back(self, params: StateHistory) -> Work:
        yield Parked(lambda resume: self._engine.when_durable(lambda _: resume(), None))
        changes: list[dict[str, Any]] = []
        size = 0
        words = (b'"kind":"state.', b'"key":%s' % text_in_line(params.key))
        for hit in self._engine.journal.search(words):
            if hit is None:
                yield None
                continue
            change = _change(hit[1], params.key)
            if change is None:
                continue
            if params.before_seq is None or change["seq"] < params.before_seq:
                changes.append(change)
                size += len(bytes(change["value"] or b""))
            # Older writes belong to an earlier entry with this key, whose history is not kept.
            if change["version"] == 1 and change["kind"] != "expired":
                break
            if len(changes) >= params.limit or size > PAGE_BYTES:
                return {"history": changes, "next": changes[-1]["seq"]}
        return {"history": changes, "next": None}


def _change(entry: Entry, key: str) -> dict[str, Any] | None:
    """The change that `entry` made to the state entry under `key`; None if it made none."""
    record = entry.record
    change: dict[str, Any]
    match record:
        case r.StateSet():
            kind = "incremented" if record.op == "increment" else "set"
            change = {"kind": kind, "value": record.value, "expires_at": record.expires_at}
            change["by"] = record.run or CLIENT
        case r.StateDeleted():
            change = {"kind": "deleted", "value": None, "expires_at": None}
            change["by"] = record.run or CLIENT
        case r.StateExpired():
            change = {"kind": "expired", "value": None, "expires_at": None, "by": None}
        case _:
            return None
    if record.key != key:
        return None
    return {"seq": entry.seq, "at": rfc3339(entry.at_us), "version": record.version, **change}
