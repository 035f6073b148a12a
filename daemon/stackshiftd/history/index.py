"""The history: finished runs, from the index's file and from what is not written there yet.

It is written after the journal, in batches, on a thread of its own, and nothing waits for that. It
contains nothing that the journal does not, and is never believed over it: a file that is damaged,
of another version or journal, or that covers more than the journal, is deleted and built again
while the daemon serves. If no file can be made, it is built in memory.

- An answer is right, or it is not given: until the file has been checked after the start, and while
  it is built, a list raises `Rebuilding`, which the router turns into an answer that comes later. A
  single run that is not found is looked for in the journal, so that no run ever fails because of
  the index.
- `covered_seq` grows only once everything up to it has been written: it stays the same while an
  index is built beside new rows, and while the disk refuses a batch, which is tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import msgspec

from stackshift_jobs.errors import Busy, StackshiftError
from stackshiftd.history.filters import Filters, Group, group_of
from stackshiftd.history.rows import RunRow
from stackshiftd.history.table import Refused, Table, Unreliable, delete

log = logging.getLogger("stackshiftd.history")

FLUSH_SECONDS: Final = 0.2
RETRY_SECONDS: Final = 1.0
"""The pause after a batch that the disk refused."""
BATCH: Final = 1000
"""Rows that a rebuild writes at a time."""

ALL: Final = Filters()

T = TypeVar("T")


class Rebuilding(Busy):
    """The index is being checked or built, and a list would not be complete. Whoever can wait asks
    again in `History.when_whole`."""


class Origin(Protocol):
    """Where the history comes from, if its file is lost: the journal."""

    def rows(self, until_seq: int) -> Iterator[RunRow | str]:
        """The rows of the runs that finished by records up to `until_seq`, oldest first, and the
        ids of those that were removed. Blocks while it reads."""

    def row(self, run: str) -> RunRow | None:
        """The row of one finished run; blocks while it reads."""

    async def durable(self) -> int:
        """Return, once it can be read, the last record of which the history may know."""


class History:
    """Finished runs, including those whose rows are not written yet. Without a path it is in
    memory, for a journal that is in memory too."""

    def __init__(self, path: Path | None, journal_id: str, last_seq: int) -> None:
        self._path = path
        self._journal_id = journal_id
        self.origin: Origin | None = None
        """Set before `begin`."""
        self._waiting: dict[str, RunRow | None] = {}
        self._waiting_seq = 0
        self._writing: dict[str, RunRow | None] = {}
        self._task: asyncio.Task[None] | None = None
        self._flushing = asyncio.Lock()
        self._refused = False
        self._rebuilds = 0
        self._whole = False
        """Is the file known to contain all runs that it should?"""
        self._failure: StackshiftError | None = None
        """Why it cannot become whole."""
        self._until_whole: list[Callable[[], None]] = []
        self._building = False
        self._removed: set[str] = set()
        """Runs removed while the index is built: the build may still write rows of them."""
        self._lengthened: dict[str, array[int]] = {}
        """Places of runs that got more records while the index is built."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = threading.Event()
        self._table = self._open(last_seq)

    def _open(self, last_seq: int) -> Table:
        try:
            table = Table(self._path, self._journal_id)
            if table.covered_seq > last_seq:
                table.close()
                raise Unreliable("it covers more than the journal")
            if table.covered_seq == 0:
                table.empty()  # A build that was killed: some of its rows may be of nothing.
        except Unreliable as bad:
            log.info("deleting the history index, which is rebuilt: %s", bad)
            return self._anew()
        except Refused as refused:
            return self._in_memory(refused)
        return table

    def _anew(self) -> Table:
        """An empty file; in memory if it cannot be made, or was rebuilt without effect."""
        self._rebuilds += 1
        try:
            if self._path is not None:
                delete(self._path)
            if self._rebuilds > 1:
                raise Refused("it was damaged again")
            return Table(self._path, self._journal_id)
        except (OSError, Refused, Unreliable) as refused:
            return self._in_memory(refused)

    def _in_memory(self, why: Exception) -> Table:
        log.warning("the history index is kept in memory until the next start: %s", why)
        return Table(None, self._journal_id)

    # --- Becoming whole --------------------------------------------------------------------

    @property
    def covered_seq(self) -> int:
        """The index contains all runs that finished by a record up to this sequence number."""
        try:
            return self._table.covered_seq
        except Unreliable:
            return 0

    def begin(self, until_seq: int) -> None:
        """Build what is missing of the runs that finished up to `until_seq`, or, if nothing is,
        check the file. Both on a thread."""
        if self.covered_seq < until_seq:
            self.building()
            self._start(self._build_all(until_seq))
        elif self._table.path is None:
            self._whole = True
        else:
            self._start(self._check())

    def when_whole(self, again: Callable[[], None]) -> None:
        """Call `again` once lists can be made, or once it is clear that they cannot."""
        self._until_whole.append(again)

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _check(self) -> None:
        table = self._table
        try:
            await asyncio.to_thread(table.check)
        except Unreliable as bad:
            self._distrust(table, bad)
        else:
            self._be_whole(table)

    def _be_whole(self, table: Table) -> None:
        if table is self._table and not self._building:
            self._whole = True
            self._go_on()

    def _go_on(self) -> None:
        waiting, self._until_whole = self._until_whole, []
        for again in waiting:
            again()

    def _distrust(self, table: Table, bad: Exception) -> None:
        """Replace the file that could not be believed by an empty one, and build that."""
        if table is not self._table or self._closed.is_set():
            return  # It was replaced already.
        log.warning("the history index is damaged, rebuilding it from the journal: %s", bad)
        self._whole = False
        self.building()
        table.close()
        self._table = self._anew()
        self._start(self._build_all(None))

    def building(self) -> None:
        """Announce `build`: nothing counts as covered until it is done."""
        self._building = True
        self._removed = set()
        self._lengthened = {}

    async def _build_all(self, until_seq: int | None) -> None:
        assert self.origin is not None
        table = self._table
        try:
            if until_seq is None:
                until_seq = await self.origin.durable()
            log.info("building the history index from the journal")
            await asyncio.to_thread(self.build, self.origin.rows(until_seq), until_seq)
        except Unreliable as bad:
            self._distrust(table, bad)
        except (StackshiftError, OSError) as failed:
            log.error("the history index cannot be built: %s", failed)
            if isinstance(failed, StackshiftError):
                self._failure = failed
            else:
                self._failure = StackshiftError(f"the list of runs cannot be read: {failed}")
            self._go_on()
        else:
            self._be_whole(table)

    def build(self, rows: Iterable[RunRow | str], until_seq: int) -> None:
        """Write `rows` (an id: that run was removed) in batches, and then set `covered_seq` to
        `until_seq`. Runs on any thread, beside new rows, after `building`. Raises `Unreliable`."""
        table = self._table
        batch: dict[str, RunRow | None] = {}
        for row in rows:
            if isinstance(row, str):
                batch[row] = None
            else:
                batch[row.id] = row
            if len(batch) >= BATCH:
                self._insist(table, batch, 0)
                batch = {}
        self._insist(table, batch, 0)
        longer: dict[str, RunRow | None] = {}
        for run, places in (*self._lengthened.items(),):
            known = self._pending().get(run) or table.find(run)
            if (more := _lengthened(known, places)) is not None:
                longer[run] = more
        self._insist(table, longer, 0)
        # The batches above may have written runs that were removed meanwhile; from here on no
        # removed run can be written again.
        self._insist(table, dict.fromkeys(tuple(self._removed)), 0)
        self._building = False
        self._removed = set()
        self._lengthened = {}
        self._insist(table, {}, until_seq)

    def _insist(self, table: Table, rows: dict[str, RunRow | None], covered_seq: int) -> None:
        """Write, as often as it takes: a build cannot leave out what the disk refused."""
        while not self._closed.is_set():
            if table is not self._table:
                raise Unreliable("it was replaced meanwhile")
            try:
                self.write(rows, covered_seq)
                return
            except Refused as refused:
                self._note_refused(refused)
                self._closed.wait(RETRY_SECONDS)

    # --- Writing ---------------------------------------------------------------------------

    def add(self, row: RunRow) -> None:
        """Add a finished run; it is found at once, and written soon."""
        self._waiting[row.id] = row
        self._waiting_seq = max(self._waiting_seq, row.finished_seq)
        self._flush_soon()

    def lengthen(self, run: str, places: array[int]) -> None:
        """Add records to a finished run; `places` are those of all its records, or of the last
        ones. Does nothing for a run that is not in the index (retention has dropped it)."""
        row = self._written(run)
        if self._building:
            self._lengthened[run] = places  # The build may write its row later.
        row = _lengthened(row, places)
        if row is not None:
            self.add(row)

    def remove(self, run: str) -> None:
        """Remove a run from the index."""
        self._waiting[run] = None
        if self._building:
            self._removed.add(run)
        self._flush_soon()

    def _flush_soon(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._flush_later())

    async def _flush_later(self) -> None:
        while self._waiting:
            await asyncio.sleep(RETRY_SECONDS if self._refused else FLUSH_SECONDS)
            await self._flush()

    async def _flush(self) -> None:
        async with self._flushing:
            self._writing, self._waiting = self._waiting, {}
            table = self._table
            try:
                await asyncio.to_thread(self.write, self._writing, self._waiting_seq)
                self._refused = False
            except Refused as refused:
                self._note_refused(refused)
                self._waiting = self._pending()
            except Unreliable as bad:
                self._waiting = self._pending()
                self._distrust(table, bad)
            self._writing = {}

    def _note_refused(self, refused: Refused) -> None:
        if not self._refused:
            log.warning("cannot write the history index, trying again: %s", refused)
        self._refused = True

    async def flushed(self, covered_seq: int) -> None:
        """Write everything added so far, which covers the journal up to `covered_seq`."""
        self._waiting_seq = max(self._waiting_seq, covered_seq)
        await self._flush()

    def write(self, rows: dict[str, RunRow | None], covered_seq: int) -> None:
        """Write `rows` (None: remove the run) and `covered_seq`, in one transaction."""
        added = [row for row in rows.values() if row is not None]
        gone = [run for run, row in rows.items() if row is None]
        self._table.write(added, gone, 0 if self._building else covered_seq)

    def forget_before(self, finished_us: int) -> int:
        """Drop the rows of runs that finished before this time; returns their number."""
        return self._asked(lambda table: table.forget_before(finished_us), 0)

    # --- Reading ---------------------------------------------------------------------------

    def _asked(self, ask: Callable[[Table], T], otherwise: T) -> T:
        """The file's answer; `otherwise` if it has none that could be believed."""
        table = self._table
        try:
            return ask(table)
        except Unreliable as bad:
            self._distrust(table, bad)
        except Refused as refused:
            self._note_refused(refused)
        return otherwise

    def _written(self, run: str) -> RunRow | None:
        for pending in (self._waiting, self._writing):
            if run in pending:
                return pending[run]
        return self._asked(lambda table: table.find(run), None)

    def find(self, run: str) -> RunRow | None:
        """The row of the run with this id; None if it has not finished, or is not kept. Raises
        `JournalDamaged` if it has to be looked for in the journal, and that cannot be read."""
        row = self._written(run)
        if row is not None or self._whole or run in self._removed or run in self._pending():
            return row
        return self.origin.row(run) if self.origin is not None else None

    def _be_listable(self) -> None:
        if self._failure is not None:
            raise self._failure
        if not self._whole:
            raise Rebuilding("the index of finished runs is being rebuilt", hint="try again")

    def ending_in(self, suffix: str, limit: int) -> list[str]:
        """Ids that end in `suffix`, at most `limit`. Raises `Rebuilding`."""
        self._be_listable()
        pending = self._pending()
        nothing: list[str] = []
        written = self._asked(lambda table: table.ending_in(suffix, limit + len(pending)), nothing)
        self._be_listable()
        ids = {run for run, row in pending.items() if row is not None and run.endswith(suffix)}
        ids.update(run for run in written if pending.get(run, run) is not None)
        return sorted(ids)[:limit]

    def newest(self, filters: Filters = ALL, limit: int = 50) -> list[RunRow]:
        """Finished runs that match, newest (by creation) first, at most `limit`. Raises
        `Rebuilding`."""
        self._be_listable()
        pending = self._pending()
        rows = [row for row in pending.values() if row is not None and filters.match(row)]
        nothing: list[RunRow] = []
        found, rest = 0, filters
        while found < limit:
            # Of runs whose rows are not written yet, there may be earlier ones.
            part = self._asked(partial(Table.newest, filters=rest, limit=limit), nothing)
            self._be_listable()
            written = [row for row in part if row.id not in pending]
            rows += written
            found += len(written)
            if len(part) < limit:
                break
            rest = filters._replace(before_seq=part[-1].created_seq)
        rows.sort(key=lambda row: -row.created_seq)
        return rows[:limit]

    def counts(self, filters: Filters, without: Iterable[int]) -> Counter[Group]:
        """How many finished runs of each group match, except those that the records `without`
        created. See `Table.counts` for the filters. Raises `Rebuilding`."""
        self._be_listable()
        pending = self._pending()
        left_out = set(without)
        counts = Counter(
            group_of(row)
            for row in pending.values()
            if row is not None and row.created_seq not in left_out and filters.match(row)
        )
        for run, row in pending.items():
            earlier = row or self._asked(partial(Table.find, run=run), None)
            if earlier is not None:
                left_out.add(earlier.created_seq)
        nothing: Counter[Group] = Counter()
        ask = partial(Table.counts, filters=filters, without=left_out)
        counts.update(self._asked(ask, nothing))
        self._be_listable()
        return counts

    def _pending(self) -> dict[str, RunRow | None]:
        return {**self._writing, **self._waiting}

    def close(self) -> None:
        """Write the rows that are waiting, and close the file."""
        self._closed.set()
        for task in (self._task, *self._tasks):
            if task is not None:
                task.cancel()
        rows = self._pending()
        with contextlib.suppress(Refused, Unreliable):
            if rows:
                self.write(rows, self._waiting_seq)
        self._table.close()


def _lengthened(row: RunRow | None, places: array[int]) -> RunRow | None:
    """`row` with those of `places` that it lacks; None if it lacks none. Places only grow."""
    if row is None or row.places[-1] >= places[-1]:
        return None
    added = places[bisect_right(places, row.places[-1]) :]
    return msgspec.structs.replace(row, places=row.places + added)
