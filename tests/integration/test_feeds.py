"""Followers see every durable record once, in order, whatever comes between them and the daemon."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from helpers.deadline import SECONDS
from helpers.project import Project, kinds
from helpers.project_factory import Make
from stackshift_cli.daemon.connection import Connection
from stackshift_jobs.errors import NotFound, Usage

JOBS = """
@stackshift.job("steps")
def steps(ctx):
    for i in range(5):
        ctx.step.run(f"step-{i}", lambda: i)
    return "through"


@stackshift.job("held")
def held(ctx):
    ctx.step.run("held", gate, ctx.payload["gate"])


@stackshift.job("echo")
def echo(ctx):
    return len(str(ctx.payload))
"""
QUIET = ("journal.watermark",)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """One daemon for those that need no restart."""
    made = Project(tmp_path_factory.mktemp("feeds") / "p", {"story": JOBS})
    made.start()
    yield made
    made.close()


def follow(connection: Connection, **params: Any) -> int:
    """Open a feed; its number."""
    return int(connection.call("feed.open", params, timeout=SECONDS)["feed"])


def next_message(connection: Connection) -> tuple[str, dict[str, Any]]:
    """The next notification."""
    return next(connection.notifications(timeout=SECONDS))


def to_the_end(connection: Connection) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Records up to `feed.end`, and the run that it carries."""
    records: list[dict[str, Any]] = []
    while True:
        method, params = next_message(connection)
        if method == "feed.end":
            return records, params["run"]
        records.append(params["record"])


def up_to(connection: Connection, seq: int) -> list[dict[str, Any]]:
    """Records up to number `seq`."""
    records: list[dict[str, Any]] = []
    while not records or records[-1]["seq"] < seq:
        method, params = next_message(connection)
        assert method == "feed.record"
        records.append(params["record"])
    return records


def seqs(records: list[dict[str, Any]]) -> list[int]:
    return [record["seq"] for record in records]


def in_journal(project: Project, first: int, last: int) -> list[int]:
    """Numbers of the records that followers are shown."""
    return [
        record["seq"]
        for record in project.journal(first - 1)
        if record["seq"] <= last and record["kind"] not in QUIET
    ]


def last_seq(project: Project) -> int:
    """The last record that is not a watermark."""
    return int([r["seq"] for r in project.journal() if r["kind"] not in QUIET][-1])


def test_feed_of_a_run_tells_its_records_and_ends_with_it(project: Project) -> None:
    """From the first record, also those before the feed; then `feed.end` with the run."""
    run = project.begin("held", {"gate": "one"})
    project.at("one")
    with project.connect() as connection:
        follow(connection, run=run)
        project.open("one")
        records, ended = to_the_end(connection)
    seen = project.get(run)
    assert records == seen["timeline"]
    assert {name: seen[name] for name in ended} == ended


def test_feed_of_a_finished_run_tells_all_and_ends(project: Project) -> None:
    """It is the same for one that ended long ago."""
    run = project.finish(project.begin("steps"))
    with project.connect() as connection:
        follow(connection, run=run["id"])
        records, ended = to_the_end(connection)
    assert records == run["timeline"]
    assert ended["result"] == "through"


def test_feed_begins_where_it_is_told(project: Project) -> None:
    """After a sequence number, so many records back, or at a time."""
    run = project.finish(project.begin("steps"))
    timeline = run["timeline"]
    with project.connect() as connection:
        follow(connection, run=run["id"], last=2)
        assert to_the_end(connection)[0] == timeline[-2:]
        follow(connection, run=run["id"], since_seq=timeline[3]["seq"])
        assert to_the_end(connection)[0] == timeline[4:]
        follow(connection, run=run["id"], since=timeline[4]["at"])
        assert to_the_end(connection)[0] == timeline[4:]
        follow(connection, since_seq=timeline[0]["seq"])
        last = last_seq(project)
        assert seqs(up_to(connection, last)) == in_journal(project, timeline[1]["seq"], last)


def test_feed_of_some_kinds_begins_where_it_is_told(project: Project) -> None:
    """So many records of these kinds back, whatever else was written since; a payload that looks
    like one is none."""
    for n in range(3):
        project.call("event.send", name="told", payload=n)
        project.call("state.set", key="k", value={"kind": "event.received"})
    project.finish(project.begin("steps"))
    records = project.journal()
    first = [each for each in records if each["kind"] == "event.received"][-2]
    fourth = [each for each in records if each["kind"][:6] in ("event.", "state.")][-4]
    with project.connect() as connection:
        for told, params in (
            (first["seq"], {"kinds": ["event."], "last": 2}),
            (fourth["seq"], {"kinds": ["event.", "state."], "last": 4}),
            (1, {"kinds": ["event."], "last": 10_000}),
            (first["seq"], {"kinds": ["event."], "since": first["at"]}),
            (records[-1]["seq"], {"last": 1}),
            (1, {"since": records[0]["at"]}),
        ):
            opened = connection.call("feed.open", params, timeout=SECONDS)
            assert opened["next_seq"] == told, params
        opened = connection.call("feed.open", {"since": "2199-01-01T00:00:00Z"}, timeout=SECONDS)
        assert opened["next_seq"] > records[-1]["seq"]


def test_feed_from_the_future_or_of_nothing_is_told_so(project: Project) -> None:
    """A number that is not reached yet begins now; an unknown run is `not_found`; two begins are
    refused."""
    with project.connect() as connection:
        told = connection.call("feed.open", {"since_seq": 1 << 40}, timeout=SECONDS)
        assert told["next_seq"] <= last_seq(project) + 2
        with pytest.raises(NotFound):
            follow(connection, run="run_" + "0" * 26)
        with pytest.raises(Usage):
            follow(connection, since_seq=1, last=1)


def test_closed_feed_says_no_more(project: Project) -> None:
    """`feed.close` ends one feed and leaves the other."""
    with project.connect() as connection:
        closed, kept = follow(connection), follow(connection)
        assert connection.call("feed.close", {"feed": closed}, timeout=SECONDS)["closed"] is True
        assert connection.call("feed.close", {"feed": closed}, timeout=SECONDS)["closed"] is False
        run = project.finish(project.begin("steps"))["id"]
        told: list[dict[str, Any]] = []
        while not told or told[-1]["record"]["kind"] != "run.completed":
            told.append(next_message(connection)[1])
        assert {params["feed"] for params in told} == {kept}
        assert {params["record"]["run"] for params in told} == {run}


def test_feed_of_another_connection_cannot_be_closed(project: Project) -> None:
    """Numbers of feeds belong to who opened them."""
    with project.connect() as mine, project.connect() as other:
        number = follow(mine)
        assert other.call("feed.close", {"feed": number}, timeout=SECONDS)["closed"] is False


@pytest.mark.parametrize(("size", "count", "batch"), [(200, 1000, 1000), (400_000, 80, 2)])
def test_reader_that_falls_behind_catches_up_without_gap_or_duplicate(
    project: Project, size: int, count: int, batch: int
) -> None:
    """A follower that reads nothing while thousands of records, or 30 MB of them, go by is told
    each of them once: it is not cut off for what it was not even sent."""
    with project.connect() as slow:
        follow(slow)
        first = last_seq(project) + 1
        for _ in range(count // batch):
            runs = [{"job": "echo", "payload": {"text": "x" * size}}] * batch
            told = project.call("run.start_many", runs=runs)["results"]
            assert all("id" in each for each in told)
        project.finish(told[-1]["id"])
        last = last_seq(project)
        assert seqs(up_to(slow, last)) == in_journal(project, first, last)


def test_all_of_a_long_journal_is_told_from_the_beginning(project: Project) -> None:
    """A follower from record 1 is given the whole journal, large records included."""
    for _ in range(20):
        runs = [{"job": "echo", "payload": {"text": "y" * 90_000}}] * 10
        project.call("run.start_many", runs=runs)
    with project.connect() as connection:
        follow(connection, since_seq=0)
        last = last_seq(project)
        assert seqs(up_to(connection, last)) == in_journal(project, 1, last)


@pytest.mark.parametrize("ending", ["kill", "stop"])
def test_follower_resumes_across_a_restart_without_gap_or_duplicate(
    make_project: Make, ending: str
) -> None:
    """Opened again after the last number it saw, a feed goes on as if nothing had been."""
    project = make_project(JOBS)
    project.start()
    told: list[dict[str, Any]] = []
    with project.connect() as connection:
        follow(connection)
        first = last_seq(project) + 1
        run = project.begin("held", {"gate": "g"})
        project.at("g")
        told += up_to(connection, last_seq(project))
        if ending == "kill":
            project.kill()
        else:
            project.stop()
    for _ in range(3):
        project.start()
        with project.connect() as connection:
            follow(connection, since_seq=told[-1]["seq"])
            project.finish(project.begin("steps"))
            told += up_to(connection, last_seq(project))
        project.kill()
    project.start()
    with project.connect() as connection:
        follow(connection, run=run, since_seq=told[-1]["seq"])
        project.open("g")
        records, ended = to_the_end(connection)
    assert ended["status"] == "completed"
    assert seqs(told) == in_journal(project, first, told[-1]["seq"])
    assert seqs(records) == [s for s in seqs(project.get(run)["timeline"]) if s > told[-1]["seq"]]
    assert kinds(project.get(run))[-1] == "run.completed"
