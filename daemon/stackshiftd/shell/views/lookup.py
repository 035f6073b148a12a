"""Finding runs, in memory or in the history: by any name that a person may use for them, and newest
first by what they have in common.

Reading many runs, or the records of one, is work in parts (`shell.work`): where others should have
their turn, None comes in place of the next.
"""

from __future__ import annotations

import heapq
import re
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

import msgspec

from stackshift_jobs.errors import NotFound, Usage
from stackshift_jobs.values.durations import parse_time
from stackshift_jobs.values.limits import FINISHED
from stackshift_jobs.values.names import NOTIFY_JOB, RUN_ID
from stackshiftd.core import records as r
from stackshiftd.core.commands import StartRun
from stackshiftd.core.records import Entry, entry_from_json, entry_json
from stackshiftd.core.snapshot import entries_of
from stackshiftd.core.state.run_index import EVERY, RunCriteria
from stackshiftd.core.state.state import Run, Status
from stackshiftd.history.filters import Filters
from stackshiftd.history.index import History
from stackshiftd.history.rows import Ended, RunRow, ended
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.params import Params, statuses_in

MIN_SUFFIX = 4
_SHORTENED: Final = re.compile(r"^run_(…|\.\.\.)")
LOOKS: Final = 128
"""Runs in memory that one part of a search leads to, at most."""
ROWS: Final = 32
"""Rows that are read from the history in one part."""
SPAN: Final = 16_384
"""Sequence numbers of the journal whose runs the history searches in one part, if no index of it
leads to those that are wanted."""
RECORDS: Final = 8
"""Records of a run that are read in one part; each may have a megabyte."""
LOOK_BACK = 100
"""How many failed runs that were retried `@failed` skips at most."""


_DEAD: Final = frozenset((Status.FAILED.value,))
_END: Final = object()
"""Stands for the next run of a source that has no more."""


class RunFilters(Params):
    """Which runs are wanted; None is for all. `parent`: only those that this run has started;
    `forked_from`: only its forks. `since`, `until`: only those created at this time or later, not
    after it. `dead`: only those in the dead letter."""

    job: str | None = None
    status: str | list[str] | None = None
    queue: str | None = None
    labels: dict[str, str] | None = None
    dead: bool = False
    parent: str | None = None
    forked_from: str | None = None
    since: str | None = None
    until: str | None = None

    @property
    def statuses(self) -> frozenset[str] | None:
        """The statuses of those that are wanted; None for all. Raises `Usage`."""
        return statuses_in(self.status)

    @property
    def since_us(self) -> int:
        """`since` in µs since 1970; 0 without it. Raises `Usage`."""
        return parse_time(self.since) if self.since is not None else 0

    @property
    def until_us(self) -> int | None:
        """`until` in µs since 1970; None without it. Raises `Usage`."""
        return parse_time(self.until) if self.until is not None else None

    @property
    def in_memory(self) -> RunCriteria:
        """What a run in memory has to be, whenever it was created. Raises `Usage`."""
        statuses = self.statuses
        if self.dead:
            statuses = _DEAD if statuses is None else statuses & _DEAD
        return RunCriteria(
            self.job, self.queue, statuses, self.labels or None, self.parent, self.forked_from
        )

    @property
    def is_indexed(self) -> bool:
        """Do the indexes lead to just the runs that are wanted, whenever they were created?"""
        return len(self.in_memory.terms) <= 1 and self.until is None


Filtering = TypeVar("Filtering", bound=RunFilters)


class Lookup:
    """Finds runs and their records; changes nothing."""

    def __init__(self, engine: Engine, history: History) -> None:
        self._engine = engine
        self._history = history

    def when_whole(self, again: Callable[[], None]) -> None:
        """Call `again` once every run that is kept can be found: see `History.when_whole`."""
        self._history.when_whole(again)

    def resolve(self, name: str) -> str:
        """The id that `name` stands for: an id, a unique suffix, a shortened id as screens show it
        (`run_…7k2m9q`), `@last` or `@failed`. Raises `NotFound` or `Usage`."""
        if name in ("@last", "@failed"):
            return self._newest(name)
        if name.startswith("@"):
            raise Usage(f"{name!r} is not a run", hint="use @last or @failed")
        if RUN_ID.fullmatch(name):
            if self.live(name) is not None or self._history.find(name) is not None:
                return name
            raise NotFound(f"there is no run {name}", hint="stackshift runs list")
        name = _SHORTENED.sub("", name)
        if len(name) < MIN_SUFFIX:
            raise Usage(f"{name!r} is too short for a run", hint="at least 4 characters of its end")
        leaving = self._engine.departures.finishing
        matches = {run for run in (*self._engine.state.runs, *leaving) if run.endswith(name)}
        matches.update(self._history.ending_in(name, 5))
        if not matches:
            raise NotFound(f"no run ends in {name!r}", hint="stackshift runs list")
        if len(matches) > 1:
            raise Usage(
                f"{len(matches)} runs end in {name!r}", hint="one of " + ", ".join(sorted(matches))
            )
        return matches.pop()

    def _newest(self, name: str) -> str:
        """The newest run, or the newest failed one, that no other run started: the one that a
        person means, whatever it has started since."""
        failed = name == "@failed"
        statuses = frozenset(("failed",)) if failed else None
        newest: tuple[int, str] = (0, "")
        for row in self._history.newest(Filters(statuses=statuses, is_root=True), LOOK_BACK):
            if row.job == NOTIFY_JOB:
                continue
            live = self.live(row.id)
            if not failed or live is None or live.status is Status.FAILED:
                newest = (row.created_seq, row.id)
                break
        leaving = sorted(self._engine.departures.finishing.values(), key=_newest_first)
        criteria = RunCriteria(statuses=statuses)
        live_runs = (run for run in self.in_memory(criteria) if run is not None)
        for run in heapq.merge(live_runs, leaving, key=_newest_first):
            if (
                run.parent is None
                and run.job != NOTIFY_JOB
                and (not failed or run.status is Status.FAILED)
            ):
                newest = max(newest, (run.created_seq, run.id))
                break
        if not newest[1]:
            told = "there is no failed run" if failed else "there is no run yet"
            raise NotFound(
                f"{told} (what another run has started does not count)",
                hint="stackshift runs list",
            )
        return newest[1]

    def in_memory(
        self, wanted: RunCriteria = EVERY, before: int | None = None
    ) -> Iterator[Run | None]:
        """The runs in memory that are `wanted` and were created before the record `before` (None:
        whenever), newest (by creation) first. In parts; runs may come and go meanwhile."""
        while found := self._engine.state.index.newest(wanted, before, LOOKS):
            before = found[-1].created_seq
            for run in found:
                if run.id in self._engine.state.runs and wanted.fit(run):
                    yield run
            yield None

    def named(self, wanted: Filtering) -> Filtering:
        """`wanted`, checked, in which the runs are named by their ids. Raises what `resolve`
        raises."""
        statuses_in(wanted.status)
        names = {"parent": wanted.parent, "forked_from": wanted.forked_from}
        ids = {each: self.resolve(name) for each, name in names.items() if name is not None}
        return msgspec.structs.replace(wanted, **ids)

    def newest_first(
        self, wanted: RunFilters, before: int | None = None
    ) -> Iterator[Run | RunRow | None]:
        """The runs that are `wanted` and were created before the record `before`, newest (by
        creation) first, each once; in parts. Raises what `resolve` raises."""
        wanted = self.named(wanted)
        since_us, until_us = wanted.since_us, wanted.until_us
        sources: list[Iterator[Run | RunRow | None]] = [
            self._leaving(wanted, since_us, before),
            self.live_runs(wanted, before),
        ]
        if not wanted.dead:
            sources.append(self._finished(wanted, since_us, before))
        heads: list[Any] = [next(source, _END) for source in sources]
        while True:
            if None in heads:
                yield None
                at = heads.index(None)
            else:
                at = max(range(len(heads)), key=lambda at: _created_seq(heads[at]))
                head = heads[at]
                seq = _created_seq(head)
                if not seq:
                    return
                # A run may have left memory since, and come again among the rows.
                if before is None or seq < before:
                    before = seq
                    if until_us is None or head.created_us <= until_us:
                        yield head
            heads[at] = next(sources[at], _END)

    def _leaving(
        self, wanted: RunFilters, since_us: int, before: int | None
    ) -> Iterator[Run | None]:
        """The runs that have left the state and whose last record is not durable yet."""
        criteria = wanted.in_memory
        for run in sorted(self._engine.departures.finishing.values(), key=_newest_first):
            is_before = before is None or run.created_seq < before
            if is_before and run.created_us >= since_us and criteria.fit(run):
                yield run

    def live_runs(self, wanted: RunFilters, before: int | None = None) -> Iterator[Run | None]:
        """The runs in memory that are `wanted`, in which runs are named by their ids, and were
        created before the record `before`, newest (by creation) first; in parts."""
        since_us = wanted.since_us
        for run in self.in_memory(wanted.in_memory, before):
            if run is not None and run.created_us < since_us:
                return
            yield run

    def _finished(
        self, wanted: RunFilters, since_us: int, before: int | None
    ) -> Iterator[RunRow | None]:
        high = before if before is not None else self._engine.state.seq + 1
        while high > 0:
            low = 0 if wanted.is_indexed else max(0, high - SPAN)
            filters = Filters(
                wanted.job,
                wanted.statuses,
                wanted.queue,
                wanted.labels,
                before_seq=high,
                from_seq=low,
                parent=wanted.parent,
                forked_from=wanted.forked_from,
                until_us=wanted.until_us,
            )
            rows = self._history.newest(filters, ROWS)
            for row in rows:
                if row.created_us < since_us:
                    return
                if self.live(row.id) is None:
                    yield row
            high = rows[-1].created_seq if len(rows) == ROWS else low
            yield None

    def counts(self, wanted: RunFilters) -> Counter[tuple[str, str, str]] | None:
        """How many runs are `wanted`, by job, queue and status; None if the indexes alone cannot
        tell. Raises what `resolve` raises."""
        wanted = self.named(wanted)
        criteria, state = wanted.in_memory, self._engine.state
        counts = state.index.counts(criteria)
        if counts is None or wanted.since is not None or wanted.until is not None:
            return None
        leaving = self._engine.departures.finishing.values()
        for run in leaving:
            counts[run.job, run.queue, run.shown_status] += criteria.fit(run)
        if wanted.dead:
            return counts
        # Runs in memory that the history knows too. Those that failed are there as they are here.
        both = [state.runs[run].created_seq for run in state.retried]
        both += (run.created_seq for run in leaving)
        statuses = FINISHED if wanted.statuses is None else FINISHED & wanted.statuses
        both += state.index.numbers(RunCriteria(wanted.job, wanted.queue, statuses))
        filters = Filters(
            wanted.job,
            wanted.statuses,
            wanted.queue,
            wanted.labels,
            parent=wanted.parent,
            forked_from=wanted.forked_from,
        )
        for group, count in self._history.counts(filters, both).items():
            counts[group.job, group.queue, group.status] += count
        return counts

    def leader_at(self, seq: int) -> str:
        """The machine whose daemon led at a record; "" where there was but one machine."""
        return self._engine.state.leads.at(seq)

    def leaders_since(self, run: str) -> frozenset[str]:
        """The machines whose daemons have led since the run was created."""
        created = self.live(run) or self.row(run)
        return self._engine.state.leads.since(created.created_seq if created is not None else 0)

    def entries(self, run: str) -> list[Entry]:
        """The records of a run that are still kept, in order, each once."""
        places = self.places(run)
        kept = self._engine.journal.fetch(places)
        if len(kept) < len(places):
            # Its first segments were trimmed. If the run is unfinished, the snapshot contains all
            # its entries.
            last = self._engine.journal.snapshot_lines()
            by_seq = {entry.seq: entry for entry in (*entries_of(last, run), *kept)}
            kept = [by_seq[seq] for seq in sorted(by_seq)]
        own = [*kept, *self._engine.pending(run)]
        earlier: list[Entry] = []
        for entry in own:
            if isinstance(entry.record, r.RunRetried):
                earlier.extend(entry_from_json(line) for line in entry.record.restored)
        if not earlier:
            return own
        by_seq = {entry.seq: entry for entry in (*earlier, *own)}
        return [by_seq[seq] for seq in sorted(by_seq)]

    def read(self, run: str, after_seq: int = 0) -> Iterator[tuple[int | None, Entry] | None]:
        """The records of a run that are still kept, after `after_seq`, in order, each with its
        place; None for one that is not in the journal alone. In parts."""
        places = self.places(run)[:]
        pending = self._engine.pending(run)
        created = self.at(places[0]) if places else None
        if created is None or not isinstance(created.record, r.RunCreated):
            # Its first records are in a snapshot, or in the one by which it was retried.
            yield from ((None, entry) for entry in self.entries(run) if entry.seq > after_seq)
            return
        first = bisect_right(places, after_seq, key=self._seq_at) if after_seq else 0
        for at in range(first, len(places), RECORDS):
            part = places[at : at + RECORDS]
            kept = self._engine.journal.fetch(part)
            known: Sequence[int | None] = part
            if len(kept) < len(part):
                known = [None] * len(kept)  # Some were trimmed just now; nobody knows which.
            for place, entry in zip(known, kept, strict=True):
                after_seq = entry.seq
                yield place, entry
            yield None
        yield from ((None, entry) for entry in pending if entry.seq > after_seq)

    def _seq_at(self, place: int) -> int:
        """The sequence number of the record at `place`; 0 if it is no longer kept."""
        return next((entry.seq for entry in self._engine.journal.fetch([place])), 0)

    def at(self, place: int) -> Entry | None:
        """The record at `place`, if it is still kept."""
        return next(iter(self._engine.journal.fetch([place])), None)

    def places(self, run: str) -> array[int]:
        """The places of a run's records in the journal; empty if the run is not known."""
        live = self._engine.departures.places.get(run)
        if live is not None:
            return live
        row = self._history.find(run)
        return row.places if row is not None else array("q")

    def lines(self, run: str) -> tuple[bytes, ...]:
        """The records of a run as JSON, to retry or fork it. Raises `NotFound` if they are not all
        kept."""
        entries = self.entries(run)
        if not entries or not isinstance(entries[0].record, r.RunCreated):
            raise NotFound(f"the records of {run} are not kept any more")
        return tuple(entry_json(entry) for entry in entries)

    def restored(self, run: str, *, is_dry: bool = False) -> tuple[bytes, ...]:
        """The records that a retry of a run has to bring along: none if it is in memory; else all,
        and it is prepared to return there, unless that `is_dry`. Raises `NotFound` if they are not
        kept."""
        if run in self._engine.state.runs:
            return ()
        lines = self.lines(run)
        if not is_dry:
            self._engine.departures.places[run] = self.places(run)[:]
        return lines

    def live(self, run: str) -> Run | None:
        """The run, if it is in memory."""
        return self._engine.state.runs.get(run) or self._engine.departures.finishing.get(run)

    def row(self, run: str) -> RunRow | None:
        """The history row of a finished run; None if it has none."""
        return self._history.find(run)

    def outcome(self, run: str) -> Ended | None:
        """How a finished run ended, from its last record; None for a run that is not finished or
        not known."""
        if run in self._engine.departures.finishing:
            end = ended_by(self._engine.pending(run))
            if end is not None:  # else it was discarded, and had ended before
                return end
        row = self._history.find(run)
        if row is None:
            return None
        return ended_by(self._engine.journal.fetch(row.places[row.end : row.end + 1]))

    def predecessors(self, names: list[str]) -> list[tuple[str, str]]:
        """The runs that `names` stand for, each once, as `StartRun.after` has them. Raises
        `NotFound` and `Usage`."""
        return list(dict(self._predecessor(self.resolve(name)) for name in names).items())

    def _predecessor(self, run: str) -> tuple[str, str]:
        while True:
            found = self._engine.state.latest(run)
            if found is not None and not found.finished:
                return found.chain or found.id, ""
            ended = self.outcome(run)
            if ended is None and found is not None:
                return run, found.status.value
            if ended is None:
                raise NotFound(f"it is not known how {run} ended", hint="stackshift runs list")
            if ended.continued_as is None:
                return run, ended.status
            run = ended.continued_as

    def ended_owner(self, start: StartRun) -> str | None:
        """The finished run that owns the key of `start`, if any, and that it would reuse."""
        if start.key is None:
            return None
        owner = self._engine.state.key_owner(start.key, self._engine.now_us())
        if owner is None or owner.job != start.job or owner.digest != start.digest:
            return None
        live = self._engine.state.runs.get(owner.run)
        return owner.run if live is None or live.finished else None


def _created_seq(head: Any) -> int:
    return 0 if head is _END else int(head.created_seq)


def _newest_first(run: Run) -> int:
    return -run.created_seq


def ended_by(entries: list[Entry]) -> Ended | None:
    """How a run ended, by the last end among its records; None if there is none."""
    ends = (ended(entry.record) for entry in reversed(entries))
    return next((end for end in ends if end is not None), None)
