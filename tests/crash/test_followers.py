"""Whoever follows a run whose daemon was killed gets a new daemon, or an error in the end."""

from __future__ import annotations

import pytest

from helpers.project_factory import Make
from stackshift_cli.arguments import Globals
from stackshift_cli.daemon import feed
from stackshift_cli.daemon.session import Session
from stackshift_jobs.errors import DaemonUnavailable

JOBS = """
@stackshift.job("quick")
def quick(ctx):
    return "quick"
"""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else watches over the daemon."""
    monkeypatch.setattr(feed, "REVIVE_SECONDS", 0.0)


@pytest.mark.usefixtures("impatient")
def test_follower_starts_a_daemon_that_was_killed(make_project: Make) -> None:
    """The killed one left its address behind: another is started, and knows the run."""
    project = make_project(JOBS)
    project.start()
    run = project.finish(project.begin("quick"))["id"]
    session = Session(Globals(project=str(project.root), quiet=True))
    before = session.call("daemon.status")["pid"]
    project.kill()

    list(feed.until_back(session, DaemonUnavailable("gone")))

    assert session.call("daemon.status")["pid"] != before
    assert session.call("run.get", {"run": run})["status"] == "completed"
    session.hang_up()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("killed", "no_start"), [(False, False), (True, True)])
def test_follower_starts_none_that_was_meant_to_stop(
    make_project: Make, monkeypatch: pytest.MonkeyPatch, killed: bool, no_start: bool
) -> None:
    """A daemon that was stopped in good order, or `--no-start`: it waits, and gives up."""
    monkeypatch.setattr(feed, "_PATIENCE_SECONDS", 0.0)
    project = make_project(JOBS)
    project.start()
    session = Session(Globals(project=str(project.root), quiet=True, no_start=no_start))
    session.connection()
    if killed:
        project.kill()
    else:
        project.stop()

    with pytest.raises(DaemonUnavailable):
        list(feed.until_back(session, DaemonUnavailable("gone")))
    assert project.daemon is None
