"""Processes are told apart by more than their ids."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.deadline import wait_until
from helpers.tools import python
from sdk.programs.conftest import Begin
from stackshift_jobs.programs import processes
from stackshift_jobs.programs.processes import (
    Mark,
    ProcessGroup,
    marked,
    members,
    project_mark,
    started,
)

SEEN = sys.platform == "linux"
"""Are marks seen here? They are read from /proc."""


def test_group_is_led_while_its_leader_runs(begin: Begin) -> None:
    """Not once the leader has ended, even while nobody has waited for it."""
    leader = begin()
    group = ProcessGroup.of_leader(leader.pid)
    assert group.is_led
    leader.kill()
    wait_until(lambda: not group.is_led, "the leader to end")


def test_process_with_the_same_id_is_not_the_leader(begin: Begin) -> None:
    """One that began at another time is another process: the id was used again."""
    leader = begin()
    assert not ProcessGroup(leader.pid, started(os.getpid()) + "0").is_led
    assert not ProcessGroup(leader.pid, "").is_led


def test_start_of_a_process_stays_the_same_and_is_its_own(begin: Begin) -> None:
    """So that it can be compared with what is on record."""
    one = begin()
    assert started(one.pid) == started(one.pid) != ""
    one.kill()
    one.wait()
    assert started(one.pid) == ""


def test_members_are_those_of_the_group_that_run(begin: Begin) -> None:
    """What has ended does not count, nor what is in another group."""
    code = "child = subprocess.Popen(['sleep', '600'])"
    leader, other = begin(code), begin()
    assert len(members(leader.pid)) == 2
    assert leader.pid in members(leader.pid)
    leader.kill()
    wait_until(lambda: len(members(leader.pid)) == 1, "the leader to end")
    os.killpg(leader.pid, signal.SIGKILL)
    wait_until(lambda: members(leader.pid) == set(), "the group to end")
    assert members(other.pid) == {other.pid}


def test_marked_are_found_wherever_they_went(begin: Begin) -> None:
    """Also in another session, and by the beginning of a mark; others are not found."""
    code = "subprocess.Popen(['sleep', '600'], start_new_session=True)"
    value = f"project/{os.getpid()}"
    mark = Mark("STACKSHIFT_TEST", f"{value}/one")
    first = begin(code, {mark.variable: mark.value})
    second = begin("", {mark.variable: f"{value}/one-more"})
    try:
        assert len(marked(mark)) == 2 * SEEN
        assert (first.pid in marked(mark)) == SEEN
        assert second.pid not in marked(mark)
        wider = Mark(mark.variable, f"{value}/", is_prefix=True)
        assert marked(wider) == marked(mark) | ({second.pid} if SEEN else set())
        assert marked(Mark("STACKSHIFT_TEST", "project/other")) == set()
        assert marked(Mark("HIFT_TEST", f"{value}/one")) == set()
    finally:
        for pid in marked(mark):
            os.kill(pid, signal.SIGKILL)


def test_process_does_not_find_itself() -> None:
    """Whoever ends all with a mark may have it as well."""
    code = (
        "sys.path.insert(0, sys.argv[1])\n"
        "from stackshift_jobs.programs.processes import Mark, marked\n"
        "print(marked(Mark('STACKSHIFT_TEST', sys.argv[2])))"
    )
    root = str(Path(__file__).parents[3])
    value = f"itself/{os.getpid()}"
    done = subprocess.run(
        python(code, root, value),
        env=os.environ | {"STACKSHIFT_TEST": value},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert done.stdout == "set()\n"


def test_copy_of_a_project_has_another_mark(tmp_path: Path) -> None:
    """Its daemon must not end the programs of the original; a project that was moved keeps its
    own."""
    original, copy = tmp_path / "original", tmp_path / "copy"
    original.mkdir()
    shutil.copytree(original, copy)
    mark = project_mark(original)
    assert project_mark(copy) != mark
    assert project_mark(original.rename(tmp_path / "moved")) == mark


def test_where_there_is_no_proc_groups_and_starts_are_asked_of_ps(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tells the same members, and a start that stays the same; marks are not seen."""
    leader = begin("child = subprocess.Popen(['sleep', '600'])")
    both = members(leader.pid)
    monkeypatch.setattr(processes, "ON_LINUX", False)
    assert members(leader.pid) == both
    group = ProcessGroup.of_leader(leader.pid)
    assert group.is_led
    assert not group._replace(started="Thu Jan  1 00:00:00 1970").is_led
    assert marked(Mark("PATH", "", is_prefix=True)) == set()
    leader.kill()
    wait_until(lambda: not group.is_led, "the leader to end")
    assert members(leader.pid) == both - {leader.pid}
