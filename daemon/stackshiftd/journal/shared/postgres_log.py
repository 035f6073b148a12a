"""The shared log in PostgreSQL: one row an append, fenced by the log's own primary key.

Two connections: one appends, the other beats and looks, so that a slow append costs no leadership.
One statement a write and no state of a session, so that a pooler may stand between.

An append whose answer was lost is sent again: it takes effect, or finds that it has. Then one more
write has to be answered before it counts, because it may be seen and yet be on one machine alone.
For the same reason nothing is ever cancelled: PostgreSQL tells a commit whose wait for its standby
was cancelled as done, with a warning. A connection that does not answer is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, Final

from stackshift_jobs.errors import (
    BadConfiguration,
    DatabaseUnavailable,
    Fenced,
    JournalDiverged,
)
from stackshift_jobs.project.database_url import hosts_of, masked
from stackshiftd.journal.interface import (
    Full,
    Place,
    Unknown,
)
from stackshiftd.journal.shared.log import (
    LATELY_MS,
    MOVED,
    Lease,
    Member,
    Piece,
    Row,
    Server,
    Tip,
    taken,
)
from stackshiftd.journal.snapshots import KEPT

try:
    import asyncpg
except ImportError:  # Said when a log is opened.
    asyncpg = None
    _LOST: tuple[type[Exception], ...] = ()
else:
    _LOST = (
        OSError,
        TimeoutError,
        asyncpg.PostgresConnectionError,
        asyncpg.OperatorInterventionError,
        asyncpg.ReadOnlySQLTransactionError,
        asyncpg.TooManyConnectionsError,
        asyncpg.InterfaceError,
        # As for a connection that the server has given up, and that has not ended yet.
        asyncpg.InternalClientError,
    )

log = logging.getLogger("stackshiftd.postgres")

ANSWER_SECONDS: Final = 5.0
"""After so long without an answer, a connection is dropped."""
CONNECT_SECONDS: Final = 2.0
RIVAL_SECONDS: Final = 0.25
"""How long a host that writes is not believed while others have not answered."""
READ_BYTES: Final = 8 << 20
_READ_ROWS: Final = 256
_TRIM_ROWS: Final = 500
_PAUSE_SECONDS: Final = 0.2
_UNREPLICATED: Final = "synchronous replication"
"""In the warning of a commit that was told as done and is not."""

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS stackshift_log (
  project text, part int, place bigint, ends bigint NOT NULL,
  first_seq bigint NOT NULL, last_seq bigint NOT NULL, hash bytea NOT NULL, bytes bytea NOT NULL,
  PRIMARY KEY (project, part, place));
CREATE TABLE IF NOT EXISTS stackshift_lease (
  project text, part int, journal text NOT NULL, term bigint NOT NULL, beat bigint NOT NULL,
  owner text NOT NULL, lease_ms int NOT NULL, PRIMARY KEY (project, part));
CREATE TABLE IF NOT EXISTS stackshift_snapshot (
  project text, part int, seq bigint, no int, of int NOT NULL, bytes bytea NOT NULL,
  PRIMARY KEY (project, part, seq, no))
"""
_MEMBERS: Final = """
CREATE TABLE IF NOT EXISTS stackshift_member (
  project text, host text, id text NOT NULL, certificate text NOT NULL, address text NOT NULL,
  version text NOT NULL, role text NOT NULL, seq bigint NOT NULL, ahead_ms bigint NOT NULL,
  seen_at timestamptz NOT NULL, PRIMARY KEY (project, host))
"""
_PUT_MEMBER: Final = """
INSERT INTO stackshift_member VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,clock_timestamp())
 ON CONFLICT (project, host) DO UPDATE SET id=excluded.id, certificate=excluded.certificate,
   address=excluded.address, version=excluded.version, role=excluded.role, seq=excluded.seq,
   ahead_ms=excluded.ahead_ms, seen_at=excluded.seen_at
 WHERE stackshift_member.id=excluded.id OR stackshift_member.role='stopped'
    OR stackshift_member.seen_at<clock_timestamp()-$10*interval '1 ms'
 RETURNING (extract(epoch FROM clock_timestamp())*1000000)::bigint"""
_GET_MEMBERS: Final = """
SELECT host, id, certificate, address, version, role, seq, ahead_ms,
       greatest(0, extract(epoch FROM clock_timestamp()-seen_at)*1000)::bigint
  FROM stackshift_member WHERE project=$1 ORDER BY host"""
_FORGET_MEMBER: Final = """
DELETE FROM stackshift_member WHERE project=$1 AND host=$2 RETURNING 1"""
_COMPRESS: Final = "ALTER TABLE stackshift_log ALTER COLUMN bytes SET COMPRESSION lz4"
_FIND: Final = """
SELECT journal, term, beat, owner, lease_ms FROM stackshift_lease WHERE project=$1 AND part=$2"""
_TIP: Final = """
SELECT place, ends, last_seq, hash FROM stackshift_log WHERE project=$1 AND part=$2
 ORDER BY place DESC LIMIT 1"""
_APPEND: Final = """
INSERT INTO stackshift_log SELECT $1, $2, $3, $4, $5, $6, $7, $8::bytea
 WHERE EXISTS (SELECT 1 FROM stackshift_log
               WHERE project=$1 AND part=$2 AND place=$9 AND ends=$3 AND hash=$10)
 ON CONFLICT DO NOTHING RETURNING 1"""
_AT: Final = "SELECT hash FROM stackshift_log WHERE project=$1 AND part=$2 AND place=$3"
_FIRST: Final = "SELECT min(place) FROM stackshift_log WHERE project=$1 AND part=$2"
_CONFIRM: Final = """
UPDATE stackshift_lease SET beat=beat WHERE project=$1 AND part=$2 RETURNING 1"""
_READ: Final = """
SELECT place, first_seq, last_seq, hash, bytes FROM stackshift_log
 WHERE project=$1 AND part=$2 AND ends>$3
   AND place>=coalesce((SELECT max(place) FROM stackshift_log
                        WHERE project=$1 AND part=$2 AND place<=$3), 0)
 ORDER BY place LIMIT $4"""
_LEAD: Final = """
UPDATE stackshift_lease SET term=term+1, beat=beat+1, owner=$3, lease_ms=$4
 WHERE project=$1 AND part=$2 AND term=$5 AND beat=$6 RETURNING term"""
_BEAT: Final = """
UPDATE stackshift_lease SET beat=beat+1 WHERE project=$1 AND part=$2 AND term=$3 RETURNING 1"""
_LEAVE: Final = """
UPDATE stackshift_lease SET beat=beat+1, owner=$4 WHERE project=$1 AND part=$2 AND term=$3
 RETURNING 1"""
_FORGET: Final = """
DELETE FROM stackshift_lease WHERE project=$1 AND part=$2 AND journal=$3 AND owner LIKE $4
 RETURNING 1"""
_MAKE: Final = """
INSERT INTO stackshift_lease VALUES ($1,$2,$3,$4,$5,$6,$7) ON CONFLICT DO NOTHING RETURNING 1"""
_FILL: Final = "INSERT INTO stackshift_log VALUES ($1,$2,$3,$4,$5,$6,$7,$8)"
_DURABILITY: Final = "SELECT current_setting('synchronous_commit')"
_TIMELINE: Final = "SELECT left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)"
_TRIM: Final = """
DELETE FROM stackshift_log WHERE project=$1 AND part=$2 AND place IN (
  SELECT place FROM stackshift_log WHERE project=$1 AND part=$2 AND ends<=$3
     AND place<(SELECT max(place) FROM stackshift_log WHERE project=$1 AND part=$2)
   ORDER BY place LIMIT $4)"""
_PUT_PIECE: Final = """
INSERT INTO stackshift_snapshot VALUES ($1,$2,$3,$4,$5,$6)
 ON CONFLICT (project, part, seq, no) DO UPDATE SET bytes=excluded.bytes, of=excluded.of
 RETURNING 1"""
_GET_PIECE: Final = """
SELECT bytes, of FROM stackshift_snapshot WHERE project=$1 AND part=$2 AND seq=$3 AND no=$4"""
_SNAPSHOTS: Final = """
SELECT seq FROM stackshift_snapshot WHERE project=$1 AND part=$2
 GROUP BY seq HAVING count(*)=max(of) ORDER BY seq"""
_DROP_SNAPSHOT: Final = """
DELETE FROM stackshift_snapshot WHERE project=$1 AND part=$2 AND seq=$3"""
_DROP_SNAPSHOTS_BELOW: Final = """
DELETE FROM stackshift_snapshot WHERE project=$1 AND part=$2 AND seq<$3"""


class PostgresLog:
    """The log of `project` in the database at `url`. An append waits `patience_seconds` for an
    answer. Raises `BadConfiguration` if the driver is not installed."""

    def __init__(
        self, url: str, project: str, *, part: int = 0, patience_seconds: float = 120.0
    ) -> None:
        if asyncpg is None:
            raise BadConfiguration(
                "[journal] url needs asyncpg, which is not installed",
                hint="pip install 'stackshift-jobs[postgres]'",
                key="journal.url",
            )
        self._log = (project, part)
        self._patience = patience_seconds
        self._appending = _Line(url)
        self._looking = _Line(url)

    # --- The journal -----------------------------------------------------------------------

    async def find(self) -> Lease | None:
        """See `SharedLog.find`."""
        try:
            row = await self._looking.one(_FIND, *self._log)
        except asyncpg.UndefinedTableError:
            return None
        return None if row is None else Lease(*row)

    async def make(self, lease: Lease, rows: Iterable[Row]) -> Lease:
        """See `SharedLog.make`."""
        line = self._looking
        # Two that make them at once: one finds what the other has just made.
        with contextlib.suppress(asyncpg.UniqueViolationError, asyncpg.DuplicateTableError):
            await line.run(_TABLES)
        with contextlib.suppress(asyncpg.PostgresError):  # A server without lz4 uses its default.
            await line.run(_COMPRESS)
        await line.together(lambda connection: self._make(connection, lease, rows))
        found = await self.find()
        assert found is not None
        return found

    async def _make(self, connection: Any, lease: Lease, rows: Iterable[Row]) -> None:
        moved = await connection.fetchval(_FORGET, *self._log, lease.journal, f"{MOVED}%")
        if moved is not None:
            for table in ("stackshift_log", "stackshift_snapshot"):
                await connection.execute(
                    f"DELETE FROM {table} WHERE project=$1 AND part=$2", *self._log
                )
        if await connection.fetchval(_MAKE, *self._log, *lease) is not None:
            for row in rows:
                await connection.execute(_FILL, *self._log, *_fields(row))

    async def tip(self) -> Tip:
        """See `SharedLog.tip`."""
        row = await self._looking.one(_TIP, *self._log)
        if row is None:
            raise JournalDiverged("the log of the journal has no rows")
        return Tip(*row)

    async def read(self, place: Place) -> list[Row]:
        """See `SharedLog.read`."""
        rows = await self._looking.all(_READ, *self._log, place, 1)
        if rows and len(rows[0]["bytes"]) < READ_BYTES:
            most = max(1, min(_READ_ROWS, READ_BYTES // max(1, 4 * len(rows[0]["bytes"]))))
            rows = await self._looking.all(_READ, *self._log, place, most)
        return [Row(*row) for row in rows]

    # --- Appending -------------------------------------------------------------------------

    async def append(self, after: Tip, row: Row) -> None:
        """See `SharedLog.append`."""
        arguments = (*self._log, *_fields(row), after.place, after.hash)
        deadline = time.monotonic() + self._patience
        is_sent_again = False
        while True:
            try:
                if await self._appending.one(_APPEND, *arguments) is not None:
                    return
                await self._settle(after, row, is_sent_again)
                return
            except asyncpg.DiskFullError as full:
                raise Full(
                    f"the database has no space for the journal: {full}",
                    hint="make room there; work then continues by itself",
                ) from full
            except DatabaseUnavailable as lost:
                is_sent_again = True
                if time.monotonic() > deadline:
                    raise Unknown(
                        f"the database has not answered for {self._patience:g} s; whether it has "
                        "the last append is not known",
                        hint="the daemon starts again, and goes on from what is there",
                    ) from lost
                log.warning("an append is sent again: %s", lost)
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _settle(self, after: Tip, row: Row, is_sent_again: bool) -> None:
        """An append took no effect: return if an earlier try of it has, and it is replicated."""
        there = await self._appending.one(_AT, *self._log, row.place)
        if there is not None:
            if there[0] == row.hash and is_sent_again:
                await self._appending.one(_CONFIRM, *self._log)
                return
            raise Fenced("another daemon has appended to the journal since")
        before = await self._appending.one(_AT, *self._log, after.place)
        first = await self._appending.one(_FIRST, *self._log)
        if before is None and first is not None and first[0] is not None and first[0] > after.place:
            raise Fenced("another daemon has gone on with the journal long ago")
        raise JournalDiverged(
            f"the database has lost record {after.seq}, which was acknowledged",
            hint="find out what it was restored from: the daemons' files have what is missing",
        )

    # --- Leading ---------------------------------------------------------------------------

    async def lead(self, seen: Lease, owner: str, lease_ms: int) -> int | None:
        """See `SharedLog.lead`."""
        row = await self._looking.one(_LEAD, *self._log, owner, lease_ms, seen.term, seen.beat)
        return None if row is None else int(row[0])

    async def beat(self, term: int) -> bool:
        """See `SharedLog.beat`."""
        return await self._looking.one(_BEAT, *self._log, term) is not None

    async def leave(self, term: int, owner: str = "") -> None:
        """See `SharedLog.leave`."""
        await self._looking.one(_LEAVE, *self._log, term, owner)

    # --- Members ---------------------------------------------------------------------------

    async def put_member(self, member: Member) -> int:
        """See `SharedLog.put_member`. The table is made when it is first needed."""
        row = (self._log[0], *member[:-1], LATELY_MS)
        try:
            told = await self._looking.one(_PUT_MEMBER, *row)
        except asyncpg.UndefinedTableError:
            with contextlib.suppress(asyncpg.UniqueViolationError, asyncpg.DuplicateTableError):
                await self._looking.run(_MEMBERS)
            told = await self._looking.one(_PUT_MEMBER, *row)
        if told is None:
            raise taken(member.host)
        return int(told[0])

    async def members(self) -> list[Member]:
        """See `SharedLog.members`."""
        try:
            rows = await self._looking.all(_GET_MEMBERS, self._log[0])
        except asyncpg.UndefinedTableError:
            return []
        return [Member(*row) for row in rows]

    async def server(self) -> Server:
        """See `SharedLog.server`."""
        row = await self._looking.one(
            "SELECT current_setting('server_version'), current_setting('synchronous_standby_names')"
        )
        return Server(*row)

    async def forget_member(self, host: str) -> bool:
        """See `SharedLog.forget_member`."""
        return await self._looking.one(_FORGET_MEMBER, self._log[0], host) is not None

    # --- Snapshots -------------------------------------------------------------------------

    async def put_piece(self, seq: int, number: int, of: int, data: bytes) -> None:
        """See `SharedLog.put_piece`."""
        if number == 0:
            await self._looking.run(_DROP_SNAPSHOT, *self._log, seq)
        await self._looking.one(_PUT_PIECE, *self._log, seq, number, of, data)
        if number == of - 1:
            kept = (await self.snapshots())[-KEPT:]
            await self._looking.run(_DROP_SNAPSHOTS_BELOW, *self._log, kept[0])

    async def snapshots(self) -> list[int]:
        """See `SharedLog.snapshots`: those that are whole."""
        rows = await self._looking.all(_SNAPSHOTS, *self._log)
        return [row[0] for row in rows]

    async def get_piece(self, seq: int, number: int) -> Piece | None:
        """See `SharedLog.get_piece`."""
        row = await self._looking.one(_GET_PIECE, *self._log, seq, number)
        return None if row is None else Piece(*row)

    async def trim(self, below: Place) -> None:
        """See `SharedLog.trim`: the oldest first, a few at a time, since a statement that takes
        long is taken for one that is not answered."""
        while await self._looking.run(_TRIM, *self._log, below, _TRIM_ROWS) != "DELETE 0":
            continue

    def close(self) -> None:
        """See `SharedLog.close`."""
        self._appending.drop()
        self._looking.drop()


def _fields(row: Row) -> tuple[Any, ...]:
    return (row.place, row.tip.ends, row.first_seq, row.last_seq, row.hash, row.data)


class _Line:
    """One connection, opened when it is needed and there is none. One task uses it at a time;
    others wait."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Any = None
        self._is_warned = False
        self._lock = asyncio.Lock()

    async def one(self, sql: str, *arguments: Any) -> Any:
        """The first row of the answer, or None. Raises `DatabaseUnavailable`, and the errors of the
        database that say something of the statement."""
        return await self._ask(lambda c: c.fetchrow(sql, *arguments))

    async def all(self, sql: str, *arguments: Any) -> Any:
        """All rows of the answer."""
        return await self._ask(lambda c: c.fetch(sql, *arguments))

    async def run(self, sql: str, *arguments: Any) -> Any:
        """Run statements that answer nothing."""
        return await self._ask(lambda c: c.execute(sql, *arguments))

    async def together(self, work: Callable[[Any], Awaitable[None]]) -> None:
        """Do `work` on the connection in one transaction, however long that takes."""
        async with self._lock:
            connection = await self._connected()
            try:
                async with connection.transaction():
                    await work(connection)
            except _LOST as lost:
                self.drop()
                raise DatabaseUnavailable(_words(lost)) from lost
            if self._is_warned:
                self.drop()
                raise DatabaseUnavailable("a commit was not replicated")

    async def _ask(self, call: Any) -> Any:
        async with self._lock:
            connection = await self._connected()
            asking = asyncio.ensure_future(call(connection))
            # Not `wait_for`: a statement that is cancelled may have been committed all the same.
            done, _ = await asyncio.wait([asking], timeout=ANSWER_SECONDS)
            if not done:
                self.drop()
                asking.add_done_callback(
                    _forget
                )  # Not cancelled: the driver would tell the server.
                raise DatabaseUnavailable(f"no answer for {ANSWER_SECONDS:g} s")
            try:
                answer = asking.result()
            except _LOST as lost:
                self.drop()
                raise DatabaseUnavailable(_words(lost)) from lost
            if self._is_warned:
                self.drop()
                raise DatabaseUnavailable("a commit was not replicated")
            return answer

    async def _connected(self) -> Any:
        if self._connection is None or self._connection.is_closed():
            self._is_warned = False
            self._connection = await self._writable()
            self._connection.add_log_listener(self._noticed)
            try:
                how = await self._connection.fetchval(_DURABILITY, timeout=CONNECT_SECONDS)
            except _LOST as lost:
                self.drop()
                raise DatabaseUnavailable(_words(lost)) from lost
            if how in ("off", "local"):
                self.drop()
                raise BadConfiguration(
                    f"the database acknowledges commits before they are durable "
                    f"(synchronous_commit = {how})",
                    hint="set synchronous_commit = on for this role or database",
                    key="journal.url",
                )
        return self._connection

    async def _writable(self) -> Any:
        """A connection to the primary. All hosts are asked at once: one that is frozen takes a
        connection and answers nothing. If several accept writes, the one promoted last is the
        primary: another is an old primary that has woken, whose commits no standby confirms."""

        async def connected(url: str) -> Any:
            return await asyncpg.connect(
                url,
                timeout=CONNECT_SECONDS,
                target_session_attrs="read-write",
                server_settings={"application_name": "stackshift"},
            )

        tries = {asyncio.ensure_future(connected(url)) for url in hosts_of(self._url)}
        failed: BaseException | None = None
        chosen = None
        writable: list[Any] = []
        try:
            open_tries = tries
            while open_tries:
                done, open_tries = await asyncio.wait(
                    open_tries,
                    timeout=RIVAL_SECONDS if writable else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for tried in done:
                    try:
                        writable.append(tried.result())
                    except asyncpg.TargetServerAttributeNotMatched:
                        failed = failed or DatabaseUnavailable("only standbys answer")
                    except (*_LOST, asyncpg.PostgresError) as no:
                        failed = no
                if not done:
                    break
            if writable:
                chosen = await _last_promoted(writable)
                return chosen
        finally:
            for one in tries:
                one.add_done_callback(partial(_close_unless, chosen))
                one.cancel()
        assert failed is not None
        if isinstance(failed, asyncpg.InvalidAuthorizationSpecificationError):
            raise BadConfiguration(f"{masked(self._url)}: {_words(failed)}", key="journal.url")
        if isinstance(failed, asyncpg.InvalidCatalogNameError):
            raise BadConfiguration(
                f"{masked(self._url)}: {_words(failed)}",
                hint="create the database first: createdb",
                key="journal.url",
            )
        raise DatabaseUnavailable(f"{masked(self._url)}: {_words(failed)}") from failed

    def _noticed(self, _connection: Any, message: Any) -> None:
        if _UNREPLICATED in (message.message or ""):
            self._is_warned = True

    def drop(self) -> None:
        """Drop the connection; never by a request to cancel."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


async def _last_promoted(writable: list[Any]) -> Any:
    """The connection among them whose server has the latest timeline: each promotion begins one."""
    if len(writable) == 1:
        return writable[0]
    timelines: list[str] = []
    for connection in writable:
        try:
            timelines.append(await connection.fetchval(_TIMELINE, timeout=CONNECT_SECONDS))
        except (*_LOST, asyncpg.PostgresError):
            timelines.append("")  # Gone, or another database: some have several that write.
    return writable[max(range(len(writable)), key=timelines.__getitem__)]


def _close_unless(found: Any, tried: asyncio.Future[Any]) -> None:
    """Close a connection that was made beside the one that is used."""
    if not tried.cancelled() and tried.exception() is None and tried.result() is not found:
        tried.result().terminate()


def _forget(asked: asyncio.Future[Any]) -> None:
    """Look at how a question ended that nobody waits for any more."""
    if not asked.cancelled():
        asked.exception()


def _words(error: BaseException) -> str:
    return str(error).strip() or type(error).__name__
