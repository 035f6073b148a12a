"""The dead letter of a real daemon: listed, retried, discarded, killed in between."""

from __future__ import annotations

from functools import partial

import pytest

from helpers.deadline import wait_until
from helpers.project import Project, kinds, steps
from helpers.project_factory import Make
from stackshift_jobs.errors import Conflict, NotFound, Usage

JOBS = """
@stackshift.job("fails", queue="media", retry=ONCE)
def fails(ctx):
    ctx.step.run("first", lambda: note("first", ctx.run_id))
    if not is_open("mended"):
        raise ConnectionError("broken")
    return "x" * ctx.payload.get("size", 1)


@stackshift.job("declined", queue="billing", retry=ONCE)
def declined(ctx):
    raise ValueError("declined")


@stackshift.job("quick")
def quick(ctx):
    return 1
"""


def forget_index(project: Project) -> None:
    for suffix in ("", "-wal", "-shm"):
        (project.data_dir / f"history.db{suffix}").unlink(missing_ok=True)


def dead(project: Project, job: str = "fails", **payload: object) -> str:
    """A run that is in the dead letter."""
    run = project.finish(project.begin(job, payload))
    assert (run["status"], run["dead"]) == ("failed", True)
    return str(run["id"])


def listed(project: Project, **filters: object) -> list[str]:
    return [run["id"] for run in project.call("run.list", **filters)["runs"]]


def done(reply: dict[str, list[dict[str, str]]]) -> list[str]:
    return [result["id"] for result in reply["results"]]


def test_discarded_run_stays_in_lists_as_failed(make_project: Make) -> None:
    """Out of the dead letter and its count; its timeline has the record, its key is still taken."""
    project = make_project(JOBS)
    project.start()
    kept = dead(project)
    run = project.finish(project.begin("fails", idempotency_key="k"))["id"]
    assert project.call("dead.discard", runs=[run[-8:]]) == {
        "results": [{"id": run}],
        "cursor": None,
    }
    assert listed(project, dead=True) == [kept]
    assert listed(project, status="failed") == [run, kept]
    assert project.call("daemon.status")["dead"] == 1
    shown = project.get(run)
    assert (shown["status"], shown["dead"], shown["why_code"]) == ("failed", False, "failed")
    assert shown["error"]["message"] == "broken"
    assert kinds(shown)[-2:] == ["run.failed", "run.discarded"]
    assert project.call("run.start", job="fails", idempotency_key="k")["id"] == run


@pytest.mark.parametrize("index", ["kept", "deleted"])
@pytest.mark.parametrize("snapshot", ["none", "before", "after"])
def test_discard_survives_kill_9(make_project: Make, index: str, snapshot: str) -> None:
    """Whichever files the next daemon starts from, it shows the run as the last one did, and no
    snapshot holds it."""
    project = make_project(JOBS)
    project.start()
    kept, run = dead(project), dead(project)
    if snapshot == "before":
        project.call("journal.compact")
    project.call("dead.discard", runs=[run])
    before = project.get(run)
    if snapshot == "after":
        project.call("journal.compact")
    project.kill()
    if index == "deleted":
        forget_index(project)
    project.start()
    wait_until(lambda: listed(project) == [run, kept], "the index to be built")
    assert project.get(run) == before
    assert listed(project, dead=True) == [kept]
    project.call("journal.compact")
    newest = max((project.data_dir / "snapshots").glob("*.jsonl"))
    assert run not in newest.read_text()
    assert kept in newest.read_text()
    assert project.get(run) == before


def test_discard_while_the_index_is_rebuilt_is_in_it(make_project: Make) -> None:
    """The row that comes up late does not take the record back."""
    project = make_project(JOBS)
    project.start()
    runs = [dead(project) for _ in range(3)]
    project.call("journal.compact")
    assert project.stop() == 0
    forget_index(project)
    project.start()
    project.call("dead.discard", runs=runs[:2])
    wait_until(lambda: len(listed(project)) == 3, "the index to be built")

    def discarded(run: str) -> bool:
        return kinds(project.get(run))[-1] == "run.discarded"

    for run in runs[:2]:
        wait_until(partial(discarded, run), "its record")
    assert listed(project, dead=True) == runs[2:]


@pytest.mark.parametrize("restarted", [False, True])
def test_discarded_run_is_retried_from_the_history(make_project: Make, restarted: bool) -> None:
    """`run.retry` continues from the recorded steps; after that the run is shown in full, by this
    daemon and the next one."""
    project = make_project(JOBS)
    project.start()
    run = dead(project, size=5000)
    project.call("dead.discard", runs=[run])
    if restarted:
        project.kill()
        project.start()
    project.open("mended")
    assert project.call("run.retry", run=run)["reused_steps"] == ["first"]
    made = project.finish(run)
    assert (made["status"], made["result"], made["payload"]) == (
        "completed",
        "x" * 5000,
        {"size": 5000},
    )
    assert kinds(made, "run.failed", "run.discarded", "run.retried", "run.completed") == [
        "run.failed",
        "run.discarded",
        "run.retried",
        "run.completed",
    ]
    assert steps(made)["first"]["status"] == "completed"
    assert project.witness() == [f"first {run}"]
    project.kill()
    project.start()
    assert project.get(run) == made
    project.verify()


def test_run_retried_and_killed_before_its_end_is_shown_in_full(make_project: Make) -> None:
    """A run that a restart finds between its retry and its end keeps its payload in the history."""
    project = make_project(JOBS)
    project.start()
    run = dead(project, size=3)
    project.call("dead.discard", runs=[run])
    project.call("run.retry", run=run)
    project.finish(run)
    project.kill()
    project.start()
    project.open("mended")
    project.call("dead.retry", runs=[run])
    assert project.finish(run)["payload"] == {"size": 3}


def test_discard_and_retry_in_one_append(make_project: Make) -> None:
    """Requests on one connection that are decided together do what they say one after the other."""
    project = make_project(JOBS)
    project.start()
    run = dead(project, size=2)
    project.open("mended")
    with project.connect() as connection:
        ids = [
            connection.send("dead.discard", {"runs": [run]}),
            connection.send("run.get", {"run": run}),
            connection.send("run.retry", {"run": run}),
        ]
        replies = {reply.id: reply.value() for reply in (connection.receive() for _ in ids)}
    assert done(replies[ids[0]]) == [run]
    assert (replies[ids[1]]["status"], replies[ids[1]]["dead"]) == ("failed", False)
    assert "dead letter" not in replies[ids[1]]["why"]
    assert replies[ids[2]]["reused_steps"] == ["first"]
    made = project.finish(run)
    assert (made["status"], made["payload"]) == ("completed", {"size": 2})
    assert kinds(made, "run.discarded", "run.retried") == ["run.discarded", "run.retried"]


def test_retry_of_the_dead_letter_gives_a_new_budget(make_project: Make) -> None:
    """As `run.retry` of each: recorded steps are reused, `attempt` keeps counting."""
    project = make_project(JOBS)
    project.start()
    runs = [dead(project) for _ in range(3)]
    project.open("mended")
    assert done(project.call("dead.retry", runs=runs[:2])) == runs[:2]
    for run in runs[:2]:
        made = project.finish(run)
        assert (made["status"], made["attempt"]) == ("completed", 2)
    assert listed(project, dead=True) == runs[2:]
    assert len(project.witness()) == 3


def test_what_is_not_in_the_dead_letter_is_an_error_and_the_others_are_done(
    make_project: Make,
) -> None:
    """Unknown: `not_found`; known and elsewhere: `conflict`, which says where."""
    project = make_project(JOBS)
    project.start()
    first, second = dead(project), dead(project)
    completed = project.finish(project.begin("quick"))["id"]
    project.call("dead.discard", runs=[first])
    for method in ("dead.retry", "dead.discard"):
        names = ["run_" + "0" * 26, completed, first, second]
        results = project.call(method, runs=names)["results"]
        assert [result.get("run") for result in results] == [*names[:3], None]
        errors = [result["error"] for result in results[:3]]
        assert [error["code"] for error in errors] == ["not_found", "conflict", "conflict"]
        assert errors[1]["message"] == f"{completed} is completed; it is not in the dead letter"
        assert errors[2]["message"].startswith(f"{first} was discarded")
        assert results[3] == {"id": second}
        if method == "dead.retry":
            project.finish(second)


def test_all_goes_page_by_page_and_takes_each_run_once(make_project: Make) -> None:
    """Filters apply; runs that fail again behind the cursor are not taken again."""
    project = make_project(JOBS)
    project.start()
    fails = [dead(project) for _ in range(5)]
    declined = dead(project, "declined")
    assert project.call("dead.count")["count"] == 6
    assert project.call("dead.count", queue="media")["count"] == 5
    assert project.call("dead.count", queue="media", job="declined")["count"] == 0
    taken: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = project.call("dead.retry", all=True, job="fails", limit=2, **cursor)
        taken += done(page)
        for run in done(page):
            project.finish(run)
        if page["cursor"] is None:
            break
        cursor = {"cursor": page["cursor"]}
    assert taken == fails[::-1]
    page = project.call("dead.discard", all=True, queue="media", limit=1000)
    assert (done(page), page["cursor"]) == (fails[::-1], None)
    assert listed(project, dead=True) == [declined]


def test_all_leaves_what_failed_after_it_was_counted(make_project: Make) -> None:
    """Nobody was asked about those."""
    project = make_project(JOBS)
    project.start()
    first = dead(project)
    at = project.call("dead.count")["at"]
    later = dead(project)
    assert done(project.call("dead.discard", all=True, until=at)) == [first]
    assert listed(project, dead=True) == [later]


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"runs": ["@failed"], "all": True},
        {"runs": ["@failed"], "queue": "q"},
        {"all": True, "limit": 0},
        {"all": True, "limit": 1001},
        {"all": True, "cursor": "run_1"},
        {"all": True, "until": "yesterday"},
        {"runs": ["x" * 9] * 1001},
        {"all": True, "more": 1},
    ],
)
def test_what_makes_no_sense_is_refused_as_a_whole(
    make_project: Make, params: dict[str, object]
) -> None:
    """`usage`, and nothing is done."""
    project = make_project(JOBS)
    project.start()
    run = dead(project)
    with pytest.raises(Usage):
        project.call("dead.discard", **params)
    assert listed(project, dead=True) == [run]


def test_removed_run_that_was_discarded_is_gone(make_project: Make) -> None:
    """`run.remove` takes it out of lists too."""
    project = make_project(JOBS)
    project.start()
    run = dead(project)
    project.call("dead.discard", runs=[run])
    project.call("run.remove", run=run)
    project.kill()
    project.start()
    with pytest.raises(NotFound):
        project.call("run.get", run=run)
    with pytest.raises((Conflict, NotFound)):
        project.call("run.retry", run=run)
