"""The index of finished runs says what the journal says, whatever was killed, deleted or full."""

from __future__ import annotations

import asyncio
import sqlite3
from array import array
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from helpers.deadline import wait_until
from helpers.project import Project
from helpers.project_factory import Make
from stackshift_jobs.errors import NotFound
from stackshiftd.history.index import History
from stackshiftd.history.rows import RunRow

JOBS = """
@stackshift.job("quick")
def quick(ctx):
    return ctx.payload.get("n")


@stackshift.job("fails", retry=ONCE)
def fails(ctx):
    if not is_open("mended"):
        raise ConnectionError("broken")
    return "mended"
"""


def row(number: int, finished_seq: int, status: str = "completed") -> RunRow:
    """A finished run that was created by the record `number`."""
    return RunRow(
        f"run_{number:026d}",
        "quick",
        "default",
        status,
        1,
        3,
        0,
        None,
        {},
        None,
        "",
        number,
        0,
        number,
        finished_seq,
        number,
        finished_seq,
        1,
        array("q", (number, finished_seq)),
    )


def forget_index(project: Project) -> None:
    """Delete the index and its companion files."""
    for suffix in ("", "-wal", "-shm"):
        (project.data_dir / f"history.db{suffix}").unlink(missing_ok=True)


def with_index(
    path: Path, story: Callable[[History], Awaitable[None]], last_seq: int = 1_000_000
) -> None:
    """Tell a story of an index on a loop of its own."""

    async def told() -> None:
        history = History(path, "jrn_1", last_seq)
        try:
            await story(history)
        finally:
            history.close()

    asyncio.run(told())


@pytest.mark.parametrize("index", ["kept", "deleted"])
@pytest.mark.parametrize("snapshot", [False, True])
def test_a_removed_run_stays_removed(make_project: Make, index: str, snapshot: bool) -> None:
    """A daemon that is killed the moment after `runs rm` was answered does not show the run again,
    from whichever files the next one starts; others that it showed are there."""
    project = make_project(JOBS)
    project.start()
    kept, *gone = [project.finish(project.begin("quick", {"n": n}))["id"] for n in range(3)]
    gone.append(project.finish(project.begin("fails"))["id"])
    if snapshot:
        project.call("journal.compact")
    for run in gone[:2]:
        project.call("run.remove", run=run)
    if snapshot:
        project.call("journal.compact")
    project.call("run.remove", run=gone[2])
    project.kill()
    if index == "deleted":
        forget_index(project)
    project.start()
    wait_until(
        lambda: [run["id"] for run in project.call("run.list")["runs"]] == [kept],
        "the index to be built",
    )
    for run in gone:
        with pytest.raises(NotFound):
            project.call("run.get", run=run)


def test_index_that_knows_more_than_the_journal_is_rebuilt(make_project: Make) -> None:
    """A run whose records a torn tail took is in no list; the runs that took its numbers are."""
    project = make_project(JOBS)
    project.start()
    kept = project.finish(project.begin("quick"))["id"]
    assert project.stop() == 0
    [segment] = (project.data_dir / "journal").glob("*.jsonl")
    before = segment.read_bytes()
    project.start()
    lost = [project.finish(project.begin("quick"))["id"] for _ in range(5)]
    assert project.stop() == 0
    segment.write_bytes(before)  # A disk that had not synced what it said.
    project.start()
    assert [run["id"] for run in project.call("run.list")["runs"]] == [kept]
    with pytest.raises(NotFound):
        project.call("run.get", run=lost[0])
    again = project.finish(project.begin("quick"))["id"]
    project.kill()
    project.start()
    assert [run["id"] for run in project.call("run.list")["runs"]] == [again, kept]


def test_index_that_is_rebuilt_covers_nothing_before_it_is_done(tmp_path: Path) -> None:
    """Runs that finish meanwhile do not make it count as complete: killed, it is begun again."""
    path = tmp_path / "history.db"

    async def killed_while_building(history: History) -> None:
        history.building()

        def rows() -> Iterator[RunRow]:
            yield row(1, 5)
            raise ConnectionError("killed")

        history.add(row(50, 60))
        await history.flushed(60)
        with pytest.raises(ConnectionError):
            history.build(rows(), 20)

    async def begun_again(history: History) -> None:
        assert history.covered_seq == 0
        history.building()
        history.build(iter([row(1, 5), row(2, 7)]), 20)
        assert history.covered_seq == 20
        assert [each.created_seq for each in history.newest()] == [50, 2, 1]

    with_index(path, killed_while_building)
    with_index(path, begun_again)


def test_older_rows_that_are_read_late_do_not_replace_newer_ones(tmp_path: Path) -> None:
    """A run that failed, was retried and completed while the index was rebuilt has completed; one
    that was removed meanwhile is gone."""

    async def story(history: History) -> None:
        history.building()
        history.add(row(1, 90))
        history.remove(row(2, 6).id)
        await history.flushed(90)
        history.build(iter([row(1, 5, "failed"), row(2, 6, "failed"), row(3, 7)]), 20)
        assert [(each.created_seq, each.status) for each in history.newest()] == [
            (3, "completed"),
            (1, "completed"),
        ]

    with_index(tmp_path / "history.db", story)


def test_records_that_come_while_an_index_is_built_are_in_it(tmp_path: Path) -> None:
    """Both for a run whose row is read later and for one whose row exists already; the row that is
    read late has the same end and fewer records, and does not replace it. A run that the index does
    not contain when it is done stays out."""

    async def story(history: History) -> None:
        history.building()
        history.add(row(2, 6, "failed"))
        for run in (1, 2, 7):
            history.lengthen(row(run, 0).id, array("q", (run, run + 4, 90)))
        await history.flushed(90)
        history.build(iter([row(1, 5, "failed"), row(2, 6, "failed"), row(3, 7)]), 20)
        found = {each.created_seq: (list(each.places), each.end) for each in history.newest()}
        assert found == {1: ([1, 5, 90], 1), 2: ([2, 6, 90], 1), 3: ([3, 7], 1)}

    with_index(tmp_path / "history.db", story)


def test_records_are_added_to_a_row_once(tmp_path: Path) -> None:
    """All places of the run are given, or the last; again at the next start."""

    async def story(history: History) -> None:
        history.add(row(1, 5))
        for places in ((1, 5, 90), (90,), (1, 5, 90), (1, 5)):
            history.lengthen(row(1, 5).id, array("q", places))
            await history.flushed(90)
        history.lengthen(row(1, 5).id, array("q", (95,)))
        [found] = history.newest()
        assert list(found.places) == [1, 5, 90, 95]

    with_index(tmp_path / "history.db", story)


def test_rows_that_the_disk_refused_are_written_later(tmp_path: Path) -> None:
    """A full disk costs the index no run: what was refused is found meanwhile, is written with the
    next batch, and does not count as covered before."""
    path = tmp_path / "history.db"

    async def refused(history: History) -> None:
        write = history.write

        def full(rows: dict[str, RunRow | None], covered_seq: int) -> None:
            del rows, covered_seq
            raise sqlite3.OperationalError("database or disk is full")

        history.write = full  # type: ignore[method-assign]
        history.add(row(1, 5))
        await history.flushed(5)
        assert history.find(row(1, 5).id) is not None
        assert history.covered_seq == 0
        history.write = write  # type: ignore[method-assign]
        history.add(row(2, 6))
        await history.flushed(6)
        assert history.covered_seq == 6

    async def found(history: History) -> None:
        assert [each.created_seq for each in history.newest()] == [2, 1]

    with_index(path, refused)
    with_index(path, found)


def test_retention_keeps_a_run_that_has_just_finished(tmp_path: Path) -> None:
    """What counts is when it finished: a run of sixty days is not forgotten at its end."""

    async def story(history: History) -> None:
        history.add(row(1, 500))
        history.add(row(2, 300))
        await history.flushed(500)
        assert history.forget_before(400) == 1
        assert [each.created_seq for each in history.newest()] == [1]

    with_index(tmp_path / "history.db", story)
