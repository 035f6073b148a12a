"""A finished run as one row: what lists show and filter by, and where its records are."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Raw

from stackshift_jobs.values.durations import from_rfc3339
from stackshiftd.core import records as r
from stackshiftd.core.state.state import Run


class Ended(NamedTuple):
    """How a run ended; `cancelled` is the record by which it was, if it was cancelled, and
    `continued_as` the run as which it continued, if it did. `follow_up` is the run that it started
    by that."""

    status: str
    result: Raw
    error: r.Error | None
    cancelled: r.RunCancelled | None = None
    continued_as: str | None = None
    follow_up: str | None = None


class RunRow(msgspec.Struct):
    """A finished run. Times are in µs since 1970, 0 for none. `places` are those of its records;
    `end` is the index in `places` of the record that finished it. `places` must stay the last
    field: the index stores all the others as one JSON array."""

    id: str
    job: str
    queue: str
    status: str
    attempt: int
    max_attempts: int
    priority: int
    key: str | None
    labels: dict[str, str]
    parent: str | None
    code: str
    created_us: int
    scheduled_us: int
    started_us: int
    finished_us: int
    created_seq: int
    finished_seq: int
    end: int
    forked_from: str | None
    places: array[int]


def row_of(run: Run, seq: int, places: array[int]) -> RunRow:
    """The row of a run that the record `seq` has just finished."""
    return RunRow(
        run.id,
        run.job,
        run.queue,
        run.status.value,
        run.attempt,
        run.retry.max_attempts,
        run.priority,
        run.key,
        run.labels,
        run.parent,
        run.code,
        run.created_us,
        run.scheduled_us,
        run.started_us,
        run.finished_us,
        run.created_seq,
        seq,
        len(places) - 1,
        run.forked_from,
        places,
    )


class RowBuilder:
    """Makes rows from the records alone, to rebuild the index.

    A projection like `fold`; a property test compares the two. Records of runs whose beginning was
    trimmed are skipped, unless a retry contains the beginning.
    """

    def __init__(self) -> None:
        self._rows: dict[str, RunRow] = {}

    def add(self, place: int, entry: r.Entry) -> RunRow | None:
        """Process the next entry of the journal. Returns the row of the run if the entry finishes
        it, or adds to a run that has finished; else None."""
        record = entry.record
        run = getattr(record, "run", "")
        row = self._rows.get(run)
        if isinstance(record, r.RunCreated):
            self._rows[run] = _created(place, entry, record)
            return None
        if row is None and isinstance(record, r.RunRetried) and record.restored:
            row = self._rows[run] = _rebuilt(record)
        if row is None:
            return None
        row.places.append(place)
        if isinstance(record, r.RunRemoved):
            del self._rows[run]
            return None
        handle = _BY_TYPE.get(type(record))
        if handle is None or not handle(row, entry, record):
            return None
        # A copy, because this row may change again before the copy is written.
        return msgspec.structs.replace(row, places=row.places[:])


def ended(record: r.AnyRecord) -> Ended | None:
    """How the run ended, if `record` is its end; else None."""
    match record:
        case r.RunCompleted():
            following = record.continued_as, record.follow_up
            return Ended("completed", record.result, None, None, *following)
        case r.RunFailed():
            return Ended("failed", r.NULL, record.error, follow_up=record.follow_up)
        case r.RunCancelled():
            return Ended("cancelled", r.NULL, None, record)
    return None


def _created(place: int, entry: r.Entry, record: r.RunCreated) -> RunRow:
    return RunRow(
        id=record.run,
        job=record.job,
        queue=record.queue,
        status="queued",
        attempt=0,
        max_attempts=record.retry.max_attempts,
        priority=record.priority,
        key=record.key,
        labels=record.labels,
        parent=record.parent,
        code="",
        created_us=entry.at_us,
        scheduled_us=from_rfc3339(record.scheduled_at) if record.scheduled_at else 0,
        started_us=0,
        finished_us=0,
        created_seq=entry.seq,
        finished_seq=0,
        end=0,
        forked_from=record.forked_from,
        places=array("q", (place,)),
    )


def _rebuilt(record: r.RunRetried) -> RunRow:
    """The row of a run that had left memory, from the records that its retry contains. Their
    places are no longer known: a reader of the run finds them in the retry."""
    builder = RowBuilder()
    for line in record.restored:
        builder.add(0, r.entry_from_json(line))
    row = builder._rows[record.run]
    row.places = array("q")
    return row


def _retried(row: RunRow, _entry: r.Entry, _record: r.RunRetried) -> bool:
    row.status = "queued"
    row.finished_us = row.finished_seq = 0
    return False


def _moved(row: RunRow, _entry: r.Entry, record: r.RunMoved) -> bool:
    if record.due_at is not None and not row.attempt:
        row.scheduled_us = from_rfc3339(record.due_at)
    row.priority = row.priority if record.priority is None else record.priority
    row.queue = record.queue or row.queue
    return False


def _labelled(row: RunRow, _entry: r.Entry, record: r.RunLabelled) -> bool:
    row.labels = row.labels | record.labels
    return False


def _dispatched(row: RunRow, entry: r.Entry, record: r.AttemptStarted | r.AttemptResumed) -> bool:
    row.attempt, row.code = record.attempt, record.code
    row.started_us = row.started_us or entry.at_us
    return False


def _finished(row: RunRow, entry: r.Entry, record: r.AnyRecord) -> bool:
    end = ended(record)
    assert end is not None
    row.status = end.status
    row.finished_us, row.finished_seq = entry.at_us, entry.seq
    row.end = len(row.places) - 1
    return True


def _lengthened(row: RunRow, _entry: r.Entry, _record: r.AnyRecord) -> bool:
    return bool(row.finished_us)


_BY_TYPE: Final[dict[type[r.Record], Callable[[RunRow, r.Entry, Any], bool]]] = {
    r.RunRetried: _retried,
    r.RunMoved: _moved,
    r.RunLabelled: _labelled,
    r.AttemptStarted: _dispatched,
    r.AttemptResumed: _dispatched,
    r.RunCompleted: _finished,
    r.RunFailed: _finished,
    r.RunCancelled: _finished,
    r.AttemptStopped: _lengthened,
    r.RunDiscarded: _lengthened,
}
"""By type of record: changes the row, and returns whether it is to be written."""
