"""The database has a synchronous standby, and under load its primary dies and the standby takes its
place, or one of them stands still or is restarted. No promise of the two daemons is broken.

The short form does each a few times, the long one (`STACKSHIFT_LONG=1`) 100 times.
"""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from helpers.cluster_load import Pair, keep_promises
from helpers.deadline import wait_until
from helpers.postgres import CAN_COPY, MISSING_COPY, Postgres
from helpers.project_factory import Make
from stackshift_cli.daemon.connection import Connection
from stackshift_jobs.errors import StackshiftError

pytestmark = pytest.mark.skipif(not CAN_COPY, reason=MISSING_COPY)


class Servers:
    """A primary with a synchronous standby, as an administrator keeps them: one that is lost is
    made anew, where it was."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._numbers = count()
        self.primary = Postgres(self._next())
        self.primary.start()
        self.standby = self.primary.attach(self._next())
        self.ports = [self.primary.port, self.standby.port]

    def _next(self) -> Path:
        return self._root / str(next(self._numbers))

    def fail_over(self) -> None:
        """Lose the primary; the standby takes its place, and gets a new standby."""
        lost = self.primary
        lost.stop()
        self.primary = self.standby
        self.primary.promote()
        self.standby = self.primary.attach(self._next(), lost.port)

    def close(self) -> None:
        """End both."""
        self.primary.stop()
        self.standby.stop()


@pytest.fixture
def servers() -> Iterator[Servers]:
    """Two that run."""
    with tempfile.TemporaryDirectory(prefix="stackshift-postgres-") as folder:
        Path(folder).chmod(0o755)  # The servers may be another user.
        made = Servers(Path(folder).resolve())
        yield made
        made.close()


def is_refused(pair: Pair) -> bool:
    """Does the leader say that its database does not answer? A change that is under way when that
    begins has no answer at all until it is known."""
    try:
        with Connection.open(pair.leader.data_dir) as connection:
            connection.call("state.get", {"key": "orders"}, timeout=1.0)
    except StackshiftError as refused:
        return refused.code == "database_unavailable"
    except TimeoutError:
        return False
    return False


def primary_is_lost(servers: Servers, pair: Pair) -> None:
    """For good; what the standby had confirmed is all that was told."""
    servers.fail_over()
    pair.settled()


def primary_stands_still(servers: Servers, pair: Pair) -> None:
    """Until clients are refused; then it goes on where it was."""
    servers.primary.freeze(signal.SIGSTOP)
    wait_until(lambda: is_refused(pair), "the leader to refuse requests")
    servers.primary.freeze(signal.SIGCONT)
    pair.settled()


def primary_is_restarted(servers: Servers, pair: Pair) -> None:
    """As for an upgrade."""
    servers.primary.stop()
    servers.primary.start()
    pair.settled()


def standby_is_lost(servers: Servers, pair: Pair) -> None:
    """Then nothing is acknowledged, until it is back."""
    servers.standby.stop()
    wait_until(lambda: is_refused(pair), "the leader to refuse requests")
    servers.standby.start()
    pair.settled()


BLOWS: dict[str, Callable[[Servers, Pair], None]] = {
    each.__name__: each
    for each in (primary_is_lost, primary_stands_still, primary_is_restarted, standby_is_lost)
}


@pytest.mark.parametrize("blow", BLOWS)
def test_no_promise_is_broken_whatever_the_database_does(
    make_project: Make, servers: Servers, tmp_path: Path, blow: str
) -> None:
    """See `keep_promises` (guarantee: shared journal)."""
    pair = Pair(make_project, servers.ports, tmp_path.name)
    keep_promises(pair, lambda pair: BLOWS[blow](servers, pair), may_begin_again=True)
