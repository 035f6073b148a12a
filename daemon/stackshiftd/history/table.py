"""The index's file, in SQLite: finished runs by id, by suffix, and newest first by what they have
in common.

Owns the schema, and the judgement what an error of SQLite means. Knows no journal and no loop. Any
answer that it gives is either right or an error: each row has a crc over all its columns, and
`check` reads the whole file.

- It is created in one transaction: a file has all of its schema, or none of it.
- `covered_seq` is written in the same transaction as the rows that it covers.
- No commit waits for a sync: what a power cut takes is derived from the journal again.
- A run is in one group (`filters.Group`), and each of its terms is in `terms` once. A list by any
  of these merges the groups that match, each of which is in order; so what it costs depends on the
  page and on the number of groups. The file knows how many runs each group has.
"""

from __future__ import annotations

import heapq
import json
import sqlite3
import threading
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec

from stackshiftd.history.filters import Filters, Group, group_of, terms_of
from stackshiftd.history.rows import RunRow

VERSION: Final = 4

# `tail` is the id reversed: one index finds a run by its id and by any suffix of it. An index of
# SQLite has the rowid, which is `created_seq`, behind its own columns.
_SCHEMA: Final = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE groups (
        grp INTEGER PRIMARY KEY,
        job TEXT NOT NULL,
        queue TEXT NOT NULL,
        status TEXT NOT NULL,
        is_root INTEGER NOT NULL,
        runs INTEGER NOT NULL,
        crc INTEGER NOT NULL
    )""",
    """CREATE TABLE runs (
        created_seq INTEGER PRIMARY KEY,
        tail TEXT NOT NULL UNIQUE,
        grp INTEGER NOT NULL,
        terms INTEGER NOT NULL,
        created_us INTEGER NOT NULL,
        finished_us INTEGER NOT NULL,
        facts TEXT NOT NULL,
        places BLOB NOT NULL,
        crc INTEGER NOT NULL
    )""",
    "CREATE INDEX runs_grp ON runs (grp)",
    """CREATE TABLE terms (
        term INTEGER NOT NULL,
        grp INTEGER NOT NULL,
        created_seq INTEGER NOT NULL,
        PRIMARY KEY (term, grp, created_seq)
    ) WITHOUT ROWID""",
    "INSERT INTO meta VALUES ('covered_seq', '0')",
    f"PRAGMA user_version = {VERSION}",
)
_COLUMNS: Final = "created_seq, tail, grp, terms, created_us, finished_us, facts, places, crc"
_THESE: Final = "created_seq IN (SELECT value FROM json_each(?))"
_COVER: Final = """
UPDATE meta SET value = max(CAST(value AS INTEGER), ?) WHERE name = 'covered_seq'
"""
COMMON: Final = 1000
"""A term that so many runs have is not counted further."""
CACHE_KIB: Final = 512
"""Memory for pages of the file, a quarter of what SQLite takes by itself: the system has them in
memory too."""

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


class _Groups:
    """The groups of the file by their numbers, and how many runs each has."""

    def __init__(self, by_number: dict[int, Group], runs: Counter[int]) -> None:
        self.by_number = by_number
        self.runs = runs
        self._numbers: dict[tuple[str, str, str, bool], int] = {
            group: number for number, group in by_number.items()
        }

    def copy(self) -> _Groups:
        return _Groups(dict(self.by_number), Counter(self.runs))

    def number(self, row: RunRow) -> int:
        """The number of a run's group, which is given one if it is new."""
        number = self._numbers.get((row.job, row.queue, row.status, not row.parent))
        if number is None:
            group, number = group_of(row), len(self._numbers) + 1
            self.by_number[number] = group
            self._numbers[group] = number
        return number

    def matching(self, filters: Filters) -> dict[int, Group]:
        """Those that have runs, and whose runs may match."""
        return {
            number: group
            for number, group in self.by_number.items()
            if self.runs[number] and filters.match_group(group)
        }


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
        db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
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
        self._groups = _read_groups(db)

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
        """Write `rows`, remove the runs `gone`, and raise `covered_seq`, in one transaction. The
        later row of a run wins; of two with the same end, the one with more records. (While an
        index is rebuilt, older rows are written after newer ones.)

        Raises `Refused`, and then nothing of it is written; or `Unreliable`.
        """
        latest: dict[int, RunRow] = {}
        for row in rows:
            if row.created_seq not in latest or not _is_older(row, latest[row.created_seq]):
                latest[row.created_seq] = row
        tails = json.dumps([run[::-1] for run in gone])
        with self._lock, _judged(writing=True):
            groups = self._groups.copy()
            with self._transaction():
                these = f"WHERE {_THESE}"
                replaced = []
                for known in self._select(these, (json.dumps(list(latest)),)):
                    if _is_older(latest[known.created_seq], known):
                        del latest[known.created_seq]
                    else:
                        replaced.append(known.created_seq)
                self._remove(groups, these, json.dumps(replaced))
                self._insert(groups, latest.values())
                self._remove(groups, "WHERE tail IN (SELECT value FROM json_each(?))", tails)
                self._save(groups)
                self._db.execute(_COVER, (covered_seq,))
            self._groups = groups

    def _insert(self, groups: _Groups, rows: Iterable[RunRow]) -> None:
        values: list[tuple[Any, ...]] = []
        terms: list[tuple[int, int, int]] = []
        for row in rows:
            number = groups.number(row)
            groups.runs[number] += 1
            of_row = terms_of(row)
            if of_row:
                terms.extend((term, number, row.created_seq) for term in of_row)
            values.append(_values(row, number, len(of_row)))
        self._db.executemany("INSERT INTO runs VALUES (?,?,?,?,?,?,?,?,?)", values)
        if terms:
            self._db.executemany("INSERT INTO terms VALUES (?,?,?)", terms)

    def _remove(self, groups: _Groups, where: str, value: Any) -> int:
        """Remove runs, and what leads to them; returns their number."""
        # Not grouped by SQLite, which would go through all runs in the order of their groups.
        removed = self._db.execute(f"SELECT grp FROM runs {where}", (value,)).fetchall()
        if not removed:
            return 0
        groups.runs.subtract(number for (number,) in removed)
        # Most runs have no terms: these need not be read.
        for row in self._select(f"{where} AND terms > 0", (value,)):
            number = groups.number(row)
            self._db.executemany(
                "DELETE FROM terms WHERE term = ? AND grp = ? AND created_seq = ?",
                [(term, number, row.created_seq) for term in terms_of(row)],
            )
        return self._db.execute(f"DELETE FROM runs {where}", (value,)).rowcount

    def _save(self, groups: _Groups) -> None:
        """Write the groups that have changed."""
        changed = []
        before = self._groups
        for number, group in groups.by_number.items():
            runs = groups.runs[number]
            if number not in before.by_number or runs != before.runs[number]:
                changed.append((number, *group, runs, _group_crc(number, group, runs)))
        self._db.executemany("INSERT OR REPLACE INTO groups VALUES (?,?,?,?,?,?,?)", changed)

    def forget_before(self, finished_us: int) -> int:
        """Remove the runs that finished before this time; returns their number."""
        with self._lock, _judged(writing=True):
            groups = self._groups.copy()
            with self._transaction():
                removed = self._remove(groups, "WHERE finished_us < ?", finished_us)
                self._save(groups)
            self._groups = groups
        return removed

    def empty(self) -> None:
        """Remove all rows: without `covered_seq` nobody knows which are missing, or too many."""
        with self._lock, _judged(writing=True):
            with self._transaction():
                for table in ("runs", "terms", "groups"):
                    self._db.execute(f"DELETE FROM {table}")
                self._db.execute("UPDATE meta SET value = '0' WHERE name = 'covered_seq'")
            self._groups = _Groups({}, Counter())

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
        with self._lock, _judged():
            rows = self._select("WHERE tail = ?", (run[::-1],))
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
        with self._lock, _judged():
            terms = filters.terms
            if not terms and not filters.names_group:
                spans, values = filters.spans
                where = f"WHERE true{spans} ORDER BY created_seq DESC LIMIT ?"
                return self._select(where, (*values, limit))
            groups = self._groups.matching(filters)
            terms.sort(key=self._frequency)
            part = max(4, 2 * limit // max(1, len(groups)))
            found = [self._of_group(number, terms, filters, part) for number in groups]
            seqs = heapq.merge(*found, reverse=True) if len(found) != 1 else found[0]
            rows: list[RunRow] = []
            while len(rows) < limit:
                wanted = list(islice(seqs, limit - len(rows)))
                if not wanted:
                    break
                where = f"WHERE {_THESE} ORDER BY created_seq DESC"
                # Two terms may be one number, in 2^64.
                rows += filter(filters.match, self._select(where, (json.dumps(wanted),)))
            return rows

    def _of_group(
        self, number: int, terms: list[int], filters: Filters, part: int
    ) -> Iterator[int]:
        """The runs of a group that have `terms`, newest first, read `part` by `part`."""
        others = "".join(
            " AND EXISTS (SELECT 1 FROM terms WHERE term = ? AND grp = t.grp AND created_seq ="
            " t.created_seq)"
            for _ in terms[1:]
        )
        source = "runs" if not terms else "terms"
        of_term = " AND term = ?" if terms else ""
        while True:
            spans, values = filters.spans
            if terms:
                at = "(SELECT created_us FROM runs WHERE created_seq = t.created_seq)"
                spans = spans.replace("created_us", at)
            found = self._db.execute(
                f"SELECT created_seq FROM {source} AS t WHERE grp = ?{of_term}{others}{spans}"
                " ORDER BY created_seq DESC LIMIT ?",
                (number, *terms, *values, part),
            ).fetchall()
            yield from (seq for (seq,) in found)
            if len(found) < part:
                return
            filters = filters._replace(before_seq=found[-1][0])

    def _frequency(self, term: int) -> int:
        """How many runs have the term, up to `COMMON`."""
        sql = "SELECT count(*) FROM (SELECT 1 FROM terms WHERE term = ? LIMIT ?)"
        [count] = self._db.execute(sql, (term, COMMON)).fetchone()
        return int(count)

    def counts(self, filters: Filters, without: Iterable[int] = ()) -> Counter[Group]:
        """How many runs of each group match, whenever they were created, `without` those that these
        records created. Of filters with several terms nobody knows without reading the rows."""
        terms = filters.terms
        assert len(terms) <= 1, "only a look at each run can tell"
        assert not filters.spans[1], "groups are not counted by time"
        with self._lock, _judged():
            groups = self._groups.matching(filters)
            if terms:
                sql = "SELECT grp, count(*) FROM terms WHERE term = ? GROUP BY grp"
                counts = Counter(dict(self._db.execute(sql, terms)))
                sql = (
                    "SELECT grp FROM runs CROSS JOIN terms USING (grp, created_seq) WHERE term = ?"
                )
                sql += f" AND {_THESE}"
            else:
                counts = Counter({number: self._groups.runs[number] for number in groups})
                sql = f"SELECT grp FROM runs WHERE {_THESE}"
            left_out = self._db.execute(sql, (*terms, json.dumps(list(without))))
            counts.subtract(number for (number,) in left_out)
        return Counter({group: counts[number] for number, group in groups.items()})

    def _select(self, where: str, values: tuple[Any, ...]) -> list[RunRow]:
        found = self._db.execute(f"SELECT {_COLUMNS} FROM runs {where}", values).fetchall()
        return [_row(columns) for columns in found]

    # --- Trust -----------------------------------------------------------------------------

    def check(self) -> None:
        """Read the whole file, on a connection of its own: structure, indexes, the crc of each row,
        and that each row is in its group and under its terms. Raises `Unreliable`. Takes about a
        second for 100,000 runs; reads and writes go on meanwhile."""
        if self.path is None:
            return
        uri = f"{self.path.as_uri()}?mode=ro"
        with _judged(), closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as db:
            db.execute("BEGIN")
            [word] = db.execute("PRAGMA integrity_check(1)").fetchone()
            if word != "ok":
                raise Unreliable(str(word).splitlines()[-1])
            groups = _read_groups(db)
            runs: Counter[int] = Counter()
            terms = 0
            for columns in db.execute(f"SELECT {_COLUMNS} FROM runs"):
                row = _row(columns)
                number, of_row = columns[2], terms_of(row)
                if groups.by_number.get(number) != group_of(row) or columns[3] != len(of_row):
                    raise Unreliable(f"the row of record {columns[0]} is in the wrong place")
                runs[number] += 1
                for term in of_row:
                    terms ^= hash((term, number, row.created_seq))
            if runs != +groups.runs:
                raise Unreliable("the groups do not have as many runs as they say")
            for found in db.execute("SELECT term, grp, created_seq FROM terms"):
                terms ^= hash(found)
            if terms:
                raise Unreliable("the terms are not those of the runs")

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


def _read_groups(db: sqlite3.Connection) -> _Groups:
    """Raises `Unreliable`."""
    by_number: dict[int, Group] = {}
    runs: Counter[int] = Counter()
    for *columns, crc in db.execute("SELECT * FROM groups"):
        number, job, queue, status, is_root, count = columns
        group = Group(job, queue, status, bool(is_root))
        if _group_crc(number, group, count) != crc:
            raise Unreliable(f"group {number} does not match its crc")
        by_number[number] = group
        runs[number] = count
    return _Groups(by_number, runs)


def _group_crc(number: int, group: Group, runs: int) -> int:
    return zlib.crc32(repr((number, *group, runs)).encode("utf-8", "surrogatepass"))


def _is_older(row: RunRow, other: RunRow) -> bool:
    """Does `row` say less of a run than `other`?"""
    return (row.finished_seq, len(row.places)) < (other.finished_seq, len(other.places))


def _values(row: RunRow, group: int, terms: int) -> tuple[Any, ...]:
    facts = _encode(msgspec.structs.astuple(row)[:-1]).decode()
    columns = (
        row.created_seq,
        row.id[::-1],
        group,
        terms,
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
