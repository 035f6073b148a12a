"""The index, in SQLite: finished runs by id, by suffix, and newest first by job and status.

It is written after the journal, in batches, on a thread of its own, and nothing waits for it:
whatever a crash takes from it is restored from the journal, from `covered_seq` on. It contains
nothing that the journal does not. A file that SQLite refuses, that has another version, or that
covers more than the journal (whose tail was torn or repaired) is deleted and rebuilt.

`covered_seq` grows only once everything up to it has been written: it stays the same while an index
is rebuilt beside new rows, and while the disk refuses a batch (which is kept and tried again).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sqlite3
import threading
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

from stackshiftd.history.rows import RunRow

log = logging.getLogger("stackshiftd.history")

VERSION: Final = 1
FLUSH_SECONDS: Final = 0.2
RETRY_SECONDS: Final = 1.0
"""The pause after a batch that the disk refused."""

# `tail` is the id reversed: one index finds a run by its id and by any suffix of it.
_SCHEMA: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE runs (
    created_seq INTEGER PRIMARY KEY,
    tail TEXT NOT NULL UNIQUE,
    job TEXT NOT NULL,
    status TEXT NOT NULL,
    queue TEXT NOT NULL,
    created_us INTEGER NOT NULL,
    facts TEXT NOT NULL,
    places BLOB NOT NULL
);
CREATE INDEX runs_job ON runs (job, created_seq);
CREATE INDEX runs_status ON runs (status, created_seq);
"""
_COLUMNS: Final = "facts, places"
# The later row of a run wins; of two with the same end, the one with more records. While an index
# is rebuilt, older rows are written after newer ones.
_ENTER: Final = """
INSERT INTO runs VALUES (?,?,?,?,?,?,?,?) ON CONFLICT (created_seq) DO UPDATE
SET status = excluded.status, facts = excluded.facts, places = excluded.places
WHERE (json_extract(excluded.facts, '$[16]'), length(excluded.places))
    >= (json_extract(facts, '$[16]'), length(places))
"""


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(list[Any]).decode


class History:
    """Finished runs, including those whose rows are not written yet. Without a path it is in
    memory, for a journal that is in memory too."""

    def __init__(self, path: Path | None, journal_id: str, last_seq: int) -> None:
        self._path = path
        self._journal_id = journal_id
        self._last_seq = last_seq
        self._lock = threading.Lock()
        self._waiting: dict[str, RunRow | None] = {}
        self._waiting_seq = 0
        self._writing: dict[str, RunRow | None] = {}
        self._task: asyncio.Task[None] | None = None
        self._flushing = asyncio.Lock()
        self._refused = False
        self._building = False
        self._removed: set[str] = set()
        """Runs removed while the index is rebuilt: the rebuild may still write rows of them."""
        self._lengthened: dict[str, array[int]] = {}
        """Places of runs that got more records while the index is rebuilt."""
        self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        try:
            return self._opened()
        except (sqlite3.DatabaseError, ValueError):
            for suffix in ("", "-wal", "-shm"):
                Path(f"{self._path}{suffix}").unlink(missing_ok=True)
            return self._opened()

    def _opened(self) -> sqlite3.Connection:
        if self._path is not None:
            self._path.touch(mode=0o600)
        db = sqlite3.connect(
            self._path or ":memory:", check_same_thread=False, isolation_level=None
        )
        # It can be rebuilt, so no commit waits for a sync; a power cut can lose the last commits,
        # but not tear the file.
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
            db.execute("INSERT INTO meta VALUES ('journal', ?)", (self._journal_id,))
            db.execute("INSERT INTO meta VALUES ('covered_seq', '0')")
        owner = db.execute("SELECT value FROM meta WHERE name = 'journal'").fetchone()
        if version not in (0, VERSION) or owner != (self._journal_id,):
            db.close()
            raise ValueError("an index of another version or journal")
        [covered] = db.execute("SELECT value FROM meta WHERE name = 'covered_seq'").fetchone()
        if int(covered) > self._last_seq:
            db.close()
            raise ValueError("an index that covers more than the journal")
        return db

    @property
    def covered_seq(self) -> int:
        """The index contains all runs that finished by a record up to this sequence number."""
        with self._lock:
            row = self._db.execute("SELECT value FROM meta WHERE name = 'covered_seq'").fetchone()
        return int(row[0])

    # --- Writing ---------------------------------------------------------------------------

    def add(self, row: RunRow) -> None:
        """Add a finished run; it is found at once, and written soon."""
        self._waiting[row.id] = row
        self._waiting_seq = max(self._waiting_seq, row.finished_seq)
        self._flush_soon()

    def lengthen(self, run: str, places: array[int]) -> None:
        """Add records to a finished run; `places` are those of all its records, or of the last
        ones. Does nothing for a run that is not in the index (retention has dropped it)."""
        if self._building:
            self._lengthened[run] = places  # Before the lookup: the rebuild may write its row now.
        row = self._longer(run, places)
        if row is not None:
            self.add(row)

    def _longer(self, run: str, places: array[int]) -> RunRow | None:
        """The run's row with those of `places` that it lacks; None if it lacks none. Places only
        grow."""
        row = self.find(run)
        if row is None or row.places[-1] >= places[-1]:
            return None
        added = places[bisect_right(places, row.places[-1]) :]
        return msgspec.structs.replace(row, places=row.places + added)

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
            try:
                await asyncio.to_thread(self.write, self._writing, self._waiting_seq)
                self._refused = False
            except sqlite3.Error as refused:
                if not self._refused:
                    log.warning("cannot write the history index, trying again: %s", refused)
                self._refused = True
                self._waiting = self._pending()
            self._writing = {}

    async def flushed(self, covered_seq: int) -> None:
        """Write everything added so far, which covers the journal up to `covered_seq`."""
        self._waiting_seq = max(self._waiting_seq, covered_seq)
        await self._flush()

    def write(self, rows: dict[str, RunRow | None], covered_seq: int) -> None:
        """Write `rows` (None: remove the run) and `covered_seq`, in one transaction."""
        added = [_values(row) for row in rows.values() if row is not None]
        gone = [(run[::-1],) for run, row in rows.items() if row is None]
        if self._building:
            covered_seq = 0
        with self._lock, self._db:
            self._db.execute("BEGIN")
            self._db.executemany(_ENTER, added)
            self._db.executemany("DELETE FROM runs WHERE tail = ?", gone)
            self._db.execute(
                "UPDATE meta SET value = max(CAST(value AS INTEGER), ?) WHERE name = 'covered_seq'",
                (covered_seq,),
            )

    def build(self, rows: Iterable[RunRow | str], until_seq: int) -> None:
        """Write `rows` (an id: that run was removed) in batches, and then set `covered_seq` to
        `until_seq`. Runs on any thread, beside new rows; `building` must be called first."""
        batch: dict[str, RunRow | None] = {}
        for row in rows:
            if isinstance(row, str):
                batch[row] = None
            else:
                batch[row.id] = row
            if len(batch) >= 1000:
                self.write(batch, 0)
                batch = {}
        self.write(batch, 0)
        longer = ((run, self._longer(run, places)) for run, places in (*self._lengthened.items(),))
        self.write({run: row for run, row in longer if row is not None}, 0)
        # The batches above may have written runs that were removed meanwhile; from here on no
        # removed run can be written again.
        self.write(dict.fromkeys(tuple(self._removed)), 0)
        self._building = False
        self._removed = set()
        self._lengthened = {}
        self.write({}, until_seq)

    def building(self) -> None:
        """Announce `build`: nothing counts as covered until it is done."""
        self._building = True

    def forget_before(self, finished_us: int) -> int:
        """Drop the rows of runs that finished before this time; returns their number."""
        with self._lock, self._db:
            return self._db.execute(
                "DELETE FROM runs WHERE json_extract(facts, '$[14]') < ?", (finished_us,)
            ).rowcount

    # --- Reading ---------------------------------------------------------------------------

    def find(self, run: str) -> RunRow | None:
        """The row of the run with this id; None if it is not in the index."""
        for pending in (self._waiting, self._writing):
            if run in pending:
                return pending[run]
        with self._lock:
            columns = self._db.execute(
                f"SELECT {_COLUMNS} FROM runs WHERE tail = ?", (run[::-1],)
            ).fetchone()
        return _row(columns) if columns else None

    def ending_in(self, suffix: str, limit: int) -> list[str]:
        """Ids that end in `suffix`, at most `limit`."""
        pending = self._pending()
        ids = {run for run, row in pending.items() if row is not None and run.endswith(suffix)}
        low = suffix[::-1]
        with self._lock:
            tails = self._db.execute(
                "SELECT tail FROM runs WHERE tail >= ? AND tail < ? LIMIT ?",
                (low, low + "\uffff", limit + len(pending)),
            ).fetchall()
        written = (tail[::-1] for (tail,) in tails)
        ids.update(run for run in written if pending.get(run, run) is not None)
        return sorted(ids)[:limit]

    def newest(
        self,
        *,
        job: str | None = None,
        status: str | None = None,
        queue: str | None = None,
        labels: dict[str, str] | None = None,
        since_us: int = 0,
        before_seq: int | None = None,
        limit: int = 50,
    ) -> list[RunRow]:
        """Finished runs that match all filters, newest (by creation) first, at most `limit`."""

        def fits(row: RunRow) -> bool:
            return (
                (job is None or row.job == job)
                and (status is None or row.status == status)
                and (queue is None or row.queue == queue)
                and row.created_us >= since_us
                and (before_seq is None or row.created_seq < before_seq)
                and all(row.labels.get(k) == v for k, v in (labels or {}).items())
            )

        pending = self._pending()
        rows = [row for row in pending.values() if row is not None and fits(row)]
        clauses, values = ["created_us >= ?"], [since_us]
        for column, wanted in (("job", job), ("status", status), ("queue", queue)):
            if wanted is not None:
                clauses.append(f"{column} = ?")
                values.append(wanted)  # type: ignore[arg-type]
        if before_seq is not None:
            clauses.append("created_seq < ?")
            values.append(before_seq)
        for name, text in (labels or {}).items():
            clauses.append("json_extract(facts, '$[8].' || ?) = ?")
            values.extend((json.dumps(name), text))  # type: ignore[arg-type]
        with self._lock:
            written = self._db.execute(
                f"SELECT {_COLUMNS} FROM runs WHERE {' AND '.join(clauses)} "
                "ORDER BY created_seq DESC LIMIT ?",
                (*values, limit + len(pending)),
            ).fetchall()
        rows.extend(row for row in map(_row, written) if row.id not in pending)
        rows.sort(key=lambda row: -row.created_seq)
        return rows[:limit]

    def _pending(self) -> dict[str, RunRow | None]:
        return {**self._writing, **self._waiting}

    def close(self) -> None:
        """Write the rows that are waiting, and close the file."""
        if self._task is not None:
            self._task.cancel()
        rows = self._pending()
        with contextlib.suppress(sqlite3.Error):
            if rows:
                self.write(rows, self._waiting_seq)
            with self._lock:  # a batch may still be under way on its thread
                self._db.close()


Found = Callable[[str], RunRow | None]


def _values(row: RunRow) -> tuple[Any, ...]:
    facts = _encode(msgspec.structs.astuple(row)[:-1])
    return (
        row.created_seq,
        row.id[::-1],
        row.job,
        row.status,
        row.queue,
        row.created_us,
        facts.decode(),
        row.places.tobytes(),
    )


def _row(columns: tuple[str, bytes]) -> RunRow:
    places = array("q")
    places.frombytes(columns[1])
    return RunRow(*[*_decode(columns[0]), places])
