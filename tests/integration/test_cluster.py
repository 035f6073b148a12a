"""Daemons on several machines: whatever a client asks of one that follows, the leader answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from helpers.deadline import SECONDS, wait_until
from helpers.inner_daemon import InsideDaemon
from helpers.project import Project
from helpers.project_factory import Make
from helpers.twins import twins
from journal.shared.memory_log import MemoryLog
from stackshift_cli.daemon.connection import Connection
from stackshift_jobs.errors import (
    BadConfiguration,
    DaemonUnavailable,
    HostUnreachable,
    NotFound,
    PayloadRefused,
    Usage,
)

pytestmark = pytest.mark.not_via(why="it says itself where its journal is")

JOBS = """
@stackshift.job("held")
async def held(ctx):
    await ctx.step.run("held", agate, ctx.payload["gate"])
    return ctx.payload.get("big", "")
"""
CONFIG = '[cluster]\nlisten = "127.0.0.1:0"\n'


class Pair:
    """A leader, and one that follows it."""

    def __init__(self, make: Make) -> None:
        self.log = MemoryLog()
        self.first, self.second = twins(make, JOBS, CONFIG)
        self.inside = [InsideDaemon(self.first, log=self.log, host="app-1")]
        self.inside.append(InsideDaemon(self.second, log=self.log, host="app-2"))
        assert role(self.second) == "follows"

    def close(self) -> None:
        """End both."""
        for each in reversed(self.inside):
            assert each.close() is None


@pytest.fixture
def pair(make_project: Make) -> Iterator[Pair]:
    """`app-1` leads, `app-2` follows."""
    made = Pair(make_project)
    yield made
    made.close()


def role(project: Project) -> str:
    """What its daemon says that it does; a broken connection is opened again."""
    try:
        return str(project.call("daemon.status")["role"])
    except DaemonUnavailable:
        return ""


def test_client_of_a_follower_is_answered_by_the_leader(pair: Pair) -> None:
    """Starts, waits, lists and errors, as on the leader itself; large ones, too."""
    run = pair.second.begin("held", {"gate": "g", "big": "x" * 900_000})
    pair.first.at("g")
    assert pair.first.get(run)["status"] == "running"
    pair.first.open("g")
    assert pair.second.finish(run) == pair.first.get(run)
    leader, follower = (pair.second.call(f"{who}.status") for who in ("leader", "daemon"))
    assert (leader["role"], follower["role"]) == ("leads", "follows")
    assert pair.second.get(run)["result"] == "x" * 900_000
    assert pair.second.call("run.list") == pair.first.call("run.list")
    with pytest.raises(NotFound, match="no job is named"):
        pair.second.begin("nothing")
    with pytest.raises(Usage, match="unknown method"):
        pair.second.call("no.method")
    with pytest.raises(PayloadRefused):
        pair.second.begin("held", {"big": "x" * 2_000_000})


def test_follower_answers_for_itself_between_two_answers_of_the_leader(pair: Pair) -> None:
    """On one connection, in whatever order they come back."""
    with Connection.open(pair.second.data_dir) as connection:
        sent: dict[int, str] = {}
        for number in range(20):
            key = f"k{number}"
            for method, params in (
                ("state.set", {"key": key, "value": "v" * 50_000}),
                ("state.get", {"key": key}),
                ("daemon.status", {}),
            ):
                sent[connection.send(method, params)] = method
        replies = [connection.receive(SECONDS) for _ in sent]
    values: dict[str, list[Any]] = {method: [] for method in sent.values()}
    for reply in replies:
        assert reply.id is not None
        values[sent[reply.id]].append(reply.value())
    assert [entry["version"] for entry in values["state.set"]] == [1] * 20
    assert [entry["value"] for entry in values["state.get"]] == ["v" * 50_000] * 20
    assert [status["role"] for status in values["daemon.status"]] == ["follows"] * 20


def test_follower_has_metrics_of_its_own(pair: Pair) -> None:
    """What is recorded is the same on both; who leads, and what each has counted, is not."""
    pair.first.begin("held", {"gate": "never"})

    def found(project: Project) -> dict[str, float]:
        families = project.call("daemon.metrics")["metrics"]
        return {each["name"]: each["samples"][0]["value"] for each in families if each["samples"]}

    leader, follower = found(pair.first), found(pair.second)
    assert (leader["stackshift_leads"], follower["stackshift_leads"]) == (1, 0)
    assert leader["stackshift_runs_started_total"] == 1
    assert follower["stackshift_runs_started_total"] == 0
    assert follower["stackshift_journal_bytes"] > 0


def test_feed_of_a_follower_has_each_record_once(pair: Pair) -> None:
    """From any sequence number, as it is recorded."""
    heard: list[int] = []
    with Connection.open(pair.second.data_dir) as connection:
        connection.call("feed.open", {"since_seq": 0}, timeout=SECONDS)
        for number in range(100):
            pair.first.call("state.set", key=f"k{number}", value=number)
        last = pair.first.call("journal.stats")["last_seq"]
        for method, params in connection.notifications(timeout=SECONDS):
            assert method == "feed.record"
            heard.append(params["record"]["seq"])
            if heard[-1] >= last:
                break
    assert heard == sorted(set(heard))
    assert len(heard) > 100


def test_lead_is_handed_over(pair: Pair) -> None:
    """From either side; the old leader ends its process, in which a new one follows. What was under
    way goes on there."""
    run = pair.second.begin("held", {"gate": "g"})
    pair.first.at("g")
    with pytest.raises(NotFound):
        pair.second.call("cluster.handover", host="app-3")
    told = pair.second.call("cluster.handover", host="app-2")
    assert told == {"from": "app-1", "to": "app-2"}
    pair.first.open("g")
    assert pair.inside[0].ended() is None
    wait_until(lambda: role(pair.second) == "leads", "the follower to lead")
    pair.first._forget()
    pair.inside[0] = InsideDaemon(pair.first, log=pair.log, host="app-1")
    assert role(pair.first) == "follows"
    assert pair.first.finish(run)["status"] == "completed"
    members = pair.first.call("cluster.status")["members"]
    assert [(each["host"], each["role"]) for each in members] == [
        ("app-1", "follows"),
        ("app-2", "leads"),
    ]


def test_leader_that_cannot_be_reached_is_named(pair: Pair) -> None:
    """With its address; what the database tells is told all the same."""
    daemon = pair.inside[0]._daemon
    assert daemon is not None and daemon._cluster is not None
    address, daemon._cluster._address = daemon._cluster._address, "127.0.0.1:1"

    def said() -> str:
        pair.second._forget()
        try:
            pair.second.call("run.list")
        except HostUnreachable as unreachable:
            return unreachable.message
        return ""

    words = wait_until(said, "a request to be refused")
    assert words.startswith("app-1 (127.0.0.1:1) cannot be reached from app-2: ")
    assert pair.second.call("cluster.status")["leader"] == "app-1"
    daemon._cluster._address = address
    wait_until(lambda: not said(), "it to be reached again")


def test_project_of_one_machine_has_no_cluster(make_project: Make) -> None:
    """And says how to get one."""
    project = make_project(JOBS)
    project.start()
    for method in ("cluster.status", "cluster.handover"):
        with pytest.raises(BadConfiguration, match="is in files"):
            project.call(method)
