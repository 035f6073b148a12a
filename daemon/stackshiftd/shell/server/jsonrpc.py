"""JSON-RPC 2.0 as a daemon reads and writes it: one message a line.

    {"jsonrpc":"2.0","id":7,"method":"run.get","params":{"run":"@last"}}
    {"jsonrpc":"2.0","id":7,"result":{…}}

Whoever leads and whoever follows refuse the same lines with the same words, because both read them
here. Lines are read and written without their newline.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from stackshift_jobs.errors import PayloadRefused, StackshiftError, Usage
from stackshift_jobs.values.limits import LINE_MARGIN
from stackshift_jobs.values.sizes import size_text

NOT_JSON: Final = -32700
NOT_A_REQUEST: Final = -32600
_CODES: Final = {"unknown_method": -32601, "bad_params": -32602}
_REFUSED: Final = -32000
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """One request; without an id it is a notification and gets no answer."""

    method: str
    jsonrpc: str = "2.0"
    id: int | str | UnsetType | None = UNSET
    params: Raw = Raw(b"{}")


_decode: Final = msgspec.json.Decoder(Request).decode
_encode: Final = msgspec.json.Encoder().encode


class BadLine(Exception):
    """A line that is not a request; `answer` is the line that says so."""

    def __init__(self, answer: bytes) -> None:
        super().__init__(answer)
        self.answer = answer


def read_request(line: bytes) -> Request:
    """The request in a line. Raises `BadLine`."""
    try:
        request = _decode(line)
    except _UNREADABLE as bad:
        raise BadLine(_refused_line(line, bad)) from bad
    if request.jsonrpc != "2.0":
        refused = Usage('a request needs "jsonrpc": "2.0"')
        raise BadLine(_error_line(request.id, refused, NOT_A_REQUEST))
    return request


def answer_line(number: Any, result: Any) -> bytes:
    """The answer to the request with the id `number`: its result, or the `StackshiftError` with
    which it is refused."""
    if not isinstance(result, StackshiftError):
        return b'{"jsonrpc":"2.0","id":%s,"result":%s}' % (_encode(number), _encode(result))
    return _error_line(number, result, _CODES.get(str(result.fields.pop("rpc", "")), _REFUSED))


def notification_line(method: str, params: Any) -> bytes:
    """What a client is told without having asked."""
    return b'{"jsonrpc":"2.0","method":%s,"params":%s}' % (_encode(method), _encode(params))


def too_long_line(max_line: int) -> bytes:
    """The answer to a line of more than `max_line` bytes, after which nothing more is read."""
    limit_bytes = max_line - LINE_MARGIN
    refused = PayloadRefused(
        f"the request is too long: a payload may have {size_text(limit_bytes)}",
        hint="store it elsewhere and pass its location, or raise [limits] payload",
        path="$",
        limit_bytes=limit_bytes,
    )
    return _error_line(None, refused, NOT_A_REQUEST)


def _refused_line(line: bytes, bad: Exception) -> bytes:
    try:
        value = msgspec.json.decode(line)
    except _UNREADABLE:
        return _error_line(None, Usage(f"not valid JSON: {bad}"), NOT_JSON)
    number = value.get("id") if isinstance(value, dict) else None
    number = number if isinstance(number, int | str) else None
    return _error_line(number, Usage(f"not a request: {bad}"), NOT_A_REQUEST)


def _error_line(number: Any, error: StackshiftError, code: int) -> bytes:
    body = {"code": code, "message": error.message, "data": error.as_json()}
    number = None if number is UNSET else number
    return b'{"jsonrpc":"2.0","id":%s,"error":%s}' % (_encode(number), _encode(body))
