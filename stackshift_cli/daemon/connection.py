"""A blocking connection to the daemon, for one thread: a command, or a program that follows a feed.

Owns `Connection`; `wire.jsonrpc` defines what is sent over it, and `wire.unix_socket` makes it. It
never starts a daemon, and never sends anything twice.

Invariants: a connection whose framing is in doubt is closed and stays closed; every wait has a
deadline if its caller gave one; what has arrived but was not read yet is bounded.
"""

from __future__ import annotations

import os
import select
from time import monotonic

from stackshift_jobs.errors import StackshiftError, Usage, from_json
from stackshift_jobs.wire.jsonrpc import (
    Lines,
    Notification,
    Reply,
    encode_params,
    encode_request,
    parse,
)
from stackshift_jobs.wire.peer import peer_pid
from stackshift_jobs.wire.unavailable import BROKEN, NO_ANSWER, unavailable
from stackshift_jobs.wire.unix_socket import reach

TYPE_CHECKING = False  # See `errors`: loading `typing` takes too long here.
if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any, Final

    from stackshift_jobs.wire.bare_socket import socket

_MAX_HELD: Final = 64 << 20
"""Bytes of messages that may wait here to be read by the caller."""
_RECEIVE_BYTES: Final = 1 << 18
_READ_WHILE_SENDING: Final = 64
"""With this many replies due, each send also receives what has arrived: the daemon begins nothing
more for a client that leaves a megabyte unread."""


class Connection:
    """A connection for one thread: request and wait (`call`), pipeline requests (`send`,
    `receive`), follow feeds (`notifications`). All of these can be mixed."""

    def __init__(self, sock: socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._lines = Lines()
        self._next_id = 1
        self._due: set[int] = set()
        self._given_up: set[int] = set()
        self._replies: dict[int, tuple[Reply, int]] = {}
        self._notes: deque[tuple[Notification, int]] | None = None  # Until the first arrives.
        self._held = 0
        self._on_silence: tuple[float, Callable[[], None]] | None = None
        self._end: StackshiftError | None = None

    @classmethod
    def open(cls, data_dir: str | os.PathLike[str], *, connect_timeout: float = 5.0) -> Connection:
        """Connect to the daemon of `data_dir`; raises what `unix_socket.reach` raises."""
        return cls(reach(data_dir, connect_timeout))

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; requests that the daemon has received still take effect."""
        self._finish(unavailable("the connection was closed", BROKEN, ""))

    @property
    def peer_pid(self) -> int:
        """The daemon's process id; 0 if it runs where we do not see processes."""
        pid = peer_pid(self._sock)
        return pid if pid != os.getpid() else 0  # One that we have made leads to another machine.

    def wait_end(self) -> None:
        """Wait until the daemon ends the connection, for as long as that takes."""
        try:
            while self._end is None:
                self._read(None, "the end")
        except StackshiftError:
            return

    def fileno(self) -> int:
        """The socket's file descriptor, for `select` and the like."""
        return self._sock.fileno()

    def call(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        on_silence: tuple[float, Callable[[], None]] | None = None,
    ) -> Any:
        """The result of `method`. If it has not arrived after the seconds of `on_silence`, its
        function is called, once.

        Raises the error that the daemon answers with, `DaemonUnavailable` if the connection breaks,
        `TimeoutError` after `timeout` seconds (the request may still take effect; the connection
        stays usable)."""
        now = monotonic()
        deadline = None if timeout is None else now + timeout
        if on_silence is not None:
            self._on_silence = now + on_silence[0], on_silence[1]
        try:
            return self._answer(method, params or {}, deadline).value()
        finally:
            self._on_silence = None

    def _answer(self, method: str, params: Mapping[str, Any], deadline: float | None) -> Reply:
        id = self._send(method, params, deadline)
        try:
            while id not in self._replies:
                self._read(deadline, method)
        except BaseException:  # Ctrl-C too: this reply must not be taken for the next one
            self._due.discard(id)
            self._given_up.add(id)
            raise
        return self._take(id)

    def send(self, method: str, params: Mapping[str, Any] | None = None) -> int:
        """Send a request without waiting for its reply; returns its id."""
        return self._send(method, params or {}, None)

    def send_encoded(self, method: str, params: bytes) -> int:
        """Like `send`, for params that are encoded already. If it raises `DaemonUnavailable`, the
        request was not executed: its last byte was not sent."""
        return self._send_encoded(method, params, None)

    def receive(self, timeout: float | None = None) -> Reply:
        """The next reply to a `send`, in order of arrival. Raises like `call`, but an error that
        the daemon answers with is in the reply. Raises `Usage` if no reply is due."""
        deadline = None if timeout is None else monotonic() + timeout
        while not self._replies:
            if not self._due and self._end is None:
                raise Usage("no reply is due on this connection")
            self._read(deadline, "receive")
        return self._take(next(iter(self._replies)))

    def arrived(self) -> list[Reply]:
        """The replies to `send`s that have arrived, in order of arrival, without waiting. Raises
        like `receive` once the connection has ended and all replies were returned."""
        if self._end is None and self._poll.poll(0):
            self._take_in()
        if self._end is not None and not self._replies:
            raise self._again()
        return [self._take(id) for id in list(self._replies)]

    def notifications(self, timeout: float | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
        """The notifications of feeds, as `(method, params)`, until the connection ends. Raises
        `TimeoutError` if none arrives for `timeout` seconds: then create a new iterator."""
        while True:
            deadline = None if timeout is None else monotonic() + timeout
            while not self._notes:
                self._read(deadline, "feed")
            note, size = self._notes.popleft()
            self._held -= size
            yield note.method, note.params

    def noticed(self) -> list[tuple[str, dict[str, Any]]]:
        """The notifications that have arrived, without waiting. Raises like `receive` once the
        connection has ended and all were returned."""
        if self._end is None and self._poll.poll(0):
            self._take_in()
        if self._end is not None and not self._notes:
            raise self._again()
        arrived, self._notes = self._notes or (), None
        self._held -= sum(size for _, size in arrived)
        return [(note.method, note.params) for note, _ in arrived]

    def _send(self, method: str, params: Mapping[str, Any], deadline: float | None) -> int:
        return self._send_encoded(method, encode_params(params), deadline)

    def _send_encoded(self, method: str, params: bytes, deadline: float | None) -> int:
        if self._end is not None:
            raise self._again()
        id = self._next_id
        line = memoryview(encode_request(id, method, params))
        self._next_id += 1
        if len(self._due) >= _READ_WHILE_SENDING:
            self._take_in()
        self._due.add(id)
        self._transmit(line, method, deadline)
        return id

    def _transmit(self, line: memoryview, method: str, deadline: float | None) -> None:
        """Write all of `line`, reading what arrives meanwhile: two ends that both only write would
        wait for each other forever."""
        while line:
            try:
                line = line[self._sock.send(line) :]
            except BlockingIOError:
                self._poll.modify(self._sock, select.POLLIN | select.POLLOUT)
                try:
                    self._wait(deadline, method)
                except TimeoutError:
                    # Part of a line was sent; no other line can follow it.
                    self._finish(unavailable("a request could not be sent in full", NO_ANSWER))
                    raise
                finally:
                    if self._end is None:
                        self._poll.modify(self._sock, select.POLLIN)
                self._take_in()
            except OSError:
                self._hear_out()
                raise self._again() from None

    def _read(self, deadline: float | None, what: str) -> None:
        """Wait until the daemon sends something, and process it."""
        if self._end is not None:
            raise self._again()
        self._wait(deadline, what)
        self._take_in()

    def _wait(self, deadline: float | None, what: str) -> None:
        while True:
            until = deadline
            if self._on_silence is not None and (until is None or self._on_silence[0] < until):
                until = self._on_silence[0]
            left = None if until is None else max(0.0, until - monotonic())
            # Rounded up, because a wait that ends early would spin; at most a day, because it
            # becomes a C int.
            if self._poll.poll(None if left is None else int(min(left, 86_400.0) * 1000) + 1):
                return
            now = monotonic()
            if deadline is not None and now >= deadline:
                raise TimeoutError(f"{what}: the daemon did not answer in time")
            if self._on_silence is not None and now >= self._on_silence[0]:
                (_, say), self._on_silence = self._on_silence, None
                say()

    def _take_in(self) -> None:
        """Receive and file what has arrived."""
        try:
            data = self._sock.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as bad:
            self._finish(unavailable(f"the daemon's connection broke: {bad.strerror}", BROKEN))
            return
        if not data:
            self._finish(unavailable("the daemon closed the connection", BROKEN))
            return
        try:
            for line in self._lines.feed(data):
                self._file(parse(line), len(line))
            if self._held > _MAX_HELD:
                raise unavailable(f"more than {_MAX_HELD} bytes are unread", BROKEN, "")
        except StackshiftError as bad:
            self._finish(bad)

    def _file(self, message: Reply | Notification, size: int) -> None:
        if isinstance(message, Notification):
            if self._notes is None:
                from collections import deque  # Its import costs a request more than it is worth.

                self._notes = deque()
            self._notes.append((message, size))
        elif message.id is None:
            # About the whole connection (too many of them, a line too long), which then closes.
            raise message.error or unavailable("the daemon ended the connection", BROKEN)
        elif message.id in self._given_up:
            self._given_up.discard(message.id)
            return
        elif message.id in self._due:
            self._due.discard(message.id)
            self._replies[message.id] = (message, size)
        else:
            raise unavailable(
                f"the daemon sent a reply to request {message.id}, which is not due", BROKEN
            )
        self._held += size

    def _take(self, id: int) -> Reply:
        reply, size = self._replies.pop(id)
        self._held -= size
        return reply

    def _hear_out(self) -> None:
        """Read what the daemon sent before it closed the connection, which may be the reason."""
        while self._end is None:
            try:
                self._wait(monotonic() + 1.0, "the end of the connection")
            except TimeoutError:
                self._finish(unavailable("the daemon's connection broke", BROKEN))
                return
            self._take_in()

    def _finish(self, why: StackshiftError) -> None:
        if self._end is None:
            self._end = why
            self._sock.close()

    def _again(self) -> StackshiftError:
        """Why this connection ended, as a new error: one that is raised twice would show both
        tracebacks."""
        assert self._end is not None
        return from_json(self._end.as_json())
