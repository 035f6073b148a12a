"""Daemons of one project find each other in its log, and nobody else gets in."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from journal.shared.memory_log import MemoryLog
from stackshift_jobs.errors import BadConfiguration, Conflict, HostUnreachable, NotFound
from stackshift_jobs.project.config import load_config
from stackshiftd.journal.shared.log import LATELY_MS
from stackshiftd.shell.cluster import cluster, identity
from stackshiftd.shell.cluster.cluster import AHEAD_MS, Cluster
from stackshiftd.shell.cluster.identity import Identity
from stackshiftd.shell.cluster.opening import Client, Offer, line_of


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine."""
    asyncio.run(asyncio.wait_for(work, 60))


class Machine:
    """A member whose clients' socket echoes lines, with the name of its host before them."""

    def __init__(self, root: Path, log: MemoryLog, host: str, settings: str = "") -> None:
        self.host = host
        self.root = root / host
        (self.root / ".stackshift").mkdir(parents=True)
        (self.root / "stackshift.toml").write_text(f'[cluster]\nlisten = "127.0.0.1:0"\n{settings}')
        self.cluster = Cluster(load_config(self.root, {}), log, host, f"id of {self.root}")
        self._socket = self.root / "s"
        self.role = "follows"

    async def open(self) -> Machine:
        """Start it."""

        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while line := await reader.readline():
                writer.write(self.host.encode() + b": " + line)
            writer.close()

        self._server = await asyncio.start_unix_server(echo, str(self._socket))
        self.cluster.attach(lambda: self._socket, lambda: (self.role, 7), self._admit)
        await self.cluster.open()
        return self

    def _admit(self, machine: str, _offer: Offer, _writer: asyncio.StreamWriter) -> None:
        raise Conflict(f"no worker of {machine} is wanted")

    async def close(self) -> None:
        """Stop it in good order."""
        self._server.close()
        await self.cluster.close()


def test_client_of_one_talks_to_the_daemon_of_another(tmp_path: Path) -> None:
    """Each proves itself with what stands in the table; one that started a moment ago, too."""

    async def work() -> None:
        log = MemoryLog()
        first = await Machine(tmp_path, log, "app-1").open()
        second = await Machine(tmp_path, log, "app-2").open()
        for here, there in ((second, "app-1"), (first, "app-2")):
            reader, writer = await here.cluster.dial(there, Client())
            writer.write(b"hello\n")
            assert await reader.readline() == there.encode() + b": hello\n"
            writer.close()
        await second.close()
        (tmp_path / "again").mkdir()
        second = await Machine(tmp_path / "again", log, "app-2").open()
        reader, writer = await second.cluster.dial("app-1", Client())
        writer.close()
        await first.close()
        await second.close()

    run(work())


def test_stranger_is_hung_up_on(tmp_path: Path) -> None:
    """Neither a certificate that nobody knows nor none at all opens a connection; one that was
    forgotten does not any more."""

    async def opened(context: ssl.SSLContext, port: int) -> bytes:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            writer.write(line_of(Client()))
            answer = await reader.readline()
            writer.close()
        except (ssl.SSLError, OSError):
            return b""
        return answer

    async def work() -> None:
        log = MemoryLog()
        machine = await Machine(tmp_path, log, "app-1").open()
        [member] = await log.members()
        port = int(member.address.rpartition(":")[2])
        stranger = Identity("app-2", tmp_path)
        stranger.trust({"app-1": member.certificate})
        assert await opened(stranger.client, port) == b""
        bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        bare.check_hostname = False
        bare.verify_mode = ssl.CERT_NONE
        assert await opened(bare, port) == b""
        friend = member._replace(host="app-2", id="b", certificate=stranger.certificate)
        await log.put_member(friend)
        answer = b""
        while not answer:  # The table is read again within a second.
            answer = await opened(stranger.client, port)
        assert answer == b"{}\n"
        await log.put_member(friend._replace(role="stopped"))
        await machine.cluster.forget("app-2")
        while answer:
            answer = await opened(stranger.client, port)
        await machine.close()

    run(work())


def test_another_daemon_at_the_address_is_not_taken_for_the_leader(tmp_path: Path) -> None:
    """Its certificate is that of a member, but of another one."""

    async def work() -> None:
        log = MemoryLog()
        first = await Machine(tmp_path, log, "app-1").open()
        second = await Machine(tmp_path, log, "app-2").open()
        [leader, other] = await log.members()
        await first.close()
        await log.put_member(leader._replace(address=other.address))
        with pytest.raises(HostUnreachable, match=r"app-1 \(.*\) cannot be reached from app-2"):
            await second.cluster.dial("app-1", Client())
        await second.close()

    run(work())


def test_name_is_taken_as_long_as_its_daemon_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second machine with the name of another is refused; in the place of one that has stopped it
    may have it."""
    monkeypatch.setattr(cluster, "LATELY_MS", 500)

    async def work() -> None:
        log = MemoryLog()
        first = await Machine(tmp_path, log, "app-1").open()
        (tmp_path / "other").mkdir()
        second = Machine(tmp_path / "other", log, "app-1")
        with pytest.raises(Conflict, match="is called app-1"):
            await second.open()
        await second.close()
        await first.close()
        (tmp_path / "third").mkdir()
        await (await Machine(tmp_path / "third", log, "app-1").open()).close()

    run(work())


def test_who_may_lead(tmp_path: Path) -> None:
    """Not a daemon whose clock is far from the database's, nor one that is not to."""

    async def work() -> None:
        log = MemoryLog()
        machine = await Machine(tmp_path, log, "app-1").open()
        assert machine.cluster.may_lead
        await machine.close()
        log.clock_ahead_us = 2 * AHEAD_MS * 1000
        behind = await Machine(tmp_path, log, "app-2").open()
        assert not behind.cluster.may_lead
        await behind.close()
        [_, told] = await log.members()
        assert told.ahead_ms < -AHEAD_MS
        log.clock_ahead_us = 0
        never = await Machine(tmp_path, log, "app-3", "lead = false\n").open()
        assert not never.cluster.may_lead
        await never.close()

    run(work())


def test_successor_is_one_that_follows_and_is_level(tmp_path: Path) -> None:
    """Named or not; nobody else can be led by."""

    async def work() -> None:
        log = MemoryLog()
        leader = await Machine(tmp_path, log, "app-1").open()
        with pytest.raises(Conflict, match="no daemon follows now"):
            await leader.cluster.successor(None)
        [member] = await log.members()
        for host, seq, role in (("b", 5, "follows"), ("c", 7, "follows"), ("d", 9, "stopped")):
            await log.put_member(member._replace(host=host, id=host, seq=seq, role=role))
        assert await leader.cluster.successor(None) == "c"
        assert await leader.cluster.successor("b") == "b"
        with pytest.raises(Conflict, match="d follows now"):
            await leader.cluster.successor("d")
        with pytest.raises(NotFound):
            await leader.cluster.successor("e")
        shown = await leader.cluster.status(None)
        assert [(each["host"], each["role"]) for each in shown] == [
            ("app-1", "leads"),
            ("b", "follows"),
            ("c", "follows"),
            ("d", "stopped"),
        ]
        old, at = log.daemons["c"]
        log.daemons["c"] = old, at - LATELY_MS / 1000
        assert await leader.cluster.successor(None) == "b"
        assert {each["role"] for each in await leader.cluster.status(None)} >= {"silent"}
        with pytest.raises(Conflict, match="runs"):
            await leader.cluster.forget("b")
        await leader.cluster.forget("c")
        with pytest.raises(NotFound):
            await leader.cluster.forget("c")
        await leader.close()

    run(work())


def test_without_cryptography_nobody_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon follows and takes over all the same; who would connect is told what is missing."""
    monkeypatch.setattr(identity, "IS_POSSIBLE", False)

    async def work() -> None:
        log = MemoryLog()
        machine = await Machine(tmp_path, log, "app-1").open()
        [member] = await log.members()
        assert (member.address, member.certificate) == ("", "")
        with pytest.raises(BadConfiguration, match="cryptography"):
            await machine.cluster.dial("app-2", Client())
        monkeypatch.setattr(identity, "IS_POSSIBLE", True)
        other = await Machine(tmp_path, log, "app-2").open()
        with pytest.raises(HostUnreachable, match="does not listen"):
            await other.cluster.dial("app-1", Client())
        await other.close()
        await machine.close()

    run(work())


def test_worker_that_is_refused_is_told_why(tmp_path: Path) -> None:
    """Whoever offers it, in the words of the leader."""

    async def work() -> None:
        log = MemoryLog()
        first = await Machine(tmp_path, log, "app-1").open()
        second = await Machine(tmp_path, log, "app-2").open()
        with pytest.raises(Conflict, match="app-1 refuses it: no worker of app-2 is wanted"):
            await second.cluster.dial("app-1", Offer("", 4))
        await second.close()
        await first.close()

    run(work())
