"""JSON-RPC with the daemon over its Unix socket: the frames, the way in, a blocking connection.

    → {"jsonrpc":"2.0","id":1,"method":"run.get","params":{"run":"@last"}}
    ← {"jsonrpc":"2.0","id":1,"result":{…}}

Owns what all clients share (`connect`, `encode_request`, `Lines`, `parse`) and `Connection`, which
is for one thread: a command, or a program that follows a feed. It never starts a daemon and never
sends anything twice.

Invariants: a connection whose frames are in doubt is closed and stays closed; every wait has a
deadline if its caller gave one; what has arrived and was not asked for yet is bounded.

Imported by every command, so it imports little: `strict` (12 ms) is asked only about a value that
is not plainly JSON already.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import monotonic
from typing import Any, Final, NamedTuple

from stackshift_jobs import discovery
from stackshift_jobs.errors import (
    DaemonUnavailable,
    PayloadRefused,
    StackshiftError,
    Usage,
    from_json,
)
from stackshift_jobs.version import PROTOCOL

MAX_PAYLOAD: Final = 16 << 20
"""The most that `[limits] payload` can be; the daemon knows the project's own limit."""
MAX_LINE: Final = MAX_PAYLOAD + (64 << 10)
_MAX_HELD: Final = 64 << 20
"""Bytes of messages that may wait here for somebody to ask for them."""
_RECEIVE_BYTES: Final = 1 << 18
_READ_WHILE_SENDING: Final = 64
"""With this many replies due, each send takes in what has come: the daemon cuts off a client that
lets 8 MiB wait."""

NOT_RUNNING: Final = "not_running"
STALE: Final = "stale"
OTHER_PROTOCOL: Final = "other_protocol"
OTHER_USER: Final = "other_user"
NO_ANSWER: Final = "no_answer"
BROKEN: Final = "broken"
"""What `DaemonUnavailable.fields["reason"]` can be."""


_START: Final = "stackshift daemon start"
_RESTART: Final = "stackshift daemon restart"
_DOCTOR: Final = "stackshift doctor"


def unavailable(message: str, reason: str, hint: str = _START) -> DaemonUnavailable:
    """`DaemonUnavailable` with its reason, one of the words above."""
    return DaemonUnavailable(message, hint=hint, reason=reason)


# --- Frames --------------------------------------------------------------------------------

_encode: Final = json.JSONEncoder(
    ensure_ascii=True, allow_nan=False, separators=(",", ":"), check_circular=False
).encode
_SURE: Final = frozenset((str, int, bool, type(None)))
_SURE_DEPTH: Final = 32
"""Well under what `strict` allows; what is deeper is its to judge."""


def _surely_plain(value: Any, depth: int = 0) -> bool:
    """Is `value` JSON as it stands, without asking `strict`? False only means: ask."""
    kind = type(value)
    if kind in _SURE:
        return True
    if kind is float:
        return bool(value - value == 0.0)
    if depth >= _SURE_DEPTH:
        return False
    if kind is dict:
        return all(type(k) is str and _surely_plain(v, depth + 1) for k, v in value.items())
    return kind is list and all(_surely_plain(v, depth + 1) for v in value)


def encode_value(value: Any, place: str) -> bytes:
    """`value` as `strict.dumps` writes it; raises `PayloadRefused` whose path counts from `value`
    and whose message begins with `place`, the parameter that it is."""
    try:
        if _surely_plain(value):
            text = _encode(value)
            # An escape of that kind may be half a character; rare enough to let strict look.
            if "\\ud" not in text and len(text) <= MAX_PAYLOAD:
                return text.encode("ascii")
        from stackshift_jobs import strict

        return strict.dumps(value, MAX_PAYLOAD)
    except PayloadRefused as refused:
        raise PayloadRefused(
            f"{place}: {refused.message}", hint=refused.hint, path=refused.path, parameter=place
        ) from None
    except (ValueError, RecursionError) as bad:  # an integer too long to write, a cycle
        raise PayloadRefused(f"{place}: {bad}", path="$", parameter=place) from bad


def encode_params(params: Mapping[str, Any], place: str = "") -> bytes:
    """The `params` object; each parameter is checked as a value of its own, and each of
    `run.start_many`'s runs as the params of a `run.start`."""
    parts = []
    for name, value in params.items():
        if name == "runs" and isinstance(value, list):
            inner = b",".join(
                encode_params(run, f"runs[{i}].")
                if isinstance(run, Mapping)
                else encode_value(run, f"runs[{i}]")
                for i, run in enumerate(value)
            )
            encoded = b"[" + inner + b"]"
        else:
            encoded = encode_value(value, place + name)
        parts.append(_encode(name).encode("ascii") + b":" + encoded)
    return b"{" + b",".join(parts) + b"}"


def encode_request(id: int, method: str, params: bytes) -> bytes:
    """The line of a request; `params` is an encoded object. Raises `PayloadRefused` if it is longer
    than any daemon takes."""
    line = b'{"jsonrpc":"2.0","id":%d,"method":%s,"params":%s}\n' % (
        id,
        _encode(method).encode("utf-8"),
        params,
    )
    if len(line) > MAX_LINE:
        raise PayloadRefused(
            f"{method}: a request of {len(line)} bytes; at most {MAX_LINE} fit a line", path="$"
        )
    return line


class Reply(NamedTuple):
    """The answer to request `id`; None where the daemon speaks of the connection as a whole."""

    id: int | None
    result: Any
    error: StackshiftError | None

    def value(self) -> Any:
        """The result; raises the error if there is one."""
        if self.error is not None:
            raise self.error
        return self.result


class Notification(NamedTuple):
    """What the daemon says unasked: a feed's record, its end."""

    method: str
    params: dict[str, Any]


def parse(line: bytes) -> Reply | Notification:
    """The message in `line`; raises `DaemonUnavailable` for what no daemon of ours sends."""
    try:
        body = json.loads(line)
        if "method" in body:
            return Notification(str(body["method"]), dict(body.get("params") or {}))
        id, error = body["id"], body.get("error")
        if type(id) is not int and id is not None:
            raise TypeError("an id that we never sent")
        return Reply(id, body.get("result"), None if error is None else _error(error))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as bad:
        raise unavailable(
            f"the daemon sent what is no message: {line[:80]!r}",
            BROKEN,
            _RESTART,
        ) from bad


def _error(error: dict[str, Any]) -> StackshiftError:
    """The error of a reply, as the class of its code."""
    data = error.get("data")
    if isinstance(data, dict):
        return from_json({"message": error.get("message", ""), **data})
    return StackshiftError(str(error.get("message", "")))


class Lines:
    """Bytes in, whole lines out; never holds more than one line of at most `limit` bytes."""

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._held = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without their ends. Raises `DaemonUnavailable` for a
        line that is too long: its sender is not to be trusted with memory."""
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = b"".join(self._parts) + lines[0]
            self._parts, self._held = [], 0
        self._parts.append(rest)
        self._held += len(rest)
        if self._held > self._limit or any(len(line) > self._limit for line in lines):
            raise unavailable(f"the daemon sent a line of over {self._limit} bytes", BROKEN)
        return lines


# --- The way in ----------------------------------------------------------------------------


def connect(data_dir: str | os.PathLike[str], timeout: float = 5.0) -> socket.socket:
    """A blocking socket to the daemon of `data_dir`, after it has been made sure that the daemon is
    our user's and speaks our protocol.

    Sends on it fail after `timeout` seconds in which the daemon takes nothing. Raises
    `DaemonUnavailable`, or `BadConfiguration` for a socket in a directory that others can enter.
    """
    info = discovery.read_daemon(data_dir)
    if info is None:
        raise unavailable(f"no daemon runs for {data_dir}", NOT_RUNNING)
    directory = Path(info.socket).parent
    if directory != Path(data_dir) and directory.exists():
        discovery.check_private(directory)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Not settimeout: a non-blocking connect to a full queue fails at once instead of waiting.
        limit = struct.pack("@ll", *divmod(max(1, int(timeout * 1e6)), 1_000_000))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        _reach(sock, info, timeout)
        if (uid := peer_uid(sock)) != os.geteuid():
            raise unavailable(
                f"{info.socket} is served by user {uid}, not by you",
                OTHER_USER,
                _DOCTOR,
            )
        if info.protocol != PROTOCOL:
            raise unavailable(
                f"the daemon (version {info.version}) speaks protocol {info.protocol}, "
                f"this program {PROTOCOL}",
                OTHER_PROTOCOL,
                _RESTART,
            )
    except BaseException:
        sock.close()
        raise
    return sock


def _reach(sock: socket.socket, info: discovery.DaemonInfo, timeout: float) -> None:
    """Connect `sock`; every way in which that fails is `DaemonUnavailable`."""
    try:
        sock.connect(info.socket)
    except (ConnectionRefusedError, FileNotFoundError) as bad:
        raise unavailable(
            f"the daemon (pid {info.pid}) is gone: nothing listens at {info.socket}", STALE
        ) from bad
    except BlockingIOError as bad:
        raise unavailable(
            f"the daemon (pid {info.pid}) took no connection for {timeout:g} s",
            NO_ANSWER,
            "stackshift daemon status, then stackshift daemon restart",
        ) from bad
    except OSError as bad:
        raise unavailable(f"{info.socket}: {bad.strerror or bad}", BROKEN, _DOCTOR) from bad


def peer_uid(sock: socket.socket) -> int:
    """The user of the process that listens at the other end, as the kernel knows it."""
    if sys.platform == "darwin":
        # struct xucred of sys/ucred.h: version, uid, and groups that we do not need.
        level, local_peercred, size = 0, 1, 76
        _, uid = struct.unpack_from("II", sock.getsockopt(level, local_peercred, size))
        return int(uid)
    _, uid, _ = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)


# --- One thread's connection -----------------------------------------------------------------


class Connection:
    """A connection for one thread: ask and wait (`call`), send ahead (`send`, `receive`), follow
    (`notifications`). All of these may be mixed."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._lines = Lines()
        self._next_id = 1
        self._due: set[int] = set()
        self._given_up: set[int] = set()
        self._replies: dict[int, tuple[Reply, int]] = {}
        self._notes: deque[tuple[Notification, int]] = deque()
        self._held = 0
        self._end: StackshiftError | None = None

    @classmethod
    def open(cls, data_dir: str | os.PathLike[str], *, connect_timeout: float = 5.0) -> Connection:
        """Connect to the daemon of `data_dir`; raises what `connect` raises."""
        return cls(connect(data_dir, connect_timeout))

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; what is under way in the daemon goes on."""
        self._finish(unavailable("the connection was closed", BROKEN, ""))

    def fileno(self) -> int:
        """For `select` and its kin."""
        return self._sock.fileno()

    def call(
        self, method: str, params: Mapping[str, Any] | None = None, timeout: float | None = None
    ) -> Any:
        """The result of `method`.

        Raises the error that the daemon answers with, `DaemonUnavailable` if the connection breaks,
        `TimeoutError` after `timeout` seconds (the request may still take effect; the connection
        stays usable)."""
        deadline = None if timeout is None else monotonic() + timeout
        id = self._send(method, params or {}, deadline)
        try:
            while id not in self._replies:
                self._read(deadline, method)
        except BaseException:  # Ctrl-C too: the next reply must not be taken for this one
            self._due.discard(id)
            self._given_up.add(id)
            raise
        return self._take(id).value()

    def send(self, method: str, params: Mapping[str, Any] | None = None) -> int:
        """Send a request without waiting for its reply; its id."""
        return self._send(method, params or {}, None)

    def receive(self, timeout: float | None = None) -> Reply:
        """The next reply to a `send`, in the order in which they come. Raises like `call`, but an
        error that the daemon answered with is in the reply."""
        deadline = None if timeout is None else monotonic() + timeout
        while not self._replies:
            if not self._due and self._end is None:
                raise Usage("no reply is due on this connection")
            self._read(deadline, "receive")
        return self._take(next(iter(self._replies)))

    def notifications(self, timeout: float | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
        """What feeds send, as `(method, params)`, for as long as the connection lives. Raises
        `TimeoutError` where none comes for `timeout` seconds: then ask for a new iterator."""
        while True:
            deadline = None if timeout is None else monotonic() + timeout
            while not self._notes:
                self._read(deadline, "feed")
            note, size = self._notes.popleft()
            self._held -= size
            yield note.method, note.params

    def _send(self, method: str, params: Mapping[str, Any], deadline: float | None) -> int:
        if self._end is not None:
            raise self._again()
        id = self._next_id
        line = memoryview(encode_request(id, method, encode_params(params)))
        self._next_id += 1
        if len(self._due) >= _READ_WHILE_SENDING:
            self._take_in()
        self._due.add(id)
        self._transmit(line, method, deadline)
        return id

    def _transmit(self, line: memoryview, method: str, deadline: float | None) -> None:
        """Write all of `line`, reading what comes meanwhile: two ends that both only write would
        wait for each other for ever."""
        while line:
            try:
                line = line[self._sock.send(line) :]
            except BlockingIOError:
                self._poll.modify(self._sock, select.POLLIN | select.POLLOUT)
                try:
                    self._wait(deadline, method)
                except TimeoutError:
                    # Part of a line is out; no other may follow it.
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
        """Wait for the daemon to say something and take it in."""
        if self._end is not None:
            raise self._again()
        self._wait(deadline, what)
        self._take_in()

    def _wait(self, deadline: float | None, what: str) -> None:
        while True:
            left = None if deadline is None else max(0.0, deadline - monotonic())
            # Rounded up: a wait that ends early would spin. A day at most: it becomes a C int.
            if self._poll.poll(None if left is None else int(min(left, 86_400.0) * 1000) + 1):
                return
            if deadline is not None and monotonic() >= deadline:
                raise TimeoutError(f"{what}: the daemon did not answer in time")

    def _take_in(self) -> None:
        """File all that has arrived."""
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
                raise unavailable(f"over {_MAX_HELD} bytes wait to be read", BROKEN, "")
        except StackshiftError as bad:
            self._finish(bad)

    def _file(self, message: Reply | Notification, size: int) -> None:
        if isinstance(message, Notification):
            self._notes.append((message, size))
        elif message.id is None:
            # Said of the whole connection (too many of them, a line too long), which then closes.
            raise message.error or unavailable("the daemon ended the connection", BROKEN)
        elif message.id in self._given_up:
            self._given_up.discard(message.id)
            return
        elif message.id in self._due:
            self._due.discard(message.id)
            self._replies[message.id] = (message, size)
        else:
            raise unavailable(f"a reply to request {message.id}, which is not due", BROKEN)
        self._held += size

    def _take(self, id: int) -> Reply:
        reply, size = self._replies.pop(id)
        self._held -= size
        return reply

    def _hear_out(self) -> None:
        """The daemon takes nothing more: read what it said before it hung up, which may be why."""
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
        """Why this connection ended, as an error of its own: one that is raised twice would carry
        both tracebacks."""
        assert self._end is not None
        return from_json(self._end.as_json())
