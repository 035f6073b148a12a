"""Text in the width of a terminal."""

from __future__ import annotations

import pytest

from stackshift_cli.commands.help_topics import TOPICS
from stackshift_cli.output.wrapping import page, sentence, wrapped

PAGE = """\
A title

A paragraph that is written in lines
of some length.

  --option     what it does, in a few words
  a --very long command with many words     what it does
  a command that has no description but is too long
"""


def test_words_fill_lines_and_none_is_broken() -> None:
    """A word that is longer than a line has one of its own."""
    assert list(wrapped("one two three incomprehensible x", 8, ". ")) == [
        ". one two",
        ". three",
        ". incomprehensible",
        ". x",
    ]


def test_sentence_that_fits_is_as_it_was() -> None:
    """One that does not goes on in lines that are set in, from its own margin."""
    assert sentence("  a  b", 6) == "  a  b"
    assert sentence("note: one two", 10) == "note:\n  one two"
    assert sentence("  one two three", 10) == "  one\n    two\n    three"


def test_page_fills_the_width() -> None:
    """Paragraphs do, and descriptions beside or below what they describe; commands stay whole."""
    assert page(PAGE, 200).splitlines()[2] == "A paragraph that is written in lines of some length."
    assert page(PAGE, 46).splitlines()[2:] == [
        "A paragraph that is written in lines of some",
        "length.",
        "",
        "  --option     what it does, in a few words",
        "  a --very long command with many words",
        "      what it does",
        "  a command that has no description but is too long",
    ]
    assert page(PAGE, 45).splitlines()[5:7] == [
        "  --option     what it does, in a few words",
        *[
            "  a --very long command with many words",
        ],
    ]


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize("width", [80, 100])
def test_topics_fit_a_terminal(topic: str, width: int) -> None:
    """Of 80 columns, too; every word is there, in its order."""
    shown = page(TOPICS[topic], width)
    assert max(map(len, shown.splitlines())) <= width
    assert shown.split() == TOPICS[topic].split()
