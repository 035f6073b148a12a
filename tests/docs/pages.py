"""What a page of documentation tells its reader to do, in order: files to write, commands to type.

A fenced block ```python, ```toml or ```sh whose first line is a comment with a path
(`# jobs/report.py`) is a file; that of a script, and of a crontab in ```cron, begins after this
line.
A fenced block ```console is a session: lines that begin with `$ ` are commands (continued by lines
that begin with `> `), the others are what they print. All other blocks are only read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FENCE: Final = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_FILE: Final = re.compile(r"# (\S+/\S+\.py|stackshift\.toml)\n")

_CRONTAB: Final = re.compile(r"# (\S+\.crontab)\n")
_SCRIPT: Final = re.compile(r"# (\S+/\S+\.sh)\n(?=#!)")
_HEADINGS: Final = {"sh": _SCRIPT, "cron": _CRONTAB}
"""What a file begins with that itself begins below."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text without the indentation, the line it begins on."""

    language: str
    text: str
    line: int


@dataclass(frozen=True)
class File:
    """A file that the reader writes, relative to where he is."""

    path: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command, and the lines that the page says it prints (maybe not all that it prints)."""

    text: str
    output: tuple[str, ...]
    line: int

    @property
    def asks_for_status(self) -> bool:
        """Does it show how the one before it ended?"""
        return self.text == "echo $?"


def blocks(page: Path) -> Iterator[Block]:
    """All fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        indent = found[1]
        lines = [line.removeprefix(indent) for line in found[3].splitlines()]
        yield Block(found[2], "\n".join(lines) + "\n", text.count("\n", 0, found.start()) + 1)


def steps(page: Path) -> Iterator[File | Command]:
    """What the reader does, in order."""
    for block in blocks(page):
        if block.language == "console":
            yield from _session(block, page)
        elif block.language in ("python", "toml") and (named := _FILE.match(block.text)):
            yield File(named[1], block.text)
        elif (heading := _HEADINGS.get(block.language)) and (named := heading.match(block.text)):
            yield File(named[1], block.text[named.end() :])


def _session(block: Block, page: Path) -> Iterator[Command]:
    typed: list[str] = []
    printed: list[str] = []
    began = block.line
    for number, line in enumerate(block.text.splitlines(), block.line + 1):
        if line.startswith("$ "):
            if typed:
                yield Command("\n".join(typed), tuple(printed), began)
            typed, printed, began = [line[2:]], [], number
        elif line.startswith("> ") and typed and not printed:
            typed.append(line[2:])
        else:
            assert typed, f"{page.name}:{number}: output of no command: {line!r}"
            printed.append(line)
    if typed:
        yield Command("\n".join(typed), tuple(printed), began)
