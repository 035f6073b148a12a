"""A run that is cancelled while its handler ends by itself keeps its timeline."""

from __future__ import annotations

from helpers.deadline import wait_until
from helpers.inner_daemon import FaultyFileSystem, InsideDaemon
from helpers.project import kinds
from helpers.project_factory import Make
from helpers.slow_disk import SlowDisk

JOBS = """
@stackshift.job("held")
def held(ctx):
    gate("step")
"""


def test_handler_that_ends_while_its_cancellation_is_on_its_way_loses_no_record(
    make_project: Make,
) -> None:
    """The cancellation is decided and not durable when the handler returns: the run has all of its
    records, from the first, before and after a restart."""
    project = make_project(JOBS)
    disk = FaultyFileSystem()
    daemon = InsideDaemon(project, fs=disk, speed=SlowDisk())
    try:
        run = project.begin("held", {"n": 1})
        project.at("step")
        assert daemon._daemon is not None
        runs = daemon._daemon.engine

        def slow(_call: str, data: bytes) -> None:
            if b'"run.cancelled"' in data:
                project.open("step")
                wait_until(lambda: run not in runs.state.runs, "the handler to have ended")

        disk.fault = slow
        project.call("run.cancel", run=run)
        wait_until(lambda: "attempt.stopped" in kinds(project.get(run)), "the last record")
        seen = project.get(run)
        assert kinds(seen) == ["run.created", "attempt.started", "run.cancelled", "attempt.stopped"]
        assert (seen["status"], seen["payload"]) == ("cancelled", {"n": 1})
    finally:
        assert daemon.close() is None
    project.start()
    assert project.get(run) == seen
