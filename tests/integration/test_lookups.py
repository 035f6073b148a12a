"""Waiting for runs and finding them, as clients do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from helpers import scenery
from helpers.deadline import wait_until
from helpers.project import Project
from helpers.project_factory import Make
from stackshift_jobs.errors import NotFound

JOBS = """
@stackshift.job("quick")
def quick(ctx):
    return ctx.step.run("one", lambda: 1)


@stackshift.job("naps")
def naps(ctx):
    ctx.step.sleep("nap", "1h")


@stackshift.job("measures")
def measures(ctx):
    ctx.progress(1, 3, "files")
    ctx.progress(2, 3, "files")
    ctx.step.sleep("nap", "1h")


@stackshift.job("prints")
def prints(ctx):
    print("hello")
    ctx.step.run("inner", print, "inside")
    return "printed"


@stackshift.job("breaks")
def breaks(ctx):
    raise stackshift.NonRetryable("broken")


@stackshift.job("parent")
def parent(ctx):
    child = ctx.step.start(ctx.payload["job"])
    if ctx.payload.get("waits"):
        ctx.step.sleep("nap", "1h")
    if ctx.payload.get("fails"):
        raise stackshift.NonRetryable("broken")
    return child


@stackshift.job("spawns")
def spawns(ctx):
    # os.system, since subprocess closes what it is not told to hand on.
    return ctx.step.run("fds", lambda: os.system(f"ls -l /dev/fd/ > {ROOT}/fds.txt"))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """One daemon for all of these."""
    made = Project(tmp_path_factory.mktemp("lookups") / "p", {"story": JOBS})
    made.start()
    yield made
    made.close()


def test_wait_that_runs_out_says_how_the_run_is(project: Project) -> None:
    """`timed_out`, with the run's id and status; the run goes on."""
    run = project.begin("naps")
    project.until_status(run, "waiting")
    told = project.call("run.wait", run=run, timeout_ms=10)
    assert told == {"timed_out": True, "run": run, "status": "waiting"}


def test_wait_for_a_finished_run_answers_at_once(project: Project) -> None:
    """With the run object, the same as while it was waited for."""
    run = project.begin("quick")
    told = project.call("run.wait", run=run)
    assert told["status"] == "completed"
    assert project.call("run.wait", run=run, timeout_ms=0) == told


def test_lists_are_newest_first_also_after_an_old_run_was_sent_on(project: Project) -> None:
    """A run that had left the daemon's memory and is retried keeps its place; `@last` is the one
    that was created last."""
    old = project.begin("naps", delay_ms=3_600_000)
    project.call("run.cancel", run=old)
    newer = [project.begin("naps") for _ in range(3)]
    for run in newer:
        project.until_status(run, "waiting")
    project.call("run.retry", run=old)
    project.until_status(old, "waiting")
    assert project.call("run.get", run="@last")["id"] == newer[-1]
    due = [*reversed(newer), old]
    for limit in (1, 2, 3, 4):
        told = project.call("run.list", job="naps", limit=limit)["runs"]
        assert [run["id"] for run in told] == due[:limit]
    since = project.get(newer[0])["created_at"]
    told = project.call("run.list", job="naps", since=since)["runs"]
    assert [run["id"] for run in told] == due[:3]


def test_run_is_found_by_the_end_of_its_id(project: Project) -> None:
    """In memory and long finished alike."""
    for job in ("quick", "naps"):
        run = project.begin(job)
        if job == "quick":
            project.finish(run)
        assert project.call("run.get", run=run[-8:])["id"] == run


def test_newest_run_is_one_that_no_other_run_started(project: Project) -> None:
    """`@last` of whoever started a parent is the parent, and `@failed` too, whether the runs are in
    memory or long finished."""
    waiting = project.begin("parent", {"job": "naps", "waits": True})
    project.until_status(waiting, "waiting")
    assert project.call("run.get", run="@last")["id"] == waiting
    done = project.begin("parent", {"job": "breaks"})
    child = project.finish(done)["result"]
    assert project.finish(child)["status"] == "failed"
    assert project.call("run.get", run="@last")["id"] == done
    failed = project.begin("parent", {"job": "breaks", "fails": True})
    project.finish(failed)
    newer = project.begin("parent", {"job": "breaks"})
    project.finish(project.finish(newer)["result"])
    assert project.call("run.get", run="@failed")["id"] == failed
    project.call("run.remove", run=failed)
    with pytest.raises(NotFound, match="what another run has started"):
        project.call("run.get", run="@failed")


def test_run_is_found_by_its_id_as_screens_show_it(project: Project) -> None:
    """What is copied from a picture or a list is a name of the run."""
    run = project.begin("quick")
    for shown in (f"run_…{run[-6:]}", f"run_...{run[-6:]}", run[-6:]):
        assert project.call("run.get", run=shown)["id"] == run


def test_control_socket_is_not_inherited_by_programs(project: Project) -> None:
    """A program that a handler starts holds none of the worker's descriptors: a worker that dies is
    seen to die."""
    project.finish(project.begin("spawns"))
    assert "socket:" not in (project.root / "fds.txt").read_text()


def test_log_that_cannot_be_written_costs_no_run(project: Project) -> None:
    """If the log's folder cannot be used, handlers lose what they print, and complete."""
    logs = project.data_dir / "logs"
    wait_until(lambda: not logs.exists() or logs.is_dir(), "the folder of logs")
    if logs.exists():
        logs.rename(project.data_dir / "logs.aside")
    logs.touch()
    try:
        assert project.finish(project.begin("prints"))["result"] == "printed"
    finally:
        logs.unlink()


def test_list_of_what_runs_does_not_show_what_waits_behind_it(make_project: Make) -> None:
    """By the slots, not by going through the queue; newest first, and with the other filters."""
    project = make_project(
        "@stackshift.job('held')\ndef held(ctx):\n    gate(ctx.payload)\n"
        "@stackshift.job('other')\ndef other(ctx):\n    gate(ctx.payload)\n",
        config=scenery.CONFIG.replace("slots = 16", "slots = 3"),
    )
    project.start()
    first = [project.begin(job, "g") for job in ("held", "other", "held")]
    project.at("g", times=3)
    behind = [project.begin("held", "g") for _ in range(3)]

    def listed(**params: object) -> list[str]:
        return [run["id"] for run in project.call("run.list", **params)["runs"]]

    assert listed(status="running") == first[::-1]
    assert listed(status="running", job="held") == [first[2], first[0]]
    assert listed(status="running", limit=1) == [first[2]]
    assert listed(status="running", cursor=first[2]) == [first[1], first[0]]
    assert listed(status="queued") == behind[::-1]
    assert project.call("daemon.status")["queues"][0]["depth"] == 3


def test_children_of_a_run_are_listed_by_their_parent(project: Project) -> None:
    """Finished ones and those in memory, by the id of the parent or by its end; a run that does not
    exist is an error."""
    parent = project.finish(project.begin("parent", {"job": "quick"}))
    waiting = project.begin("parent", {"job": "naps", "waits": True})
    project.until_status(waiting, "waiting")
    project.finish(parent["result"])

    def children(of: str) -> list[str]:
        return [run["id"] for run in project.call("run.list", parent=of)["runs"]]

    assert children(parent["id"]) == children(parent["id"][-8:]) == [parent["result"]]
    [napping] = children(waiting)
    assert project.get(napping)["parent"] == waiting
    assert project.get(waiting)["steps"][0]["child"] == napping
    assert children(napping) == []
    assert project.call("run.count", parent=waiting)["count"] == 1
    with pytest.raises(NotFound):
        children("run_01kan5c8000000000000000009")
    for run in (waiting, napping):
        project.call("run.cancel", run=run)


def test_forks_of_a_run_are_listed_by_their_source(make_project: Make) -> None:
    """Finished ones and those in memory, whether a daemon has seen them end or finds them in its
    journal; a fork of a fork is one of its source only."""
    project = make_project(JOBS)
    project.start()
    source = project.finish(project.begin("quick"))["id"]
    done = project.finish(project.call("run.fork", run=source)["id"])["id"]
    again = project.finish(project.call("run.fork", run=done)["id"])["id"]
    nap = project.begin("naps")
    project.until_status(nap, "waiting")
    napping = project.call("run.fork", run=nap)["id"]
    project.until_status(napping, "waiting")

    def forks(of: str) -> list[str]:
        return [run["id"] for run in project.call("run.list", forked_from=of)["runs"]]

    assert forks(source) == forks(source[-8:]) == [done]
    assert (forks(done), forks(nap), forks(again)) == ([again], [napping], [])
    assert project.get(done)["forked_from"] == source
    assert project.call("run.count", forked_from=nap)["count"] == 1
    project.kill()
    for part in project.data_dir.glob("history.db*"):
        part.unlink()
    project.start()
    assert (forks(source), forks(done), forks(nap)) == ([done], [again], [napping])
    with pytest.raises(NotFound):
        forks("run_01kan5c8000000000000000009")
    cancelled = project.call("run.cancel_all", forked_from=nap[-8:])["results"]
    assert [each["id"] for each in cancelled] == [napping]
    project.verify()


def test_progress_of_an_unfinished_run_is_in_its_object(make_project: Make) -> None:
    """What it reported last, also after a kill; none before it reports any, and none at its end."""
    project = make_project(JOBS)
    project.start()
    run, silent = project.begin("measures"), project.begin("naps")
    for each in (run, silent):
        project.until_status(each, "waiting")
    shown = project.get(run)["progress"]
    reported = [each for each in project.get(run)["timeline"] if "progress" in each["kind"]]
    assert shown == {"done": 2, "total": 3, "message": "files", "at": reported[-1]["at"]}
    assert project.get(silent)["progress"] is None
    project.kill()
    project.start()
    listed = {each["id"]: each["progress"] for each in project.call("run.list")["runs"]}
    assert listed == {run: shown, silent: None}
    project.call("run.cancel", run=run)
    assert project.get(run)["progress"] is None
    project.verify()
