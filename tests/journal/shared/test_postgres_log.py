"""The shared log in PostgreSQL: one writer, and what an answer proves."""

from __future__ import annotations

import asyncio
import signal
import socket
import tempfile
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from helpers.postgres import CAN_COPY, MISSING_COPY, Postgres
from journal.builders import run
from stackshift_jobs.errors import (
    BadConfiguration,
    DatabaseUnavailable,
    Fenced,
    JournalDiverged,
)
from stackshiftd.journal.interface import Unknown
from stackshiftd.journal.shared.log import MOVED, Lease, Row, Tip, next_row
from stackshiftd.journal.shared.postgres_log import PostgresLog

LEASE = Lease("jrn_1", 0, 0, "", 3000)
FIRST = next_row(Tip(0, 0, 0, b""), 1, 0, b"header\n")


class Server:
    """A server, and a project of its own in it."""

    def __init__(self, database: Postgres, project: str) -> None:
        self.url = database.url
        self.project = project

    def log(self, **options: Any) -> PostgresLog:
        """A connection to the log."""
        return PostgresLog(self.url, self.project, **options)

    async def ask(self, sql: str, *arguments: Any) -> Any:
        """What somebody else asks the server."""
        connection = await asyncpg.connect(self.url)
        try:
            return await connection.fetchval(sql, *arguments)
        finally:
            await connection.close()

    async def rows(self) -> int:
        """How many rows the log has."""
        count = "SELECT count(*) FROM stackshift_log WHERE project=$1"
        return int(await self.ask(count, self.project))

    async def setting(self, name: str, value: str) -> None:
        """Change a setting of the server."""
        await self.ask(f"ALTER SYSTEM SET {name} = '{value}'")
        await self.ask("SELECT pg_reload_conf()")

        async def is_set() -> bool:
            return bool(await self.ask("SELECT current_setting($1)", name) == value)

        while not await is_set():
            await asyncio.sleep(0.01)


@pytest.fixture
def server(database: Postgres, request: pytest.FixtureRequest) -> Server:
    """A server with no journal for this test."""
    return Server(database, request.node.name)


async def made(server: Server) -> PostgresLog:
    """A log with a first row."""
    log = server.log()
    assert await log.make(LEASE, [FIRST]) == LEASE
    return log


def row(after: Row, text: bytes = b"one\n") -> Row:
    """The row that follows."""
    return next_row(after.tip, after.last_seq + 1, after.last_seq + 1, text)


def test_one_of_two_writers_wins(server: Server) -> None:
    """The other one is fenced, and has changed nothing."""

    async def work() -> None:
        log, other = await made(server), server.log()
        rows = [row(FIRST, b"%d\n" % number) for number in range(8)]
        tries = [(log, other)[n % 2].append(FIRST.tip, each) for n, each in enumerate(rows)]
        outcomes = await asyncio.gather(*tries, return_exceptions=True)
        [won] = [each for each, failed in zip(rows, outcomes, strict=True) if failed is None]
        assert sum(isinstance(failed, Fenced) for failed in outcomes) == 7
        assert await log.read(0) == [FIRST, won]
        assert await other.tip() == won.tip
        log.close()
        other.close()

    run(work())


def test_journal_is_made_once(server: Server) -> None:
    """Of many who find none, all go on with the same."""

    async def work() -> None:
        logs = [server.log() for _ in range(4)]
        assert await logs[0].find() is None
        leases = [LEASE._replace(journal=f"jrn_{number}") for number in range(4)]
        found = await asyncio.gather(
            *(log.make(lease, [FIRST]) for log, lease in zip(logs, leases, strict=True))
        )
        assert len({lease.journal for lease in found}) == 1
        assert await server.rows() == 1
        for log in logs:
            log.close()

    run(work())


@pytest.mark.parametrize("when", ["before", "after"])
def test_append_whose_answer_is_lost_is_in_once(
    server: Server, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """It is sent again: it takes effect, or finds that it has."""

    async def work() -> None:
        log = await made(server)
        line = log._appending
        ask, lost = line.one, [True]

        async def losing(sql: str, *arguments: Any) -> Any:
            if not lost:
                return await ask(sql, *arguments)
            if when == "after":
                await ask(sql, *arguments)
            lost.clear()
            line.drop()
            raise DatabaseUnavailable("no answer")

        monkeypatch.setattr(line, "one", losing)
        await log.append(FIRST.tip, row(FIRST))
        assert await log.read(0) == [FIRST, row(FIRST)]
        log.close()

    run(work())


class Ended:
    """Stands between a log and its server, and passes what comes, but not the end of it: so the
    last words of a server that ends a connection are there before its end is."""

    def __init__(self, server: Server) -> None:
        self._server = urlsplit(server.url)
        self.saw_end = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ends: list[asyncio.StreamWriter] = []

    async def open(self) -> str:
        """The URL of the server through here."""
        self._listener = await asyncio.start_server(self._join, "127.0.0.1")
        port = self._listener.sockets[0].getsockname()[1]
        return self._server._replace(netloc=f"postgres@127.0.0.1:{port}").geturl()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(self._server.hostname, self._server.port)
        self._ends += [writer, there[1]]
        self._tasks |= {
            asyncio.create_task(self._pass(reader, there[1])),
            asyncio.create_task(self._pass(there[0], writer, self.saw_end)),
        }

    async def _pass(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        end: asyncio.Event | None = None,
    ) -> None:
        with suppress(ConnectionError):
            while data := await source.read(1 << 16):
                sink.write(data)
        if end is not None:
            for _ in range(10):  # Turns of this loop, in which the other side reads it.
                await asyncio.sleep(0)
            end.set()

    def close(self) -> None:
        """End it."""
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        for end in self._ends:
            end.transport.abort()


def test_connection_that_the_server_has_given_up_is_replaced(server: Server) -> None:
    """It has said so, and the connection has not ended yet: the driver refuses it in words of its
    own."""

    async def work() -> None:
        between = Ended(server)
        log = PostgresLog(await between.open(), server.project)
        assert await log.make(LEASE, [FIRST]) == LEASE
        await log.append(FIRST.tip, row(FIRST))
        await server.ask(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE application_name='stackshift'"
        )
        await between.saw_end.wait()
        with pytest.raises(DatabaseUnavailable):
            await log.tip()
        await log.append(row(FIRST).tip, row(row(FIRST)))
        assert await log.tip() == row(row(FIRST)).tip
        log.close()
        between.close()
        await asyncio.sleep(0)

    run(work())


def test_append_without_an_answer_in_time_is_unknown(database: Postgres, server: Server) -> None:
    """A server that stands still; later the outcome shows."""

    async def work() -> None:
        log = server.log(patience_seconds=0.5)
        await log.make(LEASE, [FIRST])
        database.freeze(signal.SIGSTOP)
        try:
            with pytest.raises(Unknown):
                await log.append(FIRST.tip, row(FIRST))
        finally:
            database.freeze(signal.SIGCONT)
        assert (await log.tip()).seq in (0, 1)
        log.close()

    run(work())


@pytest.mark.parametrize("how", ["pg_cancel_backend", "pg_terminate_backend"])
def test_commit_that_was_not_replicated_is_no_acknowledgement(server: Server, how: str) -> None:
    """PostgreSQL tells a cancelled wait for its standby as done, and shows the row to everybody:
    it counts only when a later write is answered."""

    async def work() -> None:
        log = await made(server)
        waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event='SyncRep' LIMIT 1"
        await server.setting("synchronous_standby_names", "nobody")
        try:
            append = asyncio.ensure_future(log.append(FIRST.tip, row(FIRST)))
            while (pid := await server.ask(waiting)) is None:
                await asyncio.sleep(0.01)
            await server.ask(f"SELECT {how}($1)", pid)
            while await server.ask(waiting) in (None, pid):  # until it has asked once more
                await asyncio.sleep(0.01)
            assert await server.rows() == 2  # and yet:
            assert not append.done()
        finally:
            await server.setting("synchronous_standby_names", "")
        await append
        assert await log.read(0) == [FIRST, row(FIRST)]
        log.close()

    run(work())


def test_row_that_vanished_is_told_apart_from_one_that_was_trimmed(server: Server) -> None:
    """The first means that the database has lost something; the second, that others have gone
    on."""

    async def work() -> None:
        log = await made(server)
        rows = [FIRST]
        for _ in range(4):
            rows.append(row(rows[-1]))
            await log.append(rows[-2].tip, rows[-1])
        await log.trim(rows[2].tip.ends)
        assert await log.read(0) == rows[3:]
        with pytest.raises(Fenced):
            await log.append(rows[0].tip, row(rows[0], b"other\n")._replace(place=10**6))
        await server.ask("DELETE FROM stackshift_log WHERE project=$1 AND last_seq=4", log._log[0])
        with pytest.raises(JournalDiverged):
            await log.append(rows[4].tip, row(rows[4]))
        await log.trim(10**9)
        assert await server.rows() == 1
        log.close()

    run(work())


def test_leader_is_replaced_only_if_it_has_not_beaten(server: Server) -> None:
    """Of several who want to, one becomes it."""

    async def work() -> None:
        log = await made(server)
        assert await log.lead(LEASE, "a", 5000) == 1
        seen = await log.find()
        assert seen is not None and (seen.owner, seen.lease_ms) == ("a", 5000)
        assert await log.beat(1)
        assert await log.lead(seen, "b", 5000) is None
        seen = await log.find()
        assert seen is not None
        others = [server.log() for _ in range(3)]
        terms = await asyncio.gather(*(each.lead(seen, "c", 5000) for each in others))
        assert sorted(terms, key=bool) == [None, None, 2]
        assert not await log.beat(1)
        await log.leave(1)
        assert (await log.find() or LEASE).owner == "c"
        await log.leave(2)
        assert (await log.find() or LEASE).owner == ""
        for each in (log, *others):
            each.close()

    run(work())


async def put(log: PostgresLog, seq: int, text: bytes) -> None:
    """A snapshot in pieces of a megabyte."""
    pieces = [text[at : at + (1 << 20)] for at in range(0, len(text), 1 << 20)]
    for number, piece in enumerate(pieces):
        await log.put_piece(seq, number, len(pieces), piece)


def test_snapshots_are_whole_or_not_there(server: Server) -> None:
    """In parts of a megabyte; the last two are kept."""

    async def work() -> None:
        log = await made(server)
        texts = {seq: bytes([seq]) * ((1 << 20) + seq) for seq in (3, 5, 9)}
        for seq, text in texts.items():
            await put(log, seq, text)
        assert await log.snapshots() == [5, 9]
        assert await log.get_piece(9, 0) == (texts[9][: 1 << 20], 2)
        assert await log.get_piece(9, 1) == (texts[9][1 << 20 :], 2)
        assert await log.get_piece(9, 2) is None
        assert await log.get_piece(3, 0) is None
        sql = "DELETE FROM stackshift_snapshot WHERE project=$1 AND seq=9 AND no=0"
        await server.ask(sql, server.project)
        assert await log.snapshots() == [5]
        log.close()

    run(work())


def test_pieces_of_a_snapshot_that_was_given_up_are_dropped(server: Server) -> None:
    """By the next try, though it has fewer of them, and else with what is too old."""

    async def work() -> None:
        log = await made(server)
        for seq, number, of in ((3, 0, 2), (5, 0, 4), (5, 1, 4), (5, 2, 4)):
            await log.put_piece(seq, number, of, b"given up")
        assert await log.snapshots() == []
        await put(log, 5, b"whole")
        assert await log.snapshots() == [5]
        assert (await log.get_piece(5, 0), await log.get_piece(5, 1)) == ((b"whole", 1), None)
        await put(log, 9, b"whole")
        sql = "SELECT count(*) FROM stackshift_snapshot WHERE project=$1"
        assert await server.ask(sql, server.project) == 2
        log.close()

    run(work())


def test_journal_that_moved_away_may_come_back(server: Server) -> None:
    """In place of what it left behind; another one may not."""

    async def work() -> None:
        log = await made(server)
        await log.append(FIRST.tip, row(FIRST))
        term = await log.lead(LEASE, "a", 3000)
        assert term is not None
        await log.leave(term, f"{MOVED}to files")
        kept = await log.make(LEASE._replace(journal="jrn_2"), [FIRST])
        assert kept.journal == "jrn_1"
        assert await log.make(LEASE, [FIRST]) == LEASE
        assert await log.read(0) == [FIRST]
        log.close()

    run(work())


def test_host_that_stands_still_keeps_nobody_from_the_next(server: Server) -> None:
    """It takes a connection and says nothing."""

    async def work() -> None:
        with socket.socket() as deaf:
            deaf.bind(("127.0.0.1", 0))
            deaf.listen()
            at = server.url.index("127.0.0.1")
            here = server.url[at:].partition("/")[0]
            both = f"127.0.0.1:{deaf.getsockname()[1]},{here}"
            log = PostgresLog(server.url.replace(here, both), server.project)
            assert await log.make(LEASE, [FIRST]) == LEASE
            log.close()

    run(work())


@pytest.mark.skipif(not CAN_COPY, reason=MISSING_COPY)
def test_primary_that_was_replaced_and_wakes_is_not_asked() -> None:
    """It still takes writes, which nobody confirms; until whoever replaced it ends it."""

    async def work(old: Postgres, new: Postgres) -> None:
        places = [f"127.0.0.1:{server.port}" for server in (old, new)]
        for hosts in (places, places[::-1]) * 5:
            log = PostgresLog(f"postgresql://postgres@{','.join(hosts)}/postgres", "shop")
            assert (await log.server()).synchronous == ""
            log.close()

    with tempfile.TemporaryDirectory(prefix="stackshift-postgres-") as folder:
        Path(folder).chmod(0o755)  # The servers may be another user.
        old = Postgres(Path(folder).resolve() / "old")
        old.start()
        new = old.attach(Path(folder).resolve() / "new")
        new.promote()
        assert old.value("SELECT current_setting('synchronous_standby_names')") == "*"
        run(work(old, new))
        for server in (old, new):
            server.stop()


def refuse(work: Coroutine[Any, Any, Any], words: str) -> None:
    """The configuration is at fault, in these words."""
    with pytest.raises(BadConfiguration, match=words):
        run(work)


def test_what_cannot_be_relied_on_is_refused(server: Server) -> None:
    """Commits that are not durable, a database that is not there."""
    unsafe = PostgresLog(f"{server.url}?options=-csynchronous_commit=off", server.project)
    refuse(unsafe.find(), "before they are durable")
    missing = PostgresLog(server.url.replace("/postgres", "/nowhere"), server.project)
    refuse(missing.find(), "does not exist")


def test_server_that_is_not_there_is_unavailable(server: Server) -> None:
    """Which may pass."""
    log = PostgresLog("postgresql://postgres@127.0.0.1:1/postgres", server.project)
    with pytest.raises(DatabaseUnavailable):
        run(log.find())
