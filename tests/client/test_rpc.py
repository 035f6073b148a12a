"""The blocking connection: frames, errors, limits, and every way in which a daemon can be gone."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client.fake_daemon import DEADLINE, FakeDaemon, Peer, hang_up, silence
from stackshift_jobs import discovery, rpc, strict
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
from stackshift_jobs.project import Project
from stackshift_jobs.rpc import Connection


@pytest.fixture
def connection(daemon: FakeDaemon) -> Iterator[Connection]:
    with Connection.open(daemon.data_dir) as opened:
        yield opened


def reason(raised: pytest.ExceptionInfo[DaemonUnavailable]) -> Any:
    return raised.value.fields["reason"]


# --- The way in ----------------------------------------------------------------------------


def test_no_daemon_says_how_to_start_one(project: Project) -> None:
    """No `daemon.json`: exit status 3, and the hint `stackshift daemon start`."""
    with pytest.raises(DaemonUnavailable) as raised:
        Connection.open(project.data_dir)
    assert reason(raised) == rpc.NOT_RUNNING
    assert raised.value.hint == "stackshift daemon start"
    assert raised.value.exit_status == 3


def test_stale_daemon_file_is_told_by_a_socket_that_is_dead(daemon: FakeDaemon) -> None:
    """A daemon that was killed leaves both behind; they count as no daemon."""
    path = discovery.socket_path(daemon.data_dir)
    daemon.stop(clean=False)
    for _ in ("no socket", "a socket that nobody listens at"):
        with pytest.raises(DaemonUnavailable, match="is gone") as raised:
            Connection.open(daemon.data_dir)
        assert reason(raised) == rpc.STALE
        assert raised.value.hint == "stackshift daemon start"
        with socket.socket(socket.AF_UNIX) as left:
            path.unlink(missing_ok=True)
            left.bind(str(path))


def test_daemon_of_another_protocol_is_not_spoken_to(daemon: FakeDaemon) -> None:
    """The hint is `stackshift daemon restart`, and nothing is sent to it."""
    daemon.stop()
    daemon.protocol += 1
    daemon.start()
    with pytest.raises(DaemonUnavailable, match="speaks protocol") as raised:
        Connection.open(daemon.data_dir)
    assert reason(raised) == rpc.OTHER_PROTOCOL
    assert raised.value.hint == "stackshift daemon restart"
    assert daemon.seen == []


def test_dead_daemon_of_another_protocol_is_just_dead(daemon: FakeDaemon) -> None:
    """Restarting what does not run would be the wrong advice."""
    daemon.stop()
    daemon.protocol += 1
    daemon.start()
    daemon.stop(clean=False)
    with pytest.raises(DaemonUnavailable) as raised:
        Connection.open(daemon.data_dir)
    assert reason(raised) == rpc.STALE


def test_daemon_of_another_user_is_not_spoken_to(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who listens is asked of the kernel."""
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    with pytest.raises(DaemonUnavailable, match=f"served by user {uid}") as raised:
        Connection.open(daemon.data_dir)
    assert reason(raised) == rpc.OTHER_USER
    assert daemon.seen == []


def test_daemon_that_accepts_nobody_is_given_up(project: Project) -> None:
    """A full queue of connections is waited for, as long as `connect_timeout` says."""
    project.data_dir.mkdir(mode=0o700)
    path = discovery.socket_path(project.data_dir)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        info = discovery.DaemonInfo(1, str(path), "1", 1, "now")
        discovery.write_daemon(project.data_dir, info)
        held = [Connection.open(project.data_dir)]
        with pytest.raises(DaemonUnavailable) as raised:
            for _ in range(8):
                held.append(Connection.open(project.data_dir, connect_timeout=0.05))
        for one in held:
            one.close()
    assert reason(raised) in (rpc.NO_ANSWER, rpc.STALE)  # Linux waits; macOS refuses at once


def test_long_data_directory_is_reached_by_its_short_one(tmp_path: Path) -> None:
    """And only as long as that is private: the client checks it too."""
    data_dir = tmp_path.resolve() / ("long" * 30) / ".stackshift"
    data_dir.parent.mkdir()
    fake = FakeDaemon(data_dir).start()
    private = discovery.socket_path(data_dir).parent
    try:
        assert private != data_dir
        with Connection.open(data_dir) as opened:
            assert opened.call("echo", {"a": 1}) == {"a": 1}
        private.chmod(0o777)
        with pytest.raises(BadConfiguration, match="mode is 0777"):
            Connection.open(data_dir)
    finally:
        fake.stop()


# --- Frames --------------------------------------------------------------------------------

PLAIN: list[Any] = [
    None, True, 0, -1, 2**80, 1.5, 1e300, "", "ü\n\x1b\u202e", "\U0001f600", [], {}, [[{"a": [1]}]],
    {"a": {"b": [None, "x", 2.0]}}, (1, 2), {1: "a", None: "b", False: "c"},
]  # fmt: skip


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_value_is_written_as_strict_writes_it(value: Any) -> None:
    """The quick way and the checked one give the same bytes."""
    assert rpc.encode_value(value, "payload") == strict.dumps(value)


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        float("nan"), float("inf"), -float("inf"), b"x", {1, 2}, object(), "\ud800", {"\udfff": 1},
        {1.5: 1}, nested(64), 10**5000,
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: {"a": [0, v]}], ids=["bare", "inside"])
def test_value_that_json_cannot_hold_is_refused_before_it_is_sent(wrap: Any, value: Any) -> None:
    """With the parameter that it is in; nothing depends on the daemon to notice."""
    with pytest.raises(PayloadRefused, match=r"^payload: "):
        rpc.encode_params({"job": "j", "payload": wrap(value)})


def test_refusal_names_the_path_within_the_parameter() -> None:
    """As the daemon does, and with the item where there are many."""
    with pytest.raises(PayloadRefused) as refused:
        rpc.encode_params({"payload": {"sizes": [1, float("nan")]}})
    assert refused.value.path == "$.sizes[1]"
    assert refused.value.message.startswith("payload: at $.sizes[1]: ")
    with pytest.raises(PayloadRefused) as refused:
        rpc.encode_params({"runs": [{"job": "a"}, {"job": "b", "payload": {"x": b""}}]})
    assert refused.value.path == "$.x"
    assert refused.value.fields["parameter"] == "runs[1].payload"


def test_request_is_one_line_of_ascii() -> None:
    """Whatever is in it."""
    line = rpc.encode_request(7, "run.start", rpc.encode_params({"payload": "ü\n\r"}))
    assert line.isascii()
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert json.loads(line) == {
        "jsonrpc": "2.0", "id": 7, "method": "run.start", "params": {"payload": "ü\n\r"},
    }  # fmt: skip


def test_value_over_sixteen_mebibytes_is_refused() -> None:
    """No project can allow more, so the daemon need not be asked."""
    with pytest.raises(PayloadRefused, match="the limit is 16777216"):
        rpc.encode_params({"payload": "x" * rpc.MAX_PAYLOAD})


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 100])
def test_lines_are_put_together_from_any_pieces(cut: int) -> None:
    """Wherever the stream was cut."""
    stream = b'{"a":1}\n\n{"b":22}\n{"c":333}\nrest'
    lines = rpc.Lines()
    got = [line for i in range(0, len(stream), cut) for line in lines.feed(stream[i : i + cut])]
    assert got == [b'{"a":1}', b"", b'{"b":22}', b'{"c":333}']


@pytest.mark.parametrize("pieces", [[b"x" * 11], [b"x" * 6, b"x" * 6], [b"x" * 11 + b"\n"]])
def test_line_without_end_is_not_gathered(pieces: list[bytes]) -> None:
    """Memory is bounded by the limit, ended or not."""
    lines = rpc.Lines(limit=10)
    assert lines.feed(b"y" * 10 + b"\n") == [b"y" * 10]
    with pytest.raises(DaemonUnavailable, match="over 10 bytes"):
        for piece in pieces:
            lines.feed(piece)


# --- Calls ---------------------------------------------------------------------------------


def test_call_returns_the_result(connection: Connection, daemon: FakeDaemon) -> None:
    """And the daemon saw what was meant, once."""
    assert connection.call("echo", {"a": [1, "ü"]}) == {"a": [1, "ü"]}
    assert connection.call("echo") == {}
    assert daemon.seen == [("echo", {"a": [1, "ü"]}), ("echo", {})]


@pytest.mark.parametrize(
    "error",
    [
        Usage("no such field", hint="look"), NotFound("no run"), Busy("later"), DiskFull("full"),
        Conflict("owned", owner="run_1", difference=["$.a: 1 → 2"]),
        PayloadRefused("at $.x: no", path="$.x"),
        BadConfiguration("no module", failed_modules=["jobs.a"]), StackshiftError("our bug"),
    ],
    ids=lambda error: error.code,
)  # fmt: skip
def test_error_arrives_as_its_class(
    connection: Connection, daemon: FakeDaemon, error: StackshiftError
) -> None:
    """With its hint and its fields; the connection goes on."""
    daemon.on("fail", lambda peer, id, params: peer.refuse(id, error))
    with pytest.raises(StackshiftError) as raised:
        connection.call("fail")
    assert type(raised.value) is type(error)
    assert raised.value.as_json() == error.as_json()
    assert connection.call("echo", {"still": "here"}) == {"still": "here"}


def test_error_without_data_is_still_an_error(connection: Connection, daemon: FakeDaemon) -> None:
    """Its message is kept."""
    error = {"code": -32601, "message": "unknown method"}
    daemon.on("fail", lambda peer, id, params: peer.send({"id": id, "error": error}))
    with pytest.raises(StackshiftError, match="unknown method"):
        connection.call("fail")


def test_call_gives_up_in_time_and_drops_the_late_reply(
    connection: Connection, daemon: FakeDaemon
) -> None:
    """The late reply is not taken for the answer to the next call."""
    late: list[tuple[Peer, int]] = []
    daemon.on("slow", lambda peer, id, params: late.append((peer, id)))
    with pytest.raises(TimeoutError, match="slow"):
        connection.call("slow", timeout=0.01)
    daemon.wait(lambda: len(daemon.seen) == 1)

    def answer_both(peer: Peer, id: int, params: dict[str, Any]) -> None:
        late[0][0].answer(late[0][1], "late")
        peer.answer(id, "mine")

    daemon.on("next", answer_both)
    assert connection.call("next") == "mine"


def test_replies_come_in_any_order(connection: Connection, daemon: FakeDaemon) -> None:
    """Each keeps the id of its request; a call among them takes its own."""
    held: list[tuple[Peer, int]] = []

    def hold(peer: Peer, id: int, params: dict[str, Any]) -> None:
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


def test_sending_ahead_without_end_does_not_lock_up(
    connection: Connection, daemon: FakeDaemon
) -> None:
    """Both ends' buffers fill up many times over: replies are taken in while requests go out."""
    text = "x" * 4000
    ids = [connection.send("echo", {"n": n, "text": text}) for n in range(1500)]
    replies = [connection.receive(timeout=DEADLINE) for _ in ids]
    assert [reply.id for reply in replies] == ids
    assert replies[-1].value() == {"n": 1499, "text": text}


def test_large_reply_that_is_due_does_not_block_a_large_request(
    connection: Connection, daemon: FakeDaemon
) -> None:
    """The daemon, busy writing, reads again once its reply is taken in."""
    text = "x" * 2_000_000
    first = connection.send("echo", {"text": text})
    daemon.wait(lambda: len(daemon.seen) == 1)
    assert connection.call("echo", {"n": 2, "text": text}, timeout=DEADLINE)["n"] == 2
    assert connection.receive().id == first


def test_sender_takes_in_replies_though_nothing_blocks_it(
    connection: Connection, daemon: FakeDaemon
) -> None:
    """The daemon would cut off a client that leaves its replies lying there."""
    answered = threading.Semaphore(0)

    def small(peer: Peer, id: int, params: dict[str, Any]) -> None:
        peer.answer(id, None)
        answered.release()

    daemon.on("small", small)
    for _ in range(rpc._READ_WHILE_SENDING):
        connection.send("small")
        assert answered.acquire(timeout=DEADLINE)
    assert connection._replies == {}
    connection.send("small")
    assert len(connection._replies) == rpc._READ_WHILE_SENDING


def test_long_line_passes_both_ways(connection: Connection) -> None:
    """A payload at the limit, in pieces that no buffer holds at once."""
    text = "x" * (rpc.MAX_PAYLOAD - 2)
    assert connection.call("echo", {"payload": text}, timeout=DEADLINE) == {"payload": text}


def test_oversized_reply_ends_the_connection(connection: Connection, daemon: FakeDaemon) -> None:
    """Before it is in memory; what follows cannot be told apart from it."""

    def flood(peer: Peer, id: int, params: dict[str, Any]) -> None:
        piece = b"x" * (1 << 20)
        for _ in range(20):
            peer.write(piece)

    daemon.on("flood", flood)
    with pytest.raises(DaemonUnavailable, match="a line of over"):
        connection.call("flood")
    with pytest.raises(DaemonUnavailable, match="a line of over"):
        connection.call("echo")
    assert daemon.methods() == ["flood"]


def test_peer_that_closes_within_a_reply_is_a_broken_connection(
    connection: Connection, daemon: FakeDaemon
) -> None:
    """Half a reply is no reply, even where it would parse."""

    def half(peer: Peer, id: int, params: dict[str, Any]) -> None:
        peer.write(b'{"jsonrpc":"2.0","id":%d,"result":1}' % id)
        peer.hang_up()

    daemon.on("half", half)
    with pytest.raises(DaemonUnavailable, match="closed the connection") as raised:
        connection.call("half")
    assert reason(raised) == rpc.BROKEN


def test_reply_sent_before_the_hang_up_still_counts(
    connection: Connection, daemon: FakeDaemon
) -> None:
    """`daemon.stop` is answered and then the daemon is gone."""

    def last(peer: Peer, id: int, params: dict[str, Any]) -> None:
        peer.answer(id, {"pid": 1})
        peer.hang_up()

    daemon.on("daemon.stop", last)
    assert connection.call("daemon.stop") == {"pid": 1}
    with pytest.raises(DaemonUnavailable):
        connection.call("echo")


@pytest.mark.parametrize(
    "line",
    [b"nonsense", b"[]", b"3", b"{}", b'{"id":"a","result":1}', b'{"id":99,"result":1}', b"\xff",
     b'{"id":1,"error":"text"}', b'{"method":"m","params":3}', b'{"id":1.5,"result":1}'],
)  # fmt: skip
def test_what_is_no_message_ends_the_connection(
    connection: Connection, daemon: FakeDaemon, line: bytes
) -> None:
    """Never an error of ours, never a guess."""
    daemon.on("m", lambda peer, id, params: peer.write(line + b"\n"))
    with pytest.raises(DaemonUnavailable):
        connection.call("m", timeout=DEADLINE)


def test_one_connection_too_many_is_told_busy(daemon: FakeDaemon) -> None:
    """What the daemon says before it hangs up is what the caller hears."""

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
    """The daemon says so and hangs up while the line is still being sent."""

    def refuse(peer: Peer) -> None:
        peer.sock.recv(1000)
        peer.refuse(None, PayloadRefused("a line of over 1114112 bytes", path="$"))
        peer.hang_up()

    daemon.greet = refuse
    with Connection.open(daemon.data_dir) as opened, pytest.raises(PayloadRefused, match="1114112"):
        opened.call("echo", {"payload": "x" * 8_000_000}, timeout=DEADLINE)


def test_daemon_that_takes_nothing_is_given_up(connection: Connection, daemon: FakeDaemon) -> None:
    """A deadline holds while sending too; part of a line is out, so the connection ends."""
    gate = threading.Event()
    daemon.on("block", lambda peer, id, params: (gate.wait(DEADLINE), None)[1])
    connection.send("block")
    try:
        with pytest.raises(TimeoutError):
            connection.call("echo", {"payload": "x" * 8_000_000}, timeout=0.05)
        with pytest.raises(DaemonUnavailable):
            connection.call("echo")
    finally:
        gate.set()


def test_closed_connection_says_so(connection: Connection) -> None:
    """Twice closed is closed."""
    connection.close()
    connection.close()
    with pytest.raises(DaemonUnavailable, match="was closed"):
        connection.call("echo")


def test_same_end_is_raised_as_a_new_error_each_time(
    connection: Connection, daemon: FakeDaemon
) -> None:
    """An error that is raised twice would gather the tracebacks of both."""
    daemon.on("x", hang_up)
    raised = []
    for _ in range(2):
        with pytest.raises(DaemonUnavailable) as one:
            connection.call("x")
        raised.append(one.value)
    assert raised[0] is not raised[1]
    assert raised[0].as_json() == raised[1].as_json()


# --- Feeds ---------------------------------------------------------------------------------


def record(n: int) -> dict[str, Any]:
    return {"method": "feed.record", "params": {"feed": 1, "record": {"seq": n}}}


def test_feed_and_calls_share_a_connection(connection: Connection, daemon: FakeDaemon) -> None:
    """Records that come before, between and after replies are all seen, once, in order."""

    def feed(peer: Peer, id: int, params: dict[str, Any]) -> None:
        peer.send(record(1))
        peer.answer(id, {"feed": 1, "next_seq": 1})
        peer.send(record(2))

    def between(peer: Peer, id: int, params: dict[str, Any]) -> None:
        peer.send(record(3))
        peer.answer(id, "reply")
        peer.send({"method": "feed.end", "params": {"feed": 1, "run": {}}})

    daemon.on("feed.open", feed)
    daemon.on("between", between)
    assert connection.call("feed.open") == {"feed": 1, "next_seq": 1}
    notes = connection.notifications(timeout=DEADLINE)
    seen = [next(notes)]
    assert connection.call("between") == "reply"
    seen += [next(notes) for _ in range(3)]
    assert [method for method, _ in seen] == ["feed.record"] * 3 + ["feed.end"]
    assert [p["record"]["seq"] for m, p in seen if m == "feed.record"] == [1, 2, 3]
    with pytest.raises(TimeoutError):
        next(connection.notifications(timeout=0.01))


def test_records_that_came_before_the_end_are_still_given(
    connection: Connection, daemon: FakeDaemon
) -> None:
    """A follower resumes after the last record it was given, so none may be lost on the way."""

    def feed(peer: Peer, id: int, params: dict[str, Any]) -> None:
        peer.answer(id, {})
        for n in range(3):
            peer.send(record(n))
        peer.hang_up()

    daemon.on("feed.open", feed)
    connection.call("feed.open")
    seen = []
    with pytest.raises(DaemonUnavailable):
        for _, params in connection.notifications(timeout=DEADLINE):
            seen.append(params["record"]["seq"])
    assert seen == [0, 1, 2]


def test_records_that_nobody_reads_do_not_fill_the_memory(
    connection: Connection, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that waits while a feed runs holds a bounded number of records."""
    monkeypatch.setattr(rpc, "_MAX_HELD", 10_000)

    def flood(peer: Peer, id: int, params: dict[str, Any]) -> None:
        for n in range(1000):
            peer.send(record(n))

    daemon.on("flood", flood)
    daemon.on("never", silence)
    with pytest.raises(DaemonUnavailable, match="wait to be read"):
        connection.call("flood", timeout=DEADLINE)
