"""A full disk refuses writes and loses nothing; a failed sync ends the daemon, which recovers
(guarantee: failed sync)."""

from __future__ import annotations

import sys
from errno import EIO, ENOSPC
from pathlib import Path

import pytest

from helpers import failing_daemon
from helpers.deadline import wait_until
from helpers.inner_daemon import FaultyFileSystem, InsideDaemon
from helpers.processes import serving
from helpers.project import Project, kinds
from helpers.project_factory import Make
from stackshift_jobs.errors import DaemonUnavailable, DiskFull, StackshiftError
from stackshiftd.journal.interface import Unknown

JOBS = """
@stackshift.job("quick")
def quick(ctx):
    return ctx.step.run("one", lambda: "one")


@stackshift.job("held", retry=ONCE)
def held(ctx):
    ctx.step.run("held", gate, ctx.payload["gate"])
    note("after", ctx.run_id)
    ctx.step.run("next", note, "next", ctx.run_id)
    return ctx.attempt


@stackshift.job("heldAsync", retry=ONCE)
async def held_async(ctx):
    await ctx.step.run("held", agate, ctx.payload["gate"])
    note("after", ctx.run_id)
    await ctx.step.run("next", note, "next", ctx.run_id)
    return ctx.attempt


@stackshift.job("naps")
def naps(ctx):
    ctx.step.sleep("nap", "500ms")
    return "rested"
"""


def full(call: str, _data: bytes) -> int | None:
    """Let every write fail as on a full disk."""
    return ENOSPC if call == "pwrite" else None


def works(_call: str, _data: bytes) -> int | None:
    """Let every call succeed."""
    return None


def mode(project: Project) -> str:
    """`serving` or `read_only`. What is asked in the moment in which an append fails saw a state
    that is taken back, and is refused like the append."""
    try:
        return str(project.call("daemon.status")["mode"])
    except DiskFull:
        return "read_only"


def test_full_disk_refuses_writes_serves_reads_and_keeps_results(make_project: Make) -> None:
    """While there is no room, every write gets `disk_full`, every read is answered, and workers'
    results are kept. With room again the daemon resumes by itself, and no step has run twice."""
    project = make_project(JOBS)
    disk = FaultyFileSystem()
    daemon = InsideDaemon(project, fs=disk)
    try:
        done = project.finish(project.begin("quick"))["id"]
        runs = [project.begin(job, {"gate": "step"}) for job in ("held", "heldAsync")]
        project.at("step", times=2)
        asleep = project.begin("naps")
        project.until_status(asleep, "waiting")
        disk.fault = full
        project.open("step")
        with pytest.raises(DiskFull):
            project.begin("quick")
        wait_until(lambda: mode(project) == "read_only", "the daemon to notice")
        for method, params in (
            ("run.start", {"job": "quick"}),
            ("run.cancel", {"run": runs[0]}),
            ("run.fork", {"run": done}),
        ):
            with pytest.raises(DiskFull):
                project.call(method, **params)
        told = project.call("run.start_many", runs=[{"job": "quick"}])
        assert told["results"][0]["error"]["code"] == "disk_full"
        assert project.get(done)["result"] == "one"
        assert {run["id"] for run in project.call("run.list")["runs"]} == {done, asleep, *runs}
        assert all(f"after {run}" not in project.witness() for run in runs)
        disk.fault = works
        for run in runs:
            seen = project.finish(run)
            assert (seen["status"], seen["result"]) == ("completed", 1)
            assert kinds(seen, "step.completed", "attempt.lost") == ["step.completed"] * 2
        assert project.finish(asleep)["result"] == "rested"
        assert project.witness().count("at step") == 2
        assert project.finish(project.begin("quick"))["status"] == "completed"
        assert mode(project) == "serving"
    finally:
        assert daemon.close() is None
    project.verify()


def test_everybody_is_told_why_and_where_writes_stop(
    make_project: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """The refusal, `daemon status`, `runs why` and the log name the directory, what is free and the
    reserve; the log also says when writes go on, once each."""
    project = make_project(JOBS)
    disk = FaultyFileSystem()
    daemon = InsideDaemon(project, fs=disk)
    reason = f"{project.data_dir} has 3 KiB free; the last 1 MiB are kept for work under way"
    try:
        asleep = project.begin("naps")
        project.until_status(asleep, "waiting")
        disk.fault, disk.free = full, 3 << 10
        with pytest.raises(DiskFull, match=reason) as refused:
            project.begin("quick")
        assert refused.value.fields == {
            "directory": str(project.data_dir),
            "free_bytes": 3 << 10,
            "reserve_bytes": 1 << 20,
        }
        wait_until(
            lambda: project.call("run.why", run=asleep)["why_code"] == "disk_full",
            "the daemon to notice",
        )
        assert project.call("run.why", run=asleep)["why"].endswith(
            f"; nothing can be recorded: {reason}"
        )
        assert project.call("daemon.status")["read_only_because"] == reason
        disk.fault, disk.free = works, None
        assert project.finish(asleep)["result"] == "rested"
        status = project.call("daemon.status")
        assert (status["mode"], status["read_only_because"]) == ("serving", None)
    finally:
        assert daemon.close() is None
    said = [record.getMessage() for record in caplog.records]
    assert [text for text in said if text.startswith("writes")] == [
        f"writes are refused, reads are served: {reason}",
        next(text for text in said if text.startswith(f"writes go on: {project.data_dir} has ")),
    ]


def test_nothing_of_a_refused_start_remains(make_project: Make) -> None:
    """A start that was refused for want of room leaves no run and no key, also across a restart."""
    project = make_project(JOBS)
    disk = FaultyFileSystem()
    daemon = InsideDaemon(project, fs=disk)
    try:
        disk.fault = full
        for _ in range(3):
            with pytest.raises(DiskFull):
                project.begin("quick", {"n": 1}, idempotency_key="k")
        disk.fault = works
        wait_until(lambda: mode(project) == "serving", "the daemon to resume")
        told = project.call("run.start", job="quick", payload={"n": 2}, idempotency_key="k")
        assert told["reused"] is False
        assert project.finish(told["id"])["status"] == "completed"
        assert len(project.call("run.list")["runs"]) == 1
    finally:
        assert daemon.close() is None
    project.start()
    assert [run["id"] for run in project.call("run.list")["runs"]] == [told["id"]]


def test_low_space_refuses_new_work_and_finishes_what_is_under_way(make_project: Make) -> None:
    """The reserve is for runs that exist: they complete, new ones are refused, and later taken."""
    project = make_project(JOBS)
    disk = FaultyFileSystem()
    daemon = InsideDaemon(project, fs=disk)
    try:
        run = project.begin("held", {"gate": "step"})
        project.at("step")
        disk.free = 0
        wait_until(lambda: mode(project) == "read_only", "the daemon to notice")
        with pytest.raises(DiskFull):
            project.begin("quick")
        project.open("step")
        assert project.finish(run)["result"] == 1
        disk.free = None
        wait_until(lambda: mode(project) == "serving", "the daemon to resume")
        assert project.finish(project.begin("quick"))["status"] == "completed"
    finally:
        assert daemon.close() is None


def test_what_a_killed_daemon_left_executing_goes_on_though_the_disk_was_full_at_start(
    make_project: Make,
) -> None:
    """Runs that executed when the daemon died are put back once there is room to record it."""
    project = make_project(JOBS)
    project.start()
    run = project.begin("held", {"gate": "step"})
    project.at("step")
    project.kill()
    disk = FaultyFileSystem()

    def full_after_the_claim(_call: str, data: bytes) -> int | None:
        return ENOSPC if b'"attempt.lost"' in data else None

    disk.fault = full_after_the_claim
    daemon = InsideDaemon(project, fs=disk)
    try:
        wait_until(lambda: mode(project) == "read_only", "the daemon to notice")
        disk.fault = works
        project.open("step")
        assert project.finish(run)["result"] == 1
    finally:
        assert daemon.close() is None


def test_full_disk_does_not_keep_the_daemon_from_stopping(make_project: Make) -> None:
    """A daemon that is asked to stop while nothing can be written stops; the next one continues."""
    project = make_project(JOBS)
    disk = FaultyFileSystem()
    daemon = InsideDaemon(project, fs=disk)
    run = project.begin("held", {"gate": "step"})
    project.at("step")
    disk.fault = full
    assert daemon.close() is None
    project.open("step")
    project.start()
    assert project.finish(run)["result"] == 1


@pytest.mark.parametrize("call", ["sync_data", "pwrite"])
def test_nothing_is_acknowledged_after_a_failed_write_or_sync(
    make_project: Make, call: str
) -> None:
    """The daemon stops, clients get no answer, and the next one has all that was acknowledged."""
    project = make_project(JOBS)
    disk = FaultyFileSystem()
    daemon = InsideDaemon(project, fs=disk)
    done = [project.finish(project.begin("quick"))["id"] for _ in range(3)]
    disk.fault = lambda name, _data: EIO if name == call else None
    with pytest.raises(DaemonUnavailable):
        project.begin("quick")
    raised = daemon.ended()
    assert isinstance(raised, Unknown)
    assert not (project.data_dir / "daemon.json").exists()
    project.start()
    assert [project.get(run)["status"] for run in done] == ["completed"] * 3
    assert project.finish(project.begin("quick"))["status"] == "completed"
    project.verify()


def test_daemon_starts_again_into_recovery_after_a_failed_sync(make_project: Make) -> None:
    """The process replaces itself, recovers what the disk holds, and serves."""
    project = make_project(JOBS)
    flag = project.root / "fail-syncs"
    program = [
        sys.executable,
        str(Path(failing_daemon.__file__)),
        str(flag),
        "never",
        *project.command()[4:],
    ]
    project.start(program)
    daemon = project.daemon
    assert daemon is not None
    done = project.finish(project.begin("quick"))["id"]
    flag.touch()
    with pytest.raises(DaemonUnavailable):
        project.begin("quick")

    def again() -> bool:
        try:
            return bool(project.call("daemon.status")["pid"] == daemon.pid)
        except StackshiftError:
            return False

    wait_until(again, "the daemon to serve again")
    assert daemon.poll() is None
    assert project.get(done)["status"] == "completed"
    assert project.finish(project.begin("quick"))["status"] == "completed"
    assert project.stop() == 0
    project.verify()


@pytest.mark.parametrize("moment", failing_daemon.MOMENTS)
def test_sigterm_is_heard_while_a_daemon_starts_again(make_project: Make, moment: str) -> None:
    """Wherever it arrives between the failed write and the next daemon, none serves after it."""
    project = make_project(JOBS)
    flag = project.root / "fail-syncs"
    program = [sys.executable, str(Path(failing_daemon.__file__)), str(flag), moment]
    project.start([*program, *project.command()[4:]])
    done = project.finish(project.begin("quick"))["id"]
    flag.touch()
    with pytest.raises(DaemonUnavailable):
        project.begin("quick")
    assert project.ended() in (0, Unknown.exit_status)
    assert "serving" not in project.log().partition("the journal has failed")[2]
    assert not serving(project.root)
    project.start()
    assert project.get(done)["status"] == "completed"


def test_disk_that_fails_while_the_daemon_stops_does_not_keep_it(make_project: Make) -> None:
    """The last record of a daemon cannot be written: it ends all the same, and says why."""
    project = make_project(JOBS)
    flag = project.root / "fail-syncs"
    program = [sys.executable, str(Path(failing_daemon.__file__)), str(flag), "never"]
    project.start([*program, *project.command()[4:]])
    done = project.finish(project.begin("quick"))["id"]
    flag.touch()
    assert project.stop() == Unknown.exit_status
    assert "the journal has failed" in project.log()
    flag.unlink()
    project.start()
    assert project.get(done)["status"] == "completed"
    assert project.stop() == 0
    project.verify()
