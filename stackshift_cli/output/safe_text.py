"""Escaping of text that others wrote: names, payloads, errors and logs cannot control the terminal.

Control characters (C0, DEL, C1), the bidi controls, the line and paragraph separators and lone
surrogates are shown as escapes: `\\x1b`, `\\u202e`. All other text is left as it is.
"""

from __future__ import annotations

TYPE_CHECKING = False  # See `stackshift_jobs.errors`: loading `typing` takes too long here.
if TYPE_CHECKING:
    from typing import Final

_NAMED: Final = {0x09: "\\t", 0x0A: "\\n", 0x0D: "\\r"}
_HARMFUL: Final = (
    *range(0x20),
    *range(0x7F, 0xA0),
    0x061C,
    0x200E,
    0x200F,
    0x2028,
    0x2029,
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
    0xFEFF,
)


def _escape(code: int) -> str:
    return _NAMED.get(code) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


_ONE_LINE: Final = {code: _escape(code) for code in _HARMFUL}
_LINES: Final = {code: escape for code, escape in _ONE_LINE.items() if code not in (0x09, 0x0A)}


_JSON: Final = {code: f"\\u{code:04x}" for code in _HARMFUL}


def safe(text: str) -> str:
    """`text` as one line, with everything escaped that could control a terminal."""
    return _without_surrogates(text.translate(_ONE_LINE))


def safe_lines(text: str) -> str:
    """Like `safe`, but with line breaks and tabs kept, for tracebacks and logs."""
    return _without_surrogates(text.translate(_LINES))


def safe_json(text: str) -> str:
    """The JSON `text`, in one line, with what could control a terminal escaped as JSON has it, so
    that it is the same value."""
    return _without_surrogates(text.translate(_JSON))


def _without_surrogates(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")
