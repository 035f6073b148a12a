"""The awaited client during restarts and after broken connections: nothing is done twice."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from sdk.awaited import run
from sdk.fake_daemon import DEADLINE, FakeDaemon, Peer, hang_up
from stackshift_jobs.client.awaited import AsyncClient
from stackshift_jobs.errors import Busy, DaemonUnavailable
from stackshift_jobs.project.locate import Project
from stackshift_jobs.wire.retransmit import MAX_LOSSES


def test_client_connects_again_after_a_restart(project: Project, daemon: FakeDaemon) -> None:
    """It waits until the daemon is back, also for a start without a key."""

    async def story(client: AsyncClient) -> None:
        await client.start("j", 1)
        daemon.stop()
        later = asyncio.create_task(client.start("j", 2))
        while client._lost_at is None:
            await asyncio.sleep(0)
        daemon.start()
        assert (await later).id == "run_2"

    run(project, story)
    assert [started["payload"] for started in daemon.started] == [1, 2]


def test_daemon_that_stays_away_is_not_waited_for_for_ever(
    project: Project, daemon: FakeDaemon
) -> None:
    """The call fails when the client's patience is over."""

    async def story(client: AsyncClient) -> None:
        await client.start("j")
        daemon.stop()
        with pytest.raises(DaemonUnavailable):
            await client.runs.get("r")

    run(project, story, patience=0.0)


def test_read_and_start_with_a_key_are_sent_again(project: Project, daemon: FakeDaemon) -> None:
    """The run is started once, although the request was sent twice."""

    def lose(method: str) -> Callable[[Peer, int, dict[str, Any]], None]:
        def answer(peer: Peer, _id: int, params: dict[str, Any]) -> None:
            if method == "run.start":
                daemon.begin(params)
            daemon.usual(method)
            peer.hang_up()

        return answer

    async def story(client: AsyncClient) -> None:
        daemon.on("run.get", lose("run.get"))
        assert (await client.runs.get("r"))["status"] == "running"
        daemon.on("run.start", lose("run.start"))
        handle = await client.start("j", idempotency_key="k")
        assert (handle.id, handle.reused) == ("run_1", True)

    run(project, story)
    assert len(daemon.started) == 1
    assert daemon.methods() == ["run.get", "run.get", "run.start", "run.start"]


def test_start_without_a_key_is_never_sent_twice(project: Project, daemon: FakeDaemon) -> None:
    """It may have happened, and the error says so."""
    daemon.on("run.start", hang_up)

    async def story(client: AsyncClient) -> None:
        with pytest.raises(DaemonUnavailable, match="may have taken effect"):
            await client.start("j")

    run(project, story)
    assert daemon.methods() == ["run.start"]


def test_daemon_that_always_hangs_up_is_not_asked_for_ever(
    project: Project, daemon: FakeDaemon
) -> None:
    """A read that breaks its daemon every time ends as an error."""
    daemon.on("run.get", hang_up)

    async def story(client: AsyncClient) -> None:
        with pytest.raises(DaemonUnavailable):
            await client.runs.get("r")

    run(project, story)
    assert len(daemon.seen) == MAX_LOSSES


def test_too_many_connections_raise_busy(project: Project, daemon: FakeDaemon) -> None:
    """Nothing was done, and the next call connects again."""

    connected, hung_up = threading.Event(), threading.Event()

    def full(peer: Peer) -> None:
        daemon.greet = None
        connected.wait(DEADLINE)
        peer.refuse(None, Busy("256 connections are open"))
        peer.hang_up()
        hung_up.set()

    daemon.greet = full

    async def story(client: AsyncClient) -> None:
        await client._connect()
        connected.set()
        assert hung_up.wait(DEADLINE)  # while the loop stands still: the write is what fails
        with pytest.raises(Busy):
            await client.start("j")
        assert daemon.started == []
        assert (await client.start("j")).id == "run_1"

    run(project, story)
