"""A daemon whose journal is in a shared log: what it says while that does not answer, and what it
does when another one leads."""

from __future__ import annotations

import pytest

from helpers.deadline import wait_until
from helpers.inner_daemon import InsideDaemon
from helpers.project import Project
from helpers.project_factory import Make
from journal.shared.memory_log import MemoryLog
from stackshift_jobs.errors import DatabaseUnavailable, Fenced
from stackshiftd.shell import engine

JOBS = """
@stackshift.job("held")
async def held(ctx):
    await ctx.step.run("held", agate, ctx.payload["gate"])
    await ctx.step.run("after", note, "after", ctx.run_id)
    return 1
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


def test_status_says_where_the_journal_is(project: Project, log: MemoryLog) -> None:
    """And that it answers; a journal of its own has no such place."""
    inside = InsideDaemon(project, log=log)
    try:
        status = project.call("daemon.status")["database"]
        assert (status["url"], status["term"], status["answers"]) == ("the log", 1, True)
    finally:
        assert inside.close() is None
    assert log.lease is not None and log.lease.owner == ""
