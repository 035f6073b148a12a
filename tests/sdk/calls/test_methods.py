"""The one table of the protocol's methods: what may be asked twice, and how long it may take."""

from __future__ import annotations

from typing import Any

import pytest

from stackshift_jobs.calls.methods import KEYED, METHODS, ONCE, READ, SAFE
from stackshift_jobs.wire.retransmit import bound, may_repeat


@pytest.mark.parametrize("method", METHODS)
def test_what_may_be_asked_twice_follows_from_the_table(method: str) -> None:
    """Reads and what changes nothing more; with a key also what the key makes the same."""
    repeat = METHODS[method].repeat
    assert repeat in (READ, SAFE, KEYED, ONCE)
    assert may_repeat(method, {}) is (repeat in (READ, SAFE))
    assert may_repeat(method, {"idempotency_key": "k"}) is (repeat != ONCE)


def test_method_that_is_not_known_is_asked_once() -> None:
    """A newer daemon may have it, and it may do anything."""
    assert not may_repeat("run.get_and_remove", {"idempotency_key": "k"})


@pytest.mark.parametrize(
    ("method", "params", "seconds"),
    [
        ("run.get", {}, 60.0),
        ("lock.acquire", {"wait_ms": 30_000}, 90.0),
        ("state.wait", {"wait_ms": 30_000}, 90.0),
        ("run.wait", {"timeout_ms": 1}, None),
        ("queue.drain", {}, None),
    ],
)
def test_wait_is_given_the_time_it_was_asked_to_take(
    method: str, params: dict[str, Any], seconds: float | None
) -> None:
    """Nothing that waits for something to end is given up while the daemon waits as it should."""
    assert bound(method, params, 60.0) == seconds
    assert bound(method, params, None) is None
