"""A finished run in one row: what lists show and filter by, and where its records lie."""

from __future__ import annotations

from array import array

import msgspec

from stackshift_jobs.values.durations import from_rfc3339
from stackshiftd.core import records as r
from stackshiftd.core.state.state import Run


class RunRow(msgspec.Struct):
    """A finished run. Times in µs since 1970, 0 for none. `places` are those of its records;
    `end` is the index among them of the record that finished it. `places` stays the last field: the
    index stores all the others as one JSON array."""

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
        places,
    )


_ENDS = {r.RunCompleted: "completed", r.RunFailed: "failed", r.RunCancelled: "cancelled"}


class RowBuilder:
    """Makes rows from the records alone, for an index that is built anew. Records of runs whose
    beginning was trimmed are passed over."""

    def __init__(self) -> None:
        self._rows: dict[str, RunRow] = {}

    def add(self, place: int, entry: r.Entry) -> RunRow | None:
        """Take in the next entry of the journal; the row of a run that it finishes (or whose
        finished row it lengthens)."""
        record = entry.record
        if isinstance(record, r.RunCreated):
            self._rows[record.run] = RunRow(
                record.run,
                record.job,
                record.queue,
                "queued",
                0,
                record.retry.max_attempts,
                record.priority,
                record.key,
                record.labels,
                record.parent,
                "",
                entry.at_us,
                from_rfc3339(record.scheduled_at) if record.scheduled_at else 0,
                0,
                0,
                entry.seq,
                0,
                0,
                array("q", (place,)),
            )
            return None
        row = self._rows.get(getattr(record, "run", ""))
        if row is None:
            return None
        row.places.append(place)
        status = _ENDS.get(type(record))
        if status is not None:
            row.status = status
            row.finished_us, row.finished_seq = entry.at_us, entry.seq
            row.end = len(row.places) - 1
            return row
        if isinstance(record, r.AttemptStarted | r.AttemptResumed):
            row.attempt, row.code = record.attempt, record.code
            row.started_us = row.started_us or entry.at_us
        elif isinstance(record, r.RunRemoved):
            del self._rows[record.run]
        elif isinstance(record, r.AttemptStopped | r.RunDiscarded):
            return row if row.finished_us else None
        return None
