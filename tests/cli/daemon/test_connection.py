"""The blocking connection: each reply reaches its request, and a connection in doubt is closed."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from sdk.fake_daemon import DEADLINE, FakeDaemon, Peer, hang_up
from stackshift_cli.daemon import connection as connection_module
from stackshift_cli.daemon.connection import Connection
from stackshift_jobs.errors import (
    BadConfiguration,
    Busy,
    Conflict,
    DaemonUnavailable,
    DiskFull,
    NotFound,
    PayloadRefused,
    StackshiftError,
    Usage,
)
from stackshift_jobs.values.limits import MAX_PAYLOAD_BYTES
from stackshift_jobs.wire import jsonrpc, unavailable


def test_call_returns_the_result(connection: Connection, daemon: FakeDaemon) -> None:
    """The daemon has seen the request once."""
    assert connection.call("echo", {"a": [1, "ü"]}) == {"a": [1, "ü"]}
    assert connection.call("echo") == {}
    assert daemon.seen == [("echo", {"a": [1, "ü"]}), ("echo", {})]


@pytest.mark.parametrize(
    "error",
    [
        Usage("no such field", hint="look"),
        NotFound("no run"),
        Busy("later"),
        DiskFull("full"),
        Conflict("owned", owner="run_1", difference=["$.a: 1 → 2"]),
        PayloadRefused("at $.x: no", path="$.x"),
        BadConfiguration("no module", failed_modules=["jobs.a"]),
        StackshiftError("our bug"),
    ],
    ids=lambda error: error.code,
)
def test_error_arrives_as_its_class(
    connection: Connection, daemon: FakeDaemon, error: StackshiftError
) -> None:
    """It has its hint and its fields, and the connection stays usable."""
    daemon.on("fail", lambda peer, id, _params: peer.refuse(id, error))
    with pytest.raises(StackshiftError) as raised:
        connection.call("fail")
    assert type(raised.value) is type(error)
    assert raised.value.as_json() == error.as_json()
    assert connection.call("echo", {"still": "here"}) == {"still": "here"}


def test_error_without_data_is_still_an_error(connection: Connection, daemon: FakeDaemon) -> None:
    """Its message is kept."""
    error = {"code": -32601, "message": "unknown method"}
    daemon.on("fail", lambda peer, id, _params: peer.send({"id": id, "error": error}))
    with pytest.raises(StackshiftError, match="unknown method"):
        connection.call("fail")


def test_call_gives_up_in_time_and_drops_the_late_reply(
    connection: Connection, daemon: FakeDaemon
) -> None:
    """The late reply is not taken for the reply to the next call."""
    late: list[tuple[Peer, int]] = []
    daemon.on("slow", lambda peer, id, _params: late.append((peer, id)))
    with pytest.raises(TimeoutError, match="slow"):
        connection.call("slow", timeout=0.01)
    daemon.wait(lambda: len(daemon.seen) == 1)

    def answer_both(peer: Peer, id: int, _params: dict[str, Any]) -> None:
        late[0][0].answer(late[0][1], "late")
        peer.answer(id, "mine")

    daemon.on("next", answer_both)
    assert connection.call("next") == "mine"


def test_silence_is_told_once_and_ends_nothing(connection: Connection, daemon: FakeDaemon) -> None:
    """After its time, before that of the deadline; an answer that comes in time tells nothing."""
    due: list[tuple[Peer, int]] = []
    daemon.on("slow", lambda peer, id, _params: due.append((peer, id)))
    told: list[str] = []

    def answer() -> None:
        told.append("silent")
        daemon.wait(lambda: bool(due))
        due[0][0].answer(due[0][1], "late")

    assert connection.call("slow", timeout=DEADLINE, on_silence=(0.0, answer)) == "late"
    assert told == ["silent"]
    with pytest.raises(TimeoutError):
        connection.call("slow", timeout=0.01, on_silence=(0.0, lambda: told.append("again")))
    assert told == ["silent", "again"]
    assert connection.call("echo", {"a": 1}, DEADLINE, (DEADLINE, answer)) == {"a": 1}
    assert told == ["silent", "again"]


def test_replies_come_in_any_order(connection: Connection, daemon: FakeDaemon) -> None:
    """Each has the id of its request; a call in between gets its own."""
    held: list[tuple[Peer, int]] = []

    def hold(peer: Peer, id: int, _params: dict[str, Any]) -> None:
        held.append((peer, id))
        if len(held) == 3:
            for held_peer, held_id in reversed(held):
                held_peer.answer(held_id, held_id * 10)

    daemon.on("hold", hold)
    ids = [connection.send("hold") for _ in range(3)]
    assert connection.call("echo", {"a": 1}) == {"a": 1}
    replies = [connection.receive(timeout=DEADLINE) for _ in ids]
    assert [reply.id for reply in replies] == ids[::-1]
    assert [reply.value() for reply in replies] == [id * 10 for id in ids[::-1]]
    with pytest.raises(Usage, match="no reply is due"):
        connection.receive()


def test_sending_ahead_without_end_does_not_lock_up(connection: Connection) -> None:
    """The buffers of both ends fill up many times over: replies are read while requests are
    sent."""
    text = "x" * 4000
    ids = [connection.send("echo", {"n": n, "text": text}) for n in range(1500)]
    replies = [connection.receive(timeout=DEADLINE) for _ in ids]
    assert [reply.id for reply in replies] == ids
    assert replies[-1].value() == {"n": 1499, "text": text}


def test_large_reply_that_is_due_does_not_block_a_large_request(
    connection: Connection, daemon: FakeDaemon
) -> None:
    """The daemon, busy writing, reads again once its reply is read."""
    text = "x" * 2_000_000
    first = connection.send("echo", {"text": text})
    daemon.wait(lambda: len(daemon.seen) == 1)
    assert connection.call("echo", {"n": 2, "text": text}, timeout=DEADLINE)["n"] == 2
    assert connection.receive().id == first


def test_sender_takes_in_replies_though_nothing_blocks_it(
    connection: Connection, daemon: FakeDaemon
) -> None:
    """The daemon would cut off a client that does not read its replies."""
    answered = threading.Semaphore(0)

    def small(peer: Peer, id: int, _params: dict[str, Any]) -> None:
        peer.answer(id, None)
        answered.release()

    daemon.on("small", small)
    for _ in range(connection_module._READ_WHILE_SENDING):
        connection.send("small")
        assert answered.acquire(timeout=DEADLINE)
    assert connection._replies == {}
    connection.send("small")
    assert len(connection._replies) == connection_module._READ_WHILE_SENDING


def test_long_line_passes_both_ways(connection: Connection) -> None:
    """A payload at the limit, in pieces: no buffer holds it at once."""
    text = "x" * (MAX_PAYLOAD_BYTES - 2)
    assert connection.call("echo", {"payload": text}, timeout=DEADLINE) == {"payload": text}


def test_oversized_reply_ends_the_connection(connection: Connection, daemon: FakeDaemon) -> None:
    """It ends before the reply is in memory; what follows cannot be told apart from it."""

    def flood(peer: Peer, _id: int, _params: dict[str, Any]) -> None:
        piece = b"x" * (1 << 20)
        for _ in range(jsonrpc.MAX_REPLY // len(piece) + 1):
            peer.write(piece)

    daemon.on("flood", flood)
    with pytest.raises(DaemonUnavailable, match="a line of more than"):
        connection.call("flood")
    with pytest.raises(DaemonUnavailable, match="a line of more than"):
        connection.call("echo")
    assert daemon.methods() == ["flood"]


def test_peer_that_closes_within_a_reply_is_a_broken_connection(
    connection: Connection, daemon: FakeDaemon
) -> None:
    """Half a reply is not a reply, even if it can be parsed."""

    def half(peer: Peer, id: int, _params: dict[str, Any]) -> None:
        peer.write(b'{"jsonrpc":"2.0","id":%d,"result":1}' % id)
        peer.hang_up()

    daemon.on("half", half)
    with pytest.raises(DaemonUnavailable, match="closed the connection") as raised:
        connection.call("half")
    assert raised.value.fields["reason"] == unavailable.BROKEN


def test_reply_sent_before_the_hang_up_still_counts(
    connection: Connection, daemon: FakeDaemon
) -> None:
    """`daemon.stop` is answered, and then the daemon hangs up."""

    def last(peer: Peer, id: int, _params: dict[str, Any]) -> None:
        peer.answer(id, {"pid": 1})
        peer.hang_up()

    daemon.on("daemon.stop", last)
    assert connection.call("daemon.stop") == {"pid": 1}
    with pytest.raises(DaemonUnavailable):
        connection.call("echo")


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense",
        b"[]",
        b"3",
        b"{}",
        b'{"id":"a","result":1}',
        b'{"id":99,"result":1}',
        b"\xff",
        b'{"id":1,"error":"text"}',
        b'{"method":"m","params":3}',
        b'{"id":1.5,"result":1}',
    ],
)
def test_what_is_no_message_ends_the_connection(
    connection: Connection, daemon: FakeDaemon, line: bytes
) -> None:
    """It is not an internal error, and nothing is guessed."""
    daemon.on("m", lambda peer, _id, _params: peer.write(line + b"\n"))
    with pytest.raises(DaemonUnavailable):
        connection.call("m", timeout=DEADLINE)


def test_one_connection_too_many_is_told_busy(daemon: FakeDaemon) -> None:
    """The error that the daemon sends before it hangs up is raised."""

    hung_up = threading.Event()

    def full(peer: Peer) -> None:
        peer.refuse(None, Busy("256 connections are open", hint="close some"))
        peer.hang_up()
        hung_up.set()

    daemon.greet = full
    with Connection.open(daemon.data_dir) as opened:
        assert hung_up.wait(DEADLINE)
        with pytest.raises(Busy, match="256"):
            opened.call("echo", timeout=DEADLINE)


def test_line_too_long_for_this_daemon_is_its_callers_mistake(daemon: FakeDaemon) -> None:
    """The daemon sends an error and hangs up while the line is still being sent."""

    def refuse(peer: Peer) -> None:
        peer.sock.recv(1000)
        peer.refuse(None, PayloadRefused("a line of over 1114112 bytes", path="$"))
        peer.hang_up()

    daemon.greet = refuse
    with Connection.open(daemon.data_dir) as opened, pytest.raises(PayloadRefused, match="1114112"):
        opened.call("echo", {"payload": "x" * 8_000_000}, timeout=DEADLINE)


def test_daemon_that_takes_nothing_is_given_up(connection: Connection, daemon: FakeDaemon) -> None:
    """The deadline also holds while sending; part of a line was sent, so the connection ends."""
    gate = threading.Event()
    daemon.on("block", lambda _peer, _id, _params: (gate.wait(DEADLINE), None)[1])
    connection.send("block")
    try:
        with pytest.raises(TimeoutError):
            connection.call("echo", {"payload": "x" * 8_000_000}, timeout=0.05)
        with pytest.raises(DaemonUnavailable):
            connection.call("echo")
    finally:
        gate.set()


def test_closed_connection_says_so(connection: Connection) -> None:
    """It can be closed twice."""
    connection.close()
    connection.close()
    with pytest.raises(DaemonUnavailable, match="was closed"):
        connection.call("echo")


def test_same_end_is_raised_as_a_new_error_each_time(
    connection: Connection, daemon: FakeDaemon
) -> None:
    """An error that is raised twice would collect the tracebacks of both."""
    daemon.on("x", hang_up)
    raised = []
    for _ in range(2):
        with pytest.raises(DaemonUnavailable) as one:
            connection.call("x")
        raised.append(one.value)
    assert raised[0] is not raised[1]
    assert raised[0].as_json() == raised[1].as_json()
