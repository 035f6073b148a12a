"""What JSON can hold, and which texts mean the same value."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackshift_jobs.errors import PayloadRefused
from stackshift_jobs.values.limits import MAX_DIGITS
from stackshift_jobs.values.strict_json import (
    MAX_DEPTH,
    canonical,
    difference,
    dumps,
    json_size,
    loads,
    plain,
    same,
)

numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)


@given(values)
def test_value_survives_being_written_and_read(value: Any) -> None:
    """It is written in ASCII, as any JSON parser reads it."""
    text = dumps(value)
    assert text.isascii()
    assert same(loads(text), value)
    assert same(json.loads(text), value)


@given(values)
def test_equal_values_have_one_canonical_spelling(value: Any) -> None:
    """Neither the order of keys nor `1.0` for `1` changes a digest."""
    assert canonical(other_spelling(value)) == canonical(value)
    assert same(other_spelling(value), value)


@given(values, values)
def test_digest_and_comparison_agree(a: Any, b: Any) -> None:
    """Equal values have the same bytes, and different ones have not."""
    assert same(a, b) == (canonical(a) == canonical(b))


def other_spelling(value: Any) -> Any:
    """An equal value with the keys in reverse order, and integers as floats."""
    if isinstance(value, dict):
        return {key: other_spelling(value[key]) for key in reversed(value)}
    if isinstance(value, list):
        return [other_spelling(each) for each in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
        return float(value)
    return value


@pytest.mark.parametrize(
    ("a", "b"), [(1, True), (0, False), ("1", 1), (None, 0), ([], {}), (2**53 + 1, float(2**53))]
)
def test_values_of_different_kinds_are_not_the_same(a: Any, b: Any) -> None:
    """`true` is not `1`, although Python says so."""
    assert not same(a, b)
    assert canonical(a) != canonical(b)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a":1,"a":2}', "'a' occurs twice"),
        ("[NaN]", "NaN"),
        ("-Infinity", "Infinity"),
        ("1e999", "not a JSON number"),
        ("[1,]", "not valid JSON"),
        ("", "not valid JSON"),
        ("1 2", "not valid JSON"),
        ("'a'", "not valid JSON"),
        ('"\n"', "not valid JSON"),
        ("1" * 5000, "more than 4300 digits"),
        ("[" * 65 + "]" * 65, "nested deeper"),
        ("[" * 100_000, "nested deeper"),
        ('"\\ud800"', "not valid Unicode"),
        ('{"\\uDFFF": 1}', "not valid Unicode"),
        (b'"\xff"', "not valid UTF-8 at byte 1"),
        (b'"\xed\xa0\x80"', "not valid UTF-8"),
        ('"' + "x" * (1 << 20) + '"', "the value is 1,048,578 bytes of JSON, the limit is 1 MiB"),
    ],
    ids=range(17),
)
def test_text_that_is_not_strictly_json_is_refused(text: str | bytes, told: str) -> None:
    """The error says why."""
    with pytest.raises(PayloadRefused, match=told):
        loads(text)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("\ud800", "$"),
        (["fine", {"name": ["caf\u00e9", "caf\udce9"]}], "$[1].name[1]"),
        ({"files": {"caf\udce9": 1}}, "$.files"),
    ],
)
def test_text_that_is_not_unicode_is_refused_with_its_place(value: Any, path: str) -> None:
    """As a name of a file that is not UTF-8, deep in a result."""
    for refused in (dumps, lambda value: loads(json.dumps(value))):
        with pytest.raises(PayloadRefused, match="not valid Unicode") as raised:
            refused(value)
        assert raised.value.path == path
        assert str(raised.value).startswith(f"at {path}: ")


def test_nesting_up_to_the_limit_is_fine_both_ways() -> None:
    """One more level is refused, and so is a value that contains itself."""
    deep: Any = 1
    for _ in range(MAX_DEPTH):
        deep = [deep]
    assert loads(dumps(deep)) == deep
    with pytest.raises(PayloadRefused, match="nested deeper"):
        dumps([deep])
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(PayloadRefused, match="nested deeper"):
        dumps(endless)


def test_emoji_is_text() -> None:
    """An escaped pair of surrogates is one character."""
    assert loads('"\\ud83d\\ude00"') == "\U0001f600"
    assert loads(dumps("\U0001f600")) == "\U0001f600"


def test_large_integers_are_kept_exactly() -> None:
    """Also beyond 2^53, up to what Python reads."""
    for number in (2**53 + 1, 10**4000, -(2**70)):
        assert loads(dumps(number)) == number


def test_refusal_names_the_place() -> None:
    """The place is a JSON path."""
    with pytest.raises(PayloadRefused) as refused:
        plain({"sizes": [1, {"width": float("nan")}]})
    assert refused.value.path == "$.sizes[1].width"


def test_difference_lists_each_place_that_changed() -> None:
    """One line for each place, up to a limit."""
    old = {"a": 1, "b": [1, 2], "c": "x", "same": 1}
    new = {"a": 2, "b": [1, 3], "d": "x" * 200, "same": 1.0}
    assert difference(old, new) == [
        "$.a: 1 → 2",
        "$.b[1]: 2 → 3",
        '$.c: "x" → absent',
        '$.d: absent → "' + "x" * 76 + "...",
    ]
    many = difference(list(range(50)), list(range(50, 100)))
    assert len(many) == 10
    assert many[-1] == "… 41 more"


@given(values, values)
def test_there_is_a_difference_exactly_where_values_are_not_the_same(a: Any, b: Any) -> None:
    """So a conflict can always be explained."""
    assert bool(difference(a, b)) == (not same(a, b))


# --- Sizes and digits --------------------------------------------------------------------------


@given(values)
def test_size_of_a_value_is_that_of_its_json_in_utf8(value: Any) -> None:
    """However it is written: control characters, backslashes before a `u`, halves of pairs."""
    in_utf8 = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    assert json_size(dumps(value)) == len(in_utf8)


@pytest.mark.parametrize("character", ["x", "é", "漢", "😀", "\x00", "\x7f"])
def test_limit_counts_utf8_both_ways(character: str) -> None:
    """The largest value that is written can be read, and one byte more is refused by both; white
    space and needless escapes count for neither."""
    value = ["", character * 100]
    size = len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
    text = dumps(value, size)
    spaced = json.dumps(value, indent=9).replace("[", "  [  ")
    assert loads(text, size) == loads(spaced, size) == value
    for refused in (lambda: dumps(value, size - 1), lambda: loads(text, size - 1)):
        with pytest.raises(
            PayloadRefused, match=f"{size} bytes of JSON, the limit is {size - 1} B"
        ):
            refused()


@pytest.mark.parametrize("sign", ["", "-"])
def test_integers_of_up_to_4300_digits_are_kept_exactly(sign: str) -> None:
    """Both ways; text of any number of digits is text."""
    text = sign + "9" * MAX_DIGITS
    number = int(text)
    assert loads(f'{{"a":[{text}]}}') == {"a": [number]}
    assert dumps([number]) == f"[{text}]".encode()
    assert loads(dumps("7" * 9000)) == "7" * 9000


@pytest.mark.parametrize("limit", [0, 4300, 640])
def test_longer_integers_are_refused_whatever_python_allows(limit: int) -> None:
    """The sentence is the same both ways, and names the place of a value."""
    before = sys.get_int_max_str_digits()
    number = 10**MAX_DIGITS
    sys.set_int_max_str_digits(limit)
    try:
        for text in ("1" + "0" * MAX_DIGITS, "-" + "1" * 100_000):
            with pytest.raises(PayloadRefused, match="an integer has more than 4300 digits"):
                loads(f'[0, {{"a": {text}}}]')
        for value in ({"a": [0, number]}, {"a": [0, -number]}):
            with pytest.raises(PayloadRefused, match="an integer has more than 4300") as refused:
                dumps(value)
            assert refused.value.path == "$.a[1]"
        with pytest.raises(PayloadRefused, match="an integer has more than 4300 digits"):
            dumps({number: 1})
    finally:
        sys.set_int_max_str_digits(before)
