"""`start_many`: a result for each item, in order, whatever its batch and whatever broke."""

from __future__ import annotations

from typing import Any

import pytest

from sdk.fake_daemon import FakeDaemon, Peer
from stackshift_jobs.client import batches
from stackshift_jobs.client.blocking import Client, RunHandle
from stackshift_jobs.errors import (
    DaemonUnavailable,
    NotFound,
    PayloadRefused,
    StackshiftError,
)
from stackshift_jobs.project.locate import Project


def test_start_many_answers_for_each_item_in_order(client: Client, daemon: FakeDaemon) -> None:
    """A handle for each item that was started and an error for each that was not, in any batch."""

    def begin(peer: Peer, id: int, params: dict[str, Any]) -> None:
        no_job = NotFound("no job no").as_json()
        results = [
            {"error": no_job} if run["job"] == "no" else daemon.begin(run) for run in params["runs"]
        ]
        peer.answer(id, {"results": results})

    daemon.on("run.start_many", begin)
    items: list[Any] = [("j", n) for n in range(1100)]
    items[3] = ("no", None)
    items[700] = ("j", b"bytes")
    items[900] = {"job": "j", "payload": 900, "idempotency_key": "k"}
    results = client.start_many(items)
    assert len(results) == 1100
    assert isinstance(results[3], NotFound)
    assert isinstance(results[700], PayloadRefused)
    handles = [result for result in results if isinstance(result, RunHandle)]
    assert len(handles) == 1098
    by_id = {f"run_{n}": run["payload"] for n, run in enumerate(daemon.started, 1)}
    got = {
        place: by_id[result.id]
        for place, result in enumerate(results)
        if isinstance(result, RunHandle)
    }
    assert all(place == payload for place, payload in got.items())


def test_start_many_of_nothing_asks_nothing(project: Project) -> None:
    """It does not even look for a daemon."""
    assert Client(project).start_many([]) == []


def test_start_many_sends_ahead(client: Client, daemon: FakeDaemon) -> None:
    """Several batches are in flight before the first is answered, but no more than the limit."""
    held: list[tuple[Peer, int, dict[str, Any]]] = []

    def hold(peer: Peer, id: int, params: dict[str, Any]) -> None:
        held.append((peer, id, params))
        if len(held) == batches.IN_FLIGHT:
            daemon.usual("run.start_many")
            for held_peer, held_id, held_params in held[::-1]:
                results = [daemon.begin(run) for run in held_params["runs"]]
                held_peer.answer(held_id, {"results": results})

    daemon.on("run.start_many", hold)
    results = client.start_many([("j", n) for n in range(500 * (batches.IN_FLIGHT + 2))])
    assert all(isinstance(result, RunHandle) for result in results)
    assert len(held) == batches.IN_FLIGHT


def test_start_many_without_a_daemon_raises(project: Project) -> None:
    """Nothing was sent, so there is no result for each item."""
    with pytest.raises(DaemonUnavailable):
        Client(project).start_many([("j", 1)])


def test_broken_batch_is_sent_again_only_with_keys(client: Client, daemon: FakeDaemon) -> None:
    """If a batch may have been carried out, the errors of its items without a key say so."""

    def lose(peer: Peer, _id: int, params: dict[str, Any]) -> None:
        for run in params["runs"]:
            daemon.begin(run)
        daemon.usual("run.start_many")
        peer.hang_up()

    keyed = [{"job": "j", "payload": n, "idempotency_key": f"k{n}"} for n in range(3)]
    client.runs.get("@last")
    daemon.on("run.start_many", lose)
    results = client.start_many(keyed)
    assert [run.id for run in results if isinstance(run, RunHandle)] == ["run_1", "run_2", "run_3"]
    assert len(daemon.started) == 3
    daemon.on("run.start_many", lose)
    plain = client.start_many([("j", 1), ("j", 2)])
    errors = [result for result in plain if isinstance(result, StackshiftError)]
    assert [error.fields["may_have_happened"] for error in errors] == [True, True]
    assert len(daemon.started) == 5
