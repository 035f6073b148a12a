"""The bytes of keys."""

from __future__ import annotations

import pytest

from stackshift_cli.screen.keys import keys


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (b"jk", ["j", "k"]),
        (b"\x1b[A\x1bOB\r", ["up", "down", "enter"]),
        (b"\x1b", ["escape"]),
        (b"\x1b\x1b[5~", ["escape", "page up"]),
        (b"\x1b[1;5C\x1b[15~q", ["q"]),
        (b"\x1b[999", []),
        ("ä€".encode(), ["ä", "€"]),
        (b"\xff\x00\x7f", ["backspace"]),
        (b"\x0c", ["redraw"]),
    ],
    ids=repr,
)
def test_bytes_are_keys(data: bytes, names: list[str]) -> None:
    """Arrows in both forms; what has no name, or is cut off, is no key."""
    assert keys(data) == names
