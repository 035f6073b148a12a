"""The client under threads, restarts and broken connections: nothing twice, nothing crossed."""

from __future__ import annotations

import gc
import os
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from client.fake_daemon import DEADLINE, FakeDaemon, Peer, hang_up, silence
from stackshift_jobs import client as client_module
from stackshift_jobs.client import Client, RunHandle
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


@pytest.fixture
def client(project: Project, daemon: FakeDaemon) -> Iterator[Client]:
    with Client(project) as made:
        yield made


def once(then: Callable[[], None] | None = None) -> Callable[[Peer, int, dict[str, Any]], None]:
    """Break the connection at the first request, after `then`; answer `again` to later ones."""
    asked: list[int] = []

    def answer(peer: Peer, id: int, params: dict[str, Any]) -> None:
        asked.append(id)
        if len(asked) > 1:
            peer.answer(id, "again")
            return
        if then is not None:
            then()
        peer.hang_up()

    return answer


# --- The surface ---------------------------------------------------------------------------


def test_start_gives_a_handle_to_the_run(client: Client, daemon: FakeDaemon) -> None:
    """One request, and the handle asks about that run."""
    run = client.start("resizeAvatar", {"imageId": "img_1"}, queue="media", delay="1s")
    assert (run.id, run.reused) == ("run_1", False)
    assert daemon.seen == [
        ("run.start", {"job": "resizeAvatar", "payload": {"imageId": "img_1"}, "queue": "media",
                       "delay_ms": 1000}),
    ]  # fmt: skip
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


# --- Many ----------------------------------------------------------------------------------


def test_start_many_answers_for_each_item_in_order(client: Client, daemon: FakeDaemon) -> None:
    """Handles where it went well, the error where it did not, whatever batch it was in."""

    def begin(peer: Peer, id: int, params: dict[str, Any]) -> None:
        no_job = NotFound("no job no").as_json()
        results = [
            {"error": no_job} if run["job"] == "no" else daemon.begin(run) for run in params["runs"]
        ]
        peer.answer(id, {"results": results})

    daemon.on("run.start_many", begin)
    items: list[Any] = [("j", n) for n in range(1100)]
    items[3] = ("no", None)
    items[700] = ("j", b"bytes")
    items[900] = {"job": "j", "payload": 900, "idempotency_key": "k"}
    results = client.start_many(items)
    assert len(results) == 1100
    assert isinstance(results[3], NotFound)
    assert isinstance(results[700], PayloadRefused)
    handles = [result for result in results if isinstance(result, RunHandle)]
    assert len(handles) == 1098
    by_id = {f"run_{n}": run["payload"] for n, run in enumerate(daemon.started, 1)}
    got = {
        place: by_id[result.id]
        for place, result in enumerate(results)
        if isinstance(result, RunHandle)
    }
    assert all(place == payload for place, payload in got.items())


def test_start_many_of_nothing_asks_nothing(project: Project) -> None:
    """Not even for a daemon."""
    assert Client(project).start_many([]) == []


def test_start_many_sends_ahead(client: Client, daemon: FakeDaemon) -> None:
    """Several batches are under way before the first is answered, and no more than the bound."""
    held: list[tuple[Peer, int, dict[str, Any]]] = []

    def hold(peer: Peer, id: int, params: dict[str, Any]) -> None:
        held.append((peer, id, params))
        if len(held) == client_module.IN_FLIGHT:
            daemon.usual("run.start_many")
            for held_peer, held_id, held_params in held[::-1]:
                results = [daemon.begin(run) for run in held_params["runs"]]
                held_peer.answer(held_id, {"results": results})

    daemon.on("run.start_many", hold)
    results = client.start_many([("j", n) for n in range(500 * (client_module.IN_FLIGHT + 2))])
    assert all(isinstance(result, RunHandle) for result in results)
    assert len(held) == client_module.IN_FLIGHT


def test_start_many_without_a_daemon_raises(project: Project) -> None:
    """Nothing was sent, so there is nothing to tell item by item."""
    with pytest.raises(DaemonUnavailable):
        Client(project).start_many([("j", 1)])


def test_broken_batch_is_sent_again_only_with_keys(client: Client, daemon: FakeDaemon) -> None:
    """Of a batch that may have been carried out, the items without a key say so."""

    def lose(peer: Peer, id: int, params: dict[str, Any]) -> None:
        for run in params["runs"]:
            daemon.begin(run)
        daemon.usual("run.start_many")
        peer.hang_up()

    keyed = [{"job": "j", "payload": n, "idempotency_key": f"k{n}"} for n in range(3)]
    client.runs.get("@last")
    daemon.on("run.start_many", lose)
    results = client.start_many(keyed)
    assert [run.id for run in results if isinstance(run, RunHandle)] == ["run_1", "run_2", "run_3"]
    assert len(daemon.started) == 3
    daemon.on("run.start_many", lose)
    plain = client.start_many([("j", 1), ("j", 2)])
    errors = [result for result in plain if isinstance(result, StackshiftError)]
    assert [error.fields["may_have_happened"] for error in errors] == [True, True]
    assert len(daemon.started) == 5


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


# --- Restarts ------------------------------------------------------------------------------


def test_client_connects_again_after_a_restart(client: Client, daemon: FakeDaemon) -> None:
    """Also for a start without a key: it had not been sent to the daemon that went."""
    client.start("j", 1)
    daemon.stop()
    daemon.start()
    assert client.start("j", 2).id == "run_2"
    assert [run["payload"] for run in daemon.started] == [1, 2]


@pytest.mark.parametrize("clean", [True, False])
def test_client_waits_for_a_daemon_that_restarts(
    client: Client, daemon: FakeDaemon, clean: bool
) -> None:
    """For a while after the connection was lost, no daemon means: not yet."""
    client.start("j", 1)
    daemon.stop(clean=clean)
    tried = threading.Event()
    pause = client._closed.wait

    def noted(timeout: float | None = None) -> bool:
        tried.set()
        return pause(timeout)

    client._closed.wait = noted  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as pool:
        later = pool.submit(client.start, "j", 2)
        assert tried.wait(DEADLINE)
        daemon.start()
        assert later.result(DEADLINE).id == "run_2"


def test_daemon_that_stays_away_is_not_waited_for_for_ever(
    project: Project, daemon: FakeDaemon
) -> None:
    """After the client's patience, and at once where there never was a connection."""
    with Client(project, patience=0.0) as client:
        client.start("j")
        daemon.stop()
        with pytest.raises(DaemonUnavailable) as raised:
            client.start("j")
    assert raised.value.hint == "stackshift daemon start"
    assert len(daemon.started) == 1


def test_read_is_asked_again_after_a_broken_connection(client: Client, daemon: FakeDaemon) -> None:
    """Twice asked is the same as once."""
    daemon.on("run.why", once())
    assert client.call("run.why", {"run": "r"}) == "again"
    assert daemon.methods() == ["run.why", "run.why"]


def test_start_with_a_key_is_sent_again_and_is_one_run(client: Client, daemon: FakeDaemon) -> None:
    """The first one had been carried out; its reply was lost."""

    def lose(peer: Peer, id: int, params: dict[str, Any]) -> None:
        daemon.begin(params)
        daemon.usual("run.start")
        peer.hang_up()

    daemon.on("run.start", lose)
    run = client.start("j", {"a": 1}, idempotency_key="k")
    assert (run.id, run.reused) == ("run_1", True)
    assert len(daemon.started) == 1


def test_start_without_a_key_is_never_sent_twice(client: Client, daemon: FakeDaemon) -> None:
    """It may have happened, and the error says so."""
    daemon.on("run.start", hang_up)
    with pytest.raises(DaemonUnavailable, match="may have happened") as raised:
        client.start("j")
    assert raised.value.fields["may_have_happened"] is True
    assert daemon.methods() == ["run.start"]


def test_result_is_waited_for_across_a_restart(client: Client, daemon: FakeDaemon) -> None:
    """A wait is a read."""
    run = client.start("j")

    def lose(peer: Peer, id: int, params: dict[str, Any]) -> None:
        daemon.usual("run.wait")
        peer.hang_up()

    daemon.on("run.wait", lose)
    assert run.result() == 42


@pytest.mark.parametrize("patience", [0.0, 60.0])
def test_daemon_that_always_hangs_up_is_not_asked_for_ever(
    project: Project, daemon: FakeDaemon, patience: float
) -> None:
    """A read that breaks its daemon every time ends as an error."""
    daemon.on("run.get", hang_up)
    with Client(project, patience=patience) as client, pytest.raises(DaemonUnavailable):
        client.runs.get("r")
    assert daemon.methods() == ["run.get"] * client_module.MAX_LOSSES


def test_daemon_of_another_protocol_is_not_waited_for(client: Client, daemon: FakeDaemon) -> None:
    """An upgrade under a living client: it cannot come back by itself."""
    client.start("j")
    daemon.stop()
    daemon.protocol += 1
    daemon.start()
    with pytest.raises(DaemonUnavailable) as raised:
        client.start("j")
    assert raised.value.hint == "stackshift daemon restart"
    assert len(daemon.started) == 1


def test_request_that_was_not_sent_in_full_may_go_again(client: Client, daemon: FakeDaemon) -> None:
    """Its last byte makes it a request; without a key it is still started once."""
    client.call("echo", {})

    def cut(peer: Peer, id: int, params: dict[str, Any]) -> None:
        daemon.usual("cut")
        peer.sock.recv(1000)
        peer.hang_up()

    daemon.on("cut", cut)
    link = client._connect()
    link.send("cut", b"{}", None)
    assert client.start("j", "x" * 1_000_000).id == "run_1"
    assert len(daemon.started) == 1


def test_busy_daemon_is_told_as_busy(client: Client, daemon: FakeDaemon) -> None:
    """Too many connections: nothing was done, and it is for the caller to try again."""

    def full(peer: Peer) -> None:
        daemon.greet = None
        peer.refuse(None, Busy("256 connections are open"))
        peer.hang_up()

    daemon.greet = full
    with pytest.raises(Busy):
        client.start("j")
    assert daemon.started == []
    assert client.start("j").id == "run_1"


def test_busy_is_told_to_all_whose_requests_were_on_the_way(
    client: Client, daemon: FakeDaemon
) -> None:
    """Said of the connection, it means that nothing on it was carried out."""

    def full(peer: Peer, id: int, params: dict[str, Any]) -> None:
        peer.refuse(None, Busy("256 connections are open"))
        peer.hang_up()

    daemon.on("run.cancel", silence)
    daemon.on("run.start", full)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(client.call, "run.cancel", {"run": "r"})
        daemon.wait(lambda: len(daemon.seen) == 1)
        with pytest.raises(Busy):
            client.start("j", "x" * 1000)
        assert isinstance(other.exception(DEADLINE), Busy)


def test_error_about_a_line_is_the_longest_ones(client: Client, daemon: FakeDaemon) -> None:
    """The others on the connection had no part in it."""
    others: list[Peer] = []
    daemon.on("run.cancel", lambda peer, id, params: others.append(peer))

    def refuse(peer: Peer, id: int, params: dict[str, Any]) -> None:
        peer.refuse(None, PayloadRefused("the line is too long", path="$"))
        peer.hang_up()

    daemon.on("run.start", refuse)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(client.call, "run.cancel", {"run": "r"})
        daemon.wait(lambda: len(daemon.seen) == 1)
        with pytest.raises(PayloadRefused, match="too long"):
            client.start("j", "x" * 1000)
        assert isinstance(other.exception(DEADLINE), DaemonUnavailable)


# --- Endings -------------------------------------------------------------------------------


def test_request_times_out_with_the_clients_timeout(project: Project, daemon: FakeDaemon) -> None:
    """And says that it may happen all the same; nothing is left behind for its reply."""
    daemon.on("run.start", silence)
    with Client(project, timeout=0.01) as client:
        with pytest.raises(TimeoutError, match="may happen"):
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
