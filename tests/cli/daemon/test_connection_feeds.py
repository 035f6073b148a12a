"""Feeds on a blocking connection: every record once, in order, and a bounded number held."""

from __future__ import annotations

from typing import Any

import pytest

from sdk.fake_daemon import DEADLINE, FakeDaemon, Peer, silence
from stackshift_cli.daemon import connection as connection_module
from stackshift_cli.daemon.connection import Connection
from stackshift_jobs.errors import DaemonUnavailable


def record(n: int) -> dict[str, Any]:
    """The notification with the record number `n` of feed 1."""
    return {"method": "feed.record", "params": {"feed": 1, "record": {"seq": n}}}


def test_feed_and_calls_share_a_connection(connection: Connection, daemon: FakeDaemon) -> None:
    """Records that come before, between and after replies are all seen, once, in order."""

    def feed(peer: Peer, id: int, _params: dict[str, Any]) -> None:
        peer.send(record(1))
        peer.answer(id, {"feed": 1, "next_seq": 1})
        peer.send(record(2))

    def between(peer: Peer, id: int, _params: dict[str, Any]) -> None:
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
    """A follower resumes after the last record that it was given, so none may be lost."""

    def feed(peer: Peer, id: int, _params: dict[str, Any]) -> None:
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
    """A call that waits while a feed is open holds a bounded number of records."""
    monkeypatch.setattr(connection_module, "_MAX_HELD", 10_000)

    def flood(peer: Peer, _id: int, _params: dict[str, Any]) -> None:
        for n in range(1000):
            peer.send(record(n))

    daemon.on("flood", flood)
    daemon.on("never", silence)
    with pytest.raises(DaemonUnavailable, match="bytes are unread"):
        connection.call("flood", timeout=DEADLINE)
