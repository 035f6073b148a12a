"""The JSON-RPC frames between client and daemon: what a request and a reply look like.

    → {"jsonrpc":"2.0","id":1,"method":"run.get","params":{"run":"@last"}}
    ← {"jsonrpc":"2.0","id":1,"result":{…}}

Owns encoding, splitting bytes into lines, and parsing; it has no socket. A request that cannot be
sent is refused here, before any part of it is sent, and no line is kept that is longer than a
daemon of ours would send.

Every command imports this module, so it imports little: `strict_json` (12 ms) is only needed for a
value that is not obviously JSON already, and `json_text` stands in for `json`.
"""

from __future__ import annotations

from stackshift_jobs.errors import PayloadRefused, StackshiftError, from_json
from stackshift_jobs.values import json_text
from stackshift_jobs.values.limits import LINE_MARGIN, MAX_PAYLOAD_BYTES
from stackshift_jobs.wire.unavailable import BROKEN, RESTART, unavailable

TYPE_CHECKING = False  # See `errors`: loading `typing` takes too long here.
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Final

MAX_LINE: Final = MAX_PAYLOAD_BYTES + LINE_MARGIN
MAX_REPLY: Final = 256 << 20
"""A run with all of its steps and records can be larger than any request."""

_encode: Final = json_text.encoder(ensure_ascii=False, allow_nan=False)
"""In UTF-8: in ASCII a value could be three times as long as the size that limits count, and so as
the line that the daemon accepts."""
_SURE: Final = frozenset((str, bool, type(None)))
_SURE_NUMBER: Final = 1 << 64
"""Larger integers may have too many digits."""
_SURE_DEPTH: Final = 32
"""Well below what `strict_json` allows; it judges whatever is nested deeper."""


def _surely_plain(value: Any, depth: int = 0) -> bool:
    """Whether `value` is valid JSON beyond doubt; if False, `strict_json` must decide."""
    kind = type(value)
    if kind in _SURE:
        return True
    if kind is int:
        return bool(-_SURE_NUMBER < value < _SURE_NUMBER)
    if kind is float:
        return bool(value - value == 0.0)
    if depth >= _SURE_DEPTH:
        return False
    # Loops, and leaves looked at here: `all` and a call for each leaf take twice as long.
    if kind is dict:
        for key, member in value.items():
            if type(key) is not str:
                return False
            if type(member) not in _SURE and not _surely_plain(member, depth + 1):
                return False
        return True
    if kind is list:
        for item in value:
            if type(item) not in _SURE and not _surely_plain(item, depth + 1):
                return False
        return True
    return False


def _plain_json(value: Any) -> bytes:
    """`value` as JSON in UTF-8 if it is valid beyond doubt, and no larger than the largest payload;
    else nothing."""
    if not _surely_plain(value):
        return b""
    try:
        body = _encode(value).encode("utf-8")
    except UnicodeEncodeError:  # Half a character.
        return b""
    return body if len(body) <= MAX_PAYLOAD_BYTES else b""


def encode_value(value: Any, place: str) -> bytes:
    """`value` as JSON in UTF-8; raises `PayloadRefused`, whose path starts at `value` and whose
    message begins with `place`, the name of the parameter."""
    try:
        if body := _plain_json(value):
            return body
        from stackshift_jobs.values import strict_json

        strict_json.dumps(value, MAX_PAYLOAD_BYTES)
        return _encode(strict_json.plain(value)).encode("utf-8")
    except PayloadRefused as refused:
        raise PayloadRefused(
            f"{place}: {refused.message}", hint=refused.hint, path=refused.path, parameter=place
        ) from None
    except (ValueError, RecursionError) as bad:  # an integer too long to write, a cycle
        raise PayloadRefused(f"{place}: {bad}", path="$", parameter=place) from bad


def encode_params(params: Mapping[str, Any], place: str = "") -> bytes:
    """The encoded `params` object. Each parameter is checked as a value by itself, and each of the
    runs of `run.start_many` as the params of a `run.start`."""
    if body := _plain_json(params):
        return body
    parts = []
    for name, value in params.items():
        if name == "runs" and isinstance(value, list):
            inner = b",".join(
                encode_params(run, f"runs[{i}].")
                if _is_mapping(run)
                else encode_value(run, f"runs[{i}]")
                for i, run in enumerate(value)
            )
            encoded = b"[" + inner + b"]"
        else:
            encoded = encode_value(value, place + name)
        parts.append(_encode(name).encode("utf-8") + b":" + encoded)
    return b"{" + b",".join(parts) + b"}"


def _is_mapping(value: Any) -> bool:
    if type(value) is dict:
        return True
    from collections.abc import Mapping

    return isinstance(value, Mapping)


def encode_request(id: int, method: str, params: bytes) -> bytes:
    """The line of a request; `params` is an encoded object. Raises `PayloadRefused` if the line is
    longer than any daemon accepts."""
    line = b'{"jsonrpc":"2.0","id":%d,"method":%s,"params":%s}\n' % (
        id,
        _encode(method).encode("utf-8"),
        params,
    )
    if len(line) > MAX_LINE:
        raise PayloadRefused(
            f"{method}: the request has {len(line)} bytes; the limit is {MAX_LINE}", path="$"
        )
    return line


class Reply:
    """The reply to request `id`; None if it is about the connection as a whole."""

    __slots__ = ("error", "id", "result")

    def __init__(self, id: int | None, result: Any, error: StackshiftError | None) -> None:
        self.id = id
        self.result = result
        self.error = error

    def value(self) -> Any:
        """The result; raises the error if there is one."""
        if self.error is not None:
            raise self.error
        return self.result


class Notification:
    """A message that is not a reply: a record of a feed, or the end of a feed."""

    __slots__ = ("method", "params")

    def __init__(self, method: str, params: dict[str, Any]) -> None:
        self.method = method
        self.params = params


def parse(line: bytes) -> Reply | Notification:
    """The message in `line`; raises `DaemonUnavailable` if it is not a valid one."""
    try:
        body = json_text.loads(line.decode("utf-8", "surrogatepass"))
        if "method" in body:
            return Notification(str(body["method"]), dict(body.get("params") or {}))
        id, error = body["id"], body.get("error")
        if type(id) is not int and id is not None:
            raise TypeError("an id that we never sent")
        return Reply(id, body.get("result"), None if error is None else _error(error))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as bad:
        raise unavailable(
            f"the daemon sent an invalid message: {line[:80]!r}", BROKEN, RESTART
        ) from bad


def _error(error: dict[str, Any]) -> StackshiftError:
    """The error of a reply, in the class for its code."""
    data = error.get("data")
    if isinstance(data, dict):
        return from_json({"message": error.get("message", ""), **data})
    return StackshiftError(str(error.get("message", "")))


class Lines:
    """Takes bytes and returns whole lines; never holds more than one line of `limit` bytes."""

    def __init__(self, limit: int = MAX_REPLY) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._held = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without line ends. Raises `DaemonUnavailable` for a line
        that is too long, so that its sender cannot use up the memory."""
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = b"".join(self._parts) + lines[0]
            self._parts, self._held = [], 0
        self._parts.append(rest)
        self._held += len(rest)
        if self._held > self._limit or any(len(line) > self._limit for line in lines):
            raise unavailable(f"the daemon sent a line of more than {self._limit} bytes", BROKEN)
        return lines
