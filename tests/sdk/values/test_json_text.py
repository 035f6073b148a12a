"""JSON as `json` reads and writes it, without the import of `json`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stackshift_jobs.values import json_text
from stackshift_jobs.values.json_text import NotJson

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
pieces = st.sampled_from(
    '{ } [ ] , : "a" "a 1 -1 1.5e3 true nul NaN Infinity \\ud800 \u00e9'.split(" ")
)
almost = st.lists(pieces | st.sampled_from(" \n\t\x0b\u00a0"), max_size=12).map("".join)
"""Texts of which some are JSON."""


def outcome(read: Callable[[str], Any], text: str) -> str:
    """What `text` is read as, or that it is not JSON."""
    try:
        return repr(read(text))
    except ValueError:
        return "not JSON"


@given(values.map(json.dumps) | almost)
@example("")
@example(" \r\n[1]\t")
@example('{"a": 1, "a": 2}')
@example('"\x01"')
@example("[1] [2]")
@example("\ufeff1")
@example("1" * 5000)
def test_text_is_read_as_json_reads_it(text: str) -> None:
    """The same value, or it is no JSON for both."""
    assert outcome(json_text.loads, text) == outcome(json.loads, text)


@given(values.map(json.dumps) | almost)
def test_settings_are_those_of_json(text: str) -> None:
    """Objects as pairs, and what becomes of constants that JSON lacks."""
    settings: dict[str, Any] = {"object_pairs_hook": tuple, "parse_constant": str.lower}
    read = json_text.decoder(**settings)
    assert outcome(read, text) == outcome(lambda text: json.loads(text, **settings), text)


@given(value=values | st.dictionaries(st.integers() | st.booleans() | st.none(), st.none()))
@pytest.mark.parametrize("ensure_ascii", [True, False])
@pytest.mark.parametrize("allow_nan", [True, False])
def test_value_is_written_as_json_writes_it(
    value: Any, ensure_ascii: bool, allow_nan: bool
) -> None:
    """Byte for byte, or refused by both."""
    settings: dict[str, Any] = {"ensure_ascii": ensure_ascii, "allow_nan": allow_nan}
    write = json_text.encoder(ensure_ascii=ensure_ascii, allow_nan=allow_nan)
    try:
        expected = json.dumps(value, separators=(",", ":"), **settings)
    except ValueError:
        with pytest.raises(ValueError, match="not JSON compliant"):
            write(value)
    else:
        assert write(value) == expected


def test_what_json_lacks_is_refused_unless_there_is_a_default() -> None:
    """With the error that `json` raises."""
    with pytest.raises(TypeError, match="Object of type set is not JSON serializable"):
        json_text.encoder(ensure_ascii=True, allow_nan=True)({1})
    write = json_text.encoder(ensure_ascii=True, allow_nan=True, default=str)
    assert write([b"x"]) == json.dumps([b"x"], default=str)


class _Changed:
    """The C functions of a Python that wants other settings."""

    @staticmethod
    def make_scanner(settings: Any) -> Any:
        """Asks for what ours do not have."""
        return settings.array_hook

    @staticmethod
    def encode_basestring(_text: str) -> str:
        """Not called, since `make_encoder` refuses."""
        raise AssertionError

    encode_basestring_ascii = encode_basestring

    @staticmethod
    def make_encoder() -> None:
        """Takes no arguments."""


@pytest.mark.parametrize("replaced", [None, _Changed])
def test_without_the_c_functions_json_itself_does_it(
    replaced: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They belong to CPython, which may take them away or change what they take."""
    monkeypatch.setitem(sys.modules, "_json", replaced)
    read = json_text.decoder(object_pairs_hook=list)
    assert read(' {"a": [1, 2.5]} ') == [("a", [1, 2.5])]
    for text in ("", "{half", "[1] 2"):
        with pytest.raises(NotJson):
            read(text)
    write = json_text.encoder(ensure_ascii=False, allow_nan=False, default=str)
    assert write({"ü": [1, b"x"]}) == '{"ü":[1,"b\'x\'"]}'


CODE = """
import sys
from stackshift_jobs.values.json_text import NotJson, encoder, loads
assert loads('{"a": [1, "x"]}') == {"a": [1, "x"]}
assert encoder(ensure_ascii=True, allow_nan=True)({"a": [1, "x"]}) == '{"a":[1,"x"]}'
try:
    loads("text")
except NotJson:
    print(sorted({"json", "re"} & sys.modules.keys()), end=" ")
for text in ("{half", '"half', "[1"):
    try:
        loads(text)
    except NotJson:
        print("json" in sys.modules, end=" ")
"""


def test_json_is_loaded_for_mistakes_alone() -> None:
    """Text that does not even begin like JSON is none. In the C functions of CPython 3.11, a
    mistake further in raises no error while `json` is not loaded."""
    program = [sys.executable, "-S", "-c", CODE]
    env = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(program, env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "[] True True True "
