"""One connection that many threads share: each sends, one thread reads, each gets its own reply.

Owns a socket from `connect` until it ends. A connection that ended stays ended; its client makes
another. It never sends a line twice and never decides whether a line may be sent twice.

Invariants: a line is written in full or is the last one; every request that was written lands
exactly once, with its reply or with `ConnectionLost`.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from time import monotonic
from typing import Any, NoReturn

from stackshift_jobs.errors import Busy, DaemonUnavailable, StackshiftError, from_json
from stackshift_jobs.wire.jsonrpc import Lines, Notification, Reply, encode_request, parse
from stackshift_jobs.wire.retransmit import ConnectionLost, timed_out
from stackshift_jobs.wire.unavailable import BROKEN, unavailable


class Flight:
    """A request in flight. `landed` is set when `outcome` is: the reply, or why there is none."""

    __slots__ = ("id", "landed", "outcome", "size")

    def __init__(self, id: int, size: int) -> None:
        self.id = id
        self.landed = threading.Event()
        self.outcome: Reply | ConnectionLost | None = None
        self.size = size


class Link:
    """A socket, the requests in flight on it, and the thread that reads their replies."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sending = threading.Lock()
        self._lock = threading.Lock()  # guards the fields below
        self._next_id = 1
        self._flights: dict[int, Flight] = {}
        self.end: StackshiftError | None = None
        self.ended_at = 0.0
        self._reader = threading.Thread(target=self._read, name="stackshift-client", daemon=True)
        self._reader.start()

    def send(self, method: str, body: bytes, deadline: float | None) -> Flight:
        """Write a request. Raises `ConnectionLost` (not sent) or `TimeoutError`."""
        left = -1.0 if deadline is None else max(0.0, deadline - monotonic())
        if not self._sending.acquire(timeout=left):
            raise TimeoutError(f"{method}: not sent in time")
        failure: OSError | None = None
        try:
            with self._lock:
                if self.end is not None:
                    raise ConnectionLost(self.end, sent=False)
                id = self._next_id
                line = encode_request(id, method, body)
                self._next_id += 1
                flight = self._flights[id] = Flight(id, len(line))
            try:
                self._sock.sendall(line)
            except OSError as bad:
                # Part of the line may have been sent, and nothing may follow it.
                failure = bad
                self._shut(socket.SHUT_WR)
        finally:
            self._sending.release()
        if failure is not None:
            self._not_sent(flight, failure)
        return flight

    def _not_sent(self, flight: Flight, failure: OSError) -> NoReturn:
        """Raise the reason why a line could not be written: the daemon's last reply, if the reader
        gets it within a second, or `ConnectionLost`."""
        self._reader.join(1.0)
        self._shut(socket.SHUT_RDWR)
        with self._lock:
            self._flights.pop(flight.id, None)
        if isinstance(flight.outcome, Reply):
            flight.outcome.value()  # raises: too many connections, or this line was too long
        why = self.end or unavailable(f"the connection broke: {failure.strerror}", BROKEN)
        raise ConnectionLost(why, sent=False) from failure

    def wait(self, flight: Flight, deadline: float | None, method: str) -> Any:
        """The result of a request. Raises its error, `ConnectionLost` (sent) or `TimeoutError`."""
        left = None if deadline is None else max(0.0, deadline - monotonic())
        try:
            if not flight.landed.wait(left):
                raise timed_out(method)
        finally:
            with self._lock:  # given up, perhaps by Ctrl-C: a late reply is dropped
                self._flights.pop(flight.id, None)
        if isinstance(flight.outcome, ConnectionLost):
            raise flight.outcome
        assert flight.outcome is not None
        return flight.outcome.value()

    def close(self) -> None:
        """End the connection; the reader then closes the socket and wakes all who wait."""
        self._shut(socket.SHUT_RDWR)

    def join(self) -> None:
        """Wait, for at most 5 s, until the reader thread has ended."""
        if threading.current_thread() is not self._reader:
            self._reader.join(5.0)

    def _shut(self, how: int) -> None:
        with contextlib.suppress(OSError):  # the other end has closed it already
            self._sock.shutdown(how)

    def forget(self) -> None:
        """For a forked child: close our handle on the connection, which the parent still uses."""
        self._sock.close()

    def _read(self) -> None:
        lines = Lines()
        why: StackshiftError = unavailable("the daemon closed the connection", BROKEN)
        try:
            while data := self._sock.recv(1 << 18):
                for line in lines.feed(data):
                    self._deliver(parse(line))
        except StackshiftError as bad:
            why = bad
        except OSError as bad:
            why = unavailable(f"the connection to the daemon broke: {bad.strerror}", BROKEN)
        finally:
            self._land_all(why)
            # Shut down first, so that no sender blocks in it; closed only when no sender uses it,
            # because its number may belong to another file a moment later.
            self._shut(socket.SHUT_RDWR)
            with self._sending:
                self._sock.close()

    def _deliver(self, message: Reply | Notification) -> None:
        if isinstance(message, Notification):
            return  # the client never opens a feed
        if message.id is None:
            raise message.error or unavailable("the daemon ended the connection", BROKEN)
        with self._lock:
            flight = self._flights.pop(message.id, None)
        if flight is not None:
            flight.outcome = message
            flight.landed.set()

    def _land_all(self, why: StackshiftError) -> None:
        """End every request in flight with `why`. An error about a line (it is too long) belongs to
        the longest one; an error about the connection (there are too many) means that no request on
        it was carried out."""
        with self._lock:
            self.end, self.ended_at = why, monotonic()
            flights = list(self._flights.values())
            self._flights.clear()
        culprit = None
        if not isinstance(why, DaemonUnavailable | Busy):
            culprit = max(flights, key=lambda flight: flight.size, default=None)
        for flight in flights:
            if isinstance(why, Busy) or flight is culprit:
                flight.outcome = Reply(None, None, from_json(why.as_json()))
            else:
                flight.outcome = ConnectionLost(why, sent=True)
            flight.landed.set()
