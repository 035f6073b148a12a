"""What daemons that do not lead are asked costs a moment, whatever they do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, cast

import pytest

from stackshift_jobs.errors import HostUnreachable
from stackshiftd.shell.cluster import peers
from stackshiftd.shell.cluster.cluster import Cluster
from stackshiftd.shell.cluster.opening import Client
from stackshiftd.shell.cluster.peers import Peers
from stackshiftd.shell.cluster.streams import Streams
from stackshiftd.shell.params import NoParams

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class OneOther:
    """Stands for a `Cluster` whose only other member, `app-2`, is at the other end of a socket."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self._servers: list[asyncio.Server] = []
        self._visits: list[asyncio.Task[None]] = []
        self.dialled = 0

    def is_there(self, host: str) -> bool:
        """See `Cluster.is_there`."""
        return host == "app-2"

    async def dial(self, leader: str, wish: Client) -> Streams:
        """See `Cluster.dial`."""
        assert (leader, wish) == ("app-2", Client())
        self.dialled += 1
        server = await asyncio.start_server(self._visited, "127.0.0.1", 0)
        self._servers.append(server)
        return await asyncio.open_connection(*server.sockets[0].getsockname())

    def _visited(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def visit() -> None:
            await self._serve(reader, writer)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

        self._visits.append(asyncio.get_running_loop().create_task(visit()))

    async def close(self) -> None:
        """Wait until all have hung up."""
        for server in self._servers:
            server.close()
        await asyncio.gather(*self._visits)


def ask(other: OneOther, *asks: bool, host: str = "app-2") -> list[Any]:
    """What comes of asking it so often, each time `again` or not."""

    async def work() -> list[Any]:
        found = Peers(cast(Cluster, other))
        told = [await found.ask(host, "daemon.status", NoParams(), again=each) for each in asks]
        await other.close()
        return told

    return asyncio.run(work())


def says(line: bytes) -> Serve:
    """A daemon that answers with this, and hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(line)

    return serve


async def stands_still(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """A daemon that never answers."""
    await reader.read()


def test_answer_is_given_back_each_time() -> None:
    """However long it is."""
    long = "x" * 1_000_000
    other = OneOther(says(b'{"jsonrpc":"2.0","id":1,"result":"%s"}\n' % long.encode()))
    assert ask(other, True, False) == [long, long]


@pytest.mark.parametrize(
    "line",
    [b"", b"half", b"no JSON\n", b"[]\n", b'{"error":{}}\n', b'{"error":{"message":"no"}}\n'],
)
def test_whoever_makes_no_sense_has_not_answered(line: bytes) -> None:
    """And is not asked again at once, unless that is wished."""
    other = OneOther(says(line))
    assert ask(other, False, False, True) == [None, None, None]
    assert other.dialled == 2


def test_whoever_stands_still_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """One question waits for it, and not each."""
    monkeypatch.setattr(peers, "SECONDS", 0.05)
    other = OneOther(stands_still)
    assert ask(other, True, False, False) == [None, None, None]
    assert other.dialled == 1


def test_answer_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its length is bounded."""
    monkeypatch.setattr(peers, "MAX_ANSWER", 1000)
    assert ask(OneOther(says(b"x" * 2000)), True) == [None]


def test_whoever_is_not_there_is_not_asked() -> None:
    """Nor one that cannot be reached again."""

    class Unreachable(OneOther):
        async def dial(self, leader: str, wish: Client) -> Streams:
            self.dialled += 1
            raise HostUnreachable(f"{leader} cannot be reached by a {wish}")

    other = Unreachable(stands_still)
    assert ask(other, True, host="app-3") == [None]
    assert other.dialled == 0
    assert ask(other, True, False) == [None, None]
    assert other.dialled == 1
