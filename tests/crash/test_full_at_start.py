"""A daemon that starts on a full disk serves reads, and writes by itself once there is room
(guarantee: full disk)."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from helpers import full_daemon
from helpers.deadline import wait_until
from helpers.project import Project
from helpers.project_factory import Make
from stackshift_jobs.errors import DaemonUnavailable, DiskFull, StackshiftError
from stackshift_jobs.project.discovery import places_elsewhere, read_daemon

JOBS = """
@stackshift.job("quick")
def quick(ctx):
    return ctx.payload.get("n")


@stackshift.job("held")
def held(ctx):
    ctx.step.run("held", gate, "go")
    return ctx.attempt


@stackshift.job("naps")
async def naps(ctx):
    await ctx.step.sleep("nap", "10ms")
    return "rested"
"""


def start(project: Project, flag: Path) -> list[str]:
    """Start a daemon whose disk is full while `flag` exists; its notes."""
    return list(project.start(full_daemon.program(project, flag))["notes"])


def serves(project: Project) -> bool:
    """Does a daemon answer, and write?"""
    try:
        return bool(project.call("daemon.status")["mode"] == "serving")
    except StackshiftError:
        return False


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "stopped"])
def test_daemon_that_starts_on_a_full_disk_serves_reads(make_project: Make, killed: bool) -> None:
    """Whether recovery has to write or only the claim does: reads are answered, all else is
    refused, and clients find the daemon. With room it starts again, and every run goes on."""
    project = make_project(JOBS)
    flag = project.root / "full"
    project.start()
    done = [project.finish(project.begin("quick", {"n": n}))["id"] for n in range(3)]
    project.call("state.set", key="banner", value="hello")
    run = project.begin("held")
    project.at("go")
    flag.touch()
    if killed:
        project.kill()
    else:
        project.stop()
    kept = (*(project.data_dir / "journal").iterdir(), project.data_dir / "witness.json")
    before = {path: path.read_bytes() for path in kept}
    [note] = start(project, flag)
    reason = f"{project.data_dir} has 0 B free; the last 16 MiB are kept for work under way"
    assert note == f"only reads are served: {reason}"
    daemon = project.daemon
    assert daemon is not None

    assert project.call("state.get", key="banner")["value"] == "hello"
    wait_until(
        lambda: {each["id"] for each in project.call("run.list")["runs"]} == {*done, run},
        "the index to be read from the journal",
    )
    assert project.get(done[2])["result"] == 2
    assert project.call("run.why", run=run)["why_code"] == "disk_full"
    status = project.call("daemon.status")
    assert (status["mode"], status["read_only_because"]) == ("read_only", reason)
    assert status["workers"] == []
    for method, params in (
        ("run.start", {"job": "quick"}),
        ("run.cancel", {"run": run}),
        ("state.set", {"key": "banner", "value": 1}),
        ("lock.acquire", {"key": "k", "ttl_ms": 1000, "asker": "a"}),
        ("journal.compact", {}),
        ("daemon.reload", {}),
    ):
        with pytest.raises(DiskFull, match=f"this cannot be recorded: {reason}"):
            project.call(method, **params)
    with pytest.raises(DiskFull, match=f"no job is loaded: {reason}"):
        project.call("job.list")
    assert {path: path.read_bytes() for path in before} == before
    daemon.send_signal(signal.SIGHUP)
    wait_until(lambda: f"not reloaded: this cannot be recorded: {reason}" in project.log(), "that")
    assert project.call("daemon.status")["workers"] == []

    flag.unlink()
    wait_until(lambda: serves(project), "the daemon to start again")
    assert daemon.poll() is None
    announced = read_daemon(project.data_dir)
    assert announced is not None and announced.pid == daemon.pid
    assert not any(place.exists() for place in places_elsewhere(project.data_dir))
    project.open("go")
    assert project.finish(run)["result"] == 1
    assert project.finish(project.begin("naps"))["result"] == "rested"
    assert project.stop() == 0
    project.verify()


def test_daemon_that_serves_reads_stops_when_it_is_asked_to(make_project: Make) -> None:
    """It leaves no socket behind, and what it could not do is done by the next."""
    project = make_project(JOBS)
    flag = project.root / "full"
    project.start()
    done = project.finish(project.begin("quick", {"n": 1}))["id"]
    project.kill()
    flag.touch()
    start(project, flag)
    assert project.get(done)["status"] == "completed"
    assert project.stop() == 0
    assert not any(place.exists() for place in places_elsewhere(project.data_dir))
    with pytest.raises(DaemonUnavailable):
        project.call("daemon.status")
    flag.unlink()
    project.start()
    assert project.get(done)["result"] == 1
    project.verify()


def test_announcement_of_a_killed_daemon_is_not_believed(make_project: Make) -> None:
    """Killed while it served reads: the next daemon is found, in either place."""
    project = make_project(JOBS)
    flag = project.root / "full"
    project.start()
    project.call("state.set", key="k", value=1)
    project.kill()
    flag.touch()
    for _ in range(2):
        start(project, flag)
        assert project.call("state.get", key="k")["value"] == 1
        project.kill()
    flag.unlink()
    project.start()
    assert project.finish(project.begin("quick", {"n": 5}))["result"] == 5


def test_full_disk_without_a_journal_is_75(make_project: Make) -> None:
    """There is nothing to read yet; the error says where room is needed."""
    project = make_project(JOBS)
    flag = project.root / "full"
    flag.touch()
    with pytest.raises(AssertionError, match="has no journal yet, and the disk cannot be written"):
        start(project, flag)
    assert project.ended() == 75
