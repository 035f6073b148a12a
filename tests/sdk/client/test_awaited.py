"""The awaited client: it works like the blocking one, and calls can be cancelled."""

from __future__ import annotations

import asyncio
import gc
from datetime import timedelta
from typing import Any

import pytest
import uvloop

from sdk.awaited import run, until
from sdk.fake_daemon import DEADLINE, FakeDaemon, Peer, hang_up, silence
from stackshift_jobs.client.awaited import AsyncClient, AsyncRunHandle
from stackshift_jobs.errors import (
    DaemonUnavailable,
    NotFound,
    PayloadRefused,
    RunCancelled,
    RunFailed,
    StackshiftError,
    Usage,
)
from stackshift_jobs.project.locate import Project


def test_surface_is_that_of_the_blocking_client(project: Project, daemon: FakeDaemon) -> None:
    """It starts runs, returns handles, and has queues and runs."""

    async def story(client: AsyncClient) -> None:
        handle = await client.start("j", {"a": 1}, delay="1s")
        assert (handle.id, handle.reused) == ("run_1", False)
        assert await handle.status() == "running"
        assert await handle.result("5s") == 42
        assert await handle.result(returns=timedelta) == timedelta(seconds=42)
        assert await handle.cancel() is True
        assert await handle.timeline() == [{"seq": 1}, {"seq": 2}]
        assert (await client.queue("emails").enqueue("send")).id == "run_2"
        page = await client.runs.list(status=("failed", "cancelled"), forked_from="@last")
        assert (list(page), page.cursor) == ([{"id": "run_1"}], "run_1")
        with pytest.raises(NotFound):
            await client.runs.get("run_missing")

    run(project, story)
    assert daemon.started == [
        {"job": "j", "payload": {"a": 1}, "delay_ms": 1000},
        {"job": "send", "queue": "emails"},
    ]
    filters = {"status": ["failed", "cancelled"], "forked_from": "@last"}
    assert ("run.list", filters) in daemon.seen
    assert len(daemon.peers) == 1


def test_client_works_on_uvloop(project: Project, daemon: FakeDaemon) -> None:
    """As web servers have it. Every call said that the daemon had closed the connection: the
    transports of uvloop are of no class of asyncio's."""

    async def story() -> None:
        async with AsyncClient(project) as client:
            assert await (await client.start("j")).status() == "running"

    uvloop.run(asyncio.wait_for(story(), DEADLINE))
    assert daemon.started == [{"job": "j"}]


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
    """Each ending has its own error, also if the daemon does not answer at all."""
    if answer is None:
        daemon.on("run.wait", silence)
    else:
        daemon.on("run.wait", lambda peer, id, _params: peer.answer(id, answer))

    async def story(client: AsyncClient) -> None:
        handle = await client.start("j")
        with pytest.raises(error, match="run_1"):
            await handle.result("10ms" if answer is None else "20s")

    run(project, story)


def test_failure_to_connect_that_nobody_waits_for_is_quiet(project: Project) -> None:
    """If the caller was cancelled, asyncio does not complain later about an exception never
    retrieved."""
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
    """The connection stays open for other calls and for the next one."""
    held: list[tuple[Peer, int]] = []
    daemon.on("slow", lambda peer, id, _params: held.append((peer, id)))

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
        assert client._link is not None
        assert client._link._flights == {}

    run(project, story)
    assert len(daemon.peers) == 1


def test_cancelled_first_call_does_not_take_the_connection_from_others(
    project: Project, daemon: FakeDaemon
) -> None:
    """Both callers wait for the same connection."""

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


def test_every_waiting_call_learns_that_there_is_no_daemon(project: Project) -> None:
    """No exception is left that nobody has seen."""

    async def story(client: AsyncClient) -> None:
        calls = [client.call("echo", {}) for _ in range(3)]
        for error in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(error, DaemonUnavailable)
            assert error.hint == "stackshift daemon start"

    run(project, story)


def test_start_many_answers_for_each_item_in_order(project: Project, daemon: FakeDaemon) -> None:
    """The items take several batches, and one of them cannot be sent."""
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
    """Each of its items has the error, and the batch is not sent again."""
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
    """The replies would wake the wrong loop."""
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
    """Later calls raise an error that says that it is closed."""
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
