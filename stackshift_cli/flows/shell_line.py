"""Where the programs stand in a line for `/bin/sh`, and how to name them by their paths there.

Pure text: nothing is run or expanded. What a shell would read in another way (`case` patterns,
here-documents) at worst leaves a word as it was, because only the words that a caller knows are
replaced.

    cd /srv && stackshift start a --idempotency-key "a:$(date +%F)"
    ^^         ^^^^^^^^^^                                 ^^^^
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

_SEPARATORS: Final = ";&|\n"
_ENDS_WORD: Final = " \t<>();&|\n"
_KEYWORDS: Final = frozenset(["if", "then", "elif", "else", "while", "until", "do", "!", "{"])
_ASSIGNMENT: Final = re.compile(r"[A-Za-z_]\w*=")
_REDIRECTION: Final = re.compile(r"[<>]{1,2}[&|]?[ \t]*")


class Program(NamedTuple):
    """A word that a shell runs: where it stands, and the words up to the end of its command, as
    they are written."""

    start: int
    word: str
    arguments: list[str]


def programs(line: str) -> list[Program]:
    """The programs of `line`, also those in `$(…)`, from left to right."""
    found: list[Program] = []
    _Reader(line, found).commands(0, "")
    return sorted(found)


def replaced(line: str, replacement: Callable[[Program], str]) -> str:
    """`line` with `replacement` of each of its programs in the place of its word."""
    for program in reversed(programs(line)):
        end = program.start + len(program.word)
        line = line[: program.start] + replacement(program) + line[end:]
    return line


class _Reader:
    """Reads `line` once, from left to right; each method begins at an index and returns the one
    behind what it has read."""

    def __init__(self, line: str, found: list[Program]) -> None:
        self._line = line
        self._found = found

    def commands(self, at: int, closing: str) -> int:
        """Commands up to `closing`, or to the end."""
        line = self._line
        arguments: list[str] | None = None
        while at < len(line):
            sign = line[at]
            if sign == closing:
                return at + 1
            if sign in " \t":
                at += 1
            elif sign == "#":
                at = self._behind("\n", at)
                arguments = None
            elif sign in _SEPARATORS or sign == ")":
                at += 1
                arguments = None
            elif sign == "(":
                at = self.commands(at + 1, ")")
            elif redirection := _REDIRECTION.match(line, at):
                at = self._word(redirection.end(), closing)
            else:
                start, at = at, self._word(at, closing)
                word = line[start:at]
                if arguments is not None:
                    arguments.append(word)
                elif word not in _KEYWORDS and not _ASSIGNMENT.match(word):
                    arguments = []
                    self._found.append(Program(start, word, arguments))
        return at

    def _word(self, at: int, closing: str) -> int:
        while at < len(self._line) and self._line[at] not in _ENDS_WORD + closing:
            at = self._part(at)
        return at

    def _part(self, at: int) -> int:
        """A sign of a word, or what it opens."""
        line, sign = self._line, self._line[at]
        if sign == "\\":
            return min(at + 2, len(line))
        if sign == "'":
            return self._behind("'", at + 1)
        if sign == '"':
            at += 1
            while at < len(line) and line[at] != '"':
                at = at + 1 if line[at] == "'" else self._part(at)
            return at + 1
        if sign == "`":
            return self.commands(at + 1, "`")
        if line.startswith("$((", at):
            return self._behind("))", at + 3)
        if line.startswith("$(", at):
            return self.commands(at + 2, ")")
        return at + 1

    def _behind(self, end: str, at: int) -> int:
        found = self._line.find(end, at)
        return len(self._line) if found < 0 else found + len(end)
