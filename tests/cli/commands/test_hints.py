"""What an error tells people to type is there to be typed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from helpers.project import REPOSITORY
from stackshift_cli.commands.catalogue import ALIASES, COMMANDS

PACKAGES = ("stackshift_jobs", "stackshift_cli", "daemon/stackshiftd")
PATHS = {command.path for command in COMMANDS}
_COMMAND = re.compile(r"(?<![\w/.-])stackshift ([a-z][a-z-]*)(?: ([a-z][a-z-]*))?")


def named() -> Iterator[tuple[Path, str, str]]:
    """The commands that texts of the program name: file, first and second word (or empty)."""
    for package in PACKAGES:
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    for found in _COMMAND.finditer(node.value):
                        yield path, found[1], found[2] or ""


def exists(first: str, second: str) -> bool:
    """Is there such a command, with or without arguments?"""
    group = ALIASES.get(first, first)
    return (group,) in PATHS or (group, second) in PATHS


def test_commands_in_hints_exist() -> None:
    """In errors, hints and help of all three packages; a text that names a group alone is one
    too."""
    groups = {path[0] for path in PATHS}
    found = list(named())
    wrong = [
        f"{path.name}: stackshift {first} {second}"
        for path, first, second in found
        if not exists(first, second) and not (first in groups and not second)
    ]
    assert wrong == []
    assert len(found) > 50
