"""The client for applications: what it asks and answers, from many threads, up to its end."""

from __future__ import annotations

import gc
import os
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
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
    """One request, and the handle asks about that run."""
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
    assert run.timeline() == [{"seq": 1}]
    assert daemon.seen[2] == ("run.wait", {"run": "run_1", "timeout_ms": 5000})


def test_same_key_is_the_same_run_and_says_so(client: Client, daemon: FakeDaemon) -> None:
    """`.reused` is the daemon's word."""
    first = client.start("j", idempotency_key="k")
    second = client.start("j", idempotency_key="k")
    assert (first.id, first.reused) == (second.id, not second.reused)
    assert len(daemon.started) == 1


def test_enqueue_starts_on_its_queue(client: Client, daemon: FakeDaemon) -> None:
    """With the other options as in `start`."""
    client.queue("emails").enqueue("send", {"to": "a"}, priority=3)
    assert daemon.started == [
        {"job": "send", "payload": {"to": "a"}, "queue": "emails", "priority": 3}
    ]


def test_runs_are_listed_and_looked_up(client: Client, daemon: FakeDaemon) -> None:
    """Filters that are not given are not sent; the cursor leads to the next page."""
    page = client.runs.list(status="failed", since="2026-05-06T09:00:00+02:00", limit=1)
    assert page == [{"id": "run_1"}]
    assert page.cursor == "run_1"
    client.runs.get("@last", detail=True)
    assert daemon.seen == [
        ("run.list", {"status": "failed", "since": "2026-05-06T07:00:00.000000Z", "limit": 1}),
        ("run.get", {"run": "@last", "detail": True}),
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
    """Each ending as its own class."""
    daemon.on("run.wait", lambda peer, id, params: peer.answer(id, answer))
    with pytest.raises(error, match="run_1"):
        client.start("j").result(timeout=5)


def test_result_stops_waiting_in_time_even_if_the_daemon_does_not(
    client: Client, daemon: FakeDaemon
) -> None:
    """The built-in `TimeoutError`; the connection goes on."""
    daemon.on("run.wait", silence)
    run = client.start("j")
    with pytest.raises(TimeoutError, match="it goes on"):
        run.result(timeout="10ms")
    assert run.status() == "running"
    assert len(daemon.peers) == 1


def test_payload_that_json_cannot_hold_is_never_sent(client: Client, daemon: FakeDaemon) -> None:
    """Nor is a connection made for it."""
    with pytest.raises(PayloadRefused) as refused:
        client.start("j", {"a": [float("nan")]})
    assert refused.value.path == "$.a[0]"
    assert daemon.peers == []


# --- Threads -------------------------------------------------------------------------------


def test_twenty_threads_have_requests_in_flight_on_one_connection(
    client: Client, daemon: FakeDaemon
) -> None:
    """The daemon answers nobody before all have asked, and then the last first: each thread gets
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
    """Many small and large requests at once: every line arrives whole."""

    def work(n: int) -> bool:
        text = str(n) * (1 if n % 5 else 30_000)
        return bool(client.call("echo", {"n": n, "text": text}) == {"n": n, "text": text})

    with ThreadPoolExecutor(20) as pool:
        assert all(pool.map(work, range(600)))
    assert len(daemon.peers) == 1


def test_broken_connection_reaches_every_thread_that_waits(
    client: Client, daemon: FakeDaemon
) -> None:
    """None is left waiting for ever."""
    arrived = threading.Barrier(2)

    def break_at_ten(peer: Peer, id: int, params: dict[str, Any]) -> None:
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
    """And says that it may happen all the same; nothing is left behind for its reply."""
    daemon.on("run.start", silence)
    with Client(project, timeout=0.01) as client:
        with pytest.raises(TimeoutError, match="may still take effect"):
            client.start("j")
        assert client._connect()._flights == {}


def test_closed_client_is_closed(client: Client, daemon: FakeDaemon) -> None:
    """Its thread has ended, and who uses it is told."""
    client.start("j")
    reader = client._connect()._reader
    client.close()
    client.close()
    assert not reader.is_alive()
    with pytest.raises(Usage, match="closed"):
        client.start("j")


def test_closing_wakes_those_who_wait(client: Client, daemon: FakeDaemon) -> None:
    """A program that ends is not held up by a run."""
    daemon.on("run.wait", silence)
    run = client.start("j")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(run.result)
        daemon.wait(lambda: "run.wait" in daemon.methods())
        client.close()
        assert isinstance(waiting.exception(DEADLINE), StackshiftError)


def test_client_that_nobody_holds_lets_go(project: Project, daemon: FakeDaemon) -> None:
    """Its connection and its thread end with it."""
    client = Client(project)
    client.start("j")
    reader = client._connect()._reader
    del client
    gc.collect()
    reader.join(DEADLINE)
    assert not reader.is_alive()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_child_connects_anew(client: Client, daemon: FakeDaemon) -> None:
    """Parent and child never share a connection, nor the answers on it."""
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
