"""The fixture shows what runs did, up to their next wait or their end."""

from __future__ import annotations

from typing import Any

import pytest

import stackshift_jobs
from stackshift_jobs import AsyncJobContext, ChildFailed, JobContext, Retry
from stackshift_jobs.errors import Conflict, InsideHandler, NotFound, PayloadRefused, Usage
from stackshift_jobs.testing import Stackshift

Context = JobContext[Any]
AsyncContext = AsyncJobContext[Any]
ONCE = Retry(max_attempts=1)
STEADY = Retry(max_attempts=3, backoff="1m", factor=2.0, jitter=0.0)


@stackshift_jobs.job("greet")
def greet(ctx: Context) -> dict[str, Any]:
    """A step, then a sleep of an hour."""
    name = ctx.step.run("find-name", lambda: ctx.payload["name"].upper())
    ctx.step.sleep("breath", "1h")
    return {"said": f"Hello, {name}!"}


@stackshift_jobs.job("greetAsync")
async def greet_async(ctx: AsyncContext) -> dict[str, Any]:
    """The same as `greet`, awaited."""
    name = await ctx.step.run("find-name", lambda: ctx.payload["name"].upper())
    await ctx.step.sleep("breath", "1h")
    return {"said": f"Hello, {name}!"}


BOTH = pytest.mark.parametrize("job", ["greet", "greetAsync"])


@BOTH
def test_start_returns_at_the_next_wait(stackshift: Stackshift, job: str) -> None:
    """The handler has run as far as it can; the run says what it waits for, and until when."""
    run = stackshift.start(job, {"name": "ada"})
    assert (run.status, run.result, run.error) == ("waiting", None, None)
    assert run.waiting_for is not None
    assert run.waiting_for["kind"] == "sleep"
    assert run.waiting_for["until"] == "2026-01-05T10:00:00.000000Z"
    assert run.steps["find-name"].result == "ADA"
    assert run.steps["breath"].status == "waiting"
    assert run.why_code == "sleeping"
    assert run.why.startswith("sleeping until 2026-01-05T10:00:00Z")
    assert run.kinds == [
        "run.created",
        "attempt.started",
        "step.completed",
        "wait.started",
        "attempt.suspended",
    ]


@BOTH
def test_handler_goes_on_when_its_time_has_come(stackshift: Stackshift, job: str) -> None:
    """The handler continues exactly then; what is recorded is not done again."""
    run = stackshift.start(job, {"name": "ada"})
    stackshift.advance("59m59s")
    assert run.status == "waiting"
    stackshift.advance("1s")
    assert (run.status, run.result) == ("completed", {"said": "Hello, ADA!"})
    assert run.attempt == 1
    assert run.kinds.count("step.completed") == 1


def test_run_says_who_it_is(stackshift: Stackshift) -> None:
    """Payload, labels, queue and the other attributes are those given at the start."""
    run = stackshift.start(
        greet, {"name": "ada"}, queue="slow", labels={"of": "ada"}, idempotency_key="greet:ada"
    )
    assert (run.job, run.queue, run.labels) == ("greet", "slow", {"of": "ada"})
    assert run.payload == {"name": "ada"}
    assert run.json["idempotency_key"] == "greet:ada"
    assert stackshift.run(run.id) == run == stackshift.runs[0] == stackshift.run("@last")
    assert repr(run).startswith(f"<Run {run.id} greet waiting: ")


def test_runs_are_listed_oldest_first(stackshift: Stackshift) -> None:
    """All runs, or only those of one job, are listed oldest first."""
    first = stackshift.start("greet", {"name": "a"})
    second = stackshift.start("greetAsync", {"name": "b"})
    third = stackshift.start("greet", {"name": "c"}).finish()
    assert stackshift.runs == [first, second, third]
    assert stackshift.runs_of("greet") == stackshift.runs_of(greet) == [first, third]


def test_key_finds_its_run(stackshift: Stackshift) -> None:
    """The same start again returns the same run; with another payload it is a conflict."""
    run = stackshift.start("greet", {"name": "ada"}, idempotency_key="k")
    again = stackshift.start("greet", {"name": "ada"}, idempotency_key="k")
    assert (run.reused, again.reused, again) == (False, True, run)
    with pytest.raises(Conflict):
        stackshift.start("greet", {"name": "bob"}, idempotency_key="k")
    stackshift.advance("31d")
    assert not stackshift.start("greet", {"name": "bob"}, idempotency_key="k").reused


@pytest.mark.parametrize("is_async", [False, True])
def test_failure_is_tried_again_after_its_backoff(stackshift: Stackshift, is_async: bool) -> None:
    """Each attempt comes at its own time; the error of the last one is kept."""
    times: list[str] = []

    def flaky() -> None:
        times.append(f"{stackshift.now:%H:%M}")
        raise ConnectionError("no answer")

    if is_async:

        @stackshift.job("flaky", retry=STEADY)
        async def awaits(ctx: AsyncContext) -> None:
            await ctx.step.run("call", flaky)
    else:

        @stackshift.job("flaky", retry=STEADY)
        def blocks(ctx: Context) -> None:
            ctx.step.run("call", flaky)

    run = stackshift.start("flaky")
    assert (run.status, run.attempt, times) == ("retrying", 1, ["09:00"])
    stackshift.advance("59s")
    assert times == ["09:00"]
    stackshift.advance("1s")
    assert (run.status, run.attempt) == ("retrying", 2)
    stackshift.advance("1d")
    assert (run.status, run.attempt) == ("failed", 3)
    assert times == ["09:00", "09:01", "09:03"]
    assert run.error is not None
    assert run.error["type"] == "ConnectionError"
    assert "flaky" in run.error["traceback"]


def test_step_with_terms_of_its_own_is_tried_in_one_attempt(stackshift: Stackshift) -> None:
    """The clock moves between its tries, but the attempt is the same."""
    tries: list[str] = []

    def third_time() -> int:
        tries.append(f"{stackshift.now:%H:%M}")
        if len(tries) < 3:
            raise TimeoutError("late")
        return len(tries)

    @stackshift.job("patient")
    def patient(ctx: Context) -> Any:
        return ctx.step.run("call", third_time, retry=STEADY)

    run = stackshift.start("patient")
    assert run.steps["call"].status == "retrying"
    assert run.finish().result == 3
    assert run.attempt == 1
    assert (run.steps["call"].attempts, tries) == (3, ["09:00", "09:01", "09:03"])


def test_children_run_and_their_results_come_back(stackshift: Stackshift) -> None:
    """That works for several children at a time, and through their own waits."""

    @stackshift.job("both")
    async def both(ctx: AsyncContext) -> list[str]:
        import asyncio

        said = await asyncio.gather(
            ctx.step.call("greet", {"name": "a"}, name="one"),
            ctx.step.call("greetAsync", {"name": "b"}, name="two"),
        )
        return [each["said"] for each in said]

    run = stackshift.start("both")
    assert run.status == "waiting"
    assert [child.job for child in run.children] == ["greet", "greetAsync"]
    stackshift.advance("1h")
    assert run.result == ["Hello, A!", "Hello, B!"]


def test_failed_child_fails_its_parent(stackshift: Stackshift) -> None:
    """The parent gets `ChildFailed`, which it may catch."""

    @stackshift.job("child", retry=ONCE)
    def child(_ctx: Context) -> None:
        raise ValueError("no good")

    @stackshift.job("parent")
    def parent(ctx: Context) -> str:
        try:
            ctx.step.call("child")
        except ChildFailed:
            return "caught"
        return "not reached"

    @stackshift.job("careless")
    def careless(ctx: Context) -> None:
        ctx.step.call("child")

    assert stackshift.start("parent").result == "caught"
    run = stackshift.start("careless")
    assert run.error is not None
    assert run.error["type"] == "ChildFailed"


def test_started_run_is_independent(stackshift: Stackshift) -> None:
    """`step.start` returns the child's id, and `step.result` waits for the child."""

    @stackshift.job("starter")
    def starter(ctx: Context) -> Any:
        return ctx.step.result(ctx.step.start("greet", {"name": "x"}))

    run = stackshift.start("starter")
    assert run.status == "waiting"
    assert run.finish().result == {"said": "Hello, X!"}


def test_cancelled_run_stays_cancelled(stackshift: Stackshift) -> None:
    """What the run would have done later does not happen."""
    run = stackshift.start("greet", {"name": "ada"})
    assert run.cancel() is True
    stackshift.advance("2h")
    assert (run.status, run.cancel()) == ("cancelled", False)


def test_failed_run_is_sent_on_from_where_it_was(stackshift: Stackshift) -> None:
    """`retry` repeats what failed; with a step named, that step and all later ones."""
    done: list[str] = []

    @stackshift.job("fragile", retry=ONCE)
    def fragile(ctx: Context) -> str:
        ctx.step.run("first", done.append, "first")
        ctx.step.run("second", broken)
        return "through"

    def broken() -> None:
        done.append("second")
        if len(done) == 2:
            raise OSError("not now")

    run = stackshift.start("fragile")
    assert (run.status, run.retry().status) == ("failed", "completed")
    assert done == ["first", "second", "second"]
    assert run.result == "through"


def test_fork_and_replaced_results(stackshift: Stackshift) -> None:
    """A fork reuses what is recorded, or has another payload; `set` replaces a step's result."""

    @stackshift.job("sums", retry=ONCE)
    def sums(ctx: Context) -> int:
        made: int = ctx.step.run("made", lambda: int(ctx.payload["n"]))
        return made + int(ctx.step.run("more", lambda: 1))

    run = stackshift.start("sums", {"n": 1})
    again, other = run.fork(from_step="more"), run.fork(payload={"n": 5})
    assert (again.result, other.result) == (2, 6)
    assert len({run.id, again.id, other.id}) == 3
    assert run.retry(from_step="more", set={"made": 40}).result == 41
    assert again.result == 2


def test_finish_fails_the_test_where_nothing_is_due(stackshift: Stackshift) -> None:
    """If no amount of time will end the run, the failure says what it waits for."""
    stackshift.call("queue.pause", queue="default")
    run = stackshift.start("greet", {"name": "ada"})
    with pytest.raises(AssertionError, match=f"{run.id} does not end by itself: .*paused"):
        run.finish()
    stackshift.call("queue.resume", queue="default")
    assert run.finish().status == "completed"


def test_queue_that_is_declared_in_a_test_is_limited(stackshift: Stackshift) -> None:
    """Its rate starts runs one by one, as the clock moves."""
    stackshift.queue("mail", rate="1/m")
    times: list[str] = []

    @stackshift.job("mail", queue="mail")
    def mail(ctx: Context) -> None:
        times.append(f"{ctx.now():%H:%M}")

    runs = [stackshift.start("mail") for _ in range(3)]
    assert [run.status for run in runs] == ["completed", "queued", "queued"]
    stackshift.advance("1m")
    assert runs[1].status == "completed"
    assert runs[2].finish().status == "completed"
    assert times == ["09:00", "09:01", "09:02"]


def test_functions_of_the_sdk_reach_the_same_daemon(stackshift: Stackshift) -> None:
    """They work in tests and steps; waiting for a result moves the clock, up to its timeout."""
    started: list[str] = []

    @stackshift.job("outer")
    def outer(ctx: Context) -> Any:
        return ctx.step.run("start", inner)

    def inner() -> str:
        started.append(stackshift_jobs.start("greet", {"name": "in a step"}).id)
        return started[0]

    assert stackshift.start("outer").result == started[0]
    handle = stackshift_jobs.start("greet", {"name": "ada"})
    assert handle.status() == "waiting"
    with pytest.raises(TimeoutError):
        handle.result(timeout="30m")
    assert f"{stackshift.now:%H:%M}" == "09:30"
    assert handle.result() == {"said": "Hello, ADA!"}
    assert f"{stackshift.now:%H:%M}" == "10:00"
    many = stackshift_jobs.start_many([("greet", {"name": "a"}), ("nothing", {})])
    assert isinstance(many[1], NotFound)
    assert stackshift_jobs.runs.get(started[0])["status"] == "completed"


def test_client_in_a_handler_is_refused_outside_of_steps(stackshift: Stackshift) -> None:
    """As in a worker: the client's calls would be repeated on every replay."""

    @stackshift.job("careless")
    def careless(_ctx: Context) -> None:
        stackshift_jobs.start("greet", {"name": "x"})

    run = stackshift.start("careless")
    assert run.error is not None
    assert run.error["type"] == InsideHandler.__name__
    assert stackshift.runs == [run]


def test_bad_starts_are_refused_as_by_the_daemon(stackshift: Stackshift) -> None:
    """An unknown job (with similar names), a payload that does not fit, and a wrong option."""

    @stackshift.job("typed", payload=dict[str, int])
    def typed(ctx: JobContext[dict[str, int]]) -> int:
        return sum(ctx.payload.values())

    with pytest.raises(NotFound, match="no job is named 'gret'"):
        stackshift.start("gret")
    with pytest.raises(PayloadRefused):
        stackshift.start("typed", {"a": "one"})
    with pytest.raises(Usage):
        stackshift.start("typed", {}, dealy="1h")  # type: ignore[call-arg]
    with pytest.raises(Usage, match="is not a job of this test"):
        stackshift.start(print)
    assert stackshift.start(typed, {"a": 1, "b": 2}).result == 3
    assert len(stackshift.runs) == 1


def test_large_values_come_back_whole(stackshift: Stackshift) -> None:
    """Values that are not kept in memory are read from the journal."""
    large = "x" * 100_000

    @stackshift.job("large")
    def keep(ctx: Context) -> Any:
        got = ctx.step.run("get", lambda: ctx.payload["text"])
        ctx.step.sleep("pause", "1h")
        return got

    run = stackshift.start("large", {"text": large})
    assert run.finish().result == large
    assert run.payload == {"text": large}


def test_gathered_wait_is_left_once_the_other_part_is_done(stackshift: Stackshift) -> None:
    """A handler that gathers a step and a sleep is suspended once only the sleep is left."""
    import asyncio

    @stackshift.job("gathers")
    async def gathers(ctx: AsyncContext) -> list[Any]:
        quick = ctx.step.run("quick", lambda: 1)
        return list(await asyncio.gather(quick, ctx.step.sleep("slow", "1h")))

    run = stackshift.start("gathers")
    assert run.kinds[-1] == "attempt.suspended"
    assert run.finish().result == [1, None]


def test_unique_keys_work_as_in_a_daemon(stackshift: Stackshift) -> None:
    """A duplicate is refused, attached, or takes the place of the run that has the key."""
    run = stackshift.start("greet", {"name": "ada"}, unique="hello")
    with pytest.raises(Conflict) as refused:
        stackshift.start("greet", {"name": "bob"}, unique="hello")
    assert refused.value.owner == run.id
    same = stackshift.start("greet", {"name": "eve"}, unique="hello", on_duplicate="attach")
    assert (same.id, same.reused) == (run.id, True)
    waits = stackshift.start("greet", {"name": "eve"}, unique="hello", on_duplicate="queue")
    assert (waits.status, waits.why_code) == ("queued", "unique_busy")
    newest = stackshift.start("greet", {"name": "bob"}, unique="hello", on_duplicate="replace")
    assert (run.status, waits.status) == ("cancelled", "cancelled")
    assert newest.finish().result == {"said": "Hello, BOB!"}
    with pytest.raises(Usage, match="on_duplicate must be refuse, attach, replace or queue"):
        stackshift.start("greet", {"name": "bob"}, unique="hello", on_duplicate="maybe")


def test_run_is_moved_to_another_time(stackshift: Stackshift) -> None:
    """As by `stackshift runs move`, from the run or from a client's handle."""
    run = stackshift.start("greet", {"name": "ada"}, delay="8h")
    assert run.move(delay="1h")
    assert not run.move(priority=0)
    stackshift.advance("1h")
    assert run.status == "waiting"
    handle = stackshift.client.start("greet", {"name": "bob"}, delay="8h")
    assert handle.move(now=True)
    assert handle.status() == "waiting"
    with pytest.raises(Usage, match="move has no option 'whence'"):
        run.move(whence="1h")  # type: ignore[call-arg]


def test_run_begins_after_others(stackshift: Stackshift) -> None:
    """As with `start --after`."""
    first = stackshift.start("greet", {"name": "ada"})
    last = stackshift.start("greet", {"name": "bob"}, after=[first.id])
    assert (last.status, last.why_code) == ("waiting", "waiting_run")
    first.finish()
    assert last.steps["find-name"].result == "BOB"
