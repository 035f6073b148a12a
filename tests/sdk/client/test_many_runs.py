"""A run by its id, and all runs that match: what both clients ask, and what they give back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from sdk.awaited import run
from sdk.fake_daemon import FakeDaemon, Peer
from stackshift_jobs.client.awaited import AsyncClient, AsyncRunHandle
from stackshift_jobs.client.blocking import BulkResult, Client, RunHandle
from stackshift_jobs.errors import Conflict, NotFound, Usage
from stackshift_jobs.project.locate import Project

PAGES: dict[str | None, dict[str, Any]] = {
    None: {
        "results": [
            {"id": "run_3"},
            {"run": "run_2", "error": Conflict("run_9 has its key", owner="run_9").as_json()},
        ],
        "cursor": "7",
    },
    "7": {"results": [{"id": "run_1"}], "cursor": None},
}
"""What the daemon answers to a change of all runs that match, by cursor."""


def in_pages(peer: Peer, id: int, params: dict[str, Any]) -> None:
    peer.answer(id, PAGES[params.get("cursor")])


def check_result(result: BulkResult) -> None:
    assert result.done == ["run_3", "run_1"]
    assert list(result.refused) == ["run_2"]
    refused = result.refused["run_2"]
    assert isinstance(refused, Conflict)
    assert (refused.message, refused.fields) == ("run_9 has its key", {"owner": "run_9"})


def test_handle_by_id_asks_nothing_until_it_is_used(client: Client, daemon: FakeDaemon) -> None:
    """It then waits for the run and changes it, as the handle of a start does."""
    handle = client.runs.handle("run_8")
    assert (handle.id, handle.reused, daemon.seen) == ("run_8", False, [])
    assert handle.result() == 42
    assert handle.cancel(gently=True, grace="2m", children=True) is True
    handle.retry()
    handle.retry(from_step="load", set={"load": {"rows": 3}, "none": None})
    daemon.on("run.fork", lambda peer, id, _: peer.answer(id, {"id": "run_9"}))
    assert [handle.fork().id, handle.fork(from_step="load", payload=[1]).id] == ["run_9"] * 2
    assert handle.fork(queue="slow").id == "run_9"
    asked = {"run": "run_8"}
    assert daemon.seen == [
        ("run.wait", asked),
        ("run.cancel", asked | {"gently": True, "grace_ms": 120_000, "children": True}),
        ("run.retry", asked),
        ("run.retry", asked | {"from_step": "load", "set": {"load": {"rows": 3}, "none": None}}),
        ("run.fork", asked),
        ("run.fork", asked | {"from_step": "load", "payload": [1]}),
        ("run.fork", asked | {"queue": "slow"}),
    ]
    with pytest.raises(NotFound):
        client.runs.handle("run_missing").status()


@pytest.mark.parametrize("id", ["@last", "@failed", "", None])
def test_handle_is_of_one_run_for_good(client: Client, daemon: FakeDaemon, id: Any) -> None:
    """`@last` would be another run at its next call."""
    with pytest.raises(Usage, match="is not the id of a run"):
        client.runs.handle(id)
    assert daemon.seen == []


def test_runs_that_match_are_counted(client: Client, daemon: FakeDaemon) -> None:
    """All in one number, or by a word; with the filters of a list."""
    counted = {"count": 3, "counts": {"failed": 2, "queued": 1}}
    daemon.on("run.count", lambda peer, id, _: peer.answer(id, counted))
    since = datetime(2026, 5, 7, tzinfo=UTC)
    assert client.runs.count(status=("failed", "queued"), since=since, dead=True) == 3
    assert client.runs.counts("status", labels={"a": "1"}) == {"failed": 2, "queued": 1}
    filters = {"status": ["failed", "queued"], "since": "2026-05-07T00:00:00.000000Z", "dead": True}
    assert daemon.seen == [
        ("run.count", filters),
        ("run.count", {"labels": {"a": "1"}, "by": "status"}),
    ]


def test_all_that_match_are_changed_page_by_page(client: Client, daemon: FakeDaemon) -> None:
    """With the same filters and terms for each page; those that refuse come with their errors."""
    for method in ("run.cancel_all", "run.retry_all", "run.remove_all"):
        daemon.on(method, in_pages)
    check_result(client.runs.cancel_all(job="j", gently=True, grace="1s", children=True))
    check_result(client.runs.retry_all(status="cancelled"))
    check_result(client.runs.remove_all())
    gently = {"job": "j", "gently": True, "grace_ms": 1000, "children": True}
    assert daemon.seen == [
        ("run.cancel_all", gently),
        ("run.cancel_all", gently | {"cursor": "7"}),
        ("run.retry_all", {"status": "cancelled"}),
        ("run.retry_all", {"status": "cancelled", "cursor": "7"}),
        ("run.remove_all", {}),
        ("run.remove_all", {"cursor": "7"}),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda runs: runs.cancel_all(job=None), "the filter job is None"),
        (lambda runs: runs.retry_all(jbo="j"), "there is no filter 'jbo' for runs"),
        (lambda runs: runs.remove_all(limit=3), "there is no filter 'limit' for runs"),
        (lambda runs: runs.count(queue=None), "the filter queue is None"),
        (lambda runs: runs.counts("job", cursor="1"), "there is no filter 'cursor' for runs"),
        (lambda runs: runs.cancel_all(grace="1s"), "grace= is for gently=True"),
    ],
)
def test_no_run_is_changed_by_a_mistake(
    client: Client, daemon: FakeDaemon, change: Callable[[Any], Any], message: str
) -> None:
    """A filter that is None or misspelt would leave all runs, so nothing is asked."""
    with pytest.raises(Usage, match=message):
        change(client.runs)
    assert daemon.seen == []


def test_awaited_client_asks_and_gives_back_the_same(project: Project, daemon: FakeDaemon) -> None:
    """By handle, in numbers and page by page."""
    daemon.on("run.fork", lambda peer, id, _: peer.answer(id, {"id": "run_9"}))
    counted = {"count": 3, "counts": {"a": 3}}
    daemon.on("run.count", lambda peer, id, _: peer.answer(id, counted))
    for method in ("run.cancel_all", "run.retry_all", "run.remove_all"):
        daemon.on(method, in_pages)

    async def story(client: AsyncClient) -> None:
        handle = client.runs.handle("run_8")
        assert await handle.result() == 42
        await handle.retry(from_step="load", set={"load": 1})
        fork = await handle.fork(payload={"n": 1}, queue="slow")
        assert isinstance(fork, AsyncRunHandle)
        assert fork.id == "run_9"
        assert await client.runs.count(job="a") == 3
        assert await client.runs.counts("job") == {"a": 3}
        check_result(await client.runs.cancel_all(job="j", gently=True))
        check_result(await client.runs.retry_all(job="j"))
        check_result(await client.runs.remove_all(job="j"))
        with pytest.raises(Usage, match="is not the id of a run"):
            client.runs.handle("@last")

    run(project, story)
    assert daemon.seen == [
        ("run.wait", {"run": "run_8"}),
        ("run.retry", {"run": "run_8", "from_step": "load", "set": {"load": 1}}),
        ("run.fork", {"run": "run_8", "payload": {"n": 1}, "queue": "slow"}),
        ("run.count", {"job": "a"}),
        ("run.count", {"by": "job"}),
        ("run.cancel_all", {"job": "j", "gently": True}),
        ("run.cancel_all", {"job": "j", "gently": True, "cursor": "7"}),
        ("run.retry_all", {"job": "j"}),
        ("run.retry_all", {"job": "j", "cursor": "7"}),
        ("run.remove_all", {"job": "j"}),
        ("run.remove_all", {"job": "j", "cursor": "7"}),
    ]


def test_fork_of_a_handle_is_a_handle(client: Client, daemon: FakeDaemon) -> None:
    """Of the new run."""
    daemon.on("run.fork", lambda peer, id, _: peer.answer(id, {"id": "run_9"}))
    fork = client.runs.handle("run_8").fork()
    assert isinstance(fork, RunHandle)
    assert fork.status() == "running"
    assert daemon.seen[-1] == ("run.get", {"run": "run_9"})
