"""Sends a series of calls, each of which may depend on the result of the one before.

The generators of `calls.locks` yield what to ask for; a client sends it. An error is thrown into
the generator that asked, which may ask again.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, Protocol, TypeVar

from stackshift_jobs.calls.state import Call

T = TypeVar("T")
Calls = Generator[Call, Any, T]
"""Yields calls, receives their results, returns what they amount to."""


class Caller(Protocol):
    """Sends a call and waits for its result, as `Client` does."""

    def call(self, method: str, params: Mapping[str, Any], *, timeout: float | None = None) -> Any:
        """The result of `method`; raises the error of its reply, or `TimeoutError` after `timeout`
        seconds."""


class AsyncCaller(Protocol):
    """The same, awaited, as `AsyncClient` does."""

    async def call(
        self, method: str, params: Mapping[str, Any], *, timeout: float | None = None
    ) -> Any:
        """See `Caller.call`."""


def drive(calls: Calls[T], caller: Caller) -> T:
    """Send each of `calls` through `caller`; returns what they amount to."""
    try:
        call = next(calls)
        while True:
            try:
                result = caller.call(*call)
            except Exception as bad:
                call = calls.throw(bad)
            else:
                call = calls.send(result)
    except StopIteration as done:
        value: T = done.value
        return value


async def drive_awaited(calls: Calls[T], caller: AsyncCaller) -> T:
    """The same, awaited."""
    try:
        call = next(calls)
        while True:
            try:
                result = await caller.call(*call)
            except Exception as bad:
                call = calls.throw(bad)
            else:
                call = calls.send(result)
    except StopIteration as done:
        value: T = done.value
        return value
