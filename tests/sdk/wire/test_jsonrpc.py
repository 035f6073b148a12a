"""Frames: requests are strict JSON on one line, and lines are put together correctly."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stackshift_jobs.errors import DaemonUnavailable, PayloadRefused
from stackshift_jobs.values import strict_json
from stackshift_jobs.values.limits import MAX_PAYLOAD_BYTES
from stackshift_jobs.wire import jsonrpc

SCALARS = [None, True, 0, -1, 2**80, 1.5, 1e300, "", "ü\n\x1b\u202e", "\U0001f600"]
NESTED = [[], {}, [[{"a": [1]}]], {"a": {"b": [None, "x", 2.0]}}]
PLAIN: list[Any] = [*SCALARS, *NESTED, (1, 2), {1: "a", None: "b", False: "c"}]


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_value_is_written_as_strict_json_writes_it(value: Any) -> None:
    """The fast path and the checked one give the same JSON, here in UTF-8."""
    written = jsonrpc.encode_value(value, "payload")
    assert len(written) == strict_json.json_size(strict_json.dumps(value))
    assert strict_json.dumps(json.loads(written)) == strict_json.dumps(value)


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_params_are_the_same_written_at_once_or_one_by_one(value: Any) -> None:
    """All at once if each is plain; a tuple beside them has each looked at by itself."""
    written = jsonrpc.encode_value(value, "payload")
    assert jsonrpc.encode_params({"payload": value}) == b'{"payload":' + written + b"}"
    mixed = jsonrpc.encode_params({"payload": value, "after": ("run_1",)})
    assert mixed == b'{"payload":' + written + b',"after":["run_1"]}'
    many = jsonrpc.encode_params({"runs": [{"payload": value}, {"labels": {}}]})
    assert many == b'{"runs":[{"payload":' + written + b'},{"labels":{}}]}'


def test_params_may_be_larger_together_than_each_of_them() -> None:
    """The limit is one for values; that of the line is the daemon's."""
    half = "x" * (MAX_PAYLOAD_BYTES - 100)
    assert len(jsonrpc.encode_params({"payload": half, "labels": half})) > MAX_PAYLOAD_BYTES


def nested(depth: int) -> Any:
    """A list in a list, `depth` levels deep."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


NUMBERS = [float("nan"), float("inf"), -float("inf"), 10**5000]
TEXTS = ["\ud800", {"\udfff": 1}]
REFUSED: list[Any] = [*NUMBERS, *TEXTS, b"x", {1, 2}, object(), {1.5: 1}, nested(64)]


@pytest.mark.parametrize("value", REFUSED, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: {"a": [0, v]}], ids=["bare", "inside"])
def test_value_that_json_cannot_hold_is_refused_before_it_is_sent(wrap: Any, value: Any) -> None:
    """The error names the parameter; the daemon need not notice it."""
    with pytest.raises(PayloadRefused, match=r"^payload: "):
        jsonrpc.encode_params({"job": "j", "payload": wrap(value)})


def test_refusal_names_the_path_within_the_parameter() -> None:
    """As the daemon's errors do, and with the item if there are several."""
    with pytest.raises(PayloadRefused) as refused:
        jsonrpc.encode_params({"payload": {"sizes": [1, float("nan")]}})
    assert refused.value.path == "$.sizes[1]"
    assert refused.value.message.startswith("payload: at $.sizes[1]: ")
    with pytest.raises(PayloadRefused) as refused:
        jsonrpc.encode_params({"runs": [{"job": "a"}, {"job": "b", "payload": {"x": b""}}]})
    assert refused.value.path == "$.x"
    assert refused.value.fields["parameter"] == "runs[1].payload"


def test_request_is_one_line_of_utf8() -> None:
    """Whatever it contains; in ASCII it could be longer than the daemon allows."""
    line = jsonrpc.encode_request(7, "run.start", jsonrpc.encode_params({"payload": "ü\n\r"}))
    assert "ü".encode() in line
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    request = {"jsonrpc": "2.0", "id": 7, "method": "run.start"}
    assert json.loads(line) == request | {"params": {"payload": "ü\n\r"}}


def test_value_over_sixteen_mebibytes_is_refused() -> None:
    """No project can allow more, so there is no need to ask the daemon."""
    with pytest.raises(PayloadRefused, match="the limit is 16 MiB"):
        jsonrpc.encode_params({"payload": "x" * MAX_PAYLOAD_BYTES})


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 100])
def test_lines_are_put_together_from_any_pieces(cut: int) -> None:
    """Wherever the stream is cut."""
    stream = b'{"a":1}\n\n{"b":22}\n{"c":333}\nrest'
    lines = jsonrpc.Lines()
    got = [line for i in range(0, len(stream), cut) for line in lines.feed(stream[i : i + cut])]
    assert got == [b'{"a":1}', b"", b'{"b":22}', b'{"c":333}']


@pytest.mark.parametrize("pieces", [[b"x" * 11], [b"x" * 6, b"x" * 6], [b"x" * 11 + b"\n"]])
def test_line_over_the_limit_is_not_kept(pieces: list[bytes]) -> None:
    """Memory is bounded by the limit, whether the line ends or not."""
    lines = jsonrpc.Lines(limit=10)
    assert lines.feed(b"y" * 10 + b"\n") == [b"y" * 10]
    with pytest.raises(DaemonUnavailable, match="more than 10 bytes"):
        for piece in pieces:
            lines.feed(piece)
