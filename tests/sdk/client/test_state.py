"""The client's state and events: what is sent, and what the replies become."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sdk.awaited import run
from sdk.fake_daemon import FakeDaemon, Peer, hang_up, silence
from stackshift_jobs.client.awaited import AsyncClient
from stackshift_jobs.client.blocking import Client
from stackshift_jobs.errors import Conflict, DaemonUnavailable, PayloadRefused, Usage
from stackshift_jobs.project.locate import Project
from stackshift_jobs.values.stored import Event, SentEvent, StateChange, StateEntry

NINE = datetime(2026, 5, 6, 9, tzinfo=UTC)


def entry(key: str = "k", value: Any = 1, version: int = 3) -> dict[str, Any]:
    """An entry as the daemon sends it."""
    made = {"key": key, "value": value, "version": version, "expires_at": None}
    return made | {"updated_at": "2026-05-06T09:00:00.000000Z", "updated_by": "client"}


def change(seq: int, version: int, kind: str = "set") -> dict[str, Any]:
    """A change as the daemon sends it."""
    times = dict.fromkeys(("at", "expires_at"), "2026-05-06T09:00:00.000000Z")
    return {"seq": seq, "kind": kind, "version": version, "value": seq, "by": "client", **times}


def sent(**more: Any) -> dict[str, Any]:
    """The reply to `event.send`."""
    made = {"id": "evt_1", "name": "paid", "correlation_key": "o:1"}
    return made | {"resumed": ["run_1"], "kept_until": None, "reused": False} | more


def answers(daemon: FakeDaemon, **results: Any) -> None:
    """Answer each method with this result; `state_get` means `state.get`."""
    for name, result in results.items():
        daemon.on(
            name.replace("_", ".", 1),
            lambda peer, id, _params, result=result: peer.answer(id, result),  # type: ignore[misc]
        )


def test_calls_of_state_ask_and_answer(client: Client, daemon: FakeDaemon) -> None:
    """Each call sends the params of its method, and none that were not given."""
    answers(
        daemon,
        state_get=entry(value=None),
        state_set=entry(version=4),
        state_delete={"key": "k", "deleted": True, "version": 5},
        state_increment=entry(value=2**70),
    )
    assert client.state.get("k", default="absent") is None
    assert client.state.entry("k") == StateEntry("k", None, 3, None, NINE, "client")
    assert client.state.set("k", {"a": [1]}, ttl="1h") == 4
    assert client.state.set("k", 1, expires_at=NINE, if_version=0) == 4
    assert client.state.set("k", 1, if_absent=True) == 4
    assert client.state.delete("k") is True
    assert client.state.delete("k", if_version=4) is True
    assert client.state.increment("k") == 2**70
    assert client.state.increment("k", by=-2.5, ttl=timedelta(seconds=1)) == 2**70
    assert daemon.seen == [
        ("state.get", {"key": "k"}),
        ("state.get", {"key": "k"}),
        ("state.set", {"key": "k", "value": {"a": [1]}, "ttl_ms": 3_600_000}),
        (
            "state.set",
            {"key": "k", "value": 1, "expires_at": "2026-05-06T09:00:00.000000Z", "if_version": 0},
        ),
        ("state.set", {"key": "k", "value": 1, "if_absent": True}),
        ("state.delete", {"key": "k"}),
        ("state.delete", {"key": "k", "if_version": 4}),
        ("state.increment", {"key": "k", "by": 1}),
        ("state.increment", {"key": "k", "by": -2.5, "ttl_ms": 1000}),
    ]


def test_absent_entry_is_the_default(client: Client, daemon: FakeDaemon) -> None:
    """`get` returns the default, and `entry` returns None."""
    answers(daemon, state_get=None)
    assert client.state.get("k") is None
    assert client.state.get("k", 0) == 0
    assert client.state.entry("k") is None


def test_wait_for_an_entry_is_one_request(client: Client, daemon: FakeDaemon) -> None:
    """The daemon answers when there is one, or with null when the time is over."""
    answers(daemon, state_wait=entry())
    assert client.state.get("k", wait="1m") == 1
    waited = client.state.entry("k", wait=0.5)
    assert waited is not None
    assert waited.version == 3
    answers(daemon, state_wait=None)
    assert client.state.get("k", "none", wait=timedelta(hours=1)) == "none"
    assert client.state.entry("k", wait="1s") is None
    assert [params["wait_ms"] for _, params in daemon.seen] == [60_000, 500, 3_600_000, 1000]
    assert set(daemon.methods()) == {"state.wait"}


def test_wait_that_the_daemon_does_not_end_is_ended_by_the_client(
    client: Client, daemon: FakeDaemon
) -> None:
    """Its daemon may have restarted, and counts from then on. What there is then is the answer."""
    daemon.on("state.wait", silence)
    answers(daemon, state_get=entry())
    assert client.state.get("k", wait="10ms") == 1
    answers(daemon, state_get=None)
    assert client.state.get("k", "none", wait=0) == "none"


def test_wait_goes_on_after_a_lost_connection(client: Client, daemon: FakeDaemon) -> None:
    """It is asked for again."""
    lost: list[int] = []

    def first_lost(peer: Peer, id: int, _params: dict[str, Any]) -> None:
        lost.append(id)
        peer.hang_up() if len(lost) == 1 else peer.answer(id, entry())

    daemon.on("state.wait", first_lost)
    assert client.state.get("k", wait="1m") == 1
    assert daemon.methods() == ["state.wait", "state.wait"]


def test_awaited_wait_is_the_same(project: Project, daemon: FakeDaemon) -> None:
    """Answered by the daemon, and ended by the client."""

    async def ask(client: AsyncClient) -> None:
        answers(daemon, state_wait=entry(), state_get=entry(value=2))
        assert await client.state.get("k", wait="1m") == 1
        daemon.on("state.wait", silence)
        waited = await client.state.entry("k", wait="10ms")
        assert waited is not None
        assert waited.value == 2

    run(project, ask)


def test_list_asks_for_page_after_page(client: Client, daemon: FakeDaemon) -> None:
    """Each page begins after the last key of the one before."""

    def page(peer: Peer, id: int, params: dict[str, Any]) -> None:
        if "after" not in params:
            peer.answer(id, {"entries": [entry("c:1"), entry("c:2")], "next": "c:2"})
        else:
            peer.answer(id, {"entries": [entry("c:3")], "next": None})

    daemon.on("state.list", page)
    assert [each.key for each in client.state.list("c:")] == ["c:1", "c:2", "c:3"]
    assert daemon.seen == [
        ("state.list", {"prefix": "c:", "limit": 1000}),
        ("state.list", {"prefix": "c:", "limit": 1000, "after": "c:2"}),
    ]


def test_history_spans_pages_without_gap_or_repetition(client: Client, daemon: FakeDaemon) -> None:
    """Also if a page ends between an expiry and the write whose version it has."""
    every = [
        change(seq, (seq + 1) // 2, "set" if seq % 2 else "expired") for seq in range(3000, 0, -1)
    ]

    def page(peer: Peer, id: int, params: dict[str, Any]) -> None:
        before = params.get("before_seq", 2**63)
        found = [each for each in every if each["seq"] < before]
        told = found[: params["limit"]]
        following = told[-1]["seq"] if len(told) < len(found) else None
        peer.answer(id, {"history": told, "next": following})

    daemon.on("state.history", page)
    assert [each.seq for each in client.state.history("k", limit=2501)] == [*range(3000, 499, -1)]
    assert [each.seq for each in client.state.history("k", limit=9999)] == [*range(3000, 0, -1)]
    assert client.state.history("k", limit=1) == [
        StateChange(3000, NINE, "expired", 1500, 3000, NINE, "client")
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda client: client.state.get(""),
        lambda client: client.state.get("a\nb"),
        lambda client: client.state.get("", wait="1s"),
        lambda client: client.state.get("k", wait="soon"),
        lambda client: client.state.entry("k", wait=-1),
        lambda client: client.state.set("k", 1, ttl="1s", expires_at=NINE),
        lambda client: client.state.set("k", 1, if_version=1, if_absent=True),
        lambda client: client.state.set("k", 1, if_version=-1),
        lambda client: client.state.delete("k", if_version=True),
        lambda client: client.state.increment("k", by=float("inf")),
        lambda client: client.state.increment("k", by="1"),
        lambda client: client.state.history("k", limit=0),
        lambda client: client.state.list("a" * 513),
        lambda client: client.state.lock("k", ttl=0),
        lambda client: client.state.lock("", ttl=1),
        lambda client: client.events.send(""),
        lambda client: client.events.send("e", correlation_key=""),
        lambda client: client.events.send("e", idempotency_ttl="1d"),
        lambda client: client.events.send("e", ttl="-1s"),
    ],
)
def test_invalid_request_is_never_sent(client: Client, daemon: FakeDaemon, wrong: Any) -> None:
    """A mistake in a call is an error of that call."""
    with pytest.raises(Usage):
        wrong(client)
    assert daemon.seen == []


def test_value_that_json_cannot_hold_is_refused(client: Client, daemon: FakeDaemon) -> None:
    """The error has the path of the value."""
    with pytest.raises(PayloadRefused) as refused:
        client.state.set("k", {"a": {1, 2}})
    assert refused.value.path == "$.a"
    assert daemon.seen == []


def test_condition_that_is_not_met_is_a_conflict(client: Client, daemon: FakeDaemon) -> None:
    """The error has the version of the entry."""
    conflict = Conflict("k has version 7", version=7)
    daemon.on("state.set", lambda peer, id, _params: peer.refuse(id, conflict))
    with pytest.raises(Conflict) as raised:
        client.state.set("k", 1, if_version=3)
    assert raised.value.fields["version"] == 7


def test_reads_are_repeated_after_a_lost_connection_and_writes_are_not(
    client: Client, daemon: FakeDaemon
) -> None:
    """The error of a write that may have happened says so."""
    lost: list[int] = []

    def first_lost(peer: Peer, id: int, _params: dict[str, Any]) -> None:
        lost.append(id)
        peer.hang_up() if len(lost) == 1 else peer.answer(id, entry())

    daemon.on("state.get", first_lost)
    assert client.state.get("k") == 1
    daemon.on("state.increment", hang_up)
    with pytest.raises(DaemonUnavailable) as uncertain:
        client.state.increment("k")
    assert uncertain.value.fields["may_have_happened"]
    assert "state history" in uncertain.value.hint
    assert daemon.methods() == ["state.get", "state.get", "state.increment"]


def test_send_says_what_the_event_did(client: Client, daemon: FakeDaemon) -> None:
    """The result has the runs it resumed, until when it is kept, and whether it was sent before."""
    answers(daemon, event_send=sent())
    assert client.events.send("paid", {"a": 1}, correlation_key="o:1") == SentEvent(
        "evt_1", "paid", "o:1", ["run_1"], None, False
    )
    answers(
        daemon,
        event_send=sent(resumed=[], kept_until="2026-05-06T09:00:00.000000Z", reused=True),
    )
    again = client.events.send("paid", idempotency_key="x", idempotency_ttl="1d", ttl=0)
    assert (again.resumed, again.kept_until, again.reused) == ([], NINE, True)
    assert daemon.seen == [
        ("event.send", {"name": "paid", "payload": {"a": 1}, "correlation_key": "o:1"}),
        (
            "event.send",
            {"name": "paid", "idempotency_key": "x", "idempotency_ttl_ms": 86_400_000, "ttl_ms": 0},
        ),
    ]


def test_send_with_a_key_is_repeated_after_a_lost_connection(
    client: Client, daemon: FakeDaemon
) -> None:
    """With a key it is the same event; without one, the error says that it may have been sent."""
    lost: list[int] = []

    def first_lost(peer: Peer, id: int, _params: dict[str, Any]) -> None:
        lost.append(id)
        peer.hang_up() if len(lost) == 1 else peer.answer(id, sent(reused=True))

    daemon.on("event.send", first_lost)
    assert client.events.send("paid", idempotency_key="x").reused
    daemon.on("event.send", hang_up)
    with pytest.raises(DaemonUnavailable) as uncertain:
        client.events.send("paid")
    assert uncertain.value.fields["may_have_happened"]


def test_event_that_timed_out_is_falsy() -> None:
    """`if event:` asks whether it came."""
    assert Event("paid", None, "o:1", "evt_1", NINE)
    assert not Event("paid", timed_out=True)


def test_value_is_given_back_as_a_type(
    project: Project, client: Client, daemon: FakeDaemon
) -> None:
    """Blocking and awaited; a value that does not fit is refused with its place."""
    answers(daemon, state_get=entry(value=[90]))
    assert client.state.get("k", returns=list[timedelta]) == [timedelta(seconds=90)]
    with pytest.raises(PayloadRefused, match="the value of 'k' does not fit its type") as refused:
        client.state.get("k", returns=list[str])
    assert refused.value.path == "$[0]"

    async def story(awaited: AsyncClient) -> None:
        assert await awaited.state.get("k", returns=list[timedelta]) == [timedelta(seconds=90)]

    run(project, story)


def test_awaited_state_and_events_are_the_same(project: Project, daemon: FakeDaemon) -> None:
    """Each method behaves like that of the blocking client."""
    answers(
        daemon,
        state_get=entry(),
        state_set=entry(version=4),
        state_delete={"key": "k", "deleted": False, "version": None},
        state_increment=entry(value=2),
        state_list={"entries": [entry()], "next": None},
        state_history={"history": [change(9, 3)], "next": None},
        event_send=sent(),
    )

    async def story(client: AsyncClient) -> None:
        assert await client.state.get("k") == 1
        there = await client.state.entry("k")
        assert there is not None and there.version == 3
        assert await client.state.set("k", 1, ttl="1s") == 4
        assert await client.state.delete("k") is False
        assert await client.state.increment("k", 2) == 2
        assert [each.key for each in await client.state.list()] == ["k"]
        assert [each.seq for each in await client.state.history("k")] == [9]
        assert (await client.events.send("paid", 1)).resumed == ["run_1"]

    run(project, story)
    verbs = "get get set delete increment list history".split()
    assert daemon.methods() == [*(f"state.{verb}" for verb in verbs), "event.send"]
