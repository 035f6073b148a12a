"""One connection on an event loop: many tasks send, and each gets its own reply.

Owns a transport until it ends, as `link` does for threads. It never sends a line twice and never
decides whether a line may be sent twice.

Invariants: the write buffer exceeds its limit by at most one request; every request that was
written lands exactly once, with its reply or with `ConnectionLost`.
"""

from __future__ import annotations

import asyncio
import os
from time import monotonic
from typing import Any, cast

from stackshift_jobs.errors import Busy, DaemonUnavailable, StackshiftError, from_json
from stackshift_jobs.wire.jsonrpc import Lines, Notification, Reply, encode_request, parse
from stackshift_jobs.wire.retransmit import ConnectionLost
from stackshift_jobs.wire.unavailable import BROKEN, unavailable


class AsyncLink(asyncio.Protocol):
    """A connection and the requests in flight on it."""

    def __init__(self) -> None:
        self._lines = Lines()
        self._next_id = 1
        self._flights: dict[int, tuple[asyncio.Future[Reply], int]] = {}
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._gone = asyncio.Event()
        self.end: StackshiftError | None = None
        self.ended_at = 0.0

    @property
    def alive(self) -> bool:
        """Whether requests can be sent on it."""
        return self.end is None and self._transport is not None and not self._transport.is_closing()

    async def ask(self, method: str, body: bytes) -> Any:
        """Send a request and wait for its result; raises its error, or `ConnectionLost`."""
        while not self._writable.is_set():  # in a loop: another task may have filled it first
            await self._writable.wait()
        if self._transport is None or not self.alive:
            raise ConnectionLost(self.end or _closed(), sent=False)
        id = self._next_id
        line = encode_request(id, method, body)
        self._next_id += 1
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._flights[id] = future, len(line)
        try:
            self._transport.write(line)
            # A transport that closes during a write has not written all of it.
            sent = not self._transport.is_closing()
            if not sent:
                self._hear_out(self._transport)
            try:
                reply = await future
            except ConnectionLost as lost:
                raise ConnectionLost(lost.why, lost.sent and sent) from None
        finally:
            self._flights.pop(id, None)
        return reply.value()

    def _hear_out(self, transport: asyncio.Transport) -> None:
        """Read what the daemon said before it hung up, which may be the reason: a transport whose
        write failed does not read any more."""
        try:
            data = os.read(transport.get_extra_info("socket").fileno(), 1 << 16)
        except OSError:
            return
        self.data_received(data)

    async def close(self) -> None:
        """Close the connection, and wait until the transport has released it."""
        if self._transport is not None:
            self._transport.abort()
            await self._gone.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop once, with the transport of the connection."""
        # Those of uvloop are of no class of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop: deliver the replies that `data` completes. What no daemon of
        ours sends ends the connection."""
        if self.end is not None:
            return
        try:
            for line in self._lines.feed(data):
                self._deliver(parse(line))
        except StackshiftError as bad:
            self._land_all(bad)
            assert self._transport is not None
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop at the end: all requests in flight get `ConnectionLost`."""
        if self.end is None:
            self._land_all(_closed() if exc is None else _closed(f": {exc}"))
        self._gone.set()

    def pause_writing(self) -> None:
        """Called by the event loop when the transport's buffer is full: further requests wait."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Called by the event loop when the transport's buffer has room again."""
        self._writable.set()

    def _deliver(self, message: Reply | Notification) -> None:
        if isinstance(message, Notification):
            return  # the client never opens a feed
        if message.id is None:
            raise message.error or _closed()
        future, _ = self._flights.pop(message.id, (None, 0))
        if future is not None and not future.done():
            future.set_result(message)

    def _land_all(self, why: StackshiftError) -> None:
        """End every request in flight with `why`; which of them gets the error, see `Link`."""
        self.end, self.ended_at = why, monotonic()
        self._writable.set()
        flights = list(self._flights.values())
        self._flights.clear()
        culprit = None
        if not isinstance(why, DaemonUnavailable | Busy):
            culprit, _ = max(flights, key=lambda flight: flight[1], default=(None, 0))
        for future, _ in flights:
            if future.done():
                continue
            if isinstance(why, Busy) or future is culprit:
                future.set_result(Reply(None, None, from_json(why.as_json())))
            else:
                future.set_exception(ConnectionLost(why, sent=True))


def _closed(detail: str = "") -> DaemonUnavailable:
    return unavailable(f"the daemon closed the connection{detail}", BROKEN)
