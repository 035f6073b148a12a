"""The dead letter where there is no room, and where several things happen in one append."""

from __future__ import annotations

from errno import ENOSPC

import pytest

from helpers.deadline import wait_until
from helpers.inner_daemon import FaultyFileSystem, InsideDaemon
from helpers.project import kinds
from helpers.project_factory import Make
from stackshift_jobs.errors import DiskFull

JOBS = """
@stackshift.job("fails", retry=ONCE)
def fails(ctx):
    raise ConnectionError("broken")


@stackshift.job("awaits", retry=ONCE)
def awaits(ctx):
    try:
        return ctx.step.result(ctx.payload["run"])
    except stackshift.ChildFailed as failed:
        return str(failed)
"""


@pytest.mark.parametrize("method", ["dead.discard", "dead.retry"])
def test_what_found_no_room_did_not_happen(make_project: Make, method: str) -> None:
    """The run is still in the dead letter, and can be retried or discarded once there is room."""
    project = make_project(JOBS)
    disk = FaultyFileSystem()
    daemon = InsideDaemon(project, fs=disk)
    try:
        run = project.finish(project.begin("fails"))["id"]
        before = project.get(run)
        disk.fault = lambda call, _data: ENOSPC if call == "pwrite" else None
        with pytest.raises(DiskFull):
            project.call(method, runs=[run])
        assert project.get(run) == before
        assert project.call("dead.count")["count"] == 1
        disk.fault = lambda _call, _data: None
        wait_until(lambda: project.call("daemon.status")["mode"] == "serving", "room")
        assert project.call(method, all=True)["results"] == [{"id": run}]
        wanted = "run.discarded" if method == "dead.discard" else "run.retried"
        assert wanted in kinds(project.get(run))
    finally:
        assert daemon.close() is None


def test_all_of_a_page_found_no_room_or_none(make_project: Make) -> None:
    """No page is reported as done in part where its one append was refused."""
    project = make_project(JOBS)
    disk = FaultyFileSystem()
    daemon = InsideDaemon(project, fs=disk)
    try:
        runs = [project.finish(project.begin("fails"))["id"] for _ in range(20)]
        disk.fault = lambda call, _data: ENOSPC if call == "pwrite" else None
        with pytest.raises(DiskFull):
            project.call("dead.discard", all=True)
        disk.fault = lambda _call, _data: None
        wait_until(lambda: project.call("daemon.status")["mode"] == "serving", "room")
        listed = project.call("run.list", dead=True)["runs"]
        assert [run["id"] for run in listed] == runs[::-1]
    finally:
        assert daemon.close() is None
    project.start()
    assert project.call("daemon.status")["dead"] == 20


def test_discarded_run_can_be_waited_for(make_project: Make) -> None:
    """It has failed, and `step.result` says so; also in the moment in which it leaves memory."""
    project = make_project(JOBS)
    project.start()
    first, second = (project.finish(project.begin("fails"))["id"] for _ in range(2))
    project.call("dead.discard", runs=[first])
    with project.connect() as connection:
        connection.send("dead.discard", {"runs": [second]})
        waits = connection.send("run.wait", {"run": second})
        replies = [connection.receive() for _ in range(2)]
    ended = next(reply.value() for reply in replies if reply.id == waits)
    assert (ended["status"], ended["error"]["message"]) == ("failed", "broken")
    for run in (first, second):
        made = project.finish(project.begin("awaits", {"run": run}))
        assert made["status"] == "completed"
        assert "broken" in made["result"]
