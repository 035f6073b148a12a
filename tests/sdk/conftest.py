"""Fixtures for the tests of the clients: a project, and a fake daemon that listens for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sdk.fake_daemon import FakeDaemon
from stackshift_jobs.client.blocking import Client
from stackshift_jobs.project.locate import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """An empty project; its path is resolved, as `find_project` would return it."""
    root = tmp_path.resolve() / "p"
    root.mkdir()
    (root / "stackshift.toml").write_text("")
    return Project(root, root / ".stackshift")


@pytest.fixture
def daemon(project: Project) -> Iterator[FakeDaemon]:
    """A fake daemon of `project`, listening."""
    fake = FakeDaemon(project.data_dir).start()
    yield fake
    fake.stop()


@pytest.fixture
def client(project: Project, daemon: FakeDaemon) -> Iterator[Client]:
    """A client of the fake daemon's project."""
    assert daemon.data_dir == project.data_dir  # it listens for this project
    with Client(project) as connected:
        yield connected
