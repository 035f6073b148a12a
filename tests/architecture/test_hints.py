"""Whatever the product tells a person to type exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from architecture.source import ROOT
from stackshift_cli.commands.catalogue import ALIASES, COMMANDS
from stackshift_cli.commands.help_topics import TOPICS
from stackshift_cli.commands.spec import GLOBALS, Command, Option

FILES = sorted(
    file
    for package in ("stackshift_cli", "stackshift_jobs", "daemon/stackshiftd")
    for file in (ROOT / package).rglob("*.py")
)
TYPED = re.compile(r"(?<![\w./@-])stackshift ((?:-C \S+ )?[a-z][\w-]*(?:[ ]+[\w./@=:<>\[\]-]+)*)")
"""What follows `stackshift` in a text: the words of a command, up to the first that cannot be."""
FLAG = re.compile(r"(?<!\S)--?[a-zA-Z][\w-]*")
BY_PATH = {command.path: command for command in COMMANDS}


def texts(file: Path) -> Iterator[tuple[int, str]]:
    """The texts in `file` that are not docstrings, with their lines."""
    tree = ast.parse(file.read_text())
    docstrings = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or id(node) in docstrings:
            continue
        if isinstance(node.value, str):
            yield node.lineno, node.value


def problem(typed: str) -> str:
    """What is wrong with the words `typed` after `stackshift`; empty if a command reads them."""
    words = typed.rstrip(".").split()
    if words[0] == "-C":
        words = words[2:]
    command = named(words)
    if command is None:
        return "no such command"
    if command.path == ("help",) and len(words) > 1 and not words[1].isupper():
        known = words[1] in TOPICS or named(words[1:]) or words[1] in {c.path[0] for c in COMMANDS}
        return "" if known else "no such topic"
    own = command.parameters
    flags = {f for p in (*GLOBALS, *own) if isinstance(p, Option) for f in p.flags} | {"--help"}
    text = typed.partition(" -- ")[0]
    return ", ".join(flag for flag in FLAG.findall(text) if flag not in flags)


def named(words: list[str]) -> Command | None:
    """The command whose path `words` begin with."""
    first = ALIASES.get(words[0], words[0])
    return BY_PATH.get((first,)) or BY_PATH.get((first, *words[1:2]))


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_commands_in_texts_are_commands(file: Path) -> None:
    """Hints, messages, help and generated files name commands and options of the table, only."""
    wrong = [
        f"{line}: stackshift {typed}: {said}"
        for line, text in texts(file)
        for typed in TYPED.findall(text)
        if (said := problem(typed))
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("daemon start -C DIR", ""),
        ("runs retry run_1 --from a", ""),
        ("run retry", ""),
        ("state lock k -- ls --all", ""),
        ("help payload", ""),
        ("help runs show", ""),
        ("daemon instal", "no such command"),
        ("runs retry --form a", "--form"),
        ("help payloads", "no such topic"),
    ],
)
def test_a_command_that_does_not_exist_is_found(typed: str, said: str) -> None:
    """The test above can fail."""
    assert problem(typed) == said
