"""The fixture `stackshift` needs no conftest; this is about the files that the jobs write."""

from __future__ import annotations

from pathlib import Path

import pytest
from stackshift_jobs.testing import Stackshift

PROJECT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def out(stackshift: Stackshift, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the jobs of this test write: the fixture has made the project the working directory, as
    a worker does, and this makes it another one, with the same things to read in it."""
    for name in ("data", "pictures"):
        (tmp_path / name).symlink_to(PROJECT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "out"
