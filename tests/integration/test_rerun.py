"""`run.retry` and `run.fork` of real runs: the dry run lists what then happens."""

from __future__ import annotations

import pytest

from helpers.project import Project, steps
from helpers.project_factory import Make, make_project  # noqa: F401
from stackshift_jobs.client.blocking import Client
from stackshift_jobs.errors import Conflict, NotFound, RunFailed, Usage

JOBS = """
@stackshift.job("note")
def note_it(ctx):
    note("noted", ctx.payload["by"])


@stackshift.job("work", retry=ONCE)
def work(ctx):
    ctx.step.run("fetch", note, "fetch")
    for page in range(2):
        ctx.step.run("page", note, "page", page)
    ctx.step.map("resize", lambda size: note("resize", size), [64, 256], concurrency=1)
    ctx.step.sleep("nap", "1ms")
    ctx.step.start("note", {"by": "start"}, name="tell")
    ctx.step.call("note", {"by": "call"}, name="ask")
    ctx.step.run("last", last)


def last():
    note("last")
    if not is_open("last"):
        raise NonRetryable("closed")


@stackshift.job("held")
def held(ctx):
    gate("held")
"""

ALL = ["fetch", "page", "page#2", "resize[0]", "resize[1]", "nap", "tell", "ask", "last"]


@pytest.fixture
def project(make_project: Make) -> Project:  # noqa: F811
    made = make_project(JOBS)
    made.start()
    return made


def failed(project: Project) -> str:
    """A run of `work` that failed in its last step."""
    run = project.begin("work")
    assert project.finish(run)["status"] == "failed"
    return run


def planned(project: Project, method: str, run: str, **params: object) -> dict[str, str]:
    """What a dry run says of each step, in order."""
    told = project.call(method, run=run, dry_run=True, **params)
    assert list(told["steps"][0]) == ["name", "action", "kind", "status", "run"]
    return {step["name"]: step["action"] for step in told["steps"]}


@pytest.mark.parametrize(
    ("from_step", "again"),
    [
        ("last", ["last"]),
        ("page#2", ALL[2:]),
        ("resize[1]", ALL[4:]),
        ("tell", ALL[6:]),
    ],
)
def test_dry_run_lists_step_by_step_what_then_happens(
    project: Project, from_step: str, again: list[str]
) -> None:
    """Occurrences, items of a map, sleeps and started runs: what is listed as repeated is repeated,
    and nothing else is. The dry run itself changes nothing."""
    run = failed(project)
    before = (project.get(run), project.witness())
    plan = planned(project, "run.retry", run, from_step=from_step)
    assert plan == {name: "repeat" if name in again else "reuse" for name in ALL}
    assert (project.get(run), project.witness()) == before
    project.open("last")
    earlier = project.witness()
    sent = project.call("run.retry", run=run, from_step=from_step)
    assert (sent["reused_steps"], sent["repeated_steps"]) == (
        [name for name in ALL if name not in again],
        again,
    )
    assert project.finish(run)["status"] == "completed"
    # The run that was started on its own may be later than its starter.
    happened = project.witness()[len(earlier) :]
    notes = {
        "fetch": "fetch",
        "page": "page 0",
        "page#2": "page 1",
        "resize[0]": "resize 64",
        "resize[1]": "resize 256",
        "ask": "noted call",
        "last": "last",
    }
    expected = [notes[name] for name in again if name in notes]
    assert [note for note in happened if note != "noted start"] == expected


def test_handle_by_id_retries_and_forks(project: Project) -> None:
    """With the steps, the results and the errors of the commands."""
    run = failed(project)
    with Client(project=project.address) as client:
        handle = client.runs.handle(run)
        with pytest.raises(RunFailed):
            handle.result()
        with pytest.raises(NotFound, match="no recorded step 'lost'"):
            handle.retry(from_step="lost")
        with pytest.raises(Usage, match="is not a step with a function"):
            handle.retry(set={"nap": 1})
        project.open("last")
        before = len(project.witness())
        fork = handle.fork(from_step="last")
        assert fork.result() is None
        assert project.witness()[before:] == ["last"]
        handle.retry(from_step="ask", set={"last": None})
        assert handle.result() is None
        assert project.witness()[before + 1 :] == ["noted call"]
        with pytest.raises(Conflict, match="nothing to retry"):
            handle.retry()
        assert [each["id"] for each in client.runs.list(forked_from=run)] == [fork.id]
        assert handle.timeline()[-1]["kind"] == "run.completed"


def test_started_runs_are_listed_with_their_ids(project: Project) -> None:
    """A step that starts a run, or calls one, starts another when it happens again."""
    run = failed(project)
    told = project.call("run.retry", run=run, from_step="tell", dry_run=True)["steps"]
    by_name = {step["name"]: step for step in told}
    assert [by_name[name]["kind"] for name in ("tell", "ask", "nap", "page#2")] == [
        "start",
        "call",
        "sleep",
        "run",
    ]
    children = {name: by_name[name]["run"] for name in ("tell", "ask")}
    assert all(project.get(child)["job"] == "note" for child in children.values())
    assert by_name["last"] == {
        "name": "last",
        "action": "repeat",
        "kind": None,
        "status": None,
        "run": None,
    }
    project.open("last")
    project.call("run.retry", run=run, from_step="tell")
    again = steps(project.finish(run))
    assert again["tell"]["result"] != children["tell"]


def test_given_results_stand_while_all_around_them_is_repeated(project: Project) -> None:
    """`from_step` with `set`: a step with a given result does not happen again, wherever it is."""
    run = failed(project)
    given = {"page#2": {"by": "hand"}, "last": None}
    plan = planned(project, "run.retry", run, from_step="page", set=given)
    assert {name for name, action in plan.items() if action == "set"} == set(given)
    assert {name for name, action in plan.items() if action == "reuse"} == {"fetch"}
    earlier = project.witness()
    project.call("run.retry", run=run, from_step="page", set=given)
    ended = project.finish(run)
    assert ended["status"] == "completed"
    assert steps(ended)["page#2"]["result"] == {"by": "hand"}
    happened = project.witness()[len(earlier) :]
    assert "page 1" not in happened and "last" not in happened and "page 0" in happened


def test_dry_run_of_a_fork_lists_what_the_fork_would_reuse(project: Project) -> None:
    """The source stays as it is; the fork does what was listed. Another payload reuses nothing."""
    run = failed(project)
    plan = planned(project, "run.fork", run, from_step="nap")
    assert [name for name, action in plan.items() if action == "repeat"] == ALL[5:]
    assert set(planned(project, "run.fork", run, payload=1).values()) == {"repeat"}
    project.open("last")
    fork = project.call("run.fork", run=run, from_step="nap", queue="others")["id"]
    assert (project.get(fork)["queue"], project.get(run)["queue"]) == ("others", "default")
    with pytest.raises(Usage, match="queue"):
        project.call("run.fork", run=run, queue="no\nqueue")
    assert project.finish(fork)["status"] == "completed"
    assert project.get(run)["status"] == "failed"
    assert project.witness().count("fetch") == 1


def test_what_cannot_be_retried_is_refused_before_anything_happens(project: Project) -> None:
    """A run under way or completed: conflict. A result for a sleep, a started run or a call: usage.
    A step that there is not: not found, with those that there are."""
    held = project.begin("held")
    project.at("held")
    for dry_run in (True, False):
        with pytest.raises(Conflict, match="only a finished run"):
            project.call("run.retry", run=held, dry_run=dry_run)
    project.open("held")
    project.finish(held)
    with pytest.raises(Conflict, match="has completed"):
        project.call("run.retry", run=held, dry_run=True)
    run = failed(project)
    for step in ("nap", "tell", "ask"):
        with pytest.raises(Usage, match=repr(step)):
            project.call("run.retry", run=run, set={step: 1}, dry_run=True)
    for method in ("run.retry", "run.fork"):
        with pytest.raises(NotFound, match="no recorded step 'page#3'") as refused:
            project.call(method, run=run, from_step="page#3", dry_run=True)
        assert "page#2" in refused.value.hint
