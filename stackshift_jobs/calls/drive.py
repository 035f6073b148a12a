"""Sending the calls of a generator, one after the other: `calls.locks` has such generators.

Each result is sent into the generator, and each error thrown into it, after which it may ask again.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, Protocol, TypeVar

from stackshift_jobs.calls.state import Call

T = TypeVar("T")
Calls = Generator[Call, Any, T]
"""Yields calls, is sent their results, returns what they come to."""


class Caller(Protocol):
    """What sends a call and waits for its result: `Client` is one."""

    def call(
        self, method: str, params: Mapping[str, Any], *, timeout: float | None = None
    ) -> Any: ...


class AsyncCaller(Protocol):
    """The same, awaited: `AsyncClient` is one."""

    async def call(
        self, method: str, params: Mapping[str, Any], *, timeout: float | None = None
    ) -> Any: ...


def drive(calls: Calls[T], caller: Caller) -> T:
    """Have `caller` send each of `calls`; what they come to."""
    try:
        asked = next(calls)
        while True:
            try:
                result = caller.call(*asked)
            except Exception as bad:
                asked = calls.throw(bad)
            else:
                asked = calls.send(result)
    except StopIteration as done:
        made: T = done.value
        return made


async def drive_awaited(calls: Calls[T], caller: AsyncCaller) -> T:
    """The same, awaited."""
    try:
        asked = next(calls)
        while True:
            try:
                result = await caller.call(*asked)
            except Exception as bad:
                asked = calls.throw(bad)
            else:
                asked = calls.send(result)
    except StopIteration as done:
        made: T = done.value
        return made
