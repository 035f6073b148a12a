"""An awaited connection: many requests at once, each with its own reply, and a small buffer."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from sdk.awaited import run, until
from sdk.fake_daemon import DEADLINE, FakeDaemon, Peer, silence
from stackshift_jobs.client.awaited import AsyncClient
from stackshift_jobs.errors import Busy, DaemonUnavailable, PayloadRefused
from stackshift_jobs.project.locate import Project
from stackshift_jobs.wire.async_link import AsyncLink


def test_requests_are_in_flight_together_on_one_connection(
    project: Project, daemon: FakeDaemon
) -> None:
    """The daemon answers only after all have asked, and each gets its own reply."""
    held: list[tuple[Peer, int, Any]] = []

    def hold(peer: Peer, id: int, params: dict[str, Any]) -> None:
        held.append((peer, id, params["n"]))
        if len(held) == 50:
            for held_peer, held_id, n in reversed(held):
                held_peer.answer(held_id, n)

    daemon.on("echo", hold)

    async def story(client: AsyncClient) -> None:
        calls = [client.call("echo", {"n": n}) for n in range(50)]
        assert await asyncio.gather(*calls) == list(range(50))

    run(project, story)
    assert len(daemon.peers) == 1


@pytest.mark.usefixtures("daemon")
def test_large_requests_are_held_back_not_lost(project: Project) -> None:
    """Requests far larger than the transport's buffer are sent at once."""
    text = "x" * 500_000

    async def story(client: AsyncClient) -> None:
        calls = [client.call("echo", {"n": n, "text": text}) for n in range(20)]
        assert [answer["n"] for answer in await asyncio.gather(*calls)] == list(range(20))

    run(project, story)


def test_requests_wait_while_the_daemon_does_not_read(project: Project, daemon: FakeDaemon) -> None:
    """The buffer is bounded by one request, however many there are."""
    gate = threading.Event()

    def block(peer: Peer, id: int, _params: dict[str, Any]) -> None:
        gate.wait(DEADLINE)
        peer.answer(id, None)

    daemon.on("block", block)
    size = 400_000

    async def story(client: AsyncClient) -> None:
        blocked = asyncio.create_task(client.call("block", {}))
        await until(daemon, lambda: len(daemon.seen) == 1)
        calls = [asyncio.create_task(client.call("echo", {"x": "x" * size})) for _ in range(20)]
        assert client._link is not None
        assert client._link._transport is not None
        while len(client._link._flights) < 2 or client._link._writable.is_set():
            await asyncio.sleep(0)
        for _ in range(50):
            await asyncio.sleep(0)
        assert client._link._transport.get_write_buffer_size() < 2 * size
        gate.set()
        await asyncio.gather(blocked, *calls)

    run(project, story)
    assert daemon.methods() == ["block"] + ["echo"] * 20


class _Narrow(asyncio.Transport):
    """A transport that is full after every write."""

    def __init__(self, link: AsyncLink) -> None:
        super().__init__()
        self._link = link
        self.written = 0

    def write(self, _data: object) -> None:
        self.written += 1
        self._link.pause_writing()

    def is_closing(self) -> bool:
        return False


def test_room_for_one_request_wakes_one_that_waits() -> None:
    """The waiting requests all wake up, and the first one fills the buffer again."""

    async def story() -> None:
        link = AsyncLink()
        transport = _Narrow(link)
        link.connection_made(transport)
        link.pause_writing()
        waiting = [asyncio.create_task(link.ask("m", b"{}")) for _ in range(3)]
        for expected in (0, 1, 2):
            for _ in range(10):
                await asyncio.sleep(0)
            assert transport.written == expected
            link.resume_writing()
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    asyncio.run(story())


def test_busy_is_raised_by_all_requests_in_flight(project: Project, daemon: FakeDaemon) -> None:
    """As an error about the connection, it means that no request on it was carried out."""

    def full(peer: Peer, _id: int, _params: dict[str, Any]) -> None:
        peer.refuse(None, Busy("256 connections are open"))
        peer.hang_up()

    daemon.on("run.cancel", silence)
    daemon.on("run.start", full)

    async def story(client: AsyncClient) -> None:
        calls = [client.call("run.cancel", {"run": "r"}), client.start("j", "x" * 1000)]
        for error in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(error, Busy)

    run(project, story)


def test_error_about_a_line_belongs_to_the_longest_one(
    project: Project, daemon: FakeDaemon
) -> None:
    """The other requests on the connection are not to blame."""

    def refuse(peer: Peer, _id: int, _params: dict[str, Any]) -> None:
        peer.refuse(None, PayloadRefused("the line is too long", path="$"))
        peer.hang_up()

    daemon.on("run.cancel", silence)
    daemon.on("run.start", refuse)

    async def story(client: AsyncClient) -> None:
        calls = [client.call("run.cancel", {"run": "r"}), client.start("j", "x" * 1000)]
        other, mine = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(other, DaemonUnavailable)
        assert isinstance(mine, PayloadRefused)

    run(project, story)


def test_call_that_timed_out_leaves_nothing_behind(project: Project, daemon: FakeDaemon) -> None:
    """It raises the built-in `TimeoutError`, which says that the call may still happen."""
    daemon.on("run.start", silence)

    async def story(client: AsyncClient) -> None:
        with pytest.raises(TimeoutError, match="may still take effect"):
            await client.start("j")
        assert client._link is not None
        assert client._link._flights == {}

    run(project, story, timeout=0.05)


def test_half_a_reply_and_nonsense_are_broken_connections(
    project: Project, daemon: FakeDaemon
) -> None:
    """Neither counts as a reply."""

    def half(peer: Peer, id: int, _params: dict[str, Any]) -> None:
        peer.write(b'{"jsonrpc":"2.0","id":%d,"result":1}' % id)
        peer.hang_up()

    daemon.on("half", half)
    daemon.on("junk", lambda peer, _id, _params: peer.write(b"junk\n"))

    async def story(client: AsyncClient) -> None:
        for method in ("half", "junk"):
            with pytest.raises(DaemonUnavailable):
                await client.call(method, {})

    run(project, story)
