"""What the options of `start` mean."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from stackshift_cli.arguments import Given
from stackshift_cli.commands.small_parser import parse
from stackshift_cli.commands.spec import START
from stackshift_cli.flows.start_params import start_params
from stackshift_jobs.errors import PayloadRefused, StackshiftError, Usage


def params(*argv: str) -> dict[str, Any]:
    """The params of `run.start` for `stackshift start hello ARGV`."""
    return noted(*argv)[0]


def noted(*argv: str) -> tuple[dict[str, Any], list[str]]:
    """The params and the notes for the person."""
    plain = parse(["start", "hello", *argv], START)
    assert plain is not None
    return start_params(Given(plain.values))


def test_nothing_given_asks_for_the_job_alone() -> None:
    """Options that were not given are not sent: the daemon knows the defaults."""
    assert params() == {"job": "hello"}


@pytest.mark.parametrize(
    ("argv", "flag"),
    [
        (["-F", "a=1", "-F", "a=2"], "-F"),
        (["-F", "a=1", "-F", "a:=1"], "-F"),
        (["--label", "a=1", "--label", "a=1"], "--label"),
    ],
)
def test_key_that_is_given_twice_is_refused(argv: list[str], flag: str) -> None:
    """One of the two values would be lost in silence."""
    with pytest.raises(Usage, match=f"{flag} is given more than once for 'a'"):
        params(*argv)


def test_every_option_becomes_its_param() -> None:
    """Durations become milliseconds, numbers become numbers, labels an object."""
    line = """--queue q --idempotency-key k --idempotency-ttl 2d --delay 1m30s
        --priority 7 --max-attempts 5 --label a=1 --label b=x=y --unique u --on-duplicate attach
        --ttl 10m --deadline 2h --retry-failed"""
    made = params(*line.split())
    assert made == {
        "job": "hello",
        "queue": "q",
        "idempotency_key": "k",
        "idempotency_ttl_ms": 172_800_000,
        "delay_ms": 90_000,
        "priority": 7,
        "max_attempts": 5,
        "labels": {"a": "1", "b": "x=y"},
        "unique": "u",
        "on_duplicate": "attach",
        "ttl_ms": 600_000,
        "deadline_ms": 7_200_000,
        "retry_failed": True,
    }


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["-p", "foo"], "did you mean '\"foo\"'?"),
        (["-p", "it's"], """did you mean '"it'"'"'s"'?"""),
        (["-p", "True"], "did you mean true?"),
        (["-p", "name=World"], "for a field of an object: -F name=World"),
        (["-p", "{a: 1}"], "pass JSON, quoted for the shell"),
        (["-p", "@-"], "for standard input, without the @: -p -"),
        (["-p", "@nowhere"], ""),
        (["-F", "a:=@b c"], "for what is in a file: -F a:=\"$(cat 'b c')\""),
        (["-F", "a:=@"], 'for what is in a file: -F a:="$(cat FILE)"'),
        (["-F", "a:=b"], "for text, without the colon: -F a=TEXT"),
    ],
)
def test_hint_has_what_was_probably_meant(argv: list[str], hint: str) -> None:
    """Each is what somebody writes who knows another program, or forgets the shell's quotes."""
    with pytest.raises(StackshiftError) as caught:
        params(*argv)
    assert caught.value.hint == hint


def test_payload_that_names_a_file_is_told_how_to_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As curl and others have it: with an at sign."""
    monkeypatch.chdir(tmp_path)
    Path("order.json").write_text("{}")
    with pytest.raises(PayloadRefused) as caught:
        params("-p", "order.json")
    assert caught.value.hint == "for what is in the file: -p @order.json"


@pytest.mark.parametrize("option", ["--ttl", "--deadline"])
def test_time_in_which_nothing_can_happen_is_refused(option: str) -> None:
    """In the words of the command line, not in those of the protocol."""
    with pytest.raises(Usage, match=f"^{option} cannot be 0$"):
        params(option, "0")


def test_runs_to_begin_after_are_a_list() -> None:
    """They may be repeated; a time, or a failure that does not matter, goes with none of them or
    with some."""
    made = params("--after", "a1b2", "--after", "@last", "--even-if-failed")
    assert (made["after"], made["even_if_failed"]) == (["a1b2", "@last"], True)
    for argv, message in (
        (("--even-if-failed",), "--even-if-failed requires --after"),
        (("--after", "x", "--delay", "1h"), "--after cannot be used with --delay or --at"),
    ):
        with pytest.raises(Usage, match=message):
            params(*argv)


def test_fields_are_text_or_json_and_add_to_the_payload() -> None:
    """`k=v` is always text, `k:=v` is JSON; fields win over the payload."""
    made = params("-p", '{"a":1,"b":2}', "-F", "a=3", "-F", "c:=[1]", "-F", "d=x:=y", "-F", "e=")
    assert made["payload"] == {"a": "3", "b": 2, "c": [1], "d": "x:=y", "e": ""}


def test_fields_alone_make_an_object() -> None:
    """Without `-p` the fields are the payload."""
    assert params("-F", "name=World")["payload"] == {"name": "World"}


def test_payload_is_read_from_a_file(tmp_path: Path) -> None:
    """`@FILE` is the content of a file."""
    file = tmp_path / "order.json"
    file.write_text('{"n": 1}')
    assert params("-p", f"@{file}")["payload"] == {"n": 1}


def test_payload_is_read_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` is standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'["\xc3\xa9"]')))
    assert params("-p", "-")["payload"] == ["é"]


@pytest.mark.parametrize("text", ["null", "0", '""', "[]"])
def test_payloads_that_are_false_are_payloads(text: str) -> None:
    """A payload of `null`, `0` or `false` is sent; it is not the same as no payload."""
    assert "payload" in params("-p", text)


def test_big_integers_are_kept_exactly() -> None:
    """Integers beyond 2^53 are not rounded."""
    assert (
        params("-p", "123456789012345678901234567890")["payload"] == 123456789012345678901234567890
    )


@pytest.mark.parametrize(
    "text", ["{", '{"a":1,"a":2}', "NaN", "[Infinity]", "", "'x'", "\udcff", "[" * 70 + "]" * 70]
)
def test_payloads_that_are_not_strict_json_are_refused(text: str) -> None:
    """Loose JSON is refused before anything is sent, or by the encoder."""
    from stackshift_jobs.wire.jsonrpc import encode_params

    with pytest.raises(PayloadRefused):
        encode_params(params("-p", text))


def test_payload_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    """Editors write one; within the text it is a character like any other."""
    file = tmp_path / "payload.json"
    file.write_bytes(b"\xef\xbb\xbf" + '{"a": "\ufeff"}'.encode())
    assert params("-p", f"@{file}")["payload"] == {"a": "\ufeff"}


def test_time_without_an_offset_is_local_and_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that is sent has an offset, and a note says how it was read."""
    import time

    monkeypatch.setenv("TZ", "Europe/Paris")
    time.tzset()
    try:
        made, notes = noted("--at", "2026-05-06T09:00:00")
    finally:
        monkeypatch.undo()
        time.tzset()
    assert made["scheduled_at"] == "2026-05-06T07:00:00.000000Z"
    assert notes == [
        "2026-05-06T09:00:00 has no UTC offset; taken as local time: 2026-05-06T07:00:00.000000Z"
    ]


def test_time_with_an_offset_needs_no_words() -> None:
    """An exact time is taken as it is, without a note."""
    made, notes = noted("--at", "2026-05-06T09:00:00-02:00")
    assert made["scheduled_at"] == "2026-05-06T11:00:00.000000Z"
    assert notes == []


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--delay", "soon"], "usage"),
        (["--delay", "1s", "--at", "2026-05-06T09:00:00Z"], "usage"),
        (["--at", "tomorrow"], "usage"),
        (["--priority", "high"], "usage"),
        (["--priority", "99999999999999999999999"], "usage"),
        (["--max-attempts", "0"], "usage"),
        (["--label", "a"], "usage"),
        (["--label", "=a"], "usage"),
        (["-F", "a"], "usage"),
        (["-F", ":=1"], "usage"),
        (["-p", "[1]", "-F", "a=b"], "usage"),
        (["-p", "@/no/such/file"], "usage"),
        (["-F", "a:=x"], "payload_refused"),
    ],
)
def test_values_that_mean_nothing_are_refused(argv: list[str], code: str) -> None:
    """Each mistake has its error code."""
    with pytest.raises(StackshiftError) as caught:
        params(*argv)
    assert caught.value.code == code


def test_start_needs_a_job() -> None:
    """Without the name of a job nothing is started."""
    plain = parse(["start"], START)
    assert plain is not None
    with pytest.raises(Usage):
        start_params(Given(plain.values))
