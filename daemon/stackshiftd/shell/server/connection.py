"""One client's connection: JSON-RPC 2.0, one message per line, bounded in both directions.

Replies come in any order and carry the request's id. A line over the limit ends the connection;
that undoes nothing. Invariants:

- An answer is made only when there is room for it: while a client leaves more than `FULL_AT` bytes
  unread, or so many are made and not yet durable, no request of it is begun. Until then its
  requests wait here, unparsed, up to a bound; the rest stay in its socket.
- Whatever takes long is done in parts, each in a turn (`server.turns`).
- A request that was received in full is carried out, even if its client is gone by then; only what
  it would have read is not.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple, Protocol, cast

from msgspec import UNSET, Raw

from stackshift_jobs.calls import methods
from stackshift_jobs.errors import Busy, StackshiftError
from stackshift_jobs.wire.peer import is_own_user, peer_uid
from stackshiftd.shell.server.jsonrpc import (
    BadLine,
    answer_line,
    notification_line,
    read_request,
    too_long_line,
)
from stackshiftd.shell.server.turns import Turns
from stackshiftd.shell.tasks import failed
from stackshiftd.shell.work import Held, Later, Work

log = logging.getLogger("stackshiftd.connection")

FULL_AT: Final = 1 << 20
"""Unread bytes, and bytes of answers that are not durable yet, above which no request is begun and
a follower no longer gets records as they come. One answer more may be on its way by then."""
MAX_DUE: Final = 256
"""The most unanswered requests of one client; those of `WAITS`, which may take for ever, do not
count."""
MAX_DUE_BYTES: Final = 4 << 20
"""Bytes of unanswered requests above which no more are begun: what a write was given, its answer
may hold."""
BURST: Final = 16
"""The most requests that are begun in one turn. They are small, and all but the last are done as
soon as they are begun."""
SMALL: Final = 1024
"""Bytes of a small request."""
MAX_WORKS: Final = 4
"""The most reads of one client that are under way at a time, each with up to a page in hand."""
WAITS: Final = frozenset(("run.wait", "state.wait", "queue.drain", "lock.acquire"))


_MANNERS: Final = {name: (known.reads, name in WAITS) for name, known in methods.METHODS.items()}
"""Method → whether it only reads, and whether it may take for ever."""
_UNKNOWN: Final = (methods.UNKNOWN.reads, False)


class Methods(Protocol):
    """What a connection serves."""

    def call(self, connection: Connection, method: str, params: Raw, answer: Any) -> Work | None:
        """Call the method. Returns the work of reading its result if it only reads; else its
        result, a `StackshiftError` or a `Later` is passed to `answer`, now or later, and what is
        returned is work to be done before the next request, if any. Raises `StackshiftError` if it
        is refused at once, and `Held` if it is to be called again later."""

    def reading(self, read: Callable[[], Any]) -> Work:
        """The work of `read`, whose result is shown only once all of it is durable."""

    def opened(self, connection: Connection) -> bool:
        """Register a new connection; false if there are too many."""

    def closed(self, connection: Connection) -> None:
        """Forget a connection that is closed, with everything it waits for."""


class _UnderWay(NamedTuple):
    """Work that has begun, and what answers the request. A `change`, which answers by itself, is
    done to its end before the next request is begun; a read is dropped with its client."""

    work: Work
    finish: Callable[[Any], None]
    change: bool


class Connection(asyncio.Protocol):
    """The daemon's end of a connection. `max_line` is the longest message, in bytes."""

    def __init__(self, methods: Methods, turns: Turns, max_line: int) -> None:
        self._methods = methods
        self._turns = turns
        self._max_line = max_line
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._lines: deque[bytes] = deque()
        self._is_paused = False
        self._due = 0
        self._due_bytes = 0
        self._late: deque[tuple[Callable[[], Any], Callable[[Any], None]]] = deque()
        """Answers to requests that have waited, which are still to be read."""
        self._works: deque[_UnderWay] = deque()
        self._changes = 0
        self._is_held = False
        """Must the next request wait, and those behind it?"""
        self._is_next_a_line = True
        self._made_bytes = 0
        """Bytes of answers that are made and not durable yet."""
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._loop = asyncio.get_running_loop()
        self._room: asyncio.Event = asyncio.Event()
        self._room.set()
        self.gone = False
        self._is_registered = False
        self._is_over = False
        """Has a line come that is too long?"""
        self.is_due = False
        self.used = 0.0

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
            busy = Busy("too many connections", hint="raise [limits] connections")
            self._send(answer_line(None, busy))
            self._flush()
            self._transport.close()
        else:
            self._is_registered = True

    def pause_writing(self) -> None:
        """Note that more than `FULL_AT` bytes are unread."""
        self._room.clear()

    def resume_writing(self) -> None:
        """Note that most of them have been read."""
        self._room.set()
        self._turns.want(self)

    def connection_lost(self, _exc: Exception | None) -> None:
        """Forget the client; waiters of `room` then raise `ConnectionError`."""
        self.gone = True
        self._room.set()
        self._gathered.clear()
        self._late.clear()
        self._turns.want(self)

    def data_received(self, data: bytes) -> None:
        """Take in the whole lines; one that grows over the limit is the last."""
        if not self._is_registered or self._is_over:
            return
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > self._max_line:
            lines.append(self._rest)
        if lines:
            self._is_over = any(len(line) > self._max_line for line in lines)
            self._lines += lines
            self._turns.want(self)

    def _too_long(self) -> None:
        """End the connection, now that what came before a line that is too long is begun."""
        self._rest = b""
        self._lines.clear()
        self._send(too_long_line(self._max_line))
        self._flush()
        if self._transport is not None:
            self._transport.close()

    # --- Turns -----------------------------------------------------------------------------

    def take_turn(self) -> bool:
        """Go on with a read that is under way, or begin what comes next; true if there is more."""
        works = self._works
        if (not works or self._is_next_a_line) and self._may_begin():
            self._is_next_a_line = False
            self._begin()
            for _ in range(1, BURST):
                if works or not self._is_next_small() or not self._may_begin():
                    break
                self._begin()
        elif works:
            self._is_next_a_line = True
            self._go_on(works.popleft())
        more = bool(works) or self._may_begin()
        if self._is_paused or self._lines:
            self._pace_reading()
        if self.gone and not more and not self._lines and self._is_registered:
            self._is_registered = False
            self._methods.closed(self)
        return more

    def _may_begin(self) -> bool:
        """Is there a request, or an answer still to be read, and room for what comes of it?"""
        return (
            bool(self._lines or self._late)
            and not self._is_held
            and not self._changes
            and len(self._works) < MAX_WORKS
            and self._due < MAX_DUE
            and self._due_bytes < MAX_DUE_BYTES
            and self._unread <= FULL_AT
        )

    def _is_next_small(self) -> bool:
        lines = self._lines
        return not self._late and bool(lines) and len(lines[0]) <= SMALL

    @property
    def _unread(self) -> int:
        """Bytes that the client has not read, and that are on their way to it."""
        if self.gone or self._transport is None:
            return 0
        return self._made_bytes + self._gathered_bytes + self._transport.get_write_buffer_size()

    def _pace_reading(self) -> None:
        """Read on from the socket only when what was read is begun."""
        if self._transport is None or self.gone or self._transport.is_closing():
            return
        if bool(self._lines) is not self._is_paused:
            self._is_paused = bool(self._lines)
            if self._is_paused:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _begin(self) -> None:
        if self._late:
            read, finish = self._late.popleft()
            self._works.append(_UnderWay(self._methods.reading(read), finish, False))
            return
        line = self._lines.popleft()
        if len(line) > self._max_line:
            self._too_long()
        else:
            self._serve(line)

    def _go_on(self, under_way: _UnderWay) -> None:
        """Do the next part of a work, and what follows if that is its last."""
        work, finish, change = under_way
        if self.gone and not change:
            work.close()
            return
        try:
            parked = next(work)
        except StopIteration as ended:
            self._changes -= change
            if not change:
                finish(ended.value)
        except Exception:
            log.exception("a request failed")
            self._changes -= change
            finish(failed("the request"))
        else:
            if parked is None:
                self._works.append(under_way)
            else:
                self._made_bytes += parked.held_bytes
                parked.wait(partial(self._resume, under_way, parked.held_bytes))

    def _resume(self, under_way: _UnderWay, held_bytes: int) -> None:
        """Go on, in its turn, with work that was parked."""
        self._made_bytes -= held_bytes
        self._works.append(under_way)
        self._turns.want(self)

    # --- Requests --------------------------------------------------------------------------

    def _serve(self, line: bytes) -> None:
        try:
            request = read_request(line)
        except BadLine as bad:
            self._send(bad.answer)
            return
        reads, waits = _MANNERS.get(request.method, _UNKNOWN)
        if self.gone and (reads or waits):
            return
        counted, size = (0, 0) if waits else (1, len(line))
        self._due += counted
        self._due_bytes += size
        answer = partial(self._answer, request.id, counted, size)
        try:
            work = self._methods.call(self, request.method, request.params, answer)
        except Held as held:
            self._due -= counted
            self._due_bytes -= size
            self._lines.appendleft(line)
            self._is_held = True
            held.wait(self._go_on_serving)
        except StackshiftError as refused:
            answer(refused)
        except Exception:
            log.exception("%s failed", request.method)
            answer(failed(request.method))
        else:
            if work is not None:
                self._changes += not reads
                self._go_on(_UnderWay(work, answer, not reads))

    def _go_on_serving(self) -> None:
        """Begin the request that was held, and those behind it."""
        self._is_held = False
        self._turns.want(self)

    def _answer(self, number: Any, counted: int, size: int, result: Any) -> None:
        """Answer the request with the id `number`, which counts so much among those that are
        due."""
        if isinstance(result, Later):
            if not self.gone:
                self._late.append((result.read, partial(self._answer, number, counted, size)))
                self._turns.want(self)
            return
        self._due -= counted
        self._due_bytes -= size
        if self._lines:
            self._turns.want(self)
        if number is UNSET:
            return
        self._send(answer_line(number, result))

    # --- Sending ---------------------------------------------------------------------------

    def notify(self, method: str, params: Any) -> None:
        """Send a notification; dropped if the client is gone."""
        self._send(notification_line(method, params))

    def notify_later(self, method: str, read: Callable[[], Any]) -> None:
        """Send a notification whose params are read by `read` once there is room for them."""
        if not self.gone:
            self._late.append((read, partial(self.notify, method)))
            self._turns.want(self)

    @property
    def full(self) -> bool:
        """True while more than `FULL_AT` bytes are unread."""
        return self._unread > FULL_AT

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
        if not self._gathered:
            self._loop.call_soon(self._flush)
        self._gathered.append(line)
        self._gathered_bytes += len(line)
        if self._gathered_bytes > FULL_AT:
            self._flush()

    def _flush(self) -> None:
        gathered, self._gathered = self._gathered, []
        self._gathered_bytes = 0
        transport = self._transport
        if transport is None or self.gone or not gathered:
            return
        gathered.append(b"")
        transport.write(b"\n".join(gathered))
        if self._lines or self._late:
            self._turns.want(self)

    def close(self) -> None:
        """Send what is gathered, then close the connection."""
        self._flush()
        if self._transport is not None:
            self._transport.close()
