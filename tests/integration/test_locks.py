"""Locks of handlers: one holder, first come first served, kept over waits, given back."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from helpers.deadline import until, wait_until
from helpers.project import Project, kinds
from helpers.project_factory import Make
from stackshift_jobs import AsyncClient, Client
from stackshift_jobs.errors import LockHeld

JOBS = """
@stackshift.job("holds", retry=FAST)
def holds(ctx):
    with ctx.state.lock(ctx.payload["key"], ttl=ctx.payload.get("ttl")) as lock:
        note("in", ctx.payload["key"], ctx.run_id)
        ctx.step.run("work", gate, ctx.payload["gate"])
        note("out", ctx.payload["key"], ctx.run_id)
        return lock.token


@stackshift.job("holdsAsync", retry=FAST)
async def holds_async(ctx):
    async with ctx.state.lock(ctx.payload["key"], ttl=ctx.payload.get("ttl")) as lock:
        note("in", ctx.payload["key"], ctx.run_id)
        await ctx.step.run("work", agate, ctx.payload["gate"])
        note("out", ctx.payload["key"], ctx.run_id)
        return lock.token


@stackshift.job("sleepsInside")
def sleeps_inside(ctx):
    note("pass", ctx.run_id)
    with ctx.state.lock(ctx.payload["key"]) as lock:
        event = ctx.step.wait_for_event("go on", correlation_key=ctx.run_id)
        ctx.step.run("work", note, "worked", ctx.run_id)
        return lock.token


@stackshift.job("sleepsInsideAsync")
async def sleeps_inside_async(ctx):
    note("pass", ctx.run_id)
    async with ctx.state.lock(ctx.payload["key"]) as lock:
        event = await ctx.step.wait_for_event("go on", correlation_key=ctx.run_id)
        await ctx.step.run("work", note, "worked", ctx.run_id)
        return lock.token


@stackshift.job("fails", retry=FAST)
def fails(ctx):
    with ctx.state.lock(ctx.payload["key"]) as lock:
        note("token", ctx.run_id, lock.token)
        ctx.step.run("before", note, "before", ctx.run_id)
        if ctx.attempt < 3:
            raise ConnectionError("once more")
        return lock.token


@stackshift.job("hopeless", retry=ONCE)
def hopeless(ctx):
    with ctx.state.lock(ctx.payload["key"]):
        ctx.step.run("boom", lambda: 1 / 0)


@stackshift.job("tries", retry=ONCE)
def tries(ctx):
    try:
        with ctx.state.lock(ctx.payload["key"], wait=ctx.payload["wait"]):
            return "mine"
    except stackshift.LockHeld as held:
        ctx.step.sleep("nap", "100ms")
        return [held.owner, held.fields["key"]]


@stackshift.job("loses", retry=ONCE)
def loses(ctx):
    try:
        with ctx.state.lock(ctx.payload["key"], ttl="100ms"):
            ctx.step.run("work", gate, ctx.payload["gate"])
            ctx.step.run("never", note, "never", ctx.run_id)
    except stackshift.LockLost as lost:
        ctx.step.sleep("nap", "100ms")
        note("lost", ctx.run_id)
        return [lost.key, lost.message]


@stackshift.job("losesAtExit", retry=ONCE)
async def loses_at_exit(ctx):
    try:
        async with ctx.state.lock(ctx.payload["key"], ttl="100ms"):
            await ctx.step.run("work", agate, ctx.payload["gate"])
    except stackshift.LockLost as lost:
        await ctx.step.sleep("nap", "100ms")
        return lost.message


@stackshift.job("losesOnce", retry=FAST)
def loses_once(ctx):
    with ctx.state.lock(ctx.payload["key"], ttl="100ms" if ctx.attempt == 1 else "1h") as lock:
        ctx.step.run("work", gate, ctx.payload["gate"])
        ctx.step.run("after", note, "after", ctx.run_id)
        return lock.token


@stackshift.job("extends", retry=ONCE)
def extends(ctx):
    def work():
        while not is_open(ctx.payload["gate"]):
            lock.extend("300ms")
            note("extended", ctx.run_id)
            time.sleep(0.05)
    with ctx.state.lock(ctx.payload["key"], ttl="300ms") as lock:
        ctx.step.run("work", work)
        lock.extend("1h")
        ctx.step.sleep("nap", "400ms")
        ctx.step.run("still", note, "still", ctx.run_id)
        return lock.expires_at is not None


@stackshift.job("twice", retry=FAST)
def twice(ctx):
    with ctx.state.lock("twice"), ctx.state.lock("twice"):
        return "both"


@stackshift.job("insideStep", retry=FAST)
def inside_step(ctx):
    ctx.step.run("s", lambda: ctx.state.lock("inside"))


@stackshift.job("forgotten", retry=FAST)
def forgotten(ctx):
    ctx.state.lock("forgotten")


@stackshift.job("failsWaiting", retry=ONCE)
async def fails_waiting(ctx):
    async def waits():
        async with ctx.state.lock(ctx.payload["key"]):
            note("had it", ctx.run_id)

    async def fails():
        await ctx.step.run("boom", agate, ctx.payload["gate"])
        raise ValueError("boom")

    await asyncio.gather(waits(), fails())


@stackshift.job("failsHolding", retry=FAST)
async def fails_holding(ctx):
    async def holds():
        async with ctx.state.lock(ctx.payload["key"]) as lock:
            await ctx.step.run("first", note, "first", ctx.run_id)
            await ctx.step.wait_for_event("go on", correlation_key=ctx.run_id)
            return lock.token

    async def fails():
        await ctx.step.sleep("nap", "150ms")
        if ctx.attempt < 3:
            raise ValueError("boom")

    return (await asyncio.gather(holds(), fails()))[0]


@stackshift.job("turns")
def turns(ctx):
    with ctx.state.lock(ctx.payload["key"]):
        for i in range(60):
            ctx.step.run(f"turn-{i}", lambda i=i: time.sleep(0.01) or note("turn", ctx.run_id, i))


@stackshift.job("turnsAsync")
async def turns_async(ctx):
    async def turn(i):
        await asyncio.sleep(0.01)
        note("turn", ctx.run_id, i)
    async with ctx.state.lock(ctx.payload["key"]):
        for i in range(60):
            await ctx.step.run(f"turn-{i}", turn, i)


@stackshift.job("overstays", timeout="150ms", retry=Retry(max_attempts=2, backoff="10ms"))
def overstays(ctx):
    with ctx.state.lock(ctx.payload["key"]) as lock:
        note("in", ctx.payload["key"], ctx.run_id)
        while ctx.attempt == 1:
            ctx.step.run(f"turn", time.sleep, 0.01)
        return lock.token


@stackshift.job("overstaysAsync", timeout="150ms", retry=Retry(max_attempts=2, backoff="10ms"))
async def overstays_async(ctx):
    async with ctx.state.lock(ctx.payload["key"]) as lock:
        note("in", ctx.payload["key"], ctx.run_id)
        if ctx.attempt == 1:
            await ctx.step.run("busy", asyncio.sleep, 3600)
        return lock.token


@stackshift.job("catchesInside", retry=ONCE)
def catches_inside(ctx):
    failed = None
    with ctx.state.lock(ctx.payload["key"]) as lock:
        ctx.step.run("good", note, "good", ctx.run_id)
        try:
            ctx.step.run("work", lambda: is_open(ctx.payload["gate"]) or 1 / 0)
        except stackshift.StepFailed as raised:
            failed = raised
        ctx.step.run("tidy", note, "tidy", ctx.run_id)
        token = lock.token
    if failed:
        raise failed
    return token


@stackshift.job("adds", retry=ONCE)
def adds(ctx):
    for _ in range(ctx.payload["times"]):
        with ctx.state.lock("adds") as lock:
            n = ctx.state.get("sum", 0)
            ctx.state.set("sum", n + 1)
            assert ctx.state.get("token", 0) < lock.token
            ctx.state.set("token", lock.token)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    made = Project(tmp_path_factory.mktemp("locks") / "p", {"story": JOBS})
    made.start()
    yield made
    made.close()


def in_order(project: Project, word: str, key: str) -> list[str]:
    """The runs that noted this of the lock, in order."""
    return [line.split()[2] for line in project.witness() if line.startswith(f"{word} {key} ")]


def waiting(project: Project, run: str) -> dict[str, Any]:
    """What the run waits for, once it does so and is out of memory."""
    wait_until(
        lambda: kinds(project.get(run))[-1:] == ["attempt.suspended"], f"{run} to be suspended"
    )
    found: dict[str, Any] = project.call("run.get", run=run)
    return found


@pytest.mark.parametrize("job", ["holds", "holdsAsync"])
def test_lock_is_given_in_the_order_of_asking_and_waiting_holds_no_slot(
    project: Project, job: str
) -> None:
    """One at a time; tokens grow; who waits says for whom."""
    runs = []
    for n in range(4):
        runs.append(project.begin(job, {"key": job, "gate": f"{job}-{n}"}))
        if n == 0:
            project.at(f"{job}-0")
        else:
            told = waiting(project, runs[n])
            assert told["waiting_for"]["kind"] == "lock"
            assert (told["waiting_for"]["lock"], told["waiting_for"]["owner"]) == (job, runs[0])
            assert told["why_code"] == "waiting_lock"
    tokens = []
    for n in range(4):
        project.at(f"{job}-{n}")
        assert in_order(project, "in", job) == runs[: n + 1]
        project.open(f"{job}-{n}")
        tokens.append(project.finish(runs[n])["result"])
    assert tokens == sorted(set(tokens))
    assert in_order(project, "out", job) == runs


@pytest.mark.parametrize("job", ["sleepsInside", "sleepsInsideAsync"])
def test_lock_is_kept_over_a_suspension(project: Project, job: str) -> None:
    """Nobody gets it while its run waits; it is let go when the block is left for good."""
    run = project.begin(job, {"key": job})
    waiting(project, run)
    other = project.finish(project.begin("tries", {"key": job, "wait": 0}))
    assert other["result"] == [run, job]
    project.call("event.send", name="go on", correlation_key=run)
    assert project.finish(run)["status"] == "completed"
    assert project.witness().count(f"pass {run}") == 2
    seen = kinds(project.get(run), "lock.acquired", "lock.released")
    assert seen == ["lock.acquired", "lock.released"]
    assert project.finish(project.begin("tries", {"key": job, "wait": 0}))["result"] == "mine"


def test_lock_that_is_not_had_in_time_raises_on_every_pass(project: Project) -> None:
    """With who holds it."""
    run = project.begin("sleepsInside", {"key": "late"})
    waiting(project, run)
    for wait in (0, "200ms"):
        tried = project.finish(project.begin("tries", {"key": "late", "wait": wait}))
        assert tried["result"] == [run, "late"]
    project.call("run.cancel", run=run)
    project.finish(run)
    mine = project.finish(project.begin("tries", {"key": "late", "wait": "10s"}))
    assert mine["result"] == "mine"


def test_failed_attempt_gives_its_lock_back_and_the_next_takes_it_anew(project: Project) -> None:
    """With a greater token; steps on record are not done again."""
    run = project.begin("fails", {"key": "flaky"})
    token = project.finish(run)["result"]
    tokens = [int(line.split()[2]) for line in project.witness() if line.startswith(f"token {run}")]
    assert tokens == sorted(set(tokens))
    assert (len(tokens), tokens[-1]) == (3, token)
    assert project.witness().count(f"before {run}") == 1


@pytest.mark.parametrize("how", ["fail", "cancel", "cancel waiting"])
def test_end_of_the_run_gives_its_lock_to_the_next(project: Project, how: str) -> None:
    """In whatever way it ends."""
    if how == "fail":
        run = project.begin("hopeless", {"key": how})
        project.finish(run)
    elif how == "cancel":
        run = project.begin("holds", {"key": how, "gate": "cancelled"})
        project.at("cancelled")
        follower = project.begin("tries", {"key": how, "wait": None})
        waiting(project, follower)
        project.call("run.cancel", run=run)
        project.open("cancelled")
        assert project.finish(follower)["result"] == "mine"
    else:
        run = project.begin("sleepsInside", {"key": how})
        waiting(project, run)
        project.call("run.cancel", run=run)
    assert project.finish(project.begin("tries", {"key": how, "wait": "20s"}))["result"] == "mine"


def test_waiting_run_that_is_cancelled_leaves_the_line(project: Project) -> None:
    """The next one gets the lock."""
    first = project.begin("holds", {"key": "line", "gate": "line"})
    project.at("line")
    second = project.begin("tries", {"key": "line", "wait": None})
    waiting(project, second)
    third = project.begin("tries", {"key": "line", "wait": None})
    waiting(project, third)
    project.call("run.cancel", run=second)
    project.open("line")
    assert project.finish(first)["status"] == "completed"
    assert project.finish(third)["result"] == "mine"


# --- Lost ----------------------------------------------------------------------------------


def released(project: Project, run: str) -> None:
    """Wait until the lock of the run has run out."""
    wait_until(lambda: "lock.released" in kinds(project.get(run)), f"the lock of {run} to run out")


def test_call_after_the_lock_ran_out_does_nothing(project: Project) -> None:
    """`LockLost`, which tells which lock; the same on every pass."""
    run = project.begin("loses", {"key": "short", "gate": "short"})
    project.at("short")
    released(project, run)
    assert project.finish(project.begin("tries", {"key": "short", "wait": 0}))["result"] == "mine"
    project.open("short")
    key, message = project.finish(run)["result"]
    assert key == "short"
    acquired = next(e for e in project.get(run)["timeline"] if e["kind"] == "lock.acquired")
    assert f"'short' expired at {acquired['expires_at'][:19]}Z" in message
    told = project.witness()
    assert told.count(f"lost {run}") == 1
    assert f"never {run}" not in told


def test_lock_that_ran_out_in_the_last_step_raises_at_the_end_of_its_block(
    project: Project,
) -> None:
    """What was done there may have been done by another too."""
    run = project.begin("losesAtExit", {"key": "exit", "gate": "exit"})
    project.at("exit")
    released(project, run)
    project.open("exit")
    assert "'exit'" in project.finish(run)["result"]


def test_attempt_that_lost_its_lock_is_followed_by_one_that_takes_it_anew(
    project: Project,
) -> None:
    """Uncaught, `LockLost` is a failure like any other, and is tried again."""
    run = project.begin("losesOnce", {"key": "once", "gate": "once"})
    project.at("once")
    released(project, run)
    project.open("once")
    seen = project.finish(run)
    assert (seen["status"], seen["attempt"]) == ("completed", 2)
    assert seen["attempts"][0]["error"]["type"] == "LockLost"
    told = project.witness()
    assert (told.count("at once"), told.count(f"after {run}")) == (1, 1)


def test_extended_lock_is_held(project: Project) -> None:
    """From within a step and from the handler, also over a wait."""
    run = project.begin("extends", {"key": "longer", "gate": "longer"})
    wait_until(lambda: project.witness().count(f"extended {run}") >= 8, "the lock to be extended")
    assert project.finish(project.begin("tries", {"key": "longer", "wait": 0}))["result"] == [
        run,
        "longer",
    ]
    project.open("longer")
    assert project.finish(run)["result"] is True
    assert f"still {run}" in project.witness()


# --- Tried again ---------------------------------------------------------------------------


@pytest.mark.parametrize("job", ["overstays", "overstaysAsync"])
def test_attempt_past_its_timeout_is_followed_by_one_that_has_the_lock(
    project: Project, job: str
) -> None:
    """And when that is over, the next in the line."""
    run = project.begin(job, {"key": job})
    wait_until(lambda: in_order(project, "in", job), "the lock to be taken")
    follower = project.begin("tries", {"key": job, "wait": None})
    made = project.finish(run)
    assert (made["status"], made["attempt"]) == ("completed", 2), made["error"]
    assert project.finish(follower)["result"] == "mine"


def test_run_that_failed_while_it_waited_gets_no_lock(project: Project) -> None:
    """Its place in the line is gone with it."""
    holder = project.begin("holds", {"key": "dead", "gate": "dead"})
    project.at("dead")
    run = project.begin("failsWaiting", {"key": "dead", "gate": "boom"})
    project.at("boom")
    wait_until(lambda: "wait.started" in kinds(project.get(run)), "the run to stand in line")
    follower = project.begin("tries", {"key": "dead", "wait": None})
    waiting(project, follower)
    project.open("boom")
    assert project.finish(run)["status"] == "failed"
    project.open("dead")
    assert project.finish(holder)["status"] == "completed"
    assert project.finish(follower)["result"] == "mine"
    assert f"had it {run}" not in project.witness()


def test_failure_of_another_branch_keeps_the_lock_for_the_next_attempt(project: Project) -> None:
    """The block was not left: the next attempt goes on in it, by what is on record."""
    run = project.begin("failsHolding", {"key": "branch"})
    wait_until(lambda: project.get(run)["attempt"] == 3, "the third attempt")
    assert project.finish(project.begin("tries", {"key": "branch", "wait": 0}))["result"] == [
        run,
        "branch",
    ]
    project.call("event.send", name="go on", correlation_key=run)
    made = project.finish(run)
    assert made["status"] == "completed", made["error"]
    assert kinds(made, "lock.acquired", "lock.released") == ["lock.acquired", "lock.released"]
    assert project.witness().count(f"first {run}") == 1


def test_branch_that_fails_as_the_others_wait_ends_the_attempt(project: Project) -> None:
    """Many at once: none is set aside with a failure that nobody has heard of yet."""
    runs = [project.begin("failsHolding", {"key": f"branch-{index}"}) for index in range(48)]

    def at_its_third(run: str) -> bool:
        return bool(project.get(run)["attempt"] == 3)

    for run in runs:
        wait_until(partial(at_its_third, run), "the third attempt")
        project.call("event.send", name="go on", correlation_key=run)
    assert {project.finish(run)["status"] for run in runs} == {"completed"}


def test_step_that_is_tried_anew_in_a_block_that_was_left_has_its_lock_again(
    project: Project,
) -> None:
    """By `runs retry`, and by `runs retry --from`: with a greater token each time."""
    run = project.begin("catchesInside", {"key": "again", "gate": "again"})
    assert project.finish(run)["status"] == "failed"
    project.open("again")
    project.call("run.retry", run=run)
    first = project.finish(run)
    assert first["status"] == "completed", first["error"]
    project.call("run.retry", run=run, from_step="work")
    second = project.finish(run)
    assert second["status"] == "completed", second["error"]
    assert second["result"] > first["result"]
    assert project.witness().count(f"good {run}") == 1
    assert kinds(second).count("lock.acquired") == kinds(second).count("lock.released") == 3


# --- Mistakes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ("twice", "already holds lock 'twice'"),
        ("insideStep", "ctx.state.lock was used inside the function of step 's'"),
        ("forgotten", "[lock forgotten] without `with`"),
    ],
)
def test_mistake_with_a_lock_fails_the_run_at_once(
    project: Project, job: str, message: str
) -> None:
    """It would come back on every try; the message says what it was."""
    run = project.finish(project.begin(job))
    assert (run["status"], run["attempt"]) == ("failed", 1)
    assert message in run["error"]["message"]


def records(project: Project, kind: str) -> list[Any]:
    """The journal's records of this kind."""
    return [each for each in project.journal() if each["kind"] == kind]


# --- With clients --------------------------------------------------------------------------


def test_clients_and_runs_stand_in_one_line(project: Project) -> None:
    """A run waits for a client, and a client for a run."""
    with Client(project.address) as client:
        with client.state.lock("mixed", ttl="1m") as lock:
            run = project.begin("holds", {"key": "mixed", "gate": "mixed"})
            assert "(pid " in waiting(project, run)["waiting_for"]["owner"]
        project.at("mixed")
        with pytest.raises(LockHeld) as held, client.state.lock("mixed", ttl="1m"):
            raise AssertionError("the run has it")
        assert held.value.owner == run
        with pytest.raises(LockHeld):
            client.call("lock.release", {"key": "mixed", "token": lock.token})
        project.open("mixed")
        with client.state.lock("mixed", ttl="1m", wait="20s") as after:
            assert after.token > project.finish(run)["result"] > lock.token


def test_task_that_is_cancelled_as_it_waits_leaves_the_line(project: Project) -> None:
    """Its connection goes on: nothing else would tell that nobody waits any more."""

    async def give_up(client: AsyncClient) -> None:
        requested = len(records(project, "lock.requested"))

        async def wait() -> None:
            async with client.state.lock("given up", ttl="1h", wait="1h"):
                raise AssertionError("another has it")

        task = asyncio.create_task(wait())
        await until(lambda: len(records(project, "lock.requested")) > requested, "it to wait")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        await until(lambda: records(project, "lock.withdrawn"), "it to leave the line")

    async def play() -> None:
        async with AsyncClient(project.root) as client:
            async with client.state.lock("given up", ttl="1h"):
                await give_up(client)
            async with client.state.lock("given up", ttl="1h"):
                pass

    asyncio.run(play())


# --- Killed --------------------------------------------------------------------------------


def test_lock_outlives_its_worker_and_the_daemon(make_project: Make) -> None:
    """The run that comes back has it, with a greater token; who waits keeps its place."""
    project = make_project(JOBS)
    project.start()
    run = project.begin("holds", {"key": "k", "gate": "g"})
    project.at("g")
    followers = [project.begin("tries", {"key": "k", "wait": None}) for _ in range(2)]
    for follower in followers:
        waiting(project, follower)
    acquired = [each["seq"] for each in project.journal() if each["kind"] == "lock.acquired"]
    os.kill(project.workers()[0], signal.SIGKILL)
    project.at("g", 2)
    project.kill()
    project.start()
    project.at("g", 3)
    for follower in followers:
        assert project.call("run.get", run=follower)["status"] == "waiting"
    project.open("g")
    assert project.finish(run)["result"] > acquired[0]
    assert [project.finish(each)["result"] for each in followers] == ["mine", "mine"]
    order = [each["run"] for each in project.journal() if each["kind"] == "lock.acquired"]
    assert order == [run, *followers]
    project.stop()
    project.verify()


@pytest.mark.parametrize("job", ["turns", "turnsAsync"])
def test_lock_is_kept_when_the_daemon_stops_in_good_order(make_project: Make, job: str) -> None:
    """The handler is left at its next step, which is no way to leave a block for good."""
    project = make_project(JOBS)
    project.start()
    run = project.begin(job, {"key": "k"})
    wait_until(lambda: len(project.witness()) > 5, "some turns")
    assert project.stop() == 0
    project.start()
    made = project.finish(run)
    assert made["status"] == "completed", made["error"]
    assert kinds(made, "lock.acquired", "lock.released") == ["lock.acquired", "lock.released"]
    assert project.witness() == [f"turn {run} {i}" for i in range(60)]


def test_lock_that_ran_out_while_nothing_ran_is_lost(make_project: Make) -> None:
    """Its time counts on, and the run learns of it at its first call that is not on record."""
    project = make_project(JOBS)
    project.start()
    run = project.begin("loses", {"key": "k", "gate": "g"})
    project.at("g")
    project.kill()
    project.start()
    assert project.finish(run)["result"][0] == "k"
    assert project.witness().count("at g") == 1, "the step is not run again without its lock"


def test_what_a_lock_protects_is_exact_under_kills(make_project: Make) -> None:
    """Read, add and write by several runs, and the tokens that they see only grow."""
    project = make_project(JOBS)
    project.start()
    runs = [project.begin("adds", {"times": 20}) for _ in range(4)]

    def total() -> int:
        entry = project.call("state.get", key="sum")
        return entry["value"] if entry is not None else 0

    def reached(number: int) -> bool:
        return total() >= number

    for kill in range(1, 7):
        wait_until(partial(reached, kill * 10), f"the sum to be {kill * 10}")
        if kill % 2:
            os.kill(wait_until(project.workers, "a worker to serve")[0], signal.SIGKILL)
        else:
            project.kill()
            project.start()
    for run in runs:
        made = project.finish(run)
        assert made["status"] == "completed", made["error"]
    assert total() == 80
    project.stop()
    project.verify()
