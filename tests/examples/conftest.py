"""The example project, copied, with a real daemon."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.project import REPOSITORY, Project

EXAMPLE = REPOSITORY / "jobs.example"


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Project]:
    """A copy of the example project; its daemon is not started, and ends with the test."""
    project = Project(tmp_path / "shop", {})
    unwanted = shutil.ignore_patterns(".stackshift", "out", "__pycache__")
    shutil.copytree(EXAMPLE, project.root, dirs_exist_ok=True, ignore=unwanted)
    # The file ends with [workers]: these take the same sources that the daemon has.
    with (project.root / "stackshift.toml").open("a") as settings:
        settings.write('inherit_env = ["PYTHONPATH"]\n')
    yield project
    project.close()
