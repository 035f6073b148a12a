"""Requests that are answered later: each once, a bounded number, and none kept of a gone client."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from stackshift_jobs.errors import Busy
from stackshiftd.core.state.state import State
from stackshiftd.shell.methods.queues import NameQueue, Queues
from stackshiftd.shell.methods.waiters import MAX_WAITS, Waiters


def test_wait_of_a_gone_connection_is_told_once_and_forgotten() -> None:
    """Whatever it waits for, its method hears that nobody waits any more; closed ones do not."""
    waiters, gone = Waiters(), list[str]()
    first = waiters.open("run.wait", 1, print, lambda: gone.append("first"))
    closed = waiters.open("lock.acquire", 1, print, lambda: gone.append("closed"))
    other = waiters.open("run.wait", 2, print, lambda: gone.append("other"))
    waiters.close(closed)
    waiters.forget(1)
    waiters.forget(1)
    assert gone == ["first"]
    assert (first.is_open, closed.is_open, other.is_open) == (False, False, True)
    waiters.close(first)
    waiters.close(other)
    assert waiters._open == {}


@pytest.mark.parametrize("method", MAX_WAITS)
def test_waits_of_one_connection_are_bounded_by_method(method: str) -> None:
    """One client cannot fill the memory; others, and its other methods, go on."""
    waiters = Waiters()
    for _ in range(MAX_WAITS[method]):
        last = waiters.open(method, 1, print, print)
    with pytest.raises(Busy, match=f"{MAX_WAITS[method]} {method} requests are already waiting"):
        waiters.open(method, 1, print, print)
    waiters.open(method, 2, print, print)
    waiters.open(next(each for each in MAX_WAITS if each != method), 1, print, print)
    waiters.close(last)
    waiters.open(method, 1, print, print)


def test_drain_of_a_client_that_left_before_the_pause_is_durable_is_forgotten() -> None:
    """It was kept for as long as the queue was busy, and answered into nothing."""
    replies, answers = list[Any](), list[Any]()
    state = State()
    state.queue("media").executing = 1
    engine = SimpleNamespace(state=state, submit=lambda _, reply: replies.append(reply))

    async def drain() -> None:
        waiters = Waiters()
        catalog, config = SimpleNamespace(jobs={}), SimpleNamespace(queues={})
        queues = Queues(*cast(Any, (engine, catalog, config, waiters)))
        queues.drain(1, NameQueue("media"), answers.append)
        waiters.forget(1)
        replies[0](None)
        state.queues["media"].executing = 0
        queues.noticed()
        assert queues._draining == {}

    asyncio.run(drain())
    assert answers == []
