"""The fixture of a PostgreSQL server, one for all tests of a process."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.postgres import IS_THERE, MISSING, Postgres


@pytest.fixture(scope="session")
def database() -> Iterator[Postgres]:
    """A server that runs; skips the test where there can be none."""
    if not IS_THERE:
        pytest.skip(MISSING)
    with tempfile.TemporaryDirectory(prefix="stackshift-postgres-") as folder:
        Path(folder).chmod(0o755)  # The server may be another user, and pytest's folders are ours.
        server = Postgres(Path(folder).resolve() / "server")
        server.start()
        yield server
        server.stop()
