"""Guarantees are referred to by name, and each has tests that name it."""

from __future__ import annotations

import re
from pathlib import Path

from helpers.project import REPOSITORY

PAGE = (REPOSITORY / "docs" / "guarantees.md").read_text(encoding="utf-8")
NAMES = {name.lower() for name in re.findall(r"^- \*\*([^*]+)\.\*\* ", PAGE, re.MULTILINE)}
_NAMED = re.compile(r"\(guarantee:\s+([^)]+)\)")
_BY_NUMBER = re.compile(r"\b(promises?|guarantees?) \d", re.IGNORECASE)


def sources(*folders: str) -> list[Path]:
    """The Python files and pages in these folders, this one left out."""
    found = [path for folder in folders for path in (REPOSITORY / folder).rglob("*")]
    return [path for path in found if path.suffix in (".py", ".md") and path != Path(__file__)]


def named_in(*folders: str) -> set[str]:
    """The guarantees that files in these folders name."""
    return {
        " ".join(name.split())
        for path in sources(*folders)
        for name in _NAMED.findall(path.read_text(encoding="utf-8"))
    }


def test_each_guarantee_has_tests_that_name_it() -> None:
    """A promise that nothing holds up is none."""
    assert len(NAMES) > 10
    assert named_in("tests") == NAMES


def test_code_and_docs_name_guarantees_that_exist() -> None:
    """By name: numbers shift when one is added, and then point at another."""
    folders = ("stackshift_jobs", "stackshift_cli", "daemon", "docs")
    assert named_in(*folders) <= NAMES
    for path in sources(*folders, "tests"):
        assert not _BY_NUMBER.search(path.read_text(encoding="utf-8")), path
