"""TERM to all, KILL to what is left after the grace."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from helpers.deadline import SECONDS, wait_until
from helpers.processes import alive
from helpers.tools import DEAF, python, ready
from sdk.programs.conftest import Begin, pid_in
from stackshift_jobs.programs.ending import MOST_LOOK_SECONDS, Ending, Remains, end


def counts(at: Path) -> str:
    """Code that appends a line to `at` at each TERM, and goes on."""
    return (
        "def count(*_):\n"
        f"    with open({str(at)!r}, 'a') as file: file.write('TERM\\n')\n"
        "signal.signal(signal.SIGTERM, count)"
    )


def test_group_that_ends_at_term_is_not_killed(begin: Begin) -> None:
    """The grace is not waited for: it is longer than the test may take."""
    leader = begin("child = subprocess.Popen(['sleep', '600'])")
    assert end(Remains((leader.pid,)), grace_seconds=2 * SECONDS) == set()
    assert leader.wait() == -signal.SIGTERM
    assert Remains((leader.pid,)).find() == set()


def test_what_ignores_term_is_killed_after_the_grace(begin: Begin) -> None:
    """And so is what it has started."""
    leader = begin(f"{DEAF}\nchild = subprocess.Popen(['sleep', '600'])")
    assert end(Remains((leader.pid,)), grace_seconds=0.1) == set()
    assert leader.wait() == -signal.SIGKILL


def test_term_is_sent_once(begin: Begin, tmp_path: Path) -> None:
    """A program may take a second one for impatience, and leave its work as it is."""
    told = tmp_path / "told"
    leader = begin(counts(told))
    ending = Ending(Remains((leader.pid,)), kill_at=10.0)
    for now in (0.0, 1.0, 2.0):
        assert ending.push(now) == {-leader.pid}
    wait_until(told.exists, "TERM to arrive")
    ending.push(10.0)
    assert leader.wait() == -signal.SIGKILL
    assert told.read_text() == "TERM\n"


def test_stopped_process_can_act_on_term(begin: Begin) -> None:
    """It is continued; otherwise it would have to be killed."""
    leader = begin()
    os.kill(leader.pid, signal.SIGSTOP)
    assert end(Remains((leader.pid,)), grace_seconds=2 * SECONDS) == set()
    assert leader.wait() == -signal.SIGTERM


def test_what_is_started_in_the_meantime_is_ended(begin: Begin, tmp_path: Path) -> None:
    """A program may start others for its own cleaning up."""
    late = tmp_path / "late"
    child = python(f"{DEAF}\n{ready(late)}\ntime.sleep(600)")
    leader = begin(
        f"def last(*_): subprocess.Popen({child!r})\nsignal.signal(signal.SIGTERM, last)"
    )
    ending = Ending(Remains((leader.pid,)), kill_at=10.0)
    ending.push(0.0)
    pid = pid_in(late)
    wait_until(lambda: not ending.push(10.0), "all to end")
    assert not alive(pid)
    assert leader.wait() == -signal.SIGKILL


def test_nothing_is_found_where_nothing_is_left(begin: Begin) -> None:
    """The group of a process that has ended, and was waited for, is empty."""
    leader = begin()
    leader.kill()
    leader.wait()
    assert end(Remains((leader.pid,)), grace_seconds=SECONDS) == set()


def test_pauses_grow_and_end_with_the_grace() -> None:
    """Each look is at all processes of the system; but KILL comes in time, and is followed up."""
    ending = Ending(Remains(), kill_at=1.0)
    pauses = [ending.pause(0.0) for _ in range(20)]
    assert pauses == sorted(pauses)
    assert pauses[0] < pauses[-1] == MOST_LOOK_SECONDS
    assert ending.pause(0.95) == pytest.approx(0.05)
    assert ending.pause(1.5) == pauses[0]
