"""One run a tick, wherever the daemon is killed: between tick and start, before either is on the
disk, while it catches up."""

from __future__ import annotations

import os
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from helpers.making import Make
from helpers.project import Json, Project
from helpers.waiting import wait_until
from stackshift_jobs.durations import from_rfc3339

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
    """Also those that came while it was down: in the end each second has had its run."""
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
    project.call("schedule.pause", job="often")
    before = project.call("schedule.list")
    project.call("journal.compact")
    project.kill()
    check_ticks(project)
    project.start()
    assert project.call("schedule.list") == before
    project.verify()
