"""Texts that must not be seen are found, however they are written and cut."""

from __future__ import annotations

import json
import urllib.parse
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stackshift_jobs.errors import PayloadRefused
from stackshift_jobs.values.masking import MAX_LINES, MAX_SPELLINGS, MIN_CHARS, Secrets
from stackshift_jobs.values.strict_json import dumps

TEXT = "correct-horse-battery"


def known(*texts: str) -> Secrets:
    """What knows these texts, each under its own number."""
    made = Secrets()
    for number, text in enumerate(texts, 1):
        made.add(text, f"[{number}]")
    return made


@pytest.mark.parametrize(
    "text",
    ["p@ss/w:rd & more", 'it\'s "quoted"\\', "tabs\tand ünïcode", "plain-text-here"],
)
def test_text_is_masked_however_it_is_written(text: str) -> None:
    """As it is, as Python and JSON print it, and in a URL."""
    mask = known(text).mask
    written = [
        text,
        repr(text)[1:-1],
        repr({"k": f"{text}"})[7:-2],
        json.dumps(text)[1:-1],
        json.dumps(text, ensure_ascii=False)[1:-1],
        urllib.parse.quote(text),
        urllib.parse.quote(text, safe=""),
        urllib.parse.quote_plus(text),
    ]
    for each in written:
        assert mask(f"<{each}> and <{each}>") == "<[1]> and <[1]>"


def test_each_line_of_a_secret_is_masked() -> None:
    """A log shows a key in lines, a program may indent them; a short line is no secret."""
    key = "-----BEGIN KEY-----\nMIIEowIBAAKCAQEA\n  abcdefgh1234\n=\n-----END KEY-----\n"
    secrets = known(key)
    assert secrets.mask(key) == "[1]"
    assert secrets.mask("line: MIIEowIBAAKCAQEA!") == "line: [1]!"
    assert secrets.mask("> abcdefgh1234\n> =\n") == "> [1]\n> =\n"


def test_overlapping_secrets_leave_nothing_of_each_other() -> None:
    """One within another, and two that share characters."""
    secrets = known("inner-secret", "the-inner-secret-whole", "whole-third-secret")
    assert secrets.mask("a the-inner-secret-whole b") == "a [2] b"
    assert secrets.mask("a inner-secret b") == "a [1] b"
    assert secrets.mask("the-inner-secret-whole-third-secret") == "[2]"


def test_short_texts_are_not_masked() -> None:
    """They would be found in every number and word."""
    short = "x" * (MIN_CHARS - 1)
    secrets = known(short, "", "\n")
    assert secrets.mask(f"a {short} b") == f"a {short} b"
    assert secrets.split(short) == (short, "")
    assert secrets.found_in(short) is None


def test_beginning_of_a_secret_is_held_back() -> None:
    """Until it is known what follows."""
    secrets = known("hunter2222")
    assert secrets.split("my hunter2") == ("my ", "hunter2")
    assert secrets.split("hunter2" + "!") == ("hunter2!", "")
    assert secrets.split("my hunter2222") == ("my [1]", "")
    assert secrets.split("hunter2222 hunt") == ("[1] ", "hunt")


PIECES = st.lists(
    st.sampled_from(["abcabc", "abcabd", "bcabca", "ab", "c", "a", "xyz"]), max_size=8
)


@given(pieces=PIECES, cuts=st.lists(st.integers(0, 40), max_size=6))
@example(pieces=["abcabc", "abcabc"], cuts=[3, 9])
@example(pieces=["abcabc", "a", "bcabca"], cuts=[8])
def test_no_secret_is_shown_wherever_its_text_is_cut(pieces: list[str], cuts: list[int]) -> None:
    """However the pieces come, what is shown never contains a secret, and the rest is all there."""
    secrets = known("abcabc", "bcabca")
    text = "".join(pieces)
    shown, held, at = "", "", 0
    for cut in [*sorted(cuts), len(text)]:
        more, held = secrets.split(held + text[at:cut])
        shown, at = shown + more, max(at, cut)
    shown += secrets.mask(held)
    assert "abcabc" not in shown
    assert "bcabca" not in shown
    if "abcabc" not in text and "bcabca" not in text:
        assert shown == text


def test_end_of_a_secret_is_masked_where_a_text_begins_with_it() -> None:
    """The beginning of the output was cut off, in the middle of a secret."""
    secrets = known("hunter2222", "abcdefgh")
    assert secrets.mask("er2222 logged in", is_tail=True) == "[1] logged in"
    assert secrets.mask("efgh hunter2222", is_tail=True) == "[2] [1]"
    assert secrets.mask("er2222 logged in") == "er2222 logged in"
    assert secrets.mask("22 logged in", is_tail=True) == "22 logged in"
    assert secrets.mask("", is_tail=True) == ""


def test_oldest_are_forgotten_and_what_is_used_again_is_not() -> None:
    """The table is bounded, however many secrets a process makes."""
    made = Secrets()
    made.add("used-again", "[used]")
    made.add("never-again", "[never]")
    for number in range(MAX_SPELLINGS):
        made.add(f"secret-{number:05}", "[number]")
        if number % 1000 == 0:
            made.add("used-again", "[used]")
    assert made.mask("used-again") == "[used]"
    assert made.mask("never-again") == "never-again"
    assert made.found_in("never-again") is None
    assert made.mask(f"secret-{MAX_SPELLINGS - 1:05}") == "[number]"


# --- What is recorded ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (TEXT, "$"),
        ({"a": ["b", f"Bearer {TEXT}"]}, "$.a[1]"),
        ({"a": {f"key {TEXT}": 1}}, "$.a"),
    ],
)
def test_value_with_the_text_of_a_secret_is_refused(value: Any, path: str) -> None:
    """With the path, and without the text."""
    with pytest.raises(PayloadRefused) as refused:
        known(TEXT).check(dumps(value))
    assert refused.value.path == path
    assert TEXT not in str(refused.value)


def test_numbers_and_escapes_are_seen_through() -> None:
    """A secret can be all digits, and JSON writes some characters in its own way."""
    for text, value in (("12345678", {"n": 12345678}), ('ü"quoted"ü', 'x ü"quoted"ü x')):
        with pytest.raises(PayloadRefused):
            known(text).check(dumps(value))
    known("12345678").check(dumps({"at_us": 1795123456780000, "key": 5}))
    known('":["').check(dumps({"a": ["b"]}))  # the marks of JSON are no text


def test_what_is_redacted_is_masked_and_not_refused() -> None:
    """A job must be able to record what it makes of its payload."""
    made = Secrets()
    made.hide(["4111111111111111"], "[redacted]")
    assert made.mask("card 4111111111111111") == "card [redacted]"
    made.check(dumps("4111111111111111"))
    assert made.found_in("4111111111111111") is None
    made.add("4111111111111111", "[secret]")
    assert made.found_in("4111111111111111") is not None


def test_table_is_bounded_by_lines_and_by_texts() -> None:
    """A long file, and a payload with very many values, push nothing else out at once."""
    made = known("first-secret")
    made.add("\n".join(f"line-{number:04}" for number in range(MAX_LINES + 1)), "[file]")
    assert made.mask(f"line-{MAX_LINES - 1:04}") == "[file]"
    assert made.mask(f"line-{MAX_LINES:04}") == f"line-{MAX_LINES:04}"
    assert made.mask("first-secret") == "[1]"
    made.hide((f"value-{number:06}" for number in range(3 * MAX_SPELLINGS)), "[hidden]")
    assert made.mask("value-000000") == "[hidden]"
    assert made.mask(f"value-{2 * MAX_SPELLINGS:06}") == f"value-{2 * MAX_SPELLINGS:06}"


def test_texts_that_repeat_themselves_cost_no_more_than_others() -> None:
    """Payloads may come from anybody: what they make a worker search for is bounded."""
    made = Secrets()
    made.hide(("a" * length for length in range(6, 1000)), "[a]")
    assert made.mask("b" + "a" * 65_536 + "c") == "b[a]c"
