"""What a handler asks for while the disk is full is answered once there is room, not refused."""

from __future__ import annotations

from errno import ENOSPC

import pytest

from helpers.deadline import wait_until
from helpers.inner_daemon import FaultyFileSystem, InsideDaemon
from helpers.project import kinds
from helpers.project_factory import Make
from stackshift_jobs.errors import DiskFull

JOBS = """
@stackshift.job("child")
def child(ctx):
    return "child's"


@stackshift.job("calls", retry=ONCE)
def calls(ctx):
    gate("call")
    return ctx.step.call("child")


@stackshift.job("awaits", retry=ONCE)
def awaits(ctx):
    gate("call")
    return ctx.step.result(ctx.payload["run"])


@stackshift.job("conflicts", retry=ONCE)
def conflicts(ctx):
    gate("call")
    ctx.step.start("child", {"n": 1}, idempotency_key="k")
"""


@pytest.mark.parametrize("job", ["calls", "awaits"])
def test_a_child_is_waited_for_though_the_disk_was_full(make_project: Make, job: str) -> None:
    """`step.call` and `step.result` whose records found no room do not fail: they continue
    later."""
    project = make_project(JOBS)
    disk = FaultyFileSystem()
    daemon = InsideDaemon(project, fs=disk)
    try:
        other = project.finish(project.begin("child"))["id"]
        run = project.begin(job, {"run": other})
        project.at("call")
        disk.fault = lambda call, _data: ENOSPC if call == "pwrite" else None
        project.open("call")
        wait_until(
            lambda: project.call("daemon.status")["mode"] == "read_only", "the daemon to notice"
        )
        disk.fault = lambda _call, _data: None
        seen = project.finish(run)
        assert (seen["status"], seen["result"]) == ("completed", "child's")
        assert "attempt.failed" not in kinds(seen)
    finally:
        assert daemon.close() is None


def test_a_refusal_of_a_call_that_waited_for_room_reaches_its_handler(make_project: Make) -> None:
    """A start that conflicts fails its handler with the conflict, also if it had to wait."""
    project = make_project(JOBS)
    disk = FaultyFileSystem()
    daemon = InsideDaemon(project, fs=disk)
    try:
        project.finish(project.begin("child", {"n": 2}, idempotency_key="k"))
        run = project.begin("conflicts")
        project.at("call")
        disk.fault = lambda call, _data: ENOSPC if call == "pwrite" else None
        with pytest.raises(DiskFull):
            project.begin("child")
        wait_until(
            lambda: project.call("daemon.status")["mode"] == "read_only", "the daemon to notice"
        )
        project.open("call")
        disk.fault = lambda _call, _data: None
        seen = project.finish(run)
        assert seen["status"] == "failed"
        assert "idempotency key" in seen["error"]["message"]
    finally:
        assert daemon.close() is None


def test_start_after_room_was_made_is_not_refused(make_project: Make) -> None:
    """Whoever reads what is free, makes room and tries again need not wait until the daemon looks
    by itself."""
    project = make_project(JOBS)
    disk = FaultyFileSystem()
    daemon = InsideDaemon(project, fs=disk)
    try:
        for _ in range(5):
            disk.free = 0
            wait_until(
                lambda: project.call("daemon.status")["mode"] == "read_only", "the daemon to notice"
            )
            with pytest.raises(DiskFull, match=r"has 0 B free; the last .* are kept"):
                project.begin("child")
            disk.free = None
            project.finish(project.begin("child"))
    finally:
        assert daemon.close() is None


def test_write_that_failed_beside_free_space_is_said(make_project: Make) -> None:
    """As with a quota: what is free is then no reason, and the next try is."""
    project = make_project(JOBS)
    disk = FaultyFileSystem()
    daemon = InsideDaemon(project, fs=disk)
    try:
        disk.fault = lambda call, _data: ENOSPC if call == "pwrite" else None
        for _ in range(2):
            with pytest.raises(DiskFull, match=r"the last write to .* found no room, .* free now$"):
                project.begin("child")
        disk.fault = lambda _call, _data: None
    finally:
        assert daemon.close() is None
