"""The index's file, in SQLite: finished runs by id, by suffix, and newest first by job and status.

Owns the schema, and the judgement what an error of SQLite means. Knows no journal and no loop. Any
answer that it gives is either right or an error: each row has a crc over all its columns, and
`check` reads the whole file.

- It is created in one transaction: a file has all of its schema, or none of it.
- `covered_seq` is written in the same transaction as the rows that it covers.
- No commit waits for a sync: what a power cut takes is derived from the journal again.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import zlib
from array import array
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from stackshiftd.history.rows import RunRow

VERSION: Final = 3

# `tail` is the id reversed: one index finds a run by its id and by any suffix of it.
_SCHEMA: Final = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE runs (
        created_seq INTEGER PRIMARY KEY,
        tail TEXT NOT NULL UNIQUE,
        job TEXT NOT NULL,
        status TEXT NOT NULL,
        queue TEXT NOT NULL,
        created_us INTEGER NOT NULL,
        finished_us INTEGER NOT NULL,
        facts TEXT NOT NULL,
        places BLOB NOT NULL,
        crc INTEGER NOT NULL
    )""",
    "CREATE INDEX runs_job ON runs (job, created_seq)",
    "CREATE INDEX runs_status ON runs (status, created_seq)",
    "INSERT INTO meta VALUES ('covered_seq', '0')",
    f"PRAGMA user_version = {VERSION}",
)
_COLUMNS: Final = (
    "created_seq, tail, job, status, queue, created_us, finished_us, facts, places, crc"
)
# The later row of a run wins; of two with the same end, the one with more records. While an index
# is rebuilt, older rows are written after newer ones.
_ENTER: Final = """
INSERT INTO runs VALUES (?,?,?,?,?,?,?,?,?,?) ON CONFLICT (created_seq) DO UPDATE
SET tail = excluded.tail, job = excluded.job, status = excluded.status, queue = excluded.queue,
    created_us = excluded.created_us, finished_us = excluded.finished_us, facts = excluded.facts,
    places = excluded.places, crc = excluded.crc
WHERE (json_extract(excluded.facts, '$[16]'), length(excluded.places))
    >= (json_extract(facts, '$[16]'), length(places))
"""
_COVER: Final = """
UPDATE meta SET value = max(CAST(value AS INTEGER), ?) WHERE name = 'covered_seq'
"""

_NOT_NOW: Final = frozenset(
    (
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
    )
)
"""Errors (without their details) that say nothing about the file, only about this moment."""

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(list[Any]).decode


class Unreliable(Exception):
    """The file cannot be believed; the text says why."""


class Refused(Exception):
    """The file is as it was, but the system did not let us read or write it now."""


class Filters(NamedTuple):
    """Which runs to list: those that match all that is given, created by the records from
    `from_seq` on and before `before_seq`; with `is_root` only those that no other run started."""

    job: str | None = None
    statuses: frozenset[str] | None = None
    queue: str | None = None
    labels: dict[str, str] | None = None
    since_us: int = 0
    before_seq: int | None = None
    from_seq: int = 0
    is_root: bool = False
    parent: str | None = None
    forked_from: str | None = None
    until_us: int | None = None

    def match(self, row: RunRow) -> bool:
        """Does `row` match?"""
        return (
            self.job in (None, row.job)
            and (self.statuses is None or row.status in self.statuses)
            and self.queue in (None, row.queue)
            and row.created_us >= self.since_us
            and (self.until_us is None or row.created_us <= self.until_us)
            and row.created_seq >= self.from_seq
            and (self.before_seq is None or row.created_seq < self.before_seq)
            and not (self.is_root and row.parent)
            and self.parent in (None, row.parent)
            and self.forked_from in (None, row.forked_from)
            and all(row.labels.get(k) == v for k, v in (self.labels or {}).items())
        )


@contextmanager
def _judged(*, writing: bool = False) -> Iterator[None]:
    """Raise what an error of SQLite, or of a row's contents, means."""
    try:
        yield
    except sqlite3.Error as bad:
        code = getattr(bad, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        moved = code == sqlite3.SQLITE_READONLY_DBMOVED
        if writing and code & 0xFF in _NOT_NOW and not moved:
            raise Refused(str(bad)) from bad
        raise Unreliable(str(bad)) from bad
    except (ValueError, TypeError, msgspec.MsgspecError) as bad:
        raise Unreliable(f"a row cannot be read ({bad})") from bad


class Table:
    """The open file; safe for threads. Without a path it is in memory, for a journal that is in
    memory too, or where no file can be made."""

    def __init__(self, path: Path | None, journal_id: str) -> None:
        """Open the file, or create it. Raises `Unreliable` and `Refused`."""
        self.path = path
        self._lock = threading.Lock()
        with _judged(writing=True):
            try:
                if path is not None:
                    path.touch(mode=0o600)
            except OSError as failed:
                raise Refused(str(failed)) from failed
            self._db = sqlite3.connect(
                path or ":memory:", check_same_thread=False, isolation_level=None
            )
            try:
                self._prepare(journal_id)
            except BaseException:
                self._db.close()
                raise

    def _prepare(self, journal_id: str) -> None:
        db = self._db
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        [version] = db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            with self._transaction():
                for statement in _SCHEMA:
                    db.execute(statement)
                db.execute("INSERT INTO meta VALUES ('journal', ?)", (journal_id,))
        elif version != VERSION:
            raise Unreliable(f"it has version {version}")
        [owner] = db.execute("SELECT value FROM meta WHERE name = 'journal'").fetchone() or [None]
        if owner != journal_id:
            raise Unreliable("it belongs to another journal")
        self.covered_seq  # noqa: B018  # Raises if there is none.

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._db.in_transaction:  # SQLite itself ends it after some errors.
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    # --- Writing ---------------------------------------------------------------------------

    def write(self, rows: Iterable[RunRow], gone: Iterable[str], covered_seq: int) -> None:
        """Write `rows`, remove the runs `gone`, and raise `covered_seq`, in one transaction.

        Raises `Refused`, and then nothing of it is written; or `Unreliable`.
        """
        values = [_values(row) for row in rows]
        tails = [(run[::-1],) for run in gone]
        with self._lock, _judged(writing=True), self._transaction():
            self._db.executemany(_ENTER, values)
            self._db.executemany("DELETE FROM runs WHERE tail = ?", tails)
            self._db.execute(_COVER, (covered_seq,))

    def forget_before(self, finished_us: int) -> int:
        """Remove the runs that finished before this time; returns their number."""
        with self._lock, _judged(writing=True), self._transaction():
            return self._db.execute(
                "DELETE FROM runs WHERE finished_us < ?", (finished_us,)
            ).rowcount

    def empty(self) -> None:
        """Remove all rows: without `covered_seq` nobody knows which are missing, or too many."""
        with self._lock, _judged(writing=True), self._transaction():
            self._db.execute("DELETE FROM runs")
            self._db.execute("UPDATE meta SET value = '0' WHERE name = 'covered_seq'")

    # --- Reading ---------------------------------------------------------------------------

    @property
    def covered_seq(self) -> int:
        """The file contains all runs that finished by a record up to this sequence number."""
        with self._lock, _judged():
            [covered] = self._db.execute(
                "SELECT value FROM meta WHERE name = 'covered_seq'"
            ).fetchone()
            return int(covered)

    def find(self, run: str) -> RunRow | None:
        """The row of the run with this id; None if there is none."""
        rows = self._rows("WHERE tail = ?", (run[::-1],))
        return rows[0] if rows else None

    def ending_in(self, suffix: str, limit: int) -> list[str]:
        """Ids that end in `suffix`, at most `limit`."""
        low = suffix[::-1]
        with self._lock, _judged():
            tails = self._db.execute(
                "SELECT tail FROM runs WHERE tail >= ? AND tail < ? LIMIT ?",
                (low, low + "\uffff", limit),
            ).fetchall()
        return [tail[::-1] for (tail,) in tails]

    def newest(self, filters: Filters, limit: int) -> list[RunRow]:
        """Runs that match, newest (by creation) first, at most `limit`."""
        clauses: list[str] = ["created_us >= ?"]
        values: list[Any] = [filters.since_us]
        for column in ("job", "queue"):
            if (wanted := getattr(filters, column)) is not None:
                clauses.append(f"{column} = ?")
                values.append(wanted)
        if filters.statuses is not None:
            clauses.append(f"status IN ({', '.join('?' * len(filters.statuses))})")
            values.extend(sorted(filters.statuses))
        if filters.until_us is not None:
            clauses.append("created_us <= ?")
            values.append(filters.until_us)
        if filters.before_seq is not None:
            clauses.append("created_seq < ?")
            values.append(filters.before_seq)
        if filters.from_seq:
            clauses.append("created_seq >= ?")
            values.append(filters.from_seq)
        if filters.is_root:
            clauses.append("json_extract(facts, '$[9]') IS NULL")
        if filters.parent is not None:
            clauses.append("json_extract(facts, '$[9]') = ?")
            values.append(filters.parent)
        if filters.forked_from is not None:
            clauses.append("json_extract(facts, '$[18]') = ?")
            values.append(filters.forked_from)
        for name, text in (filters.labels or {}).items():
            clauses.append("json_extract(facts, '$[8].' || ?) = ?")
            values.extend((json.dumps(name), text))
        where = f"WHERE {' AND '.join(clauses)} ORDER BY created_seq DESC LIMIT ?"
        return self._rows(where, (*values, limit))

    def _rows(self, where: str, values: tuple[Any, ...]) -> list[RunRow]:
        with self._lock, _judged():
            found = self._db.execute(f"SELECT {_COLUMNS} FROM runs {where}", values).fetchall()
            return [_row(columns) for columns in found]

    # --- Trust -----------------------------------------------------------------------------

    def check(self) -> None:
        """Read the whole file, on a connection of its own: structure, indexes, and the crc of each
        row. Raises `Unreliable`. Takes about a second for 100,000 runs; reads go on meanwhile."""
        if self.path is None:
            return
        with _judged(), closing(sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True)) as db:
            [word] = db.execute("PRAGMA integrity_check(1)").fetchone()
            if word != "ok":
                raise Unreliable(str(word).splitlines()[-1])
            for columns in db.execute(f"SELECT {_COLUMNS} FROM runs"):
                _check_crc(columns)

    def close(self) -> None:
        """Close the file; idempotent."""
        with self._lock:
            self._db.close()

    def delete(self) -> None:
        """Close and delete the file. Raises `OSError`."""
        self.close()
        if self.path is not None:
            delete(self.path)


def delete(path: Path) -> None:
    """Delete the file at `path`, and what SQLite keeps beside it. Raises `OSError`."""
    # The file last: one without its log is an older state of itself, one with a foreign log is
    # neither.
    for suffix in ("-wal", "-shm", ""):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _values(row: RunRow) -> tuple[Any, ...]:
    facts = _encode(msgspec.structs.astuple(row)[:-1]).decode()
    columns = (
        row.created_seq,
        row.id[::-1],
        row.job,
        row.status,
        row.queue,
        row.created_us,
        row.finished_us,
        facts,
        row.places.tobytes(),
    )
    return *columns, _crc(columns)


def _crc(columns: tuple[Any, ...]) -> int:
    # "surrogatepass": SQLite returns whatever bytes a damaged page contains.
    text = repr(columns[:-1]).encode("utf-8", "surrogatepass")
    return zlib.crc32(columns[-1], zlib.crc32(text))


def _check_crc(columns: tuple[Any, ...]) -> None:
    if not isinstance(columns[-2], bytes) or _crc(columns[:-1]) != columns[-1]:
        raise Unreliable(f"the row of record {columns[0]} does not match its crc")


def _row(columns: tuple[Any, ...]) -> RunRow:
    _check_crc(columns)
    *_, facts, blob, _crc_of_row = columns
    places = array("q")
    places.frombytes(blob)
    return RunRow(*[*_decode(facts), places])
