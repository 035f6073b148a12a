"""One client's connection: JSON-RPC 2.0, a message a line, bounded both ways.

Replies come in any order and carry the request's id. A line over the limit, or a client that does
not read, ends the connection; nothing it did is undone by that.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
import sys
from typing import Any, Final, Protocol, cast

import msgspec
from msgspec import UNSET, Raw, UnsetType

from stackshift_jobs.errors import Busy, PayloadRefused, StackshiftError, Usage

log = logging.getLogger("stackshiftd.connection")

MAX_UNREAD: Final = 8 << 20
MAX_DUE: Final = 256
"""So many requests of one client are worked on at a time; those of `WAITS`, which may take for
ever, do not count. What the answers hold until their records are durable is bounded by it."""
WAITS: Final = frozenset(("run.wait", "queue.drain", "lock.acquire"))
TURN_BYTES: Final = 32 << 10
"""Once requests of so many bytes were begun in one turn of the loop, others have theirs: the lines
of a `run.start_many` cost tens of milliseconds when several of them arrive at once."""
FULL_AT: Final = 1 << 20
"""With so much unread, a follower is no longer sent records as they come."""


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """One request; without an id it is a notification, and gets no answer."""

    method: str
    jsonrpc: str = "2.0"
    id: int | str | UnsetType | None = UNSET
    params: Raw = Raw(b"{}")


_decode: Final = msgspec.json.Decoder(Request).decode
_encode: Final = msgspec.json.Encoder().encode


class Methods(Protocol):
    """What a connection serves."""

    def call(self, connection: Connection, method: str, params: Raw, answer: Any) -> None:
        """Do it, and give `answer` the result or a `StackshiftError`, now or later."""

    def opened(self, connection: Connection) -> bool:
        """A client has connected; False if there are too many."""

    def closed(self, connection: Connection) -> None:
        """It is gone."""


class Connection(asyncio.Protocol):
    """The daemon's end."""

    def __init__(self, methods: Methods, max_line: int) -> None:
        self._methods = methods
        self._max_line = max_line
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._held: list[bytes] = []
        self._due = 0
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._loop = asyncio.get_running_loop()
        self._room: asyncio.Event = asyncio.Event()
        self._room.set()
        self.gone = False

    # --- asyncio's side --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no class of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=FULL_AT, low=FULL_AT // 4)
        if not is_own_peer(transport.get_extra_info("socket")):
            log.warning("refused a connection of another user")
            self._transport.abort()
        elif not self._methods.opened(self):
            self._fail(None, Busy("too many connections", hint="raise [limits] connections"))
            self._flush()
            self._transport.close()

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        self._room.set()
        self._methods.closed(self)

    def data_received(self, data: bytes) -> None:
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        if self._held:
            self._held += lines
        else:
            self._serve_all(lines)
        if len(self._rest) > self._max_line:
            self._too_long()

    def _serve_all(self, lines: list[bytes]) -> None:
        served = 0
        for at, line in enumerate(lines):
            if len(line) > self._max_line:
                self._too_long()
                return
            if self.gone:
                return
            if self._transport is not None and (self._due >= MAX_DUE or served > TURN_BYTES):
                self._held = lines[at:]
                self._transport.pause_reading()
                if self._due < MAX_DUE:
                    self._loop.call_soon(self._go_on)
                return
            self._serve(line)
            served += len(line)

    def _go_on(self) -> None:
        """Take up what was held back, now that enough of what was asked before is answered, or that
        others had their turn."""
        held, self._held = self._held, []
        self._serve_all(held)
        if not self._held and not self.gone and self._transport is not None:
            self._transport.resume_reading()

    def _too_long(self) -> None:
        self._rest = b""
        error = PayloadRefused(
            f"a message is over {self._max_line} bytes",
            hint="store it elsewhere and pass its location, or raise [limits] payload",
            path="$",
        )
        self._fail(None, error, -32600)
        self._flush()
        if self._transport is not None:
            self._transport.close()

    # --- Requests --------------------------------------------------------------------------

    def _serve(self, line: bytes) -> None:
        try:
            request = _decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as bad:
            self._refuse_line(line, bad)
            return
        number = request.id
        waits = request.method in WAITS
        self._due += not waits

        def answer(result: Any) -> None:
            if not waits:
                self._due -= 1
                if self._held and self._due == MAX_DUE // 2:
                    self._loop.call_soon(self._go_on)
            if number is UNSET:
                return
            if isinstance(result, StackshiftError):
                self._fail(number, result)
            else:
                self._send(
                    b'{"jsonrpc":"2.0","id":%s,"result":%s}' % (_encode(number), _encode(result))
                )

        if request.jsonrpc != "2.0":
            self._due -= not waits
            self._fail(number, Usage('a request has "jsonrpc": "2.0"'), -32600)
            return
        try:
            self._methods.call(self, request.method, request.params, answer)
        except StackshiftError as refused:
            answer(refused)
        except Exception:
            log.exception("%s failed", request.method)
            answer(
                StackshiftError(
                    f"{request.method} failed in the daemon", hint="stackshift daemon logs"
                )
            )

    def _refuse_line(self, line: bytes, bad: Exception) -> None:
        try:
            value = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._fail(None, Usage(f"not valid JSON: {bad}"), -32700)
            return
        number = value.get("id") if isinstance(value, dict) else None
        self._fail(
            number if isinstance(number, int | str) else None,
            Usage(f"not a request: {bad}"),
            -32600,
        )

    def _fail(self, number: Any, error: StackshiftError, code: int | None = None) -> None:
        if code is None:
            code = {"unknown_method": -32601, "bad_params": -32602}.get(
                str(error.fields.pop("rpc", "")), -32000
            )
        body = {"code": code, "message": error.message, "data": error.as_json()}
        number = None if number is UNSET else number
        self._send(b'{"jsonrpc":"2.0","id":%s,"error":%s}' % (_encode(number), _encode(body)))

    # --- Sending ---------------------------------------------------------------------------

    def notify(self, method: str, params: Any) -> None:
        """Send a notification."""
        self._send(
            b'{"jsonrpc":"2.0","method":%s,"params":%s}' % (_encode(method), _encode(params))
        )

    @property
    def full(self) -> bool:
        return not self._room.is_set()

    async def room(self) -> None:
        """Returns when the client has read most of what it was sent."""
        await self._room.wait()
        if self.gone:
            raise ConnectionError("the client is gone")

    def _send(self, line: bytes) -> None:
        if self.gone:
            return
        if self._gathered_bytes > FULL_AT:
            self._flush()
        if self._transport is not None and self._transport.get_write_buffer_size() > MAX_UNREAD:
            # What waited before this message; a single long one is no reason to hang up.
            log.warning("cut off a client that does not read")
            self.gone = True
            self._transport.abort()
            return
        if not self._gathered:
            self._loop.call_soon(self._flush)
        self._gathered.append(line)
        self._gathered_bytes += len(line)

    def _flush(self) -> None:
        gathered, self._gathered = self._gathered, []
        self._gathered_bytes = 0
        transport = self._transport
        if transport is None or self.gone or not gathered:
            return
        gathered.append(b"")
        transport.write(b"\n".join(gathered))

    def close(self) -> None:
        """Send what is there, and close."""
        self._flush()
        if self._transport is not None:
            self._transport.close()


def is_own_peer(sock: Any) -> bool:
    """Is the process at the other end of a Unix socket ours (the same user's)?"""
    if sys.platform == "linux":
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        _, uid, _ = struct.unpack("3i", raw)
    else:  # macOS: struct xucred, version and uid first
        raw = sock.getsockopt(0, 1, 128)
        _, uid = struct.unpack_from("Ii", raw)
    return bool(uid == os.getuid())
