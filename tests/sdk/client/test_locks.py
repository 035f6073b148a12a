"""A client's lock: acquired once, released once, and never lost silently."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from sdk.awaited import run
from sdk.fake_daemon import FakeDaemon, Peer, hang_up
from stackshift_jobs.client import locks as client_locks
from stackshift_jobs.client.awaited import AsyncClient
from stackshift_jobs.client.blocking import Client
from stackshift_jobs.errors import (
    DaemonUnavailable,
    LockHeld,
    LockLost,
    NotFound,
    StackshiftError,
    Usage,
)
from stackshift_jobs.project.locate import Project

UNTIL = "2026-05-06T09:00:00.000000Z"
Answer = Callable[[Peer, int, dict[str, Any]], None]


@pytest.fixture
def locks(daemon: FakeDaemon) -> FakeDaemon:
    """The daemon gives every lock, with the tokens 7, 8, …"""
    askers: list[str] = []

    def acquire(peer: Peer, id: int, params: dict[str, Any]) -> None:
        if params["asker"] not in askers:
            askers.append(params["asker"])
        token = 7 + askers.index(params["asker"])
        peer.answer(id, {"key": params["key"], "token": token, "expires_at": UNTIL})

    daemon.on("lock.acquire", acquire)
    daemon.on(
        "lock.extend",
        lambda peer, id, params: peer.answer(
            id, {"key": "k", "token": params["token"], "expires_at": "2026-05-06T10:00:00Z"}
        ),
    )
    return daemon


def refused(error: StackshiftError) -> Answer:
    """An answer that is `error`."""
    return lambda peer, id, _params: peer.refuse(id, error)


def lost_once(then: Answer) -> Answer:
    """An answer that hangs up on the first request, and is `then` for later ones."""
    asked: list[int] = []

    def answer(peer: Peer, id: int, params: dict[str, Any]) -> None:
        asked.append(id)
        peer.hang_up() if len(asked) == 1 else then(peer, id, params)

    return answer


def test_lock_is_held_for_the_block(client: Client, locks: FakeDaemon) -> None:
    """Token and expiry are those that the daemon sends, and extending moves the expiry."""
    with client.state.lock("k", ttl="30s", wait="5s") as lock:
        assert (lock.key, lock.token) == ("k", 7)
        assert lock.expires_at == datetime(2026, 5, 6, 9, tzinfo=UTC)
        lock.extend("1h")
        assert lock.expires_at == datetime(2026, 5, 6, 10, tzinfo=UTC)
        assert locks.methods() == ["lock.acquire", "lock.extend"]
    asked = locks.seen[0][1]
    assert asked.pop("holder").endswith(")")
    assert len(asked.pop("asker")) == 32
    assert asked == {"key": "k", "ttl_ms": 30_000, "wait_ms": 5000}
    assert locks.seen[1:] == [
        ("lock.extend", {"key": "k", "token": 7, "ttl_ms": 3_600_000}),
        ("lock.release", {"key": "k", "token": 7}),
    ]


def test_lock_of_another_raises_and_the_block_is_not_entered(
    client: Client, daemon: FakeDaemon
) -> None:
    """The error has its holder and its expiry, and nothing is released."""
    held = LockHeld("k is held by run_1", owner="run_1", holder="sync", expires_at=UNTIL)
    daemon.on("lock.acquire", refused(held))
    with pytest.raises(LockHeld) as raised, client.state.lock("k", ttl="30s"):
        pytest.fail("entered")
    assert raised.value.owner == "run_1"
    assert daemon.methods() == ["lock.acquire"]
    assert daemon.seen[0][1]["wait_ms"] == 0


def test_acquisition_is_repeated_as_the_same_asker(client: Client, locks: FakeDaemon) -> None:
    """So a lock that was granted before the connection broke is ours, and waits in line only
    once."""
    acquire = locks._scripts["lock.acquire"]
    locks.on("lock.acquire", lost_once(acquire))
    with client.state.lock("k", ttl="30s", wait="10s") as lock:
        assert lock.token == 7
    first, second, release = locks.seen
    assert first[1]["asker"] == second[1]["asker"]
    assert second[1]["wait_ms"] <= first[1]["wait_ms"] == 10_000
    assert release == ("lock.release", {"key": "k", "token": 7})


@pytest.mark.usefixtures("locks")
def test_two_locks_are_two_askers(client: Client) -> None:
    """Two threads of one program exclude each other, too."""
    with client.state.lock("a", ttl="1s") as one, client.state.lock("a", ttl="1s") as other:
        assert (one.token, other.token) == (7, 8)


@pytest.mark.usefixtures("locks")
def test_waiting_for_a_lock_comes_on_top_of_the_clients_timeout(project: Project) -> None:
    """A daemon that answers only when it is our turn does not count as unresponsive."""
    with Client(project, timeout=0.001) as client:
        client._reach(None)
        with client.state.lock("k", ttl="30s", wait="1h") as lock:
            assert lock.token == 7
            client._timeout = 60.0


@pytest.mark.parametrize("error", [NotFound("nobody holds k"), LockHeld("k is held by another")])
def test_lock_that_ran_out_is_lost_at_the_latest_at_the_end(
    client: Client, locks: FakeDaemon, error: StackshiftError
) -> None:
    """Extending it raises at once."""
    locks.on("lock.release", refused(error))
    with pytest.raises(LockLost, match="'k' was lost"), client.state.lock("k", ttl="30s"):
        pass
    locks.on("lock.extend", refused(error))
    with pytest.raises(LockLost), client.state.lock("k", ttl="30s") as lock:
        lock.extend("30s")


def test_exception_in_the_block_outranks_a_lost_lock(client: Client, locks: FakeDaemon) -> None:
    """The lock is still released."""
    locks.on("lock.release", refused(NotFound("nobody holds k")))
    with pytest.raises(ZeroDivisionError), client.state.lock("k", ttl="30s"):
        raise ZeroDivisionError
    assert locks.methods() == ["lock.acquire", "lock.release"]


def test_release_whose_reply_was_lost_is_a_release(client: Client, locks: FakeDaemon) -> None:
    """If nobody holds the lock when we ask again, the first request released it."""
    locks.on("lock.release", lost_once(refused(NotFound("nobody holds k"))))
    with client.state.lock("k", ttl="30s"):
        pass
    assert locks.methods() == ["lock.acquire", "lock.release", "lock.release"]


def test_release_whose_reply_was_lost_after_the_ttl_is_a_loss(
    client: Client, locks: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can say whether it expired before, so the caller learns that it may have been lost."""
    now = [100.0]
    monkeypatch.setattr(client_locks, "monotonic", lambda: now[0])
    locks.on("lock.release", lost_once(refused(NotFound("nobody holds k"))))
    with pytest.raises(LockLost), client.state.lock("k", ttl="30s"):
        now[0] += 31.0


def test_daemon_that_always_hangs_up_on_a_lock_is_given_up(
    client: Client, daemon: FakeDaemon
) -> None:
    """The error says that it may have happened."""
    daemon.on("lock.acquire", hang_up)
    with pytest.raises(DaemonUnavailable) as raised, client.state.lock("k", ttl="30s"):
        pytest.fail("entered")
    assert raised.value.fields["may_have_happened"]
    assert daemon.methods() == ["lock.acquire"] * 5


@pytest.mark.usefixtures("locks")
def test_lock_object_is_one_acquisition(client: Client) -> None:
    """It has no token before its block, cannot be entered twice, and cannot be extended
    afterwards."""
    lock = client.state.lock("k", ttl="30s")
    with pytest.raises(Usage, match="not held"):
        _ = lock.token
    with lock:
        pass
    with pytest.raises(Usage, match="twice"), lock:
        pytest.fail("entered")
    with pytest.raises(Usage, match="was released"):
        lock.extend("1s")


def test_awaited_lock_is_the_same(project: Project, locks: FakeDaemon) -> None:
    """HeldLock for the block, extended, lost with the same error."""

    async def story(client: AsyncClient) -> None:
        async with client.state.lock("k", ttl="30s") as lock:
            assert lock.token == 7
            await lock.extend("1h")
            assert lock.expires_at == datetime(2026, 5, 6, 10, tzinfo=UTC)
        locks.on("lock.release", refused(NotFound("nobody holds k")))
        with pytest.raises(LockLost):
            async with client.state.lock("k", ttl="30s"):
                pass
        with pytest.raises(ZeroDivisionError):
            async with client.state.lock("k", ttl="30s"):
                raise ZeroDivisionError

    run(project, story)
    assert locks.methods()[:3] == ["lock.acquire", "lock.extend", "lock.release"]
