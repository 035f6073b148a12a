"""Making the calls that a generator yields, one after the other, such as those of `calls.locks`.

Each result is sent into the generator, and each error is thrown into it; it may then yield another
call.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
Call = tuple[str, dict[str, Any]]
"""A method of the protocol and its params."""
Calls = Generator[Call, Any, T]
"""Yields calls, is sent their results, returns the overall result."""


class Caller(Protocol):
    """Makes calls and waits for their results: `Client` is one."""

    def call(self, method: str, params: Mapping[str, Any]) -> Any:
        """The result of `method`; raises the error that it is refused with."""


class AsyncCaller(Protocol):
    """Like `Caller`, for asyncio: `AsyncClient` is one."""

    async def call(self, method: str, params: Mapping[str, Any]) -> Any:
        """Like `Caller.call`, awaited."""


class TimedCaller(Caller, Protocol):
    """A `Caller` whose calls can be limited in time."""

    def call(self, method: str, params: Mapping[str, Any], *, timeout: float | None = None) -> Any:
        """Like `Caller.call`; raises `TimeoutError` after `timeout` seconds."""


class AsyncTimedCaller(AsyncCaller, Protocol):
    """Like `TimedCaller`, for asyncio."""

    async def call(
        self, method: str, params: Mapping[str, Any], *, timeout: float | None = None
    ) -> Any:
        """Like `TimedCaller.call`, awaited."""


def drive(calls: Calls[T], caller: Caller) -> T:
    """Make each of `calls` by `caller`; returns what the generator returns."""
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
    """Like `drive`, awaited."""
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
