"""The bytes that a terminal sends for keys, as names: `up`, `enter`, `q`."""

from __future__ import annotations

from typing import Final

_SEQUENCES: Final = {
    "[A": "up",
    "[B": "down",
    "OA": "up",
    "OB": "down",
    "[5~": "page up",
    "[6~": "page down",
    "[H": "home",
    "[F": "end",
    "[1~": "home",
    "[4~": "end",
    "OH": "home",
    "OF": "end",
}
_CONTROLS: Final = {
    "\r": "enter",
    "\n": "enter",
    "\x7f": "backspace",
    "\b": "backspace",
    "\x1b": "escape",
    "\x0c": "redraw",
}
_LONGEST: Final = 16
"""A sequence that is longer is none."""


def keys(data: bytes) -> list[str]:
    """The keys in `data`, which one read has returned. A sequence that no name is known for, such
    as that of a function key, is no key; nor are bytes that are not UTF-8."""
    text = data.decode("utf-8", "ignore")
    found: list[str] = []
    at = 0
    while at < len(text):
        size = _sequence(text, at)
        if size:
            name = _SEQUENCES.get(text[at + 1 : at + size], "")
        else:
            size, name = 1, _CONTROLS.get(text[at], text[at] if text[at].isprintable() else "")
        at += size
        if name:
            found.append(name)
    return found


def _sequence(text: str, at: int) -> int:
    """The length of the escape sequence at `at`; 0 if there is none, as after the escape key."""
    if text[at] != "\x1b" or text[at + 1 : at + 2] not in ("[", "O"):
        return 0
    for size in range(3, _LONGEST):
        last = text[at + size - 1 : at + size]
        if not last:
            return len(text) - at
        if last.isalpha() or last == "~":
            return size
    return _LONGEST
