"""Patroni keeps the database: under load its primary is lost or stands still, and Patroni makes the
standby the primary. That costs a pause: the same daemon goes on to lead, with the same attempts.

Each blow takes a minute. So it is dealt by `make cluster-test` alone, which installs Patroni, and
without `STACKSHIFT_LONG=1` three times.
"""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers.cluster_load import Pair, keep_promises
from helpers.deadline import wait_until
from helpers.patroni import IS_THERE, LONG_SECONDS, MISSING, Patroni, leads
from helpers.project_factory import Make

pytestmark = pytest.mark.skipif(not IS_THERE, reason=MISSING)


@pytest.fixture
def patroni() -> Iterator[Patroni]:
    """Both servers, which run."""
    with tempfile.TemporaryDirectory(prefix="stackshift-patroni-") as folder:
        Path(folder).chmod(0o755)  # The servers may be another user.
        made = Patroni(Path(folder).resolve())
        yield made
        made.close()


def primary_is_lost(patroni: Patroni, pair: Pair) -> None:
    """The machine is gone, with its Patroni; later it is there again."""
    primary, standby = patroni.primary_and_standby()
    primary.end()
    wait_until(lambda: leads(standby), "the standby to be promoted", LONG_SECONDS)
    pair.settled()
    primary.start()


def primary_stands_still(patroni: Patroni, pair: Pair) -> None:
    """Until the other one has taken its place; then it goes on, where it was."""
    primary, standby = patroni.primary_and_standby()
    primary.send(signal.SIGSTOP)
    wait_until(lambda: leads(standby), "the standby to be promoted", LONG_SECONDS)
    pair.settled()
    primary.send(signal.SIGCONT)


def primary_wakes_at_once(patroni: Patroni, pair: Pair) -> None:
    """As soon as the other one has taken its place, before anybody has found that one."""
    primary, standby = patroni.primary_and_standby()
    primary.send(signal.SIGSTOP)
    wait_until(lambda: leads(standby), "the standby to be promoted", LONG_SECONDS)
    primary.send(signal.SIGCONT)
    pair.settled()


BLOWS: dict[str, Callable[[Patroni, Pair], None]] = {
    each.__name__: each for each in (primary_is_lost, primary_stands_still, primary_wakes_at_once)
}


@pytest.mark.parametrize("blow", BLOWS)
def test_failover_costs_a_pause_and_no_attempt(
    make_project: Make, patroni: Patroni, tmp_path: Path, blow: str
) -> None:
    """See `keep_promises` (guarantee: shared journal)."""
    pair = Pair(make_project, patroni.ports, tmp_path.name, lease="3s")

    def dealt(pair: Pair) -> None:
        led = pair.leader
        BLOWS[blow](patroni, pair)
        assert pair.leader is led
        patroni.wait_whole()

    keep_promises(pair, dealt, may_begin_again=False)
