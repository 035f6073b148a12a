"""The client during restarts and after broken connections: nothing is done twice or mixed up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sdk.fake_daemon import DEADLINE, FakeDaemon, Peer, hang_up, silence
from stackshift_jobs.client.blocking import Client
from stackshift_jobs.errors import Busy, DaemonUnavailable, PayloadRefused
from stackshift_jobs.project.locate import Project
from stackshift_jobs.wire import retransmit


def once(then: Callable[[], None] | None = None) -> Callable[[Peer, int, dict[str, Any]], None]:
    """An answer that breaks the connection at the first request, after `then`, and is normal
    later."""
    asked: list[int] = []

    def answer(peer: Peer, id: int, _params: dict[str, Any]) -> None:
        asked.append(id)
        if len(asked) > 1:
            peer.answer(id, "again")
            return
        if then is not None:
            then()
        peer.hang_up()

    return answer


def test_client_connects_again_after_a_restart(client: Client, daemon: FakeDaemon) -> None:
    """Also for a start without a key, because it was not sent to the daemon that stopped."""
    client.start("j", 1)
    daemon.stop()
    daemon.start()
    assert client.start("j", 2).id == "run_2"
    assert [run["payload"] for run in daemon.started] == [1, 2]


@pytest.mark.parametrize("clean", [True, False])
def test_client_waits_for_a_daemon_that_restarts(
    client: Client, daemon: FakeDaemon, clean: bool
) -> None:
    """For a while after the connection was lost, a missing daemon counts as one that is
    starting."""
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
    """It gives up when its patience is over, and at once if it was never connected."""
    with Client(project, patience=0.0) as client:
        client.start("j")
        daemon.stop()
        with pytest.raises(DaemonUnavailable) as raised:
            client.start("j")
    assert raised.value.hint == "stackshift daemon start"
    assert len(daemon.started) == 1


@pytest.mark.parametrize("method", ["run.why", "dead.count", "schedule.list", "schedule.next"])
def test_read_is_sent_again_after_a_broken_connection(
    client: Client, daemon: FakeDaemon, method: str
) -> None:
    """A read that is sent twice does no harm."""
    daemon.on(method, once())
    assert client.call(method, {}) == "again"
    assert daemon.methods() == [method, method]


def test_start_with_a_key_is_sent_again_and_is_one_run(client: Client, daemon: FakeDaemon) -> None:
    """The first request had been carried out, and only its reply was lost."""

    def lose(peer: Peer, _id: int, params: dict[str, Any]) -> None:
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
    with pytest.raises(DaemonUnavailable, match="may have taken effect") as raised:
        client.start("j")
    assert raised.value.fields["may_have_happened"] is True
    assert daemon.methods() == ["run.start"]


def test_result_is_waited_for_across_a_restart(client: Client, daemon: FakeDaemon) -> None:
    """A wait counts as a read."""
    run = client.start("j")

    def lose(peer: Peer, _id: int, _params: dict[str, Any]) -> None:
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
    assert daemon.methods() == ["run.get"] * retransmit.MAX_LOSSES


def test_daemon_of_another_protocol_is_not_waited_for(client: Client, daemon: FakeDaemon) -> None:
    """After an upgrade, the old client cannot recover by waiting."""
    client.start("j")
    daemon.stop()
    daemon.protocol += 1
    daemon.start()
    with pytest.raises(DaemonUnavailable) as raised:
        client.start("j")
    assert raised.value.hint == "stackshift daemon restart"
    assert len(daemon.started) == 1


def test_request_that_was_not_sent_in_full_may_go_again(client: Client, daemon: FakeDaemon) -> None:
    """Without its last byte it is not a request, so even a start without a key happens only
    once."""
    client.call("echo", {})

    def cut(peer: Peer, _id: int, _params: dict[str, Any]) -> None:
        daemon.usual("cut")
        peer.sock.recv(1000)
        peer.hang_up()

    daemon.on("cut", cut)
    link = client._connect()
    link.send("cut", b"{}", None)
    assert client.start("j", "x" * 1_000_000).id == "run_1"
    assert len(daemon.started) == 1


def test_too_many_connections_raise_busy(client: Client, daemon: FakeDaemon) -> None:
    """Nothing was done, and the caller decides whether to try again."""

    def full(peer: Peer) -> None:
        daemon.greet = None
        peer.refuse(None, Busy("256 connections are open"))
        peer.hang_up()

    daemon.greet = full
    with pytest.raises(Busy):
        client.start("j")
    assert daemon.started == []
    assert client.start("j").id == "run_1"


def test_busy_is_raised_by_all_requests_in_flight(client: Client, daemon: FakeDaemon) -> None:
    """As an error about the connection, it means that no request on it was carried out."""

    def full(peer: Peer, _id: int, _params: dict[str, Any]) -> None:
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


def test_error_about_a_line_belongs_to_the_longest_one(client: Client, daemon: FakeDaemon) -> None:
    """The other requests on the connection are not to blame."""
    others: list[Peer] = []
    daemon.on("run.cancel", lambda peer, _id, _params: others.append(peer))

    def refuse(peer: Peer, _id: int, _params: dict[str, Any]) -> None:
        peer.refuse(None, PayloadRefused("the line is too long", path="$"))
        peer.hang_up()

    daemon.on("run.start", refuse)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(client.call, "run.cancel", {"run": "r"})
        daemon.wait(lambda: len(daemon.seen) == 1)
        with pytest.raises(PayloadRefused, match="too long"):
            client.start("j", "x" * 1000)
        assert isinstance(other.exception(DEADLINE), DaemonUnavailable)
