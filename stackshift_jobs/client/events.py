"""A client's `.events`, blocking and awaited.

What is sent and what the reply means is defined in `calls.events`.
"""

from __future__ import annotations

from typing import Any

from stackshift_jobs.calls import events
from stackshift_jobs.calls.drive import AsyncCaller, Caller
from stackshift_jobs.values.durations import Duration
from stackshift_jobs.values.stored import SentEvent


class Events:
    """The project's events."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def send(
        self,
        name: str,
        payload: Any = None,
        *,
        correlation_key: str | None = None,
        idempotency_key: str | None = None,
        idempotency_ttl: Duration | None = None,
        ttl: Duration | None = None,
    ) -> SentEvent:
        """Send an event; it is durable when this returns, and the result says what it did.

        It resumes all runs that are waiting for `name` with this `correlation_key`. If there are
        none, it is kept for `ttl` (default 7d; 0: not at all) for the first later wait. Sends with
        the same `idempotency_key` are one event for `idempotency_ttl` (default 30d). Raises
        `Conflict` if that event had another name, correlation key or payload.
        """
        call = events.send(
            name,
            payload,
            correlation_key=correlation_key,
            idempotency_key=idempotency_key,
            idempotency_ttl=idempotency_ttl,
            ttl=ttl,
        )
        return events.sent(self._caller.call(*call))


class AsyncEvents:
    """`Events`, awaited."""

    def __init__(self, caller: AsyncCaller) -> None:
        self._caller = caller

    async def send(
        self,
        name: str,
        payload: Any = None,
        *,
        correlation_key: str | None = None,
        idempotency_key: str | None = None,
        idempotency_ttl: Duration | None = None,
        ttl: Duration | None = None,
    ) -> SentEvent:
        """Send an event. See `Events.send`."""
        call = events.send(
            name,
            payload,
            correlation_key=correlation_key,
            idempotency_key=idempotency_key,
            idempotency_ttl=idempotency_ttl,
            ttl=ttl,
        )
        return events.sent(await self._caller.call(*call))
