"""The fixture that makes projects with real daemons."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers import scenery
from helpers.project import Project

Make = Callable[..., Project]


@pytest.fixture
def make_project(tmp_path: Path) -> Iterator[Make]:
    """Makes projects of job modules; their daemons are not started, and end with the test."""
    made: list[Project] = []

    def make(jobs: str, config: str = scenery.CONFIG, **modules: str) -> Project:
        root = tmp_path / f"p{len(made)}"
        made.append(Project(root, {"story": jobs, **modules}, config))
        return made[-1]

    yield make
    for project in made:
        project.close()
