"""One client's connection: JSON-RPC 2.0, one message per line, bounded in both directions.

Replies come in any order and carry the request's id. A line over the limit, or a client that does
not read, ends the connection; that undoes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final, Protocol, cast

import msgspec
from msgspec import UNSET, Raw, UnsetType

from stackshift_jobs.errors import Busy, PayloadRefused, StackshiftError, Usage
from stackshift_jobs.values.limits import LINE_MARGIN
from stackshift_jobs.values.sizes import size_text
from stackshift_jobs.wire.peer import is_own_user, peer_uid

log = logging.getLogger("stackshiftd.connection")

MAX_UNREAD: Final = 8 << 20
MAX_DUE: Final = 256
"""The most unanswered requests of one client; those of `WAITS`, which may take for ever, do not
count. This also bounds the memory for answers whose records are not yet durable."""
WAITS: Final = frozenset(("run.wait", "queue.drain", "lock.acquire"))
TURN_BYTES: Final = 32 << 10
"""Bytes of requests that are started in one turn of the loop before others get theirs: several
`run.start_many` lines that arrive at once would cost tens of milliseconds."""
FULL_AT: Final = 1 << 20
"""With more unread bytes than this, a follower no longer gets records as they come."""


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """One request; without an id it is a notification and gets no answer."""

    method: str
    jsonrpc: str = "2.0"
    id: int | str | UnsetType | None = UNSET
    params: Raw = Raw(b"{}")


_decode: Final = msgspec.json.Decoder(Request).decode
_encode: Final = msgspec.json.Encoder().encode


class Methods(Protocol):
    """What a connection serves."""

    def call(self, connection: Connection, method: str, params: Raw, answer: Any) -> None:
        """Call the method, and pass its result or a `StackshiftError` to `answer`, now or later.
        Raises `StackshiftError` instead if it is refused at once."""

    def opened(self, connection: Connection) -> bool:
        """Register a new connection; false if there are too many."""

    def closed(self, connection: Connection) -> None:
        """Forget a connection that is closed, with everything it waits for."""


class Connection(asyncio.Protocol):
    """The daemon's end of a connection. `max_line` is the longest message, in bytes."""

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
        """Refuse another user's process, and connections over the limit."""
        # uvloop's transports are not subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=FULL_AT, low=FULL_AT // 4)
        if not is_own_user(peer_uid(transport.get_extra_info("socket"))):
            log.warning("refused a connection from another user")
            self._transport.abort()
        elif not self._methods.opened(self):
            self._fail(None, Busy("too many connections", hint="raise [limits] connections"))
            self._flush()
            self._transport.close()

    def pause_writing(self) -> None:
        """Note that more than `FULL_AT` bytes are unread."""
        self._room.clear()

    def resume_writing(self) -> None:
        """Note that most of them have been read."""
        self._room.set()

    def connection_lost(self, _exc: Exception | None) -> None:
        """Forget the client; waiters of `room` then raise `ConnectionError`."""
        self.gone = True
        self._room.set()
        self._methods.closed(self)

    def data_received(self, data: bytes) -> None:
        """Serve the whole lines; a line that grows over the limit ends the connection."""
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
                    self._loop.call_soon(self._continue)
                return
            self._serve(line)
            served += len(line)

    def _continue(self) -> None:
        """Serve the lines that were held back, now that enough earlier requests are answered, or
        that others have had their turn."""
        held, self._held = self._held, []
        self._serve_all(held)
        if not self._held and not self.gone and self._transport is not None:
            self._transport.resume_reading()

    def _too_long(self) -> None:
        self._rest = b""
        limit_bytes = self._max_line - LINE_MARGIN
        error = PayloadRefused(
            f"the request is too long: a payload may have {size_text(limit_bytes)}",
            hint="store it elsewhere and pass its location, or raise [limits] payload",
            path="$",
            limit_bytes=limit_bytes,
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
                    self._loop.call_soon(self._continue)
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
            self._fail(number, Usage('a request needs "jsonrpc": "2.0"'), -32600)
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
        """Send a notification; dropped if the client is gone."""
        self._send(
            b'{"jsonrpc":"2.0","method":%s,"params":%s}' % (_encode(method), _encode(params))
        )

    @property
    def full(self) -> bool:
        """True while more than `FULL_AT` bytes are unread."""
        return not self._room.is_set()

    async def room(self) -> None:
        """Wait until the client has read most of what it was sent.

        Raises `ConnectionError` if it is gone.
        """
        await self._room.wait()
        if self.gone:
            raise ConnectionError("the client is gone")

    def _send(self, line: bytes) -> None:
        if self.gone:
            return
        if self._gathered_bytes > FULL_AT:
            self._flush()
        if self._transport is not None and self._transport.get_write_buffer_size() > MAX_UNREAD:
            # That was unread before this message; a single long message must not end a connection.
            log.warning("disconnected a client that does not read")
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
        """Send what is gathered, then close the connection."""
        self._flush()
        if self._transport is not None:
            self._transport.close()
