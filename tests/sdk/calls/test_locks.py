"""Locks over connections that break: acquired once, released once, and no longer than was asked."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from stackshift_jobs.calls.locks import acquire, acquire_call, release, withdraw
from stackshift_jobs.errors import DaemonUnavailable, LockHeld, NotFound, StackshiftError

CALL = acquire_call("k", ttl="30s", wait="10s", holder="me", asker="a1")
HELD = {"key": "k", "token": 7, "expires_at": "2026-05-06T09:00:00Z"}
BROKEN = DaemonUnavailable("the connection broke", may_have_happened=True)
UNSENT = DaemonUnavailable("there is no daemon")


class Clock:
    """Seconds, as a test sets them."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def drive(calls: Generator[Any, Any, Any], *answers: Any) -> tuple[list[Any], Any]:
    """What is asked when the requests are answered so, one after the other, and what it comes to
    (a result, or the error that is raised)."""
    asked = [next(calls)]
    for answer in answers:
        try:
            if isinstance(answer, Exception):
                asked.append(calls.throw(answer))
            else:
                asked.append(calls.send(answer))
        except StopIteration as done:
            return asked, done.value
        except StackshiftError as error:
            return asked, error
    raise AssertionError(f"still asks: {asked[-1]}")


def test_acquisition_over_a_broken_connection_asks_again_with_the_time_that_is_left() -> None:
    """As the same asker, so that a lock that was granted meanwhile is granted to it again."""
    clock = Clock()
    calls = acquire(CALL, clock)
    asked = [next(calls)]
    clock.now = 4.0
    asked.append(calls.throw(BROKEN))
    clock.now = 40.0
    asked.append(calls.throw(BROKEN))
    assert [params["wait_ms"] for _, params in asked] == [10_000, 6_000, 0]
    assert {params["asker"] for _, params in asked} == {"a1"}
    with pytest.raises(StopIteration) as done:
        calls.send(HELD)
    assert done.value.value == HELD


@pytest.mark.parametrize("error", [UNSENT, LockHeld("held by another")])
def test_acquisition_that_certainly_did_not_happen_is_not_repeated(error: StackshiftError) -> None:
    """No daemon, or a refusal: that is the answer."""
    assert drive(acquire(CALL, Clock()), error) == ([CALL], error)


def test_acquisition_is_asked_for_a_bounded_number_of_times() -> None:
    """A daemon that breaks each connection is not asked for ever."""
    asked, error = drive(acquire(CALL, Clock(), 3), BROKEN, BROKEN, BROKEN)
    assert (len(asked), error) == (3, BROKEN)


@pytest.mark.parametrize("gone", [NotFound("nobody holds it"), LockHeld("held by another")])
@pytest.mark.parametrize(
    ("answers", "is_over", "is_done"),
    [((), False, False), ((BROKEN,), False, True), ((BROKEN,), True, False)],
    ids=["at once", "after a repeat", "after its time"],
)
def test_release_that_finds_the_lock_gone_knows_whether_it_did_it(
    answers: tuple[Any, ...], is_over: bool, is_done: bool, gone: StackshiftError
) -> None:
    """Within its time nobody else can have released it, so the request without a reply has."""
    _, outcome = drive(release("k", 7, lambda: is_over), *answers, gone)
    assert outcome is (None if is_done else gone)


def test_withdrawal_releases_a_lock_that_came_meanwhile() -> None:
    """Nobody would know of it."""
    asked, _ = drive(withdraw(CALL), HELD, {})
    assert [method for method, _ in asked] == ["lock.acquire", "lock.release"]
    assert asked[0][1]["wait_ms"] == 0
    assert drive(withdraw(CALL), LockHeld("held by another"))[1] is None
