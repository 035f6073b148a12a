"""Text that others wrote cannot control the terminal."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from stackshift_cli.output.safe_text import safe, safe_lines

BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
ANY = st.text(st.characters(exclude_categories=()))


@given(ANY)
def test_nothing_that_controls_is_left(text: str) -> None:
    """No control, bidi or separator character and no surrogate is left."""
    for char in safe(text):
        assert unicodedata.category(char) not in ("Cc", "Cs", "Zl", "Zp")
        assert unicodedata.bidirectional(char) not in BIDI


@given(ANY)
def test_lines_keep_only_line_breaks_and_tabs(text: str) -> None:
    """Logs keep line breaks and tabs; all other control characters are escaped."""
    shown = safe_lines(text)
    assert shown.replace("\n", "\\n").replace("\t", "\\t") == safe(text)


def test_what_shows_is_left_as_it_is() -> None:
    """Text in any script, spaces and backslashes are not changed."""
    text = "Zürich 東京 🙂 שלום a\\b"
    assert safe(text) == text


def test_escapes_say_what_was_there() -> None:
    """Each escape names its character."""
    assert safe("a\x1b[31m\n\t\r\x7f\x9b\u202e\u2028\udcff") == (
        r"a\x1b[31m\n\t\r\x7f\x9b\u202e\u2028\udcff"
    )
