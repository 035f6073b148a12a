"""The programs in a line for the shell."""

from __future__ import annotations

import pytest

from stackshift_cli.flows.shell_line import programs, replaced


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("a b c", "A b c"),
        ("X=1 a a", "X=1 A a"),
        ("cd /a && a b || a; a | a & a", "cd /a && A b || A; A | A & A"),
        ('b "x $(a +%F) a" a', 'b "x $(A +%F) a" a'),
        ("b x`a 'y'`a a", "b x`A 'y'`a a"),
        ("b '$(a)' \\$a", "b '$(a)' \\$a"),
        ("(a; b a) >a 2>&1; a", "(A; b a) >a 2>&1; A"),
        ("if a; then a; else b a; fi", "if A; then A; else b a; fi"),
        ("b $((a + 1)) # a; a", "b $((a + 1)) # a; a"),
        ('b "it\'s" ; a', 'b "it\'s" ; A'),
        ("a 'b", "A 'b"),
        ('a "$(a', 'A "$(A'),
    ],
    ids=str,
)
def test_programs_are_replaced_and_nothing_else(line: str, wanted: str) -> None:
    """Words, quotes, assignments, comments and the targets of redirections stay as they are."""
    assert replaced(line, lambda p: "A" if p.word == "a" else p.word) == wanted


def test_program_has_the_words_of_its_own_command() -> None:
    """They end at a separator, and are as they were written."""
    found = programs("a -x 'b c' \"$(d e)\" >f; g h")
    assert [(p.word, p.arguments) for p in found] == [
        ("a", ["-x", "'b c'", '"$(d e)"']),
        ("d", ["e"]),
        ("g", ["h"]),
    ]
