"""Text in the width of a terminal."""

from __future__ import annotations

import os

import pytest

from stackshift_cli.commands.help_topics import TOPICS
from stackshift_cli.output.wrapping import page, sentence, width_of, wrapped

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


@pytest.mark.parametrize(
    ("columns", "width"), [("", 80), ("0", 80), ("-5", 80), ("x", 80), ("60", 60)]
)
def test_terminal_that_does_not_know_its_width_has_80_columns(
    monkeypatch: pytest.MonkeyPatch, columns: str, width: int
) -> None:
    """A new pseudo-terminal and a serial line say 0, in which no word would fit beside another."""
    monkeypatch.setenv("COLUMNS", columns)
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w", encoding="utf-8") as terminal:
        assert os.get_terminal_size(theirs).columns == 0
        assert width_of(terminal) == width
    os.close(ours)


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
