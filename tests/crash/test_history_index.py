"""The index of finished runs says what the journal says, whatever was killed, deleted, damaged or
full (guarantee: whole lists)."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from array import array
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from helpers.deadline import wait_until
from helpers.project import Project
from helpers.project_factory import Make
from stackshift_jobs.errors import JournalDamaged, NotFound
from stackshiftd.history.index import History, Rebuilding
from stackshiftd.history.rows import RunRow
from stackshiftd.history.table import Refused, Table

LONG = os.environ.get("STACKSHIFT_LONG") == "1"
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
        None,
        array("q", (number, finished_seq)),
    )


def forget_index(project: Project) -> None:
    """Delete the index and its companion files."""
    for suffix in ("", "-wal", "-shm"):
        (project.data_dir / f"history.db{suffix}").unlink(missing_ok=True)


class Journal:
    """A journal as an index sees it: the rows of the runs that have finished."""

    def __init__(self, *rows: RunRow) -> None:
        self._rows = rows

    def rows(self, until_seq: int) -> Iterator[RunRow | str]:
        """Those that finished up to `until_seq`."""
        yield from (row for row in self._rows if row.finished_seq <= until_seq)

    def row(self, run: str) -> RunRow | None:
        """That of one run."""
        return next((row for row in self._rows if row.id == run), None)

    async def durable(self) -> int:
        """The last record."""
        return max((row.finished_seq for row in self._rows), default=0)


NO_RUNS = Journal()


async def listed(history: History) -> list[RunRow]:
    """The runs in the index, once it can list them."""
    try:
        return history.newest()
    except Rebuilding:
        await whole(history)
        return history.newest()


async def whole(history: History) -> None:
    """Wait until the index says that it is whole."""
    heard = asyncio.Event()
    history.when_whole(heard.set)
    await asyncio.wait_for(heard.wait(), 20)


def with_index(
    path: Path,
    story: Callable[[History], Awaitable[None]],
    last_seq: int = 1_000_000,
    journal: Journal = NO_RUNS,
    until_seq: int = 0,
) -> None:
    """Tell a story of an index on a loop of its own, with the runs in `journal` until `until_seq`
    to be built first."""

    async def told() -> None:
        history = History(path, "jrn_1", last_seq)
        history.origin = journal
        history.begin(until_seq)
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
    segment.write_bytes(before)  # A disk that had not synced what it said, nor the witness.
    (project.data_dir / "witness.json").unlink()
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
            yield from (row(1, 5), row(99, 9))
            raise ConnectionError("killed")

        history.add(row(50, 60))
        await history.flushed(60)
        with pytest.raises(ConnectionError):
            history.build(rows(), 20)

    async def begun_again(history: History) -> None:
        assert history.covered_seq == 0
        history.add(row(50, 60))
        assert [each.created_seq for each in await listed(history)] == [50, 2, 1]
        assert history.covered_seq == 20

    with_index(path, killed_while_building)
    with_index(path, begun_again, journal=Journal(row(1, 5), row(2, 7)), until_seq=20)


def test_older_rows_that_are_read_late_do_not_replace_newer_ones(tmp_path: Path) -> None:
    """A run that failed, was retried and completed while the index was rebuilt has completed; one
    that was removed meanwhile is gone."""

    async def story(history: History) -> None:
        history.add(row(1, 90))
        history.remove(row(2, 6).id)
        assert [(each.created_seq, each.status) for each in await listed(history)] == [
            (3, "completed"),
            (1, "completed"),
        ]

    journal = Journal(row(1, 5, "failed"), row(2, 6, "failed"), row(3, 7))
    with_index(tmp_path / "history.db", story, journal=journal, until_seq=20)


def test_records_that_come_while_an_index_is_built_are_in_it(tmp_path: Path) -> None:
    """Both for a run whose row is read later and for one whose row exists already; the row that is
    read late has the same end and fewer records, and does not replace it. A run that the index does
    not contain when it is done stays out."""

    async def story(history: History) -> None:
        history.add(row(2, 6, "failed"))
        for run in (1, 2, 7):
            history.lengthen(row(run, 0).id, array("q", (run, run + 4, 90)))
        found = {each.created_seq: (list(each.places), each.end) for each in await listed(history)}
        assert found == {1: ([1, 5, 90], 1), 2: ([2, 6, 90], 1), 3: ([3, 7], 1)}

    journal = Journal(row(1, 5, "failed"), row(2, 6, "failed"), row(3, 7))
    with_index(tmp_path / "history.db", story, journal=journal, until_seq=20)


def test_records_are_added_to_a_row_once(tmp_path: Path) -> None:
    """All places of the run are given, or the last; again at the next start."""

    async def story(history: History) -> None:
        history.add(row(1, 5))
        for places in ((1, 5, 90), (90,), (1, 5, 90), (1, 5)):
            history.lengthen(row(1, 5).id, array("q", places))
            await history.flushed(90)
        history.lengthen(row(1, 5).id, array("q", (95,)))
        [found] = await listed(history)
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
            raise Refused("database or disk is full")

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
        assert [each.created_seq for each in await listed(history)] == [2, 1]

    with_index(path, refused)
    with_index(path, found)


def test_retention_keeps_a_run_that_has_just_finished(tmp_path: Path) -> None:
    """What counts is when it finished: a run of sixty days is not forgotten at its end."""

    async def story(history: History) -> None:
        history.add(row(1, 500))
        history.add(row(2, 300))
        await history.flushed(500)
        assert history.forget_before(400) == 1
        assert [each.created_seq for each in await listed(history)] == [1]

    with_index(tmp_path / "history.db", story)


# --- Damage ------------------------------------------------------------------------------------


def many(count: int = 300) -> Journal:
    """A journal of so many finished runs."""
    return Journal(*(row(number, number + 1) for number in range(1, 2 * count, 2)))


def indexed(path: Path, journal: Journal, until_seq: int) -> bytes:
    """Index the runs of `journal`; the file."""

    async def story(history: History) -> None:
        await listed(history)

    with_index(path, story, journal=journal, until_seq=until_seq)
    assert not path.with_name("history.db-wal").exists(), "all of it must be in the file"
    return path.read_bytes()


def test_file_of_which_any_byte_is_damaged_is_built_again_or_right(tmp_path: Path) -> None:
    """Whichever bytes of the file are overwritten, in its header, its trees or its rows: the list
    is that of the journal, and so is each single run, before that too. Nothing else is raised."""
    path, journal = tmp_path / "history.db", many()
    data = indexed(path, journal, 600)
    rebuilt = 0
    random = Random(5)
    right = {each.id: list(each.places) for each in journal.rows(600) if isinstance(each, RunRow)}
    for _ in range(300 if LONG else 40):
        at = random.choice((random.randrange(100), random.randrange(len(data))))
        harm = random.choice((b"\0", b"\xff", b"7", bytes(random.choice((16, 700)))))
        harmed = data[:at] + harm + data[at + len(harm) :]
        path.write_bytes(harmed)
        some = random.choice(list(right))

        async def story(history: History, some: str = some) -> None:
            found = history.find(some)
            assert found is not None
            assert list(found.places) == right[some]
            shown = await listed(history)
            shown = [*shown, *history.newest(limit=1000)]
            assert {each.id: list(each.places) for each in shown} == right
            assert history.ending_in(some[-6:], 5) == [some]

        with_index(path, story, last_seq=600, journal=journal, until_seq=600)
        rebuilt += path.read_bytes() != harmed
    assert rebuilt


def test_index_damaged_while_it_is_in_use_is_built_again(tmp_path: Path) -> None:
    """An error in the middle of a request: runs are found all the same, those that finish meanwhile
    too, and lists are right once they are given."""
    path, journal = tmp_path / "history.db", many()

    async def story(history: History) -> None:
        await whole(history)
        with sqlite3.connect(path) as other:
            other.execute("UPDATE runs SET places = x'0000' WHERE created_seq % 3 = 0")
        known = row(3, 4)
        assert history.find(known.id) == known
        with pytest.raises(Rebuilding):
            history.newest()
        history.add(row(700, 701))
        history.remove(row(5, 6).id)
        assert history.find(row(5, 6).id) is None
        await whole(history)
        shown = [each.created_seq for each in history.newest(limit=1000)]
        assert shown == [700, *(n for n in range(599, 0, -2) if n != 5)]
        assert history.covered_seq == 600

    with_index(path, story, journal=journal, until_seq=600)


def test_kill_at_any_statement_of_the_first_start_is_survived(tmp_path: Path) -> None:
    """A process that is killed while it makes the file leaves one that the next start can use."""
    for number in range(30):
        path = tmp_path / f"{number}.db"
        child = os.fork()
        if not child:
            _make_until_killed(path, number)
        _, status = os.waitpid(child, 0)

        async def story(history: History) -> None:
            assert await listed(history) == [row(1, 2)]

        with_index(path, story, last_seq=2, journal=Journal(row(1, 2)), until_seq=2)
        if os.waitstatus_to_exitcode(status) == 0:
            assert number > len("CREATE CREATE INDEX INDEX INSERT INSERT".split())
            return
    pytest.fail("the file is never finished")


def _make_until_killed(path: Path, number: int) -> None:
    """Make the file in this process, which dies at its statement `number`."""
    connect = sqlite3.connect
    count = 0

    def trace(_statement: str) -> None:
        nonlocal count
        if count == number:
            os._exit(1)
        count += 1

    def connected(*arguments: Any, **options: Any) -> sqlite3.Connection:
        db: sqlite3.Connection = connect(*arguments, **options)
        db.set_trace_callback(trace)
        return db

    sqlite3.connect = connected  # type: ignore[assignment]
    Table(path, "jrn_1")
    os._exit(0)


def test_index_whose_file_cannot_be_made_is_in_memory(tmp_path: Path) -> None:
    """A full or read-only disk stops no start and no list."""

    async def story(history: History) -> None:
        history.add(row(7, 8))
        await history.flushed(8)
        assert [each.created_seq for each in await listed(history)] == [7, 1]

    with_index(tmp_path / "missing" / "history.db", story, journal=Journal(row(1, 2)), until_seq=2)


def test_list_of_a_journal_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    """If the index has to be built and the journal is damaged, a list raises that: it does
    not come back empty."""

    class Broken(Journal):
        def rows(self, until_seq: int) -> Iterator[RunRow | str]:
            raise JournalDamaged(f"a line before {until_seq} is damaged")

    async def story(history: History) -> None:
        with pytest.raises(Rebuilding):
            history.newest()
        await whole(history)
        with pytest.raises(JournalDamaged, match="a line before 20"):
            history.newest()

    with_index(tmp_path / "history.db", story, journal=Broken(), until_seq=20)


RESULTS = (
    JOBS
    + """
@stackshift.job("asks")
def asks(ctx):
    return [ctx.step.result(run) for run in ctx.payload["runs"]]
"""
)


def test_runs_that_ask_for_results_do_not_fail_when_the_index_is_damaged(
    make_project: Make,
) -> None:
    """All pages of the file are overwritten but its first: the daemon starts, runs that need the
    results of runs that left memory complete, their workers live, and the list is whole."""
    project = make_project(RESULTS)
    project.start()
    done = [project.begin("quick", {"n": n}) for n in range(60)]
    for run in done:
        project.finish(run)
    project.call("journal.compact")
    assert project.stop() == 0
    file = project.data_dir / "history.db"
    data = file.read_bytes()
    assert len(data) > 3 * 4096
    file.write_bytes(data[:4096] + os.urandom(len(data) - 4096))
    project.start()
    workers = project.workers()
    asking = [project.begin("asks", {"runs": done[n::4]}) for n in range(4)]
    for n, run in enumerate(asking):
        assert project.finish(run)["result"] == list(range(n, 60, 4))
    shown = [run["id"] for run in project.call("run.list", limit=1000)["runs"]]
    assert shown == [*reversed(asking), *reversed(done)]
    assert project.call("run.get", run=done[7][-8:])["result"] == 7
    assert project.workers() == workers
    assert "rebuil" in project.log()


def test_index_deleted_under_a_running_daemon_loses_no_run(make_project: Make) -> None:
    """Lists stay right, now and after a restart."""
    project = make_project(JOBS)
    project.start()
    done = [project.finish(project.begin("quick"))["id"] for _ in range(3)]
    forget_index(project)
    done.append(project.finish(project.begin("quick"))["id"])
    for _ in range(2):
        assert [run["id"] for run in project.call("run.list")["runs"]] == done[::-1]
        project.kill()
        project.start()
    assert [run["id"] for run in project.call("run.list")["runs"]] == done[::-1]
