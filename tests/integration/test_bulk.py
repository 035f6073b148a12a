"""Runs that have something in common are counted, cancelled, retried and removed together."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.project import Project
from helpers.project_factory import Make
from stackshift_jobs.client.blocking import Client
from stackshift_jobs.errors import Conflict, NotFound, Usage

JOBS = """
@stackshift.job("quick")
def quick(ctx):
    return 1


@stackshift.job("naps")
def naps(ctx):
    ctx.step.sleep("nap", "1h")


@stackshift.job("starts")
def starts(ctx):
    ctx.step.start("naps")
    ctx.step.start("naps")


@stackshift.job("fails", queue="media", retry=ONCE)
def fails(ctx):
    if not is_open("mended"):
        raise ConnectionError("broken")


@stackshift.job("backup", unique="{disk}", retry=ONCE)
def backup(ctx):
    raise ConnectionError("broken")
"""


@pytest.fixture
def project(make_project: Make) -> Project:
    """A project whose daemon runs."""
    made = make_project(JOBS)
    made.start()
    return made


def ids(reply: dict[str, Any]) -> list[str]:
    return [result["id"] for result in reply["results"]]


def count(project: Project, **filters: Any) -> int:
    return int(project.call("run.count", **filters)["count"])


def test_counts_are_those_of_the_lists(project: Project) -> None:
    """Of runs in memory and of finished ones, each once; by status, job or queue."""
    for number in range(3):
        project.finish(project.begin("quick", labels={"n": str(number % 2)}))
        project.finish(project.begin("fails"))
        project.begin("quick", delay_ms=3_600_000)
    assert count(project) == 9
    assert count(project, status="scheduled") == 3
    assert count(project, status=["failed", "scheduled"]) == 6
    assert count(project, status=["completed", "failed", "completed"], queue="media") == 3
    assert count(project, job="quick", labels={"n": "0"}) == 2
    assert count(project, queue="media", status="failed") == 3
    by_status = project.call("run.count", by="status")["counts"]
    assert by_status == {"completed": 3, "failed": 3, "scheduled": 3}
    assert next(iter(project.call("run.count", by="job")["counts"].items())) == ("quick", 6)
    assert project.call("run.count", by="queue", status="failed")["counts"] == {"media": 3}
    project.kill()
    project.start()
    assert project.call("run.count", by="status")["counts"] == by_status


def test_pages_cancel_all_that_match_and_nothing_else(project: Project) -> None:
    """Page after page, newest first; what was created later is left alone."""
    night = [project.begin("quick", delay_ms=3_600_000, labels={"when": "night"}) for _ in range(5)]
    other = project.begin("quick", delay_ms=3_600_000)
    filters: dict[str, Any] = {"labels": {"when": "night"}}
    counted = project.call("run.cancel_all", **filters, dry_run=True)
    assert counted["count"] == 5
    later = project.begin("quick", delay_ms=3_600_000, labels={"when": "night"})
    first = project.call("run.cancel_all", **filters, until=counted["at"], limit=3)
    assert ids(first) == night[:1:-1]
    project.kill()
    project.start()
    rest = project.call(
        "run.cancel_all", **filters, until=counted["at"], limit=3, cursor=first["cursor"]
    )
    assert (ids(rest), rest["cursor"]) == (night[1::-1], None)
    assert count(project, status="cancelled") == 5
    assert {run["id"] for run in project.call("run.list", status="scheduled")["runs"]} == {
        other,
        later,
    }


def test_children_of_a_run_are_cancelled_by_any_name_of_their_parent(project: Project) -> None:
    """Those that are unfinished; a parent that does not exist is an error, and cancels nothing."""
    parent = project.finish(project.begin("starts"))["id"]
    other = project.begin("quick", delay_ms=3_600_000)
    for name in ("run_01kan5c8000000000000000009", "zzzz"):
        with pytest.raises(NotFound):
            project.call("run.cancel_all", parent=name)
    assert project.call("run.cancel_all", parent=parent[-8:], dry_run=True)["count"] == 2
    assert len(ids(project.call("run.cancel_all", parent=parent[-8:]))) == 2
    assert count(project, parent=parent, status="cancelled") == 2
    assert project.get(other)["status"] == "scheduled"


def test_retry_of_all_is_for_failed_runs_and_each_is_by_itself(project: Project) -> None:
    """Also those that have left the dead letter; one that cannot be retried keeps no other."""
    runs = [project.finish(project.begin("fails"))["id"] for _ in range(3)]
    project.call("dead.discard", runs=[runs[0]])
    blocked = project.finish(project.begin("backup", {"disk": "a"}))["id"]
    owner = project.begin("backup", {"disk": "a"}, delay_ms=3_600_000)
    project.finish(project.begin("quick"))
    project.open("mended")
    results = project.call("run.retry_all")["results"]
    assert {result["id"] for result in results if "id" in result} == set(runs)
    [refused] = [result for result in results if "error" in result]
    assert (refused["run"], refused["error"]["owner"]) == (blocked, owner)
    for run in runs:
        assert project.finish(run)["status"] == "completed"
    project.verify()


def test_client_changes_all_that_match_and_names_those_that_refuse(project: Project) -> None:
    """More than one page holds, with a daemon that was killed in between."""
    [failed, blocked] = [
        project.finish(project.begin("backup", {"disk": disk}))["id"] for disk in "ab"
    ]
    owner = project.begin("backup", {"disk": "b"}, delay_ms=3_600_000)
    other = project.begin("quick", delay_ms=3_600_000)
    with Client(project=project.address) as client:
        client.start_many([{"job": "quick", "delay": "1h", "labels": {"n": "1"}}] * 501)
        project.kill()
        project.start()
        assert client.runs.count(labels={"n": "1"}) == 501
        assert client.runs.counts("job", status="scheduled") == {"quick": 502, "backup": 1}
        cancelled = client.runs.cancel_all(labels={"n": "1"})
        assert (len(set(cancelled.done)), cancelled.refused) == (501, {})
        assert client.runs.count(status="cancelled") == 501
        with pytest.raises(Usage, match="completed runs cannot be cancelled"):
            client.runs.cancel_all(status="completed")
        retried = client.runs.retry_all(job="backup")
        assert (retried.done, list(retried.refused)) == ([failed], [blocked])
        assert isinstance(refused := retried.refused[blocked], Conflict)
        assert refused.fields["owner"] == owner
        removed = client.runs.remove_all(labels={"n": "1"}, status="cancelled")
        assert set(removed.done) == set(cancelled.done)
        assert client.runs.count(labels={"n": "1"}) == 0
    assert project.get(other)["status"] == project.get(owner)["status"] == "scheduled"
    project.verify()


def test_several_statuses_are_listed_in_the_order_of_the_runs(project: Project) -> None:
    """Page by page, those in memory among those in the history; changes take several, too."""
    made: list[str] = []
    for _ in range(3):
        made += [project.finish(project.begin(job))["id"] for job in ("quick", "fails")]
        made.append(project.begin("quick", delay_ms=3_600_000))
        project.call("dead.discard", runs=[made[-2]])
    wanted = [run for at, run in enumerate(made) if at % 3 != 2][::-1]
    filters: dict[str, Any] = {"status": ["failed", "completed"], "limit": 4}
    first = project.call("run.list", **filters)
    rest = project.call("run.list", **filters, cursor=first["cursor"])
    assert [run["id"] for run in first["runs"] + rest["runs"]] == wanted
    with pytest.raises(Usage, match="completed runs cannot be retried"):
        project.call("run.retry_all", status=["failed", "completed"])
    assert ids(project.call("run.remove_all", **filters)) == wanted[:4]
    assert count(project, status=["failed", "completed"]) == 2


def test_runs_until_a_time_are_those_created_then_or_before(project: Project) -> None:
    """In memory and in the history, with and without a filter that the index orders by; a run
    created at that very time is among them."""
    made: list[str] = []
    for _ in range(3):
        made.append(project.finish(project.begin("quick"))["id"])
        made.append(project.begin("quick", delay_ms=3_600_000))
    created = [project.get(run)["created_at"] for run in made]

    def listed(**filters: Any) -> list[str]:
        found = [run["id"] for run in project.call("run.list", **filters)["runs"]]
        assert count(project, **filters) == len(found)
        return found

    assert listed(until=created[3]) == made[3::-1]
    assert listed(until=created[3], since=created[1]) == made[3:0:-1]
    assert listed(until=created[3], status="completed") == [made[2], made[0]]
    assert listed(until=created[3], queue="default", status=["completed"]) == [made[2], made[0]]
    assert listed(until=created[3], status="scheduled") == [made[3], made[1]]
    assert listed(until=created[0], since=created[1]) == []
    assert ids(project.call("run.remove_all", until=created[3])) == [made[2], made[0]]
    with pytest.raises(Usage, match="is not a time"):
        project.call("run.count", until="1d")


def test_removal_of_all_is_for_finished_runs(project: Project) -> None:
    """Of a status, or of any; unfinished runs stay."""
    kept = project.begin("quick", delay_ms=3_600_000)
    for _ in range(2):
        project.finish(project.begin("quick"))
        project.finish(project.begin("fails"))
    assert len(ids(project.call("run.remove_all", status="completed"))) == 2
    assert len(ids(project.call("run.remove_all"))) == 2
    assert [run["id"] for run in project.call("run.list")["runs"]] == [kept]


def test_what_cannot_be_meant_is_refused(project: Project) -> None:
    """A status that the change does not apply to, one that does not exist, another group."""
    for method, params in (
        ("run.cancel_all", {"status": "completed"}),
        ("run.retry_all", {"status": "running"}),
        ("run.remove_all", {"status": "queued"}),
        ("run.remove_all", {"status": "done"}),
        ("run.remove_all", {"status": []}),
        ("run.list", {"status": ["failed", "done"]}),
        ("run.count", {"status": "failed,done"}),
        ("run.cancel_all", {"limit": 0}),
        ("run.cancel_all", {"cursor": "x"}),
        ("run.count", {"by": "label"}),
    ):
        with pytest.raises(Usage):
            project.call(method, **params)
