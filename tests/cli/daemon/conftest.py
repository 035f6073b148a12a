"""A connection of the command line to a daemon that answers as a test scripts it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sdk.conftest import daemon as daemon
from sdk.conftest import project as project
from sdk.fake_daemon import FakeDaemon
from stackshift_cli.daemon.connection import Connection


@pytest.fixture
def connection(daemon: FakeDaemon) -> Iterator[Connection]:
    """A blocking connection to the fake daemon."""
    with Connection.open(daemon.data_dir) as opened:
        yield opened
