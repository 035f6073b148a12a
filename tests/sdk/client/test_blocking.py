"""The client for applications: its requests and results, many threads, and how it ends."""

from __future__ import annotations

import gc
import os
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sdk.fake_daemon import DEADLINE, FakeDaemon, Peer, silence
from stackshift_jobs.client.blocking import Client
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

# --- The surface ---------------------------------------------------------------------------


def test_start_gives_a_handle_to_the_run(client: Client, daemon: FakeDaemon) -> None:
    """A start is one request, and the handle asks about the run that it started."""
    run = client.start("resizeAvatar", {"imageId": "img_1"}, queue="media", delay="1s")
    assert (run.id, run.reused) == ("run_1", False)
    assert daemon.seen == [
        (
            "run.start",
            {
                "job": "resizeAvatar",
                "payload": {"imageId": "img_1"},
                "queue": "media",
                "delay_ms": 1000,
            },
        ),
    ]
    assert run.status() == "running"
    assert run.result(timeout="5s") == 42
    assert run.cancel() is True
    assert run.timeline() == [{"seq": 1}, {"seq": 2}]
    assert daemon.seen[2] == ("run.wait", {"run": "run_1", "timeout_ms": 5000})


def test_result_is_given_back_as_a_type(client: Client, daemon: FakeDaemon) -> None:
    """One that does not fit is refused with its place, a type that nothing is made of before the
    run is waited for."""
    run = client.start("j")
    assert run.result(returns=timedelta) == timedelta(seconds=42)
    with pytest.raises(PayloadRefused, match=r"the result of run_1 does not fit its type at \$: "):
        run.result(returns=str)
    waited = len(daemon.seen)
    with pytest.raises(Usage, match="nothing can be made of JSON as the type"):
        run.result(returns=Client)
    assert len(daemon.seen) == waited


def test_same_key_is_the_same_run_and_says_so(client: Client, daemon: FakeDaemon) -> None:
    """The daemon says whether the handle is `.reused`."""
    first = client.start("j", idempotency_key="k")
    second = client.start("j", idempotency_key="k")
    assert (first.id, first.reused) == (second.id, not second.reused)
    assert len(daemon.started) == 1


def test_enqueue_starts_on_its_queue(client: Client, daemon: FakeDaemon) -> None:
    """The other options are those of `start`."""
    client.queue("emails").enqueue("send", {"to": "a"}, priority=3)
    assert daemon.started == [
        {"job": "send", "payload": {"to": "a"}, "queue": "emails", "priority": 3}
    ]


def test_runs_are_listed_and_looked_up(client: Client, daemon: FakeDaemon) -> None:
    """Only filters that were given are sent, and the cursor gets the next page; the detail of a run
    is all of its pages."""
    page = client.runs.list(
        status="failed",
        parent="@last",
        since="2026-05-06T09:00:00+02:00",
        until=datetime(2026, 5, 7, tzinfo=UTC),
        limit=1,
    )
    assert page == [{"id": "run_1"}]
    assert page.cursor == "run_1"
    assert client.runs.get("@last", detail=True) == {
        "id": "run_1",
        "status": "running",
        "steps": [{"name": "a"}],
        "attempts": [],
        "timeline": [{"seq": 1}, {"seq": 2}],
    }
    assert daemon.seen == [
        (
            "run.list",
            {
                "status": "failed",
                "parent": "@last",
                "since": "2026-05-06T07:00:00.000000Z",
                "until": "2026-05-07T00:00:00.000000Z",
                "limit": 1,
            },
        ),
        ("run.get", {"run": "@last", "detail": True}),
        ("run.get", {"run": "run_1", "detail": True, "cursor": "timeline:1"}),
    ]
    with pytest.raises(NotFound):
        client.runs.get("run_missing")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"status": "failed", "error": {"type": "ValueError", "message": "no"}}, RunFailed),
        ({"status": "cancelled", "error": None}, RunCancelled),
        ({"timed_out": True, "run": "run_1", "status": "running"}, TimeoutError),
    ],
)
def test_result_of_a_run_that_did_not_complete_raises(
    client: Client, daemon: FakeDaemon, answer: dict[str, Any], error: type[Exception]
) -> None:
    """Each ending has its own error."""
    daemon.on("run.wait", lambda peer, id, _params: peer.answer(id, answer))
    with pytest.raises(error, match="run_1"):
        client.start("j").result(timeout=5)


def test_result_stops_waiting_in_time_even_if_the_daemon_does_not(
    client: Client, daemon: FakeDaemon
) -> None:
    """It raises the built-in `TimeoutError`, and the connection stays open."""
    daemon.on("run.wait", silence)
    run = client.start("j")
    with pytest.raises(TimeoutError, match="it continues"):
        run.result(timeout="10ms")
    assert run.status() == "running"
    assert len(daemon.peers) == 1


def test_payload_that_json_cannot_hold_is_never_sent(client: Client, daemon: FakeDaemon) -> None:
    """The client does not even connect."""
    with pytest.raises(PayloadRefused) as refused:
        client.start("j", {"a": [float("nan")]})
    assert refused.value.path == "$.a[0]"
    assert daemon.peers == []


# --- Threads -------------------------------------------------------------------------------


def test_twenty_threads_have_requests_in_flight_on_one_connection(
    client: Client, daemon: FakeDaemon
) -> None:
    """The daemon answers only after all have asked, and the last one first: each thread gets
    its own answer."""
    held: list[tuple[Peer, int, Any]] = []

    def hold(peer: Peer, id: int, params: dict[str, Any]) -> None:
        held.append((peer, id, params["n"]))
        if len(held) == 20:
            for held_peer, held_id, n in reversed(held):
                held_peer.answer(held_id, n * 7)

    daemon.on("echo", hold)
    with ThreadPoolExecutor(20) as pool:
        futures = [pool.submit(client.call, "echo", {"n": n}) for n in range(20)]
        assert [future.result(DEADLINE) for future in futures] == [n * 7 for n in range(20)]
    assert len(daemon.peers) == 1


def test_threads_never_get_each_others_answers(client: Client, daemon: FakeDaemon) -> None:
    """With many small and large requests at once, every line arrives intact."""

    def work(n: int) -> bool:
        text = str(n) * (1 if n % 5 else 30_000)
        return bool(client.call("echo", {"n": n, "text": text}) == {"n": n, "text": text})

    with ThreadPoolExecutor(20) as pool:
        assert all(pool.map(work, range(600)))
    assert len(daemon.peers) == 1


def test_broken_connection_reaches_every_thread_that_waits(
    client: Client, daemon: FakeDaemon
) -> None:
    """No thread waits forever."""
    arrived = threading.Barrier(2)

    def break_at_ten(peer: Peer, _id: int, params: dict[str, Any]) -> None:
        if params["run"] == "last":
            arrived.wait(DEADLINE)
            peer.hang_up()

    daemon.on("run.cancel", break_at_ten)
    with ThreadPoolExecutor(10) as pool:
        futures = [pool.submit(client.call, "run.cancel", {"run": str(n)}) for n in range(9)]
        daemon.wait(lambda: len(daemon.seen) == 9)
        futures.append(pool.submit(client.call, "run.cancel", {"run": "last"}))
        arrived.wait(DEADLINE)
        for future in futures:
            error = future.exception(DEADLINE)
            assert isinstance(error, DaemonUnavailable)
            assert error.fields["may_have_happened"]


# --- Endings -------------------------------------------------------------------------------


def test_request_times_out_with_the_clients_timeout(project: Project, daemon: FakeDaemon) -> None:
    """The error says that it may still happen, and nothing is kept for the late reply."""
    daemon.on("run.start", silence)
    with Client(project, timeout=0.01) as client:
        with pytest.raises(TimeoutError, match="may still take effect"):
            client.start("j")
        assert client._connect()._flights == {}


@pytest.mark.usefixtures("daemon")
def test_closed_client_is_closed(client: Client) -> None:
    """Its thread has ended, and using it raises an error."""
    client.start("j")
    reader = client._connect()._reader
    client.close()
    client.close()
    assert not reader.is_alive()
    with pytest.raises(Usage, match="closed"):
        client.start("j")


def test_closing_wakes_those_who_wait(client: Client, daemon: FakeDaemon) -> None:
    """A run does not keep a program from exiting."""
    daemon.on("run.wait", silence)
    run = client.start("j")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(run.result)
        daemon.wait(lambda: "run.wait" in daemon.methods())
        client.close()
        assert isinstance(waiting.exception(DEADLINE), StackshiftError)


@pytest.mark.usefixtures("daemon")
def test_client_that_is_garbage_collected_disconnects(project: Project) -> None:
    """Its connection and its thread end, too."""
    client = Client(project)
    client.start("j")
    reader = client._connect()._reader
    del client
    gc.collect()
    reader.join(DEADLINE)
    assert not reader.is_alive()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_child_has_a_connection_of_its_own(client: Client, daemon: FakeDaemon) -> None:
    """Parent and child never share a connection, nor the replies on it."""
    client.start("j", "parent")
    pid = os.fork()
    if pid == 0:
        try:
            done = client.start("j", "child").id == "run_2"
        except BaseException:
            traceback.print_exc()
            done = False
        os._exit(0 if done else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert client.start("j", "parent again").id == "run_3"
    assert len(daemon.peers) == 2
