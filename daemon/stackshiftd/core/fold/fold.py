"""`fold(state, entry)`: the only way in which state changes, in live operation and at replay alike.

A fold never decides, and never fails on a record that `decide` made: an assertion here is a bug of
ours or a journal that is not ours. Statuses change by the table in `transitions`; everything else
that a record changes is in the small function of its kind, in the file of its subject.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from msgspec import Raw

from stackshift_jobs.values.durations import from_rfc3339
from stackshiftd.core import records as r
from stackshiftd.core.fold import alerts, attempts, calls, entries, events, locks, runs, schedules
from stackshiftd.core.state.state import Progress, Run, State


def fold(state: State, entry: r.Entry) -> None:
    """Apply one entry. Sequence numbers have no gaps and time does not run backwards, unless a
    person has set it back."""
    seq, at_us = entry.seq, entry.at_us
    assert seq == state.seq + 1, f"gap: {state.seq} then {seq}"
    if at_us < state.now_us:
        assert r.is_in_order(entry, state.now_us), f"time runs backwards at {seq}"
    state.seq = seq
    state.now_us = at_us
    if state.throttled:
        state.settle_throttled()
    record = entry.record
    _BY_TYPE[type(record)](state, entry, record)
    if state.timers:
        state.settle_timers()
    if state.expiries:
        state.settle_expiries()


def _opened(state: State, entry: r.Entry, record: r.JournalOpened) -> None:
    state.epoch = record.epoch
    state.leads.begin(entry.seq, record.host)
    alerts.opened(state)
    locks.forget_clients(state)


def _nothing(_state: State, _entry: r.Entry, _record: Any) -> None:
    """Recorded for people; the state does not change."""


def _clock_set_back(state: State, _entry: r.Entry, record: r.ClockSetBack) -> None:
    state.set_clock_back(from_rfc3339(record.before))
    alerts.set_clock_back(state)


def _queue_changed(state: State, _entry: r.Entry, record: r.QueueChanged) -> None:
    state.limit_queue(record.queue, record.by, record.terms)


def _created(state: State, entry: r.Entry, record: r.RunCreated) -> None:
    runs.created(state, entry, record, rebuild(record.restored) if record.restored else None)


def _retried(state: State, entry: r.Entry, record: r.RunRetried) -> None:
    left_memory = record.run not in state.runs
    runs.retried(state, entry, record, rebuild(record.restored) if left_memory else None)


def _progress_reported(state: State, entry: r.Entry, record: r.ProgressReported) -> None:
    run = state.runs[record.run]
    run.progress = Progress(record.done, record.total, record.message, entry.at_us)


_BY_TYPE: Final[dict[type[r.Record], Callable[[State, r.Entry, Any], None]]] = {
    r.JournalOpened: _opened,
    r.JournalRecovered: _nothing,
    r.JournalWatermark: _nothing,
    r.SnapshotTaken: _nothing,
    r.ProgressReported: _progress_reported,
    r.ClockSetBack: _clock_set_back,
    r.QueueChanged: _queue_changed,
    r.RunCreated: _created,
    r.RunRetried: _retried,
    **runs.BY_TYPE,
    **attempts.BY_TYPE,
    **calls.BY_TYPE,
    **entries.BY_TYPE,
    **locks.BY_TYPE,
    **events.BY_TYPE,
    **schedules.BY_TYPE,
    **alerts.BY_TYPE,
}


def rebuild(lines: list[Raw]) -> Run:
    """Rebuild a finished run that has left memory from its own records.

    `lines` are the entries of one run as `records.entry_json` writes them.
    """
    states = deque(rebuilt(map(r.entry_from_json, lines)), maxlen=1)
    assert states, "a run's records begin with run.created"
    return states[0]


def rebuilt(entries: Iterable[r.Entry]) -> Iterator[Run]:
    """The run as each of its own records leaves it: one object, which the next record changes."""
    # Nothing is spilled: the records may belong to another run (the source of a fork), so their
    # sequence numbers would not lead to records of this one.
    state = State(spill_bytes=sys.maxsize)
    run: Run | None = None
    for entry in entries:
        state.seq = entry.seq - 1
        state.now_us = min(state.now_us, entry.at_us)  # It may have been set back in between.
        if run is not None:
            state.enter(run)  # It left memory each time it finished.
        fold(state, entry)
        run = run or state.runs[entry.record.run]  # type: ignore[union-attr,index]
        yield run
