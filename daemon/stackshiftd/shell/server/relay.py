"""The clients of a daemon that follows: what they ask is answered by the leader.

Lines go to the leader and come back as they are, so no client needs to know who leads. What is
asked of this very daemon it answers itself. When the leader is lost, so are the connections, and
clients repeat what may be repeated, as after any restart of a daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from msgspec import UNSET

from stackshift_jobs.errors import Busy, StackshiftError
from stackshift_jobs.wire.peer import is_own_user, peer_uid
from stackshiftd.shell.cluster.streams import CHUNK, Streams, end
from stackshiftd.shell.server.jsonrpc import (
    BadLine,
    Request,
    answer_line,
    read_request,
    too_long_line,
)
from stackshiftd.shell.standby import ANSWERED
from stackshiftd.shell.tasks import failed

log = logging.getLogger("stackshiftd.relay")

READ_OUT_SECONDS: Final = 5.0
"""How long the rest of a line that is too long is still taken."""


class _TooLong(Exception):
    """A line is longer than it may be."""


class Relays:
    """All such clients. `dial` connects to the leader; `answer` serves a request for this daemon,
    and returns its result. No line may be longer than `max_line` bytes."""

    def __init__(
        self,
        dial: Callable[[], Awaitable[Streams]],
        answer: Callable[[Request], Awaitable[Any]],
        max_line: int,
        max_clients: int,
    ) -> None:
        self._dial = dial
        self._answer = answer
        self._max_line = max_line
        self._max_clients = max_clients
        self._clients: set[asyncio.Task[None]] = set()

    def connect(self) -> asyncio.Protocol:
        """The daemon's end of a connection."""
        reader = asyncio.StreamReader(limit=self._max_line)
        return asyncio.StreamReaderProtocol(reader, self._arrived)

    async def close(self) -> None:
        """End all connections."""
        clients = list(self._clients)
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)

    def _arrived(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._clients.add(client)
        client.add_done_callback(self._clients.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not is_own_user(peer_uid(writer.get_extra_info("socket"))):
                log.warning("refused a connection from another user")
            elif len(self._clients) > self._max_clients:
                busy = Busy("too many connections", hint="raise [limits] connections")
                writer.write(answer_line(None, busy) + b"\n")
            else:
                await _Client(reader, writer, self._dial, self._answer).serve()
        except _TooLong:
            writer.write(too_long_line(self._max_line) + b"\n")
            # One that is still writing would not read it, if its connection was reset.
            with contextlib.suppress(OSError, TimeoutError):
                await asyncio.wait_for(_read_out(reader), READ_OUT_SECONDS)
        except OSError as gone:
            log.info("a client is gone: %s", gone)
        except asyncio.CancelledError:
            # What is unread is lost with it: a client that does not read would hold up a takeover.
            writer.transport.abort()
            raise
        await end(writer)


class _Client:
    """One client, and its connection to the leader once it needs one."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        dial: Callable[[], Awaitable[Streams]],
        answer: Callable[[Request], Awaitable[Any]],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._dial = dial
        self._answer = answer
        self._leader: asyncio.StreamWriter | None = None
        self._back: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        """Until the client or the leader is gone."""
        try:
            while (line := await _read_line(self._reader)).endswith(b"\n"):
                try:
                    request = read_request(line[:-1])
                except BadLine as bad:
                    await self._say(bad.answer)
                    continue
                if request.method in ANSWERED:
                    await self._answer_here(request)
                elif self._leader is not None or await self._reach(request):
                    assert self._leader is not None
                    self._leader.write(line)
                    await self._leader.drain()
        finally:
            if self._back is not None:
                self._back.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await self._back
            if self._leader is not None:
                # Not closed in good order: a leader that stands still would not take part in that.
                self._leader.transport.abort()

    async def _answer_here(self, request: Request) -> None:
        answered: Any
        try:
            answered = await self._answer(request)
        except StackshiftError as refused:
            answered = refused
        except Exception:
            log.exception("%s failed", request.method)
            answered = failed(request.method)
        if request.id is not UNSET:
            await self._say(answer_line(request.id, answered))

    async def _reach(self, request: Request) -> bool:
        """Connect to the leader; if that is not possible, refuse the request."""
        try:
            reader, self._leader = await self._dial()
        except StackshiftError as refused:
            if request.id is not UNSET:
                await self._say(answer_line(request.id, refused))
            return False
        self._back = asyncio.get_running_loop().create_task(self._pass_back(reader))
        return True

    async def _say(self, line: bytes) -> None:
        self._writer.write(line + b"\n")
        await self._writer.drain()

    async def _pass_back(self, reader: asyncio.StreamReader) -> None:
        """Pass on what the leader says, in whole lines, between which answers of our own fit."""
        parts: list[bytes] = []
        try:
            while data := await reader.read(CHUNK):
                whole, newline, rest = data.rpartition(b"\n")
                if newline:
                    self._writer.write(b"".join((*parts, whole, newline)))
                    await self._writer.drain()
                    parts.clear()
                parts.append(rest)
        except OSError as bad:
            log.info("the leader is gone: %s", bad)
        self._writer.close()


async def _read_line(reader: asyncio.StreamReader) -> bytes:
    """The next line; at the end, what there is of one. Raises `_TooLong`."""
    try:
        return await reader.readline()
    except ValueError as bad:
        raise _TooLong from bad


async def _read_out(reader: asyncio.StreamReader) -> None:
    while await reader.read(CHUNK):
        continue
