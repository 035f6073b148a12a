"""One run a tick, wherever the daemon is killed: between tick and start, before either is on the
disk, while it catches up (guarantee: schedule ticks)."""

from __future__ import annotations

import os
from collections import Counter
from errno import ENOSPC
from itertools import pairwise
from pathlib import Path

import pytest

from helpers.clock import WallClock
from helpers.deadline import wait_until
from helpers.inner_daemon import FaultyFileSystem, InsideDaemon
from helpers.project import Json, Project
from helpers.project_factory import Make
from stackshift_jobs.errors import DiskFull
from stackshift_jobs.values.durations import from_rfc3339, parse_time

KILLS = 40 if os.environ.get("STACKSHIFT_LONG") == "1" else 6
SECOND = 1_000_000
OFTEN = """
@stackshift.job("often", schedule="@every 1s", catch_up="all", overlap="allow")
def often(ctx):
    note(ctx.scheduled_at.isoformat(), ctx.run_id)
"""


def fired(project: Project) -> list[Json]:
    """What became of ticks, by the journal's files."""
    return [record for record in project.journal() if record["kind"] == "schedule.fired"]


def check_ticks(project: Project) -> None:
    """Every second from the first tick to the last has one record and one run, whose it is."""
    records = project.journal()
    ticks = [record for record in records if record["kind"] == "schedule.fired"]
    times = [from_rfc3339(record["tick"]) for record in ticks]
    assert {later - tick for tick, later in pairwise(times)} <= {SECOND}
    created = [record for record in records if record["kind"] == "run.created"]
    assert [record["started"] for record in ticks] == [record["run"] for record in created]
    assert [record["tick"] for record in ticks] == [record["scheduled_at"] for record in created]
    assert set(Counter(record["key"] for record in created).values()) == {1}


def test_every_tick_has_one_run_however_often_the_daemon_is_killed(make_project: Make) -> None:
    """Also the ticks while it was down: in the end each second has had its run."""
    project = make_project(OFTEN)
    for _ in range(KILLS):
        until_ticked_again(project)
        project.kill()
        check_ticks(project)
    project.start()
    wait_until(lambda: len(set(project.witness())) >= len(fired(project)), "all runs to run")
    assert project.stop() == 0
    check_ticks(project)
    project.verify()


def cut_after(project: Project, kind: str) -> Json:
    """Cut the journal behind the first record of `kind`, as a power cut in the middle of a write
    does; the record."""
    [path] = sorted(Path(project.data_dir, "journal").glob("*.jsonl"))
    lines = path.read_bytes().splitlines(keepends=True)
    mark = f'"kind":"{kind}"'.encode()
    at = next(number for number, line in enumerate(lines) if mark in line)
    found = next(record for record in project.journal() if record["kind"] == kind)
    path.write_bytes(b"".join(lines[: at + 1]))
    Path(project.data_dir, "witness.json").unlink()  # It knows of what came after.
    return found


def until_ticked_again(project: Project) -> None:
    """Start the daemon and wait until a tick, or a few that were missed, can be read of it."""
    seen = len(fired(project)) if project.data_dir.exists() else 0
    project.start()
    wait_until(lambda: len(fired(project)) > seen, "a tick")


@pytest.mark.parametrize("kind", ["schedule.defined", "schedule.fired", "run.created"])
def test_kill_between_any_two_records_leaves_one_run_a_tick(make_project: Make, kind: str) -> None:
    """Tick and run are one append: half of it is none of it, and then the tick is still due."""
    project = make_project(OFTEN)
    project.start()
    wait_until(lambda: fired(project), "a tick")
    project.kill()
    cut = cut_after(project, kind)
    project.start()
    wait_until(lambda: len(fired(project)) >= 3, "more ticks")
    assert project.stop() == 0
    check_ticks(project)
    project.verify()
    first = fired(project)[0]
    if kind == "schedule.fired":
        assert first["tick"] == cut["tick"]
        assert first["started"] != cut["started"]
    if kind == "run.created":
        assert first["started"] == cut["run"]


@pytest.mark.parametrize("how", ["no room to write", "no room to begin with"])
def test_tick_that_finds_no_room_stays_due_until_there_is(make_project: Make, how: str) -> None:
    """A full disk neither loses a tick nor gives it two runs, and the daemon does not spin."""
    project = make_project(NIGHTLY)
    fs = FaultyFileSystem()
    clock = WallClock(parse_time("2026-11-22T08:59:00Z"))
    daemon = InsideDaemon(project, fs=fs, clock=clock)
    project.call("schedule.list")
    refused: list[str] = []

    def full(call: str, _data: bytes) -> int | None:
        if call != "pwrite":
            return None
        refused.append(call)
        return ENOSPC

    if how == "no room to write":
        fs.fault = full
        clock.jump("2h")
        wait_until(lambda: refused, "the tick to be written")
    fs.free = 0
    wait_until(lambda: mode(project) == "read_only", "the daemon to see it")
    if how == "no room to begin with":
        clock.jump("2h")
    with pytest.raises(DiskFull):
        project.call("schedule.trigger", name="nightly")
    with pytest.raises(DiskFull):
        project.call("schedule.pause", name="nightly")
    [told] = project.call("schedule.list")["schedules"]
    assert (told["next_at"], told["last_run"]) == ("2026-11-22T09:00:00.000000Z", None)
    fs.fault, fs.free = (lambda _call, _data: None), None
    wait_until(project.witness, "the run of the tick")
    assert daemon.close() is None
    check_ticks(project)
    assert [record["tick"] for record in fired(project)] == ["2026-11-22T09:00:00.000000Z"]
    project.verify()


def mode(project: Project) -> str:
    """What the daemon says of itself; a look at what was taken back meets a refusal first."""
    try:
        return str(project.call("daemon.status")["mode"])
    except DiskFull:
        return "unsure"


NIGHTLY = """
@stackshift.job("nightly", schedule="0 9 * * *")
def nightly(ctx):
    note(ctx.scheduled_at.isoformat())
"""


def test_schedule_outlives_snapshot_and_kill(make_project: Make) -> None:
    """What a snapshot holds of it is what the records said: no tick twice, none lost, and a pause
    stays."""
    project = make_project(OFTEN)
    project.start()
    wait_until(lambda: fired(project), "a tick")
    project.call("journal.compact")
    project.kill()
    project.start()
    wait_until(lambda: len(fired(project)) >= 3, "more ticks")
    project.call("schedule.pause", name="often")
    for tick in fired(project):
        if run := tick.get("started"):
            project.finish(run)  # Its status is in the list.
    before = project.call("schedule.list")
    project.call("journal.compact")
    project.kill()
    check_ticks(project)
    project.start()
    assert project.call("schedule.list") == before
    project.verify()
