"""A daemon whose journal is in a shared log: what it says while that does not answer, and what it
does when another one leads."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import psutil
import pytest

from helpers.deadline import wait_until
from helpers.inner_daemon import InsideDaemon
from helpers.project import Project
from helpers.project_factory import Make
from helpers.twins import twins
from journal.shared.memory_log import MemoryLog
from stackshift_jobs.errors import DatabaseUnavailable, Fenced, Usage
from stackshiftd import daemon
from stackshiftd.shell import engine
from stackshiftd.shell.workers.pool import Pool

pytestmark = pytest.mark.not_via(why="it says itself where its journal is")

JOBS = """
@stackshift.job("held")
async def held(ctx):
    await ctx.step.run("held", agate, ctx.payload["gate"])
    await ctx.step.run("after", note, "after", ctx.run_id)
    return 1

@stackshift.job("waits")
async def waits(ctx):
    return (await ctx.step.wait_for_event("go")).payload
"""


@pytest.fixture
def log() -> MemoryLog:
    """A log without a journal."""
    return MemoryLog()


@pytest.fixture
def project(make_project: Make, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project, whose clients are refused soon after the log is silent."""
    monkeypatch.setattr(engine, "STALL_SECONDS", 0.2)
    return make_project(JOBS)


def refused(project: Project, method: str, **params: object) -> bool:
    """Is a request refused because the database does not answer?"""
    try:
        project.call(method, **params)
    except DatabaseUnavailable:
        return True
    return False


def done_in(project: Project, gate: str) -> Any:
    """A run that has completed."""
    run = project.begin("held", {"gate": gate})
    project.open(gate)
    return project.finish(run)


def test_silent_log_refuses_clients_and_loses_nothing(project: Project, log: MemoryLog) -> None:
    """Reads and writes are refused while nothing is certain; results of workers are kept, and
    recorded once (guarantee: shared journal)."""
    inside = InsideDaemon(project, log=log)
    try:
        run = project.begin("held", {"gate": "g"})
        project.at("g")
        rows = len(log.rows)
        log.is_silent = True
        project.open("g")  # Its result is recorded as soon as that is possible.
        wait_until(lambda: refused(project, "run.get", run=run), "reads to be refused")
        wait_until(lambda: refused(project, "state.set", key="k", value=1), "writes to be refused")
        assert len(log.rows) == rows
        log.is_silent = False
        wait_until(lambda: not refused(project, "state.set", key="k", value=2), "writes to go on")
        assert project.finish(run)["result"] == 1
        assert project.witness().count(f"after {run}") == 1
        assert project.call("state.get", key="k")["value"] == 2
    finally:
        log.is_silent = False
        assert inside.close() is None


def test_start_of_a_machine_is_no_tick(project: Project, log: MemoryLog) -> None:
    """Nothing tells which machine is meant: whoever adds `@reboot`, or only asks what it would do,
    is told so."""
    inside = InsideDaemon(project, log=log)
    for method, params in (
        ("schedule.add", {"name": "warm", "job": "held"}),
        ("schedule.next", {}),
        ("schedule.lint", {}),
    ):
        with pytest.raises(Usage, match=r"it would have no ticks: .* which machine"):
            project.call(method, schedule="@reboot", **params)
    assert project.call("schedule.list")["schedules"] == []
    assert inside.close() is None


def test_daemon_that_is_deposed_ends(project: Project, log: MemoryLog) -> None:
    """It says who leads, and nothing of what was under way is recorded by it."""
    inside = InsideDaemon(project, log=log)
    run = project.begin("held", {"gate": "g"})
    project.at("g")
    assert log.lease is not None
    log.lease = log.lease._replace(term=log.lease.term + 1, owner="other x y")
    rows = len(log.rows)
    failed = inside.ended()
    assert isinstance(failed, Fenced)
    assert "other" in failed.message
    assert len(log.rows) == rows
    log.lease = log.lease._replace(owner="")
    project.open("g")
    project._forget()
    inside = InsideDaemon(project, log=log)
    try:
        assert project.finish(run)["result"] == 1
    finally:
        assert inside.close() is None


@pytest.mark.parametrize("executes", [False, True], ids=["idle", "executing"])
def test_lead_is_left_when_no_run_executes_any_more(
    make_project: Make, log: MemoryLog, monkeypatch: pytest.MonkeyPatch, executes: bool
) -> None:
    """Workers that have nothing to do need not have ended by then; those that execute do."""
    project = make_project(JOBS, '[workers]\nprocesses = 1\ngrace = "10ms"\n')
    told: list[str] = []
    end, leave = Pool._end_programs, log.leave

    async def ended(pool: Pool, *arguments: Any) -> None:
        await end(pool, *arguments)
        told.append("worker ended")

    async def left(*arguments: Any) -> None:
        await leave(*arguments)
        told.append("lead left")

    monkeypatch.setattr(Pool, "_end_programs", ended)
    monkeypatch.setattr(log, "leave", left)
    monkeypatch.setattr(daemon, "STOP_MARGIN_SECONDS", 0.01)
    inside = InsideDaemon(project, log=log)
    if executes:
        project.begin("held", {"gate": "g"})
        project.at("g")
    assert inside.close() is None
    order = ["worker ended", "lead left"]
    assert told == (order if executes else order[::-1])


def test_status_says_where_the_journal_is(project: Project, log: MemoryLog) -> None:
    """And that it answers; a journal of its own has no such place."""
    inside = InsideDaemon(project, log=log)
    try:
        status = project.call("daemon.status")["database"]
        assert (status["url"], status["term"], status["answers"]) == ("the log", 1, True)
    finally:
        assert inside.close() is None
    assert log.lease is not None and log.lease.owner == ""


def test_follower_says_who_leads_and_serves_when_that_one_has_stopped(
    make_project: Make, log: MemoryLog
) -> None:
    """Its state is that of the leader: finished runs are listed, and a waiting one goes on there.
    Before, it answers for itself alone."""
    first, second = twins(make_project, JOBS, "")
    leading = InsideDaemon(first, log=log)
    done = done_in(first, "g0")
    waits = first.begin("waits")
    first.until_status(waits, "waiting")
    follower = InsideDaemon(second, log=log)
    status = second.call("daemon.status")
    assert (status["role"], bool(status["leader"]), status["workers"]) == ("follows", True, [])
    for method in ("run.list", "state.get", "journal.stats", "daemon.reload"):
        with pytest.raises(Fenced, match="leads, and this one follows it"):
            second.call(method, **({"key": "k"} if method == "state.get" else {}))
    try:
        assert leading.close() is None
        wait_until(lambda: second.call("daemon.status")["role"] == "leads", "the follower to lead")
        listed = second.call("run.list")["runs"]
        assert [run["id"] for run in listed] == [waits, done["id"]]
        assert second.get(done["id"]) == done
        second.call("event.send", name="go", payload=7)
        assert second.finish(waits)["result"] == 7
    finally:
        assert follower.close() is None


def test_request_that_comes_during_a_takeover_is_answered_after_it(
    make_project: Make, log: MemoryLog
) -> None:
    """Those behind it on the same connection too, in order; nobody is told to try again."""
    first, second = twins(make_project, JOBS, "")
    leading = InsideDaemon(first, log=log)
    follower = InsideDaemon(second, log=log)
    wait_until(lambda: second.call("daemon.status")["role"] == "follows", "it to follow")
    assert leading.close() is None

    def started() -> str:
        with suppress(Fenced):  # as long as nobody has looked
            return str(second.begin("held", {"gate": "g"}))
        return ""

    try:
        run = str(wait_until(started, "a start to be taken"))
        assert second.call("daemon.status")["role"] == "leads"
        first.open("g")
        assert second.finish(run)["status"] == "completed"
    finally:
        assert follower.close() is None


def test_follower_stops_when_it_is_asked_to(make_project: Make, log: MemoryLog) -> None:
    """The leader goes on, and nothing is recorded of it."""
    first, second = twins(make_project, JOBS, "")
    leading = InsideDaemon(first, log=log)
    follower = InsideDaemon(second, log=log)
    rows = len(log.rows)
    second.call("daemon.stop")
    assert follower.ended() is None
    assert len(log.rows) == rows
    try:
        assert done_in(first, "g")["result"] == 1
    finally:
        assert leading.close() is None


def test_follower_makes_snapshots_of_its_own(make_project: Make, log: MemoryLog) -> None:
    """So that its next start is as fast as the leader's. It records nothing, and the log keeps
    those of the leader."""
    config = '[journal]\nsegment_size = "64KiB"\n'
    first, second = twins(make_project, JOBS, config)
    leading = InsideDaemon(first, log=log, segment_size=1 << 16)
    follower = InsideDaemon(second, log=log, segment_size=1 << 16)
    for number in range(10):
        first.call("state.set", key="k", value="x" * 10_000 + str(number))
    folder = second.data_dir / "snapshots"
    try:
        wait_until(lambda: any(folder.glob("*.jsonl")), "a snapshot of the follower")
        wait_until(lambda: first.call("journal.stats")["snapshot"], "one of the leader")
        assert second.call("daemon.status")["role"] == "follows"
        wait_until(lambda: not compacting(), "both to be done with it")
    finally:
        assert follower.close() is None
        assert leading.close() is None
    second.verify()


def compacting() -> list[psutil.Process]:
    """The processes that make snapshots now."""
    compacting = []
    for each in psutil.Process().children():
        with suppress(psutil.Error):
            if "compact" in each.cmdline():
                compacting.append(each)
    return compacting
