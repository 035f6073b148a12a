"""Runs that leave memory, and what the history learns about them.

A run leaves the state by a record: that of its end, of the stop of its handler after that, of its
discard or its removal. Until that record is durable the run can still be queried (`finishing`), and
until the run leaves, only `places` knows where its records are.

Invariants:

- `places` contains the places of all durable records of each run that is in memory, in order.
- The history learns about a run when the record of its end is durable, in the order of the journal.
  It learns about the remaining records when the handler stops later.
"""

from __future__ import annotations

import gc
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol

from stackshift_jobs.errors import JournalDamaged
from stackshiftd.core.fold.fold import fold
from stackshiftd.core.records import (
    AnyRecord,
    AttemptStopped,
    Entry,
    RunCancelled,
    RunCompleted,
    RunDiscarded,
    RunFailed,
    RunRemoved,
    kind_of,
)
from stackshiftd.core.snapshot import load
from stackshiftd.core.state.state import Run, State
from stackshiftd.history.rows import RunRow, row_of
from stackshiftd.journal.interface import Journal

_ENDS: Final = frozenset((RunCompleted, RunFailed, RunCancelled))
_LENGTHENS: Final = frozenset((AttemptStopped, RunDiscarded))
"""Records by which a run that finished earlier leaves memory; its row gets their places too."""
_DEPARTS: Final = _ENDS | _LENGTHENS | {RunRemoved}
_HELD: Final = _ENDS | {RunDiscarded}
"""Records by which a run may leave the state: `hold` keeps the run before they are folded."""
_NO_RUNS: Final[Mapping[str, Run]] = MappingProxyType({})


class HistorySink(Protocol):
    """Is notified of runs that leave memory."""

    def finished(self, run: Run, row: RunRow) -> None:
        """Add the row of a run that has finished to the history."""

    def lengthened(self, run: str, places: array[int]) -> None:
        """Add the places of later records of a finished run to its row."""

    def removed(self, run: str) -> None:
        """Remove a run from the history."""


class Replay(NamedTuple):
    """The contents of the journal: the state, the places of the runs in it, and what its tail
    contains for the history. `rows` are those of runs that finished, in order; `lengthened` are the
    places of finished runs that left memory later; `removed` are ids. `snapshot_seq` is the last
    sequence number of the snapshot that was read first, 0 for none."""

    state: State
    places: dict[str, array[int]]
    snapshot_seq: int
    rows: list[RunRow]
    lengthened: list[tuple[str, array[int]]]
    removed: list[str]


@contextmanager
def _all_of_it_stays() -> Iterator[None]:
    """Keep the garbage collector from looking through a state that is being built: nothing of it
    is garbage, and with 60,000 queued runs that took a third of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@_all_of_it_stays()
def replay(journal: Journal, snapshot: tuple[int, list[bytes]] | None, covered_seq: int) -> Replay:
    """Fold snapshot and tail. The history knows the runs that finished up to `covered_seq`."""
    begun = Replay(State(), {}, 0, [], [], [])
    if snapshot is not None:
        loaded = load(snapshot[1])
        begun = begun._replace(state=loaded.state, snapshot_seq=snapshot[0])
        for place, entry in loaded.entries:
            _note_place(begun.places, entry, place)
    fold_tail(begun, journal, covered_seq)
    return begun


@_all_of_it_stays()
def fold_tail(replayed: Replay, journal: Journal, covered_seq: int = 0) -> None:
    """Fold what follows in the journal, and add it to `replayed`. The history knows the runs that
    finished up to `covered_seq`. Raises `JournalDamaged`, with `seq`, at a record that cannot
    follow those before it, after which `replayed` is of no use."""
    state, places = replayed.state, replayed.places
    runs = state.runs
    for place, entry in journal.read(state.seq + 1):
        record = entry.record
        run_id = getattr(record, "run", None)
        departs = type(record) in _DEPARTS
        run = runs.get(run_id or "") if departs else None
        try:
            fold(state, entry)
        except Exception as bad:  # Whatever it is that a record like no other leads to.
            raise _cannot_follow(entry, bad) from bad
        if run_id is not None:
            of_run = places.get(run_id)
            if of_run is None:
                places[run_id] = array("q", (place,))
            else:
                of_run.append(place)
        if departs:
            _depart(replayed, entry, run, covered_seq)


def _depart(replayed: Replay, entry: Entry, run: Run | None, covered_seq: int) -> None:
    """Note what `entry`, a record by which runs leave memory and which is folded, says of `run`,
    which was in memory until then, for the history."""
    kind, places = type(entry.record), replayed.places
    if run is not None:
        leaves = run.id not in replayed.state.runs
        of_run = places.pop(run.id) if leaves else places[run.id]
        if kind in _ENDS and entry.seq > covered_seq:
            replayed.rows.append(row_of(run, entry.seq, of_run if leaves else of_run[:]))
        if leaves and kind in _LENGTHENS:
            replayed.lengthened.append((run.id, of_run))
    if kind is RunRemoved:
        removed = _run_of(entry.record)
        replayed.removed.append(removed)
        places.pop(removed, None)


class Departures:
    """Tracks where the records of the runs in memory are, and which runs are leaving memory."""

    def __init__(self) -> None:
        self.places: dict[str, array[int]] = {}
        """The places of the entries of each run in memory."""
        self.finishing: dict[str, Run] = {}
        """Runs that have left the state and whose last record is not durable yet."""

    def hold(self, state: State, records: Sequence[AnyRecord]) -> Mapping[str, Run]:
        """The runs that `records` end or discard; called before these are folded."""
        held: dict[str, Run] | None = None
        for record in records:
            if type(record) in _HELD:
                held = held if held is not None else {}
                held[_run_of(record)] = state.runs[_run_of(record)]
        return held if held is not None else _NO_RUNS

    def folded(self, state: State, held: Mapping[str, Run]) -> None:
        """Keep the `held` runs that have left the state by records that are folded now."""
        for run in held.values():
            if run.id not in state.runs:
                self.finishing[run.id] = run

    def durable(
        self,
        state: State,
        entries: Sequence[Entry],
        places: Iterator[int],
        held: Mapping[str, Run],
        sink: HistorySink,
    ) -> list[Entry]:
        """Add the runs that `entries`, which are durable at `places`, have finished to the history.
        Returns the entries by which runs leave memory, for `depart` once replies and effects are
        sent."""
        known = self.places
        departing = []
        for entry in entries:
            record: Any = entry.record
            place = next(places)
            run_id = getattr(record, "run", None)
            if run_id is not None:
                of_run = known.get(run_id)
                if of_run is None:
                    known[run_id] = array("q", (place,))
                else:
                    of_run.append(place)
                if type(record) in _DEPARTS:
                    departing.append(entry)
        for entry in departing:
            run = held.get(_run_of(entry.record))
            if run is None:
                continue
            if type(entry.record) in _ENDS:
                self.finishing.pop(run.id, None)
                sink.finished(run, self._row(state, run, entry.seq))
            elif self.finishing.get(run.id) is run:  # and not the same run, retried since
                del self.finishing[run.id]
        return departing

    def depart(self, state: State, departing: Sequence[Entry], sink: HistorySink) -> None:
        """Forget runs that have left memory for good, and add the places of their last records to
        the history."""
        for entry in departing:
            record = entry.record
            run_id = _run_of(record)
            if isinstance(record, RunRemoved):
                self.places.pop(run_id, None)
                sink.removed(run_id)
            elif type(record) in _LENGTHENS and run_id not in state.runs and run_id in self.places:
                # The handler of a cancelled run has stopped, or a failed run was discarded.
                sink.lengthened(run_id, self.places.pop(run_id))

    def _row(self, state: State, run: Run, seq: int) -> RunRow:
        """The history row of a run that the record `seq` finished. Its places are forgotten unless
        the run stays in memory."""
        stays = run.id in state.runs
        places = self.places[run.id] if stays else self.places.pop(run.id)
        return row_of(run, seq, array("q", places))


def _run_of(record: AnyRecord) -> str:
    """The run of a record by which runs leave memory (one of `_DEPARTS`)."""
    run: str = record.run  # type: ignore[union-attr,assignment]  # which all of `_DEPARTS` name
    return run


def _cannot_follow(entry: Entry, bad: Exception) -> JournalDamaged:
    return JournalDamaged(
        f"record {entry.seq} of the journal, {kind_of(entry.record)}, cannot follow those before it"
        f" ({type(bad).__name__}: {bad})",
        seq=entry.seq,
        hint="its bytes are as they were written: this is a fault of the program that wrote it, or "
        "of this one; restore a backup, or report it with the output of stackshift journal cat",
    )


def _note_place(places: dict[str, array[int]], entry: Entry, place: int) -> None:
    run = getattr(entry.record, "run", None)
    if run is not None:
        of_run = places.get(run)
        if of_run is None:
            of_run = places[run] = array("q")
        of_run.append(place)
