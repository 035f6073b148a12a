"""Paths in payloads whose values are not shown."""

from __future__ import annotations

from typing import Any

import pytest

from stackshift_jobs.values.redaction import parts_of, redacted, values_at

HIDDEN = "[redacted]"
PAYLOAD = {
    "card": {"number": "4111", "name": "Ada"},
    "items": [{"token": "t1", "n": 1}, {"n": 2}, "text"],
    "accounts": {"a": {"pin": 1234}, "b": {"pin": None}},
    "rows": [[{"x": 1.5}], [{"x": 2}]],
}


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("$", ()),
        ("card.number", ("card", "number")),
        ("$.card.number", ("card", "number")),
        ("items[].token", ("items", "[]", "token")),
        ("rows[][].x", ("rows", "[]", "[]", "x")),
        ("[].a", ("[]", "a")),
        ("$[].a", ("[]", "a")),
        ("accounts.*.pin", ("accounts", "*", "pin")),
        ("with space-and_dash", ("with space-and_dash",)),
    ],
)
def test_path_is_read(path: str, parts: tuple[str, ...]) -> None:
    """Names, items and members."""
    assert parts_of(path) == parts


@pytest.mark.parametrize(
    "path", ["", "$.", "a.", ".a", "a..b", "a[0]", "a[", "[]a", "a[]b", "a.[]"]
)
def test_other_text_is_not_a_path(path: str) -> None:
    """A misspelt path would hide nothing, and nobody would notice."""
    with pytest.raises(ValueError, match="path"):
        parts_of(path)


@pytest.mark.parametrize(
    ("path", "place", "found"),
    [
        ("card.number", lambda value: value["card"]["number"], ["4111"]),
        ("card", lambda value: value["card"], ["4111", "Ada"]),
        ("items[].token", lambda value: value["items"][0]["token"], ["t1"]),
        ("accounts.*.pin", lambda value: value["accounts"]["a"]["pin"], ["1234"]),
        ("rows[][].x", lambda value: value["rows"][1][0]["x"], ["1.5", "2"]),
    ],
)
def test_value_at_a_path_is_not_shown(path: str, place: Any, found: list[str]) -> None:
    """Whatever it is; everything else stays as it is, also in the value that was given."""
    before = repr(PAYLOAD)
    assert place(redacted(PAYLOAD, [path])) == HIDDEN
    assert list(values_at(PAYLOAD, path)) == found
    assert repr(PAYLOAD) == before


def test_several_paths_and_those_that_lead_nowhere() -> None:
    """A path through what is not there, or is of another kind, changes nothing."""
    shown = redacted(PAYLOAD, ["card.number", "items[].token", "nope", "card[].x", "items.token"])
    assert shown == PAYLOAD | {
        "card": {"number": HIDDEN, "name": "Ada"},
        "items": [{"token": HIDDEN, "n": 1}, {"n": 2}, "text"],
    }
    assert list(values_at("text", "a.b")) == list(values_at([1], "*")) == []
    assert redacted("text", ["a"]) == "text"
    assert redacted({"a": 1}, ["$"]) == redacted("text", ["$"]) == HIDDEN
