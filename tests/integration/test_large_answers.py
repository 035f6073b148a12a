"""Answers are bounded in bytes: large runs, clients that do not read, and clients that ask much."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from helpers import scenery
from helpers.deadline import wait_until
from helpers.project import Project
from helpers.wire import Wire, request

JOBS = """
@stackshift.job("echo")
def echo(ctx):
    return ctx.payload


@stackshift.job("steps")
async def steps(ctx):
    for n in range(20):
        await ctx.step.run("large", lambda: "r" * 200_000)
    ctx.log.info("done")
    return "ended"


@stackshift.job("prints")
def prints(ctx):
    for n in range(60):
        print(n, "p" * 16_000)
"""
RUNS = 300
BYTES = 900_000
ROOM = 150 << 20
"""What the daemon may hold above what it holds at rest: far less than the 257 MiB of one answer to
`run.list` without a bound, and enough for the bounds of all clients here, twice."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project with 300 queued runs of 0.9 MB each."""
    config = scenery.CONFIG + "[queues.large]\npaused = true\n"
    made = Project(tmp_path_factory.mktemp("large") / "p", {"story": JOBS}, config)
    made.start()
    for _ in range(RUNS):
        made.begin("echo", {"text": "x" * BYTES}, queue="large")
    yield made
    made.close()


def printed(project: Project, *words: str) -> str:
    """What a command prints; it ends with the status 0."""
    command = [sys.executable, "-m", "stackshift_cli", "-C", str(project.root), *words]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout


def pages(project: Project, method: str, part: str, **params: Any) -> list[list[Any]]:
    """The pages of a list."""
    found: list[list[Any]] = []
    while True:
        page = project.call(method, **params)
        found.append(page[part])
        if page["cursor"] is None:
            return found
        params["cursor"] = page["cursor"]


def test_list_of_large_runs_comes_in_pages_of_a_megabyte(project: Project) -> None:
    """Whatever limit is asked for; together they are the list. (guarantee: bounded answers)"""
    before = project.memory()
    found = pages(project, "run.list", "runs", queue="large", limit=1000)
    assert max(len(json.dumps(page)) for page in found) < 2 * (1 << 20)
    ids = [run["id"] for page in found for run in page]
    assert len(set(ids)) == len(ids) == RUNS
    assert project.memory() < before + ROOM


def test_command_line_lists_as_many_as_were_asked_for(project: Project) -> None:
    """It asks for one page after the other."""
    listed = printed(project, "runs", "list", "--queue", "large", "--limit", "250")
    assert len(listed.splitlines()) == 250


def test_clients_that_do_not_read_cost_little_and_keep_nobody_waiting(project: Project) -> None:
    """Six clients ask for the list eight times each and read nothing. A seventh is answered before
    any of theirs is read; what the daemon holds for them is bounded, and it is given back when they
    hang up. (guarantee: bounded answers)"""
    before = project.memory()
    deaf = [Wire(project) for _ in range(6)]
    try:
        for wire in deaf:
            line = b'{"queue":"large","limit":1000}'
            wire.send(*(request("run.list", line, b"%d" % n) for n in range(8)))
        with Wire(project) as seventh:
            for _ in range(20):
                page = seventh.ask(request("run.list", b'{"queue":"large","limit":1000}'))
                assert page["result"]["runs"]
                assert "result" in seventh.ask(request("daemon.status"))
                assert project.memory() < before + ROOM
        # Whoever begins to read has all of its answers.
        assert {(deaf[0].receive() or {})["id"] for _ in range(8)} == set(range(8))
    finally:
        for wire in deaf:
            wire.sock.close()
    wait_until(lambda: project.memory() < before + ROOM // 3, "the memory to be given back")


def test_detail_of_a_large_run_comes_in_pages(project: Project) -> None:
    """Steps, attempts and records, each once and in order, with the results where they belong."""
    run = project.begin("steps")
    project.finish(run)
    first = project.call("run.get", run=run, detail=True)
    assert first["cursor"] is not None
    found = {part: list(first[part]) for part in ("steps", "attempts", "timeline")}
    page = first
    sizes = [len(json.dumps(page))]
    while page["cursor"] is not None:
        page = project.call("run.get", run=run, detail=True, cursor=page["cursor"])
        assert set(page) == {*found, "cursor"}
        sizes.append(len(json.dumps(page)))
        for part, items in found.items():
            items += page[part]
    assert max(sizes) < 2 * (1 << 20)
    assert [step["name"] for step in found["steps"]][:2] == ["large", "large#2"]
    assert [step["result"] for step in found["steps"]] == ["r" * 200_000] * 20
    assert [attempt["outcome"] for attempt in found["attempts"]] == ["completed"]
    seqs = [record["seq"] for record in found["timeline"]]
    assert seqs == sorted(set(seqs))
    kinds = [record["kind"] for record in found["timeline"]]
    assert kinds.count("step.completed") == 20
    assert (kinds[0], kinds[-1]) == ("run.created", "run.completed")
    whole = json.loads(printed(project, "runs", "show", run, "--json"))
    assert {part: whole[part] for part in found} == found
    assert "cursor" not in whole


def test_cursor_of_a_detail_is_one_of_its_own(project: Project) -> None:
    """Anything else is refused."""
    run = project.begin("echo")
    with Wire(project) as wire:
        for cursor in ("", "steps", "steps:", "steps:-1", "steps:x", "runs:1", "steps:" + "9" * 30):
            params = json.dumps({"run": run, "detail": True, "cursor": cursor}).encode()
            assert wire.ask(request("run.get", params))["error"]["data"]["code"] == "usage"
        params = json.dumps({"run": run, "cursor": "steps:1"}).encode()
        assert wire.ask(request("run.get", params))["error"]["data"]["code"] == "usage"


def test_log_comes_in_pages(project: Project) -> None:
    """An answer says whether there is more, and no line is lost between two."""
    run = project.begin("prints")
    project.finish(run)
    lines: list[str] = []
    after = count = 0
    more = True
    while more:
        page = project.call("run.logs", run=run, after=after)
        assert len(json.dumps(page)) < 2 * (1 << 20)
        lines += [line["message"] for line in page["lines"]]
        after, more = page["next"], page["more"]
        count += 1
    assert [line.split()[0] for line in lines] == [str(n) for n in range(60)]
    assert len(printed(project, "runs", "logs", run).splitlines()) == 60
    limited = project.call("run.logs", run=run, limit=7)
    assert (len(limited["lines"]), limited["more"]) == (7, True)
    [eighth] = project.call("run.logs", run=run, after=limited["next"], limit=1)["lines"]
    assert eighth["message"].split()[0] == "7"
    beyond = project.call("run.logs", run=run, after=1000)
    assert (beyond["lines"], beyond["more"]) == ([], False)
    assert project.call("run.logs", run=run, after=beyond["next"])["next"] == beyond["next"]


def test_queues_come_in_pages(project: Project) -> None:
    """However many there are; the status of the daemon shows a thousand, and how many more."""
    names = [f"q{n:04d}" for n in range(1200)]
    starts = [{"job": "echo", "queue": name, "delay_ms": 3_600_000} for name in names]
    for at in (0, 600):
        project.call("run.start_many", runs=starts[at : at + 600])
    found = pages(project, "queue.list", "queues")
    assert len(found) == 3
    listed = [queue["name"] for page in found for queue in page]
    assert listed == sorted({*names, "default", "large"} | set(listed))
    status = project.call("daemon.status")
    assert (len(status["queues"]), status["more_queues"]) == (1000, len(listed) - 1000)
    assert len(printed(project, "queues", "list").splitlines()) == len(listed)
