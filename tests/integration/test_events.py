"""Events with handlers that wait for them and send them, over restarts and crashes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from helpers.deadline import wait_until
from helpers.project import Project, kinds, steps
from helpers.project_factory import Make
from stackshift_jobs import Client

JOBS = """
@stackshift.job("waits")
def waits(ctx):
    note("pass", ctx.run_id)
    event = ctx.step.wait_for_event("paid", correlation_key=ctx.payload["key"])
    note("came", ctx.run_id, event.id)
    return [event.name, event.payload, event.correlation_key, event.timed_out, bool(event)]


@stackshift.job("waitsAsync")
async def waits_async(ctx):
    note("pass", ctx.run_id)
    event = await ctx.step.wait_for_event("paid", correlation_key=ctx.payload["key"])
    note("came", ctx.run_id, event.id)
    return [event.name, event.payload, event.correlation_key, event.timed_out, bool(event)]


@stackshift.job("waitsShort", retry=FAST)
def waits_short(ctx):
    event = ctx.step.wait_for_event(
        "never", correlation_key=ctx.run_id, timeout="200ms", on_timeout=ctx.payload["on_timeout"]
    )
    ctx.step.sleep("nap", "100ms")
    return [event.name, event.timed_out, bool(event), event.payload, event.id]


@stackshift.job("decides")
async def decides(ctx):
    event = await ctx.step.wait_for_any(
        [("approved", ctx.payload["key"]), ("rejected", ctx.payload["key"])], name="decision"
    )
    return event.name


@stackshift.job("branches")
async def branches(ctx):
    note("pass", ctx.run_id)

    async def branch(name):
        event = await ctx.step.wait_for_event(name, correlation_key=ctx.run_id)
        return await ctx.step.run(f"after {name}", lambda: event.payload)

    return await asyncio.gather(branch("left"), branch("right"))


@stackshift.job("collects")
def collects(ctx):
    return [ctx.step.wait_for_event("item", correlation_key=ctx.payload["key"]).payload
            for _ in range(ctx.payload["times"])]


@stackshift.job("looks")
def looks(ctx):
    found = []
    while event := ctx.step.wait_for_event(
        "post", correlation_key=ctx.payload["key"], timeout=0, on_timeout="continue"
    ):
        found.append(event.payload)
    return found


@stackshift.job("itself")
async def itself(ctx):
    async def sends():
        await ctx.step.sleep("nap", "150ms")
        return (await ctx.events.send("self", 1, correlation_key=ctx.run_id)).resumed

    waits = ctx.step.wait_for_event("self", correlation_key=ctx.run_id)
    event, resumed = await asyncio.gather(waits, sends())
    return [event.payload, resumed == [ctx.run_id]]


@stackshift.job("contradicts", retry=ONCE)
def contradicts(ctx):
    told = []
    for amount in (1, 1, 2):
        try:
            sent = ctx.events.send("charge", {"amount": amount}, idempotency_key=ctx.run_id)
            told.append(sent.reused)
        except stackshift.Conflict as conflict:
            told += [conflict.owner == sent.id, conflict.difference]
    ctx.step.sleep("nap", "100ms")
    return told


@stackshift.job("sends", retry=FAST)
def sends(ctx):
    sent = ctx.events.send("sent", {"by": ctx.run_id}, correlation_key=ctx.payload["key"])
    ctx.step.sleep("nap", "100ms")
    note("try", ctx.run_id)
    if noted("try", ctx.run_id) < 3:
        raise ConnectionError("once more")
    return [sent.id, sent.resumed]


@stackshift.job("sendsHeld")
async def sends_held(ctx):
    sent = await ctx.events.send("sent", correlation_key=ctx.payload["key"])
    await ctx.step.run("gate", agate, ctx.payload["gate"])
    return sent.id


@stackshift.job("awaitsSent")
def awaits_sent(ctx):
    return ctx.step.wait_for_event("sent", correlation_key=ctx.payload["key"]).payload


@stackshift.job("pings")
async def pings(ctx):
    for i in range(ctx.payload["times"]):
        await ctx.events.send("ping", i, correlation_key=ctx.payload["key"])
        event = await ctx.step.wait_for_event("pong", correlation_key=ctx.payload["key"])
        assert event.payload == i
    return "over"


@stackshift.job("pongs")
def pongs(ctx):
    for i in range(ctx.payload["times"]):
        event = ctx.step.wait_for_event("ping", correlation_key=ctx.payload["key"])
        ctx.events.send("pong", event.payload, correlation_key=ctx.payload["key"])
    return "over"
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    made = Project(tmp_path_factory.mktemp("events") / "p", {"story": JOBS})
    made.start()
    yield made
    made.close()


def suspended(project: Project, run: str) -> None:
    """Wait until the run waits, and nothing of it is in memory."""
    wait_until(
        lambda: kinds(project.get(run))[-1:] == ["attempt.suspended"], f"{run} to be suspended"
    )


@pytest.mark.parametrize("job", ["waits", "waitsAsync"])
def test_event_after_the_wait_resumes_it(project: Project, job: str) -> None:
    """The run waited without a slot; the sender is told whom it resumed."""
    key = f"after {job}"
    run = project.begin(job, {"key": key})
    suspended(project, run)
    waiting = project.call("run.get", run=run)["waiting_for"]
    assert (waiting["kind"], waiting["event"], waiting["correlation_key"]) == ("event", "paid", key)
    sent = project.call("event.send", name="paid", payload={"n": 2**70}, correlation_key=key)
    assert (sent["resumed"], sent["kept_until"]) == ([run], None)
    assert project.finish(run)["result"] == ["paid", {"n": 2**70}, key, False, True]
    told = project.witness()
    assert told.count(f"pass {run}") == 2
    assert told.count(f"came {run} {sent['id']}") == 1


@pytest.mark.parametrize("job", ["waits", "waitsAsync"])
def test_event_before_the_wait_is_had_at_once(project: Project, job: str) -> None:
    """With one waiter it makes no difference which came first."""
    key = f"before {job}"
    sent = project.call("event.send", name="paid", payload=1, correlation_key=key)
    assert sent["resumed"] == [] and sent["kept_until"]
    run = project.finish(project.begin(job, {"key": key}))
    assert run["result"] == ["paid", 1, key, False, True]
    assert project.call("event.list", name="paid", correlation_key=key)["events"] == []


def test_all_that_wait_are_resumed_at_once(project: Project) -> None:
    """And nobody else: another key is another event."""
    runs = [project.begin("waits", {"key": "all"}) for _ in range(3)]
    other = project.begin("waits", {"key": "other"})
    for run in (*runs, other):
        project.until_status(run, "waiting")
    sent = project.call("event.send", name="paid", correlation_key="all")
    assert sorted(sent["resumed"]) == sorted(runs)
    for run in runs:
        assert project.finish(run)["status"] == "completed"
    assert project.call("run.get", run=other)["status"] == "waiting"
    project.call("run.cancel", run=other)
    sent = project.call("event.send", name="paid", correlation_key="other")
    assert sent["resumed"] == [], "nobody waits any more"


def test_kept_events_are_consumed_oldest_first(project: Project) -> None:
    """Each by one wait."""
    for n in range(3):
        project.call("event.send", name="item", payload=n, correlation_key="kept")
    run = project.finish(project.begin("collects", {"key": "kept", "times": 3}))
    assert run["result"] == [0, 1, 2]
    assert [step["name"] for step in run["steps"]] == ["item", "item#2", "item#3"]


def test_first_of_several_is_taken_and_the_others_are_left(project: Project) -> None:
    """What the wait did not take is kept for who waits for it."""
    run = project.begin("decides", {"key": "k"})
    project.until_status(run, "waiting")
    project.call("event.send", name="rejected", correlation_key="k")
    assert project.finish(run)["result"] == "rejected"
    sent = project.call("event.send", name="approved", correlation_key="k")
    assert sent["kept_until"] is not None


def test_wait_that_timed_out_goes_on_if_it_is_to(project: Project) -> None:
    """With an event that is falsy, the same on every pass."""
    run = project.finish(project.begin("waitsShort", {"on_timeout": "continue"}))
    assert run["result"] == ["never", True, False, None, None]


@pytest.mark.parametrize(("on_timeout", "status"), [("fail", "failed"), ("cancel", "cancelled")])
def test_wait_that_timed_out_ends_the_run_if_it_is_to(
    project: Project, on_timeout: str, status: str
) -> None:
    """At once: it is not tried again."""
    run = project.finish(project.begin("waitsShort", {"on_timeout": on_timeout}))
    assert (run["status"], run["attempt"]) == (status, 1)
    if status == "failed":
        assert "never" in run["error"]["message"]
        assert run["dead"] is True


def test_retry_of_a_run_whose_wait_timed_out_waits_anew(project: Project) -> None:
    """It has its time again, and gets the event that has come by now."""
    run = project.begin("waitsShort", {"on_timeout": "fail"})
    project.finish(run)
    project.call("event.send", name="never", payload=7, correlation_key=run)
    project.call("run.retry", run=run)
    assert project.finish(run)["result"][:4] == ["never", False, True, 7]


def test_branches_wait_side_by_side_and_go_on_each_by_itself(project: Project) -> None:
    """The handler is suspended while all of them wait."""
    run = project.begin("branches")
    suspended(project, run)
    project.call("event.send", name="right", payload="r", correlation_key=run)
    wait_until(
        lambda: "branch#2/after right" in steps(project.get(run)), "the right branch to go on"
    )
    suspended(project, run)
    project.call("event.send", name="left", payload="l", correlation_key=run)
    assert project.finish(run)["result"] == ["l", "r"]
    assert project.witness().count(f"pass {run}") == 3


def test_handler_sends_once_over_waits_and_attempts(project: Project) -> None:
    """And knows on every pass whom it resumed."""
    waiting = project.begin("awaitsSent", {"key": "once"})
    project.until_status(waiting, "waiting")
    run = project.finish(project.begin("sends", {"key": "once"}))
    assert run["attempt"] == 3
    assert run["result"][1] == [waiting]
    assert project.finish(waiting)["result"] == {"by": run["id"]}
    sent = [each for each in project.journal() if each["kind"] == "event.received"]
    assert [each["event"] for each in sent if each.get("run") == run["id"]] == [run["result"][0]]


def test_wait_of_no_time_takes_what_is_kept(project: Project) -> None:
    """So a handler empties a mailbox and goes on."""
    for n in range(3):
        project.call("event.send", name="post", payload=n, correlation_key="box")
    assert project.finish(project.begin("looks", {"key": "box"}))["result"] == [0, 1, 2]


def test_run_resumes_a_branch_of_its_own(project: Project) -> None:
    """An event knows no sender: whoever waits gets it."""
    assert project.finish(project.begin("itself"))["result"] == [1, True]


def test_contradiction_under_an_idempotency_key_is_told_on_every_pass(project: Project) -> None:
    """The same event again is the same event; another payload is a conflict, with what differs."""
    told = project.finish(project.begin("contradicts"))["result"]
    assert told[:3] == [False, True, True]
    assert any("amount" in line for line in told[3])


def test_runs_talk_to_each_other(project: Project) -> None:
    """Each answer after its question, none lost and none twice."""
    payload = {"key": "talk", "times": 20}
    runs = [project.begin("pongs", payload), project.begin("pings", payload)]
    for run in runs:
        assert project.finish(run)["result"] == "over"
    assert project.call("event.list", name="ping")["events"] == []
    assert project.call("event.list", name="pong")["events"] == []


def test_client_sends_as_a_program_would(project: Project) -> None:
    """`SentEvent` tells what became of it."""
    run = project.begin("waits", {"key": "client"})
    project.until_status(run, "waiting")
    with Client(project.address) as client:
        sent = client.events.send("paid", 1, correlation_key="client", idempotency_key="c")
        again = client.events.send("paid", 1, correlation_key="client", idempotency_key="c")
    assert (sent.resumed, sent.kept_until, sent.reused) == ([run], None, False)
    assert (again.id, again.reused) == (sent.id, True)
    assert project.finish(run)["result"][1] == 1


# --- Killed --------------------------------------------------------------------------------


def test_wait_survives_a_kill_of_everything(make_project: Make) -> None:
    """Its event may come before or after; its timeout counts on."""
    project = make_project(JOBS)
    project.start()
    first = project.begin("waits", {"key": "first"})
    second = project.begin("waitsAsync", {"key": "second"})
    for run in (first, second):
        suspended(project, run)
    project.kill()
    project.start()
    project.call("event.send", name="paid", payload=1, correlation_key="first")
    assert project.finish(first)["result"][1] == 1
    project.call("event.send", name="paid", payload=2, correlation_key="second")
    project.call("event.send", name="paid", payload=3, correlation_key="third")
    project.kill()
    project.start()
    assert project.finish(second)["result"][1] == 2
    third = project.begin("waits", {"key": "third"})
    assert project.finish(third)["result"][1] == 3
    project.stop()
    project.verify()


def test_timeout_that_passed_while_nothing_ran_ends_the_wait(make_project: Make) -> None:
    """It is due as soon as the daemon is back."""
    project = make_project(JOBS)
    project.start()
    run = project.begin("waitsShort", {"on_timeout": "continue"})
    project.until_status(run, "waiting")
    project.kill()
    project.start()
    assert project.finish(run)["result"][:3] == ["never", True, False]


def test_event_of_a_handler_is_sent_once_although_its_worker_dies(make_project: Make) -> None:
    """The sending and the fact that this run did it are one record."""
    project = make_project(JOBS)
    project.start()
    run = project.begin("sendsHeld", {"key": "k", "gate": "g"})
    project.at("g")
    os.kill(project.workers()[0], signal.SIGKILL)
    project.at("g", 2)
    project.kill()
    project.start()
    project.at("g", 3)
    assert len(project.call("event.list", name="sent")["events"]) == 1
    project.open("g")
    sent: Any = project.finish(run)["result"]
    assert [each["id"] for each in project.call("event.list", name="sent")["events"]] == [sent]


def test_conversation_survives_kills_of_workers_and_daemon(make_project: Make) -> None:
    """No event is lost and none is consumed twice, wherever the kill falls."""
    project = make_project(JOBS)
    project.start()
    payload = {"key": "k", "times": 60}
    runs = [project.begin("pongs", payload), project.begin("pings", payload)]

    def exchanged(times: int) -> bool:
        return kinds(project.get(runs[0])).count("event.received") >= times

    for kill in range(1, 5):
        wait_until(partial(exchanged, kill * 12), f"exchange {kill * 12}")
        if kill % 2:
            os.kill(wait_until(project.workers, "a worker to serve")[0], signal.SIGKILL)
        else:
            project.kill()
            project.start()
    for run in runs:
        assert project.finish(run)["result"] == "over"
    assert project.call("event.list")["events"] == []
    project.stop()
    project.verify()
