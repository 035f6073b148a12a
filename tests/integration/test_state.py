"""State from handlers: every write exactly once, whatever is replayed, tried again or killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from helpers.deadline import wait_until
from helpers.project import Project, kinds
from helpers.project_factory import Make
from stackshift_jobs import Client
from stackshift_jobs.errors import Conflict, DaemonUnavailable

JOBS = """
@stackshift.job("everyCall")
def every_call(ctx):
    key = ctx.payload["key"]
    told = [ctx.state.get(key, "none"), ctx.state.set(key, {"n": 2**70}), ctx.state.get(key)]
    entry = ctx.state.entry(key)
    told += [entry.version, entry.updated_by == ctx.run_id, ctx.state.increment(key + ":n", 5)]
    ctx.step.sleep("nap", "200ms")
    told += [ctx.state.increment(key + ":n"), [each.key for each in ctx.state.list(key)]]
    told += [[change.kind for change in ctx.state.history(key)]]
    told += [ctx.state.delete(key), ctx.state.delete(key), ctx.state.get(key)]
    note("told", ctx.run_id, told)
    return told


@stackshift.job("everyCallAsync")
async def every_call_async(ctx):
    key = ctx.payload["key"]
    told = [await ctx.state.get(key, "none"), await ctx.state.set(key, {"n": 2**70})]
    told += [await ctx.state.get(key)]
    entry = await ctx.state.entry(key)
    told += [entry.version, entry.updated_by == ctx.run_id]
    told += [await ctx.state.increment(key + ":n", 5)]
    await ctx.step.sleep("nap", "200ms")
    told += [await ctx.state.increment(key + ":n")]
    told += [[each.key for each in await ctx.state.list(key)]]
    told += [[change.kind for change in await ctx.state.history(key)]]
    told += [await ctx.state.delete(key), await ctx.state.delete(key), await ctx.state.get(key)]
    note("told", ctx.run_id, told)
    return told


@stackshift.job("flaky", retry=FAST)
def flaky(ctx):
    ctx.state.increment("flaky")
    ctx.step.run("in step", ctx.state.increment, "flaky:steps")
    note("try", ctx.run_id)
    if noted("try", ctx.run_id) < 3:
        raise ConnectionError("once more")
    return [ctx.state.get("flaky"), ctx.state.get("flaky:steps")]


@stackshift.job("counts")
def counts(ctx):
    for i in range(ctx.payload["times"]):
        ctx.state.increment(ctx.payload["key"])
    return ctx.state.get(ctx.payload["key"])


@stackshift.job("countsAsync")
async def counts_async(ctx):
    for i in range(ctx.payload["times"]):
        await ctx.state.increment(ctx.payload["key"])


@stackshift.job("held", retry=ONCE)
def held(ctx):
    ctx.state.increment("held")
    ctx.step.run("gate", gate, ctx.payload["gate"])
    ctx.state.increment("held")
    return ctx.attempt


@stackshift.job("refused", retry=ONCE)
def refused(ctx):
    try:
        ctx.state.set("taken", ctx.run_id, if_absent=True)
    except stackshift.Conflict as conflict:
        ctx.step.sleep("nap", "200ms")
        note("refused", ctx.run_id, conflict.fields["version"])
        return conflict.fields["version"]


@stackshift.job("uncaught", retry=FAST)
def uncaught(ctx):
    note("try", ctx.run_id)
    return ctx.state.set("moving", 1, if_version=noted("try", ctx.run_id))


@stackshift.job("inSteps")
async def in_steps(ctx):
    async def awaited():
        await ctx.state.set("in:async", 1)
        return (await ctx.state.history("in:async"))[0].by

    def threaded():
        stackshift.state.set("in:def", 2)
        return stackshift.state.entry("in:def").updated_by

    def mistaken():
        ctx.state.set("in:mistake", 3)

    told = [await ctx.step.run("awaited", awaited), await ctx.step.run("threaded", threaded)]
    told.append(await ctx.step.run("returned", lambda: ctx.state.increment("in:lambda")))
    try:
        await ctx.step.run("mistaken", mistaken)
    except stackshift.StepFailed as failed:
        told.append(failed.message)
    return told


@stackshift.job("forgets", retry=FAST)
async def forgets(ctx):
    ctx.state.set("forgotten", 1)


@stackshift.job("clientInside", retry=FAST)
def client_inside(ctx):
    stackshift.state.increment("inside")


@stackshift.job("manyKeys")
async def many_keys(ctx):
    async def one(i):
        await ctx.state.set(f"many:{i:04}", i)
    await asyncio.gather(*[one(i) for i in range(ctx.payload["times"])])
    return len(await ctx.state.list("many:"))


@stackshift.job("mapWrites")
def map_writes(ctx):
    def one(i):
        note("item", ctx.run_id, i)
        if i == 0:
            if noted("item", ctx.run_id, 0) == 1:
                raise ConnectionError("not yet")
            return
        gate(f"map-{ctx.run_id}")
        ctx.state.increment("map")
    ctx.step.map("item", one, [0, 1], retry=Retry(max_attempts=2, backoff="200ms", jitter=0))


@stackshift.job("tooLarge", retry=FAST)
def too_large(ctx):
    ctx.state.set("large", "x" * (1 << 20))
"""


CONFIG = """
[workers]
processes = 2
slots = 8
grace = "1s"
inherit_env = ["PYTHONPATH"]
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    made = Project(tmp_path_factory.mktemp("state") / "p", {"story": JOBS})
    made.start()
    yield made
    made.close()


def done(project: Project, job: str, payload: Any = None) -> tuple[str, Any]:
    """Run a job to its completion: its id and result."""
    run = project.finish(project.begin(job, payload))
    assert run["status"] == "completed", run["error"]
    return run["id"], run["result"]


@pytest.mark.parametrize("job", ["everyCall", "everyCallAsync"])
def test_every_call_happens_once_and_reads_the_same_on_every_pass(
    project: Project, job: str
) -> None:
    """Also across a wait, after which the handler is run again from the top."""
    run, told = done(project, job, {"key": job})
    assert told == [
        "none",
        1,
        {"n": 2**70},
        1,
        True,
        5,
        6,
        [job, f"{job}:n"],
        ["set"],
        True,
        False,
        None,
    ]
    written = kinds(project.get(run), "state.set", "state.deleted")
    assert written == ["state.set"] * 3 + ["state.deleted"]


def test_attempts_of_a_run_write_once_between_them(project: Project) -> None:
    """What is on record is not done again by the next attempt."""
    _, told = done(project, "flaky")
    assert told == [1, 1]


def test_uncaught_refusal_is_asked_anew_by_the_next_attempt(project: Project) -> None:
    """An attempt that failed for it does not fail for it again."""
    for value in range(2):
        project.call("state.set", key="moving", value=value)
    run, version = done(project, "uncaught")
    assert version == 3
    seen = project.get(run)
    assert kinds(seen, "call.refused", "attempt.failed", "state.set") == [
        "call.refused",
        "attempt.failed",
        "state.set",
    ]
    assert seen["attempts"][0]["error"]["type"] == "Conflict"


def test_caught_refusal_is_the_same_on_every_pass(project: Project) -> None:
    """The key is free by the time of the replay; the handler takes the way that it took."""
    project.call("state.set", key="taken", value="by another")
    run = project.begin("refused")
    project.until_status(run, "waiting")
    project.call("state.delete", key="taken")
    assert project.finish(run)["result"] == 1
    assert project.witness().count(f"refused {run} 1") == 1
    with pytest.raises(Conflict):
        project.call("state.set", key="taken", value=1, if_version=7)


def test_steps_write_at_once_by_ctx_or_by_the_client(project: Project) -> None:
    """`ctx.state` is awaited in an `async def` function; what a `def` one returns is awaited;
    one that does neither is told to use the client."""
    told = done(project, "inSteps")[1]
    assert told[0].startswith("run_")
    assert told[1] == "client"
    assert told[2] == 1
    assert "ctx.state.set of 'in:mistake' and never awaited it" in told[3]
    assert project.call("state.get", key="in:mistake") is None


def test_call_that_is_not_awaited_fails_the_handler(project: Project) -> None:
    """Else it would be as if it had been written."""
    run = project.finish(project.begin("forgets"))
    assert (run["status"], run["attempt"]) == ("failed", 1)
    assert "[state.set forgotten] and never awaited it" in run["error"]["message"]


def test_client_in_a_handler_is_refused_and_names_ctx(project: Project) -> None:
    """It would write again on every replay."""
    run = project.finish(project.begin("clientInside"))
    assert (run["status"], run["attempt"]) == ("failed", 1)
    assert "ctx.state.increment" in run["error"]["message"]


def test_value_over_the_limit_fails_the_run_at_once(project: Project) -> None:
    """Trying again would not make it smaller."""
    run = project.finish(project.begin("tooLarge"))
    assert (run["status"], run["attempt"]) == ("failed", 1)
    assert run["error"]["type"] == "PayloadRefused"


def test_many_keys_at_once_are_written_and_listed(project: Project) -> None:
    """Calls are pipelined; a list of more than one page is whole."""
    assert done(project, "manyKeys", {"times": 1200})[1] == 1200


def test_function_that_runs_while_another_branch_waits_writes_all_the_same(
    project: Project,
) -> None:
    """The pass is being left by then; what has begun is not cut short, or it would begin again."""
    run = project.begin("mapWrites")
    project.at(f"map-{run}")
    wait_until(lambda: "step.failed" in kinds(project.get(run)), "the first item to fail")
    project.open(f"map-{run}")
    assert project.finish(run)["status"] == "completed"
    assert project.witness().count(f"item {run} 1") == 1
    assert project.call("state.get", key="map")["value"] == 1


# --- Killed --------------------------------------------------------------------------------


def test_write_before_a_crash_is_not_written_again(make_project: Make) -> None:
    """The worker dies, then the daemon: the run goes on, and has written each once."""
    project = make_project(JOBS)
    project.start()
    run = project.begin("held", {"gate": "g"})
    project.at("g")
    os.kill(project.workers()[0], signal.SIGKILL)
    project.at("g", 2)
    project.kill()
    project.start()
    project.at("g", 3)
    assert project.call("state.get", key="held")["value"] == 1
    project.open("g")
    assert project.finish(run)["result"] == 1
    assert project.call("state.get", key="held")["value"] == 2
    project.stop()
    project.verify()


@pytest.mark.parametrize("job", ["counts", "countsAsync"])
def test_increments_are_exact_under_kills_of_workers_and_daemon(
    make_project: Make, job: str
) -> None:
    """No increment is lost and none is done twice, wherever the kill falls."""
    project = make_project(JOBS, CONFIG)
    project.start()
    runs = [project.begin(job, {"key": "n", "times": 150}) for _ in range(8)]

    def count() -> int:
        entry = project.call("state.get", key="n")
        return entry["value"] if entry is not None else 0

    def reached(number: int) -> bool:
        return count() >= number

    for kill in range(1, 9):
        wait_until(partial(reached, kill * 100), f"increment {kill * 100}")
        if kill % 2:
            os.kill(wait_until(project.workers, "a worker to serve")[0], signal.SIGKILL)
        else:
            project.kill()
            project.start()
    for run in runs:
        assert project.finish(run)["status"] == "completed"
    assert count() == 8 * 150
    project.stop()
    project.verify()


def test_wait_for_an_entry_survives_a_kill_of_the_daemon(make_project: Make) -> None:
    """The client asks again, and a handler's write answers it."""
    project = make_project(JOBS)
    project.start()
    with Client(project.address, patience=60.0) as client, ThreadPoolExecutor(1) as pool:
        assert client.state.get("n") is None
        waiting = pool.submit(client.state.get, "n", wait="5m")
        with project.connect() as other:
            other.send("state.wait", {"key": "n", "wait_ms": 300_000})
            assert other.call("state.get", {"key": "n"}) is None  # So the wait has begun.
            project.kill()
            with pytest.raises(DaemonUnavailable):
                other.receive(60)
        project.start()
        assert not waiting.done()
        run = project.begin("counts", {"key": "n", "times": 1})
        assert waiting.result(60) == 1
        project.finish(run)
    with project.connect() as other:
        other.send("state.wait", {"key": "m", "wait_ms": 300_000})
        assert other.call("state.get", {"key": "m"}) is None
        set_ = project.call("state.set", key="m", value="x" * 2000)
        assert other.receive(60).value() == set_
        assert other.call("state.wait", {"key": "m", "wait_ms": 0}) == set_
        assert other.call("state.wait", {"key": "gone", "wait_ms": 1}) is None
    project.stop()
    project.verify()


def test_client_races_with_handlers_and_nothing_is_lost(make_project: Make) -> None:
    """One journal, one order: each increment sees all before it."""
    project = make_project(JOBS)
    project.start()
    runs = [project.begin("counts", {"key": "n", "times": 50}) for _ in range(4)]
    with Client(project.address) as client:
        seen = [client.state.increment("n") for _ in range(100)]
        assert seen == sorted(set(seen))
        for run in runs:
            project.finish(run)
        assert client.state.get("n") == 300
