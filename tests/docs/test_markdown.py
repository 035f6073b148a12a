"""The form of the pages: what a reader of the text, and not of a renderer, would stumble over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.project import REPOSITORY

PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")])


def prose(page: Path) -> Iterator[tuple[int, str, str]]:
    """The lines outside of blocks of code: number, the line before, and the line."""
    is_code, before = False, ""
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.startswith("```"):
            is_code = not is_code
        elif not is_code:
            yield number, before, line
        before = line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_heading_stands_alone(page: Path) -> None:
    """A blank line is above each."""
    assert [number for number, before, line in prose(page) if line[:1] == "#" and before] == []
