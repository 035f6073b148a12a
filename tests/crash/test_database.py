"""Daemons in two directories share a journal in PostgreSQL, as on two machines. Under load the one
that leads is killed, is stopped or stands still, and the other one takes over; no promise is
broken.

The short form does each a few times, the long one (`STACKSHIFT_LONG=1`) 100 times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from helpers.cluster_load import TIMES, Pair, follows, keep_promises
from helpers.deadline import wait_until
from helpers.postgres import Postgres
from helpers.postgres_server import database as database
from helpers.processes import wait_gone
from helpers.project_factory import Make
from helpers.switch import Switch
from helpers.switch import missing as no_switch
from stackshift_cli.daemon.connection import Connection
from stackshift_jobs.errors import StackshiftError


@pytest.fixture
def switch() -> Iterator[Switch]:
    """What machines with networks of their own are at."""
    made = Switch()
    yield made
    made.remove()


def hand_over(pair: Pair) -> None:
    """In good order, and the old leader goes on as a follower. On a machine so busy that the other
    one does not take the lead in time, the old one leads again, and is asked once more."""
    old = pair.leader

    def handed() -> bool:
        with suppress(StackshiftError):
            pair.other.call("cluster.handover")
        return pair.settled() and pair.leader is not old

    wait_until(handed, "the other one to lead")


def kill(pair: Pair) -> None:
    """The machine is gone: the daemon and its workers with it."""
    pair.leader.kill()
    pair.taken_over().start()


def stop(pair: Pair) -> None:
    """In good order."""
    assert pair.leader.stop() == 0
    pair.taken_over().start()


def cut_off(pair: Pair) -> None:
    """The leader cannot reach the database, and goes on for a while; then it can again."""
    [cable] = pair.cables[pair.leader]
    cable.cut()
    old = pair.taken_over()
    cable.mend()
    wait_until(partial(follows, old), "the one that was cut off to follow")


def lose_follower(pair: Pair) -> None:
    """Nobody notices but who looks for it."""
    pair.other.kill()
    pair.other.start()


@contextmanager
def standing_still(processes: list[psutil.Process]) -> Iterator[None]:
    """Stop them, as far as they still run, and let them go on afterwards."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


def freeze(pair: Pair) -> None:
    """The machine stands still until another one leads; then it goes on, and follows that one."""
    assert pair.leader.daemon is not None
    daemon = psutil.Process(pair.leader.daemon.pid)
    with standing_still([daemon, *daemon.children(recursive=True)]):
        old = pair.taken_over()
    wait_until(partial(follows, old), "the one that stood still to follow")


BLOWS: dict[str, Callable[[Pair], None]] = {
    each.__name__: each for each in (kill, stop, freeze, cut_off, lose_follower, hand_over)
}


@pytest.mark.parametrize("blow", BLOWS)
def test_no_promise_is_broken_whoever_leads(
    make_project: Make, database: Postgres, tmp_path: Path, blow: str
) -> None:
    """See `keep_promises` (guarantee: shared journal)."""
    pair = Pair(make_project, [database.port], tmp_path.name)
    # What was about to begin when it stood still may begin when it goes on. Nothing comes of that.
    keep_promises(pair, BLOWS[blow], may_begin_again=blow == "freeze")


def kill_pod(pair: Pair) -> None:
    """The machine that has the workers is gone, and another one comes."""
    assert pair.pod is not None
    pair.pod.kill()
    pair.add_pod(pair.pod.root)


def stop_pod(pair: Pair) -> None:
    """In good order."""
    assert pair.pod is not None
    pair.pod.leave()
    pair.add_pod(pair.pod.root)


def freeze_pod(pair: Pair) -> None:
    """It stands still until its runs are given to another one; then it goes on, and leaves."""
    assert pair.pod is not None
    stuck = pair.pod
    with standing_still(stuck.processes()):
        pair.add_pod(stuck.root)
        wait_until(lambda: stuck.serves(pair.leader) is False, f"{stuck.name} to be given up")
    stuck.leave()


POD_BLOWS: dict[str, Callable[[Pair], None]] = {
    each.__name__: each for each in (kill_pod, stop_pod, freeze_pod, kill)
}


@pytest.mark.parametrize("blow", POD_BLOWS)
def test_no_promise_is_broken_whatever_becomes_of_the_workers(
    make_project: Make, database: Postgres, tmp_path: Path, blow: str
) -> None:
    """See `keep_promises` (guarantee: shared journal)."""
    pair = Pair(make_project, [database.port], tmp_path.name, apart=True)
    keep_promises(pair, POD_BLOWS[blow], may_begin_again=blow == "freeze_pod")


def cut_off_pod(pair: Pair) -> None:
    """Nothing reaches it until its runs are given to another one, and all that it was executing has
    ended by itself; then it can be reached again, and leaves."""
    stuck = pair.pod
    assert stuck is not None
    assert stuck.network is not None
    [joined, *executing] = stuck.processes()
    stuck.network.cut()
    pair.add_pod(stuck.root)
    wait_until(lambda: stuck.serves(pair.leader) is False, f"{stuck.name} to be given up")
    wait_gone([each.pid for each in executing], f"what {stuck.name} executes to end")
    assert joined.is_running()
    stuck.network.join()
    stuck.leave()


@pytest.mark.skipif(bool(no_switch()), reason=no_switch())
def test_no_promise_is_broken_if_the_workers_are_cut_off(
    make_project: Make, database: Postgres, switch: Switch, tmp_path: Path
) -> None:
    """See `keep_promises` (guarantee: shared journal)."""
    pair = Pair(make_project, [database.port], tmp_path.name, apart=True, switch=switch)
    # Until it ends by itself, it may begin what it was about to. Nothing comes of that.
    keep_promises(pair, cut_off_pod, may_begin_again=True)


def test_idle_leader_that_was_cut_off_tells_nothing_old(
    make_project: Make, database: Postgres, tmp_path: Path
) -> None:
    """Nothing that it appends could tell it that another one leads."""
    pair = Pair(make_project, [database.port], tmp_path.name)
    reads, acknowledged = 0, 0
    for _ in range(TIMES):
        wait_until(partial(follows, pair.other), "one to follow")
        [cable] = pair.cables[pair.leader]
        cable.cut()
        old = pair.taken_over()
        for _ in range(20):
            acknowledged = pair.leader.call("state.increment", key="reads")["value"]
            with suppress(StackshiftError, TimeoutError):
                with Connection.open(old.data_dir) as connection:
                    found = connection.call("state.get", {"key": "reads"}, timeout=0.05)
                reads += 1
                assert found is not None and found["value"] == acknowledged
        cable.mend()
        wait_until(partial(follows, old), "the one that was cut off to follow")
    print(f"{reads} reads were answered")
    for project in (pair.leader, pair.other):
        project.close()
    pair.close()
