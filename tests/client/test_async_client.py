"""The awaited client: the same promises as the blocking one, and cancellation."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from client.fake_daemon import DEADLINE, FakeDaemon, Peer, hang_up, silence
from stackshift_jobs.async_client import AsyncClient, AsyncRunHandle, _Wire
from stackshift_jobs.client import MAX_LOSSES
from stackshift_jobs.errors import (
    Busy,
    DaemonUnavailable,
    NotFound,
    PayloadRefused,
    RunCancelled,
    RunFailed,
    StackshiftError,
    Usage,
)
from stackshift_jobs.project import Project


def run(project: Project, story: Callable[[AsyncClient], Awaitable[None]], **options: Any) -> None:
    """Tell `story` with a client, on a loop of its own, within the deadline."""

    async def told() -> None:
        async with asyncio.timeout(DEADLINE), AsyncClient(project, **options) as client:
            await story(client)

    asyncio.run(told())


async def until(daemon: FakeDaemon, condition: Callable[[], bool]) -> None:
    """Wait until `condition` is true of what the daemon saw, without holding up the loop."""
    await asyncio.to_thread(daemon.wait, condition)


def test_surface_is_that_of_the_blocking_client(project: Project, daemon: FakeDaemon) -> None:
    """Start, handle, queue, runs."""

    async def story(client: AsyncClient) -> None:
        handle = await client.start("j", {"a": 1}, delay="1s")
        assert (handle.id, handle.reused) == ("run_1", False)
        assert await handle.status() == "running"
        assert await handle.result("5s") == 42
        assert await handle.cancel() is True
        assert await handle.timeline() == [{"seq": 1}]
        assert (await client.queue("emails").enqueue("send")).id == "run_2"
        page = await client.runs.list(status="failed")
        assert (list(page), page.cursor) == ([{"id": "run_1"}], "run_1")
        with pytest.raises(NotFound):
            await client.runs.get("run_missing")

    run(project, story)
    assert daemon.started == [
        {"job": "j", "payload": {"a": 1}, "delay_ms": 1000},
        {"job": "send", "queue": "emails"},
    ]
    assert len(daemon.peers) == 1


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"status": "failed", "error": {"type": "ValueError", "message": "no"}}, RunFailed),
        ({"status": "cancelled", "error": None}, RunCancelled),
        ({"timed_out": True, "run": "run_1", "status": "running"}, TimeoutError),
        (None, TimeoutError),
    ],
)
def test_result_of_a_run_that_did_not_complete_raises(
    project: Project, daemon: FakeDaemon, answer: Any, error: type[Exception]
) -> None:
    """Also where the daemon does not answer at all."""
    if answer is None:
        daemon.on("run.wait", silence)
    else:
        daemon.on("run.wait", lambda peer, id, params: peer.answer(id, answer))

    async def story(client: AsyncClient) -> None:
        handle = await client.start("j")
        with pytest.raises(error, match="run_1"):
            await handle.result("10ms" if answer is None else "20s")

    run(project, story)


def test_requests_are_in_flight_together_on_one_connection(
    project: Project, daemon: FakeDaemon
) -> None:
    """Nobody is answered before all have asked; each gets its own answer."""
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


def test_large_requests_are_held_back_not_lost(project: Project, daemon: FakeDaemon) -> None:
    """Far more than the transport wants to hold, all at once."""
    text = "x" * 500_000

    async def story(client: AsyncClient) -> None:
        calls = [client.call("echo", {"n": n, "text": text}) for n in range(20)]
        assert [answer["n"] for answer in await asyncio.gather(*calls)] == list(range(20))

    run(project, story)


def test_requests_wait_while_the_daemon_does_not_read(project: Project, daemon: FakeDaemon) -> None:
    """What is held for it is bounded by one request, not by how many there are."""
    gate = threading.Event()

    def block(peer: Peer, id: int, params: dict[str, Any]) -> None:
        gate.wait(DEADLINE)
        peer.answer(id, None)

    daemon.on("block", block)
    size = 400_000

    async def story(client: AsyncClient) -> None:
        blocked = asyncio.create_task(client.call("block", {}))
        await until(daemon, lambda: len(daemon.seen) == 1)
        calls = [asyncio.create_task(client.call("echo", {"x": "x" * size})) for _ in range(20)]
        assert client._wire is not None
        assert client._wire._transport is not None
        while len(client._wire._flights) < 2 or client._wire._writable.is_set():
            await asyncio.sleep(0)
        for _ in range(50):
            await asyncio.sleep(0)
        assert client._wire._transport.get_write_buffer_size() < 2 * size
        gate.set()
        await asyncio.gather(blocked, *calls)

    run(project, story)
    assert daemon.methods() == ["block"] + ["echo"] * 20


class _Narrow(asyncio.Transport):
    """A transport that is full after every write."""

    def __init__(self, wire: _Wire) -> None:
        super().__init__()
        self._wire = wire
        self.written = 0

    def write(self, data: object) -> None:
        self.written += 1
        self._wire.pause_writing()

    def is_closing(self) -> bool:
        return False


def test_room_for_one_request_wakes_one_that_waits() -> None:
    """All those that wait are told of the room; the first to use it leaves none."""

    async def story() -> None:
        wire = _Wire()
        transport = _Narrow(wire)
        wire.connection_made(transport)
        wire.pause_writing()
        waiting = [asyncio.create_task(wire.ask("m", b"{}")) for _ in range(3)]
        for expected in (0, 1, 2):
            for _ in range(10):
                await asyncio.sleep(0)
            assert transport.written == expected
            wire.resume_writing()
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    asyncio.run(story())


def test_busy_is_told_to_all_whose_requests_were_on_the_way(
    project: Project, daemon: FakeDaemon
) -> None:
    """Said of the connection, it means that nothing on it was carried out."""

    def full(peer: Peer, id: int, params: dict[str, Any]) -> None:
        peer.refuse(None, Busy("256 connections are open"))
        peer.hang_up()

    daemon.on("run.cancel", silence)
    daemon.on("run.start", full)

    async def story(client: AsyncClient) -> None:
        calls = [client.call("run.cancel", {"run": "r"}), client.start("j", "x" * 1000)]
        for error in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(error, Busy)

    run(project, story)


def test_error_about_a_line_is_the_longest_ones(project: Project, daemon: FakeDaemon) -> None:
    """The others on the connection had no part in it."""

    def refuse(peer: Peer, id: int, params: dict[str, Any]) -> None:
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
    """The built-in `TimeoutError`, which says that it may happen all the same."""
    daemon.on("run.start", silence)

    async def story(client: AsyncClient) -> None:
        with pytest.raises(TimeoutError, match="may happen"):
            await client.start("j")
        assert client._wire is not None
        assert client._wire._flights == {}

    run(project, story, timeout=0.05)


def test_failure_to_connect_that_nobody_waits_for_is_quiet(project: Project) -> None:
    """The caller was cancelled; no complaint about an exception never retrieved comes later."""
    complaints: list[dict[str, Any]] = []

    async def story(client: AsyncClient) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))
        call = asyncio.create_task(client.call("echo", {}))
        while client._connecting is None:
            await asyncio.sleep(0)
        call.cancel()
        while client._connecting is not None:
            await asyncio.sleep(0)
        del call
        gc.collect()

    run(project, story)
    assert complaints == []


def test_cancelled_call_is_given_up_and_its_late_reply_dropped(
    project: Project, daemon: FakeDaemon
) -> None:
    """The connection goes on, for others and for the next call."""
    held: list[tuple[Peer, int]] = []
    daemon.on("slow", lambda peer, id, params: held.append((peer, id)))

    async def story(client: AsyncClient) -> None:
        pending = asyncio.create_task(client.call("slow", {}))
        other = asyncio.create_task(client.call("slow", {}))
        await until(daemon, lambda: len(daemon.seen) == 2)
        pending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pending
        for peer, id in held:
            peer.answer(id, "late")
        assert await client.call("echo", {"a": 1}) == {"a": 1}
        assert await other == "late"
        assert client._wire is not None
        assert client._wire._flights == {}

    run(project, story)
    assert len(daemon.peers) == 1


def test_cancelled_first_call_does_not_take_the_connection_from_others(
    project: Project, daemon: FakeDaemon
) -> None:
    """Both wait for the same connection to be made."""

    async def story(client: AsyncClient) -> None:
        first = asyncio.create_task(client.call("echo", {"n": 1}))
        second = asyncio.create_task(client.call("echo", {"n": 2}))
        await asyncio.sleep(0)  # both have asked for a connection
        assert client._connecting is not None
        first.cancel()
        assert await second == {"n": 2}
        assert first.cancelled()

    run(project, story)
    assert daemon.seen == [("echo", {"n": 2})]


def test_no_daemon_is_told_to_all_who_wait(project: Project) -> None:
    """And nothing is left over that nobody saw."""

    async def story(client: AsyncClient) -> None:
        calls = [client.call("echo", {}) for _ in range(3)]
        for error in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(error, DaemonUnavailable)
            assert error.hint == "stackshift daemon start"

    run(project, story)


def test_client_connects_again_after_a_restart(project: Project, daemon: FakeDaemon) -> None:
    """Also for a start without a key, and it waits until the daemon is back."""

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
    """After the client's patience."""

    async def story(client: AsyncClient) -> None:
        await client.start("j")
        daemon.stop()
        with pytest.raises(DaemonUnavailable):
            await client.runs.get("r")

    run(project, story, patience=0.0)


def test_read_and_start_with_a_key_are_sent_again(project: Project, daemon: FakeDaemon) -> None:
    """The run is started once, though it was asked for twice."""

    def lose(method: str) -> Callable[[Peer, int, dict[str, Any]], None]:
        def answer(peer: Peer, id: int, params: dict[str, Any]) -> None:
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
        with pytest.raises(DaemonUnavailable, match="may have happened"):
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


def test_half_a_reply_and_nonsense_are_broken_connections(
    project: Project, daemon: FakeDaemon
) -> None:
    """Neither is taken for an answer."""

    def half(peer: Peer, id: int, params: dict[str, Any]) -> None:
        peer.write(b'{"jsonrpc":"2.0","id":%d,"result":1}' % id)
        peer.hang_up()

    daemon.on("half", half)
    daemon.on("junk", lambda peer, id, params: peer.write(b"junk\n"))

    async def story(client: AsyncClient) -> None:
        for method in ("half", "junk"):
            with pytest.raises(DaemonUnavailable):
                await client.call(method, {})

    run(project, story)


def test_busy_daemon_is_told_as_busy(project: Project, daemon: FakeDaemon) -> None:
    """Nothing was done, and the next call connects anew."""

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


def test_start_many_answers_for_each_item_in_order(project: Project, daemon: FakeDaemon) -> None:
    """Over several batches, with one that cannot be sent among them."""
    items: list[Any] = [{"job": "j", "payload": n} for n in range(1200)]
    items[600] = ("j", float("inf"))

    async def story(client: AsyncClient) -> None:
        results = await client.start_many(items)
        assert len(results) == 1200
        assert isinstance(results[600], PayloadRefused)
        by_id = {f"run_{n}": started["payload"] for n, started in enumerate(daemon.started, 1)}
        for place, result in enumerate(results):
            assert place == 600 or (
                isinstance(result, AsyncRunHandle) and by_id[result.id] == place
            )
        assert await client.start_many([]) == []

    run(project, story)


def test_broken_batch_says_that_it_may_have_happened(project: Project, daemon: FakeDaemon) -> None:
    """For each of its items; it is not sent again."""
    daemon.on("run.start_many", hang_up)

    async def story(client: AsyncClient) -> None:
        results = await client.start_many([("j", 1), ("j", 2)])
        assert [
            result.fields["may_have_happened"]
            for result in results
            if isinstance(result, StackshiftError)
        ] == [True, True]

    run(project, story)
    assert daemon.methods() == ["run.start_many"]


def test_second_event_loop_is_refused(project: Project, daemon: FakeDaemon) -> None:
    """Its replies would wake the wrong loop."""
    client = AsyncClient(project)

    async def first() -> None:
        await client.start("j")

    async def second() -> None:
        with pytest.raises(Usage, match="one event loop"):
            await client.start("j")

    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(first())
        asyncio.run(second())
        loop.run_until_complete(client.close())
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    assert len(daemon.started) == 1


def test_closing_wakes_those_who_wait(project: Project, daemon: FakeDaemon) -> None:
    """And later calls are told that it is closed."""
    daemon.on("run.wait", silence)

    async def story(client: AsyncClient) -> None:
        waiting = asyncio.create_task(client.call("run.wait", {"run": "r"}))
        await until(daemon, lambda: len(daemon.seen) == 1)
        await client.close()
        with pytest.raises(StackshiftError):
            await waiting
        with pytest.raises(Usage, match="closed"):
            await client.start("j")

    run(project, story)
