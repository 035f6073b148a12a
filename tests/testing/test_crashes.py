"""A worker dies where the test says, and the run continues as after a real crash."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from stackshift_jobs import AsyncJobContext, JobContext, Retry
from stackshift_jobs.errors import Usage
from stackshift_jobs.testing import Stackshift

Context = JobContext[Any]
AsyncContext = AsyncJobContext[Any]
PLACES = ["before_step", "before_record", "after_record"]


class Till:
    """Records what the steps of a job have done."""

    def __init__(self) -> None:
        self.did: Counter[str] = Counter()

    def do(self, what: str) -> str:
        """Count and return `what`: the function of every step."""
        self.did[what] += 1
        return what


@pytest.fixture
def till(stackshift: Stackshift) -> Till:
    """Defines two jobs that do the same, one `def` and one `async def`; records what they do."""
    made = Till()

    @stackshift.job("pay")
    def pay(ctx: Context) -> list[str]:
        first = ctx.step.run("reserve", made.do, "reserve")
        second = ctx.step.run("charge", made.do, "charge")
        ctx.step.sleep("settle", "1h")
        return [first, second, *ctx.step.map("mail", made.do, ["a", "b"])]

    @stackshift.job("payAsync")
    async def pay_async(ctx: AsyncContext) -> list[str]:
        first = await ctx.step.run("reserve", made.do, "reserve")
        second = await ctx.step.run("charge", made.do, "charge")
        await ctx.step.sleep("settle", "1h")
        return [first, second, *await ctx.step.map("mail", made.do, ["a", "b"])]

    return made


@pytest.mark.parametrize("job", ["pay", "payAsync"])
@pytest.mark.parametrize("when", PLACES)
def test_what_is_on_record_is_not_done_again(
    stackshift: Stackshift, till: Till, job: str, when: str
) -> None:
    """A step runs again only if its worker died between its action and its record."""
    with stackshift.crashing("charge", when) as crash:
        run = stackshift.start(job)
    assert crash.happened == 1
    assert (run.status, run.attempt) == ("waiting", 1)
    assert run.finish().result == ["reserve", "charge", "a", "b"]
    assert till.did == {
        "reserve": 1,
        "charge": 2 if when == "before_record" else 1,
        "a": 1,
        "b": 1,
    }
    lost = [each for each in run.timeline if each["kind"] == "attempt.lost"]
    assert [each["reason"] for each in lost] == ["the worker process died (signal 9)"]


@pytest.mark.parametrize("job", ["pay", "payAsync"])
@pytest.mark.parametrize("when", ["before_record", "after_record"])
def test_worker_may_die_at_a_wait(stackshift: Stackshift, till: Till, job: str, when: str) -> None:
    """If the worker dies before the wait is recorded, it begins again; after that it continues."""
    with stackshift.crashing("settle", when):
        run = stackshift.start(job)
    assert run.waiting_for is not None
    assert run.waiting_for["until"] == "2026-01-05T10:00:00.000000Z"
    assert run.finish().status == "completed"
    assert run.kinds.count("wait.started") == 1
    assert till.did["charge"] == 1


@pytest.mark.parametrize("job", ["pay", "payAsync"])
@pytest.mark.parametrize("when", PLACES)
def test_worker_may_die_at_an_item_of_a_map(
    stackshift: Stackshift, till: Till, job: str, when: str
) -> None:
    """Each item of a map is a step of its own."""
    with stackshift.crashing("mail[1]", when):
        run = stackshift.start(job).finish()
    assert run.result == ["reserve", "charge", "a", "b"]
    assert till.did["b"] == (2 if when == "before_record" else 1)


def test_other_branches_die_with_the_worker(stackshift: Stackshift) -> None:
    """What they have recorded is kept; nothing of the old execution acts once the new one runs."""
    did: list[str] = []

    async def slow(name: str) -> str:
        did.append(f"begin {name}")
        if len(did) == 1:
            await asyncio.Event().wait()  # until its worker dies
        did.append(f"end {name}")
        return name

    @stackshift.job("branches")
    async def branches(ctx: AsyncContext) -> list[str]:
        return list(
            await asyncio.gather(
                ctx.step.run("slow", slow, "slow"), ctx.step.run("quick", lambda: "quick")
            )
        )

    with stackshift.crashing("quick", "after_record"):
        run = stackshift.start("branches")
    assert run.result == ["slow", "quick"]
    assert did == ["begin slow", "begin slow", "end slow"]


def test_child_is_called_once_though_the_worker_dies(stackshift: Stackshift, till: Till) -> None:
    """The start of a child is recorded once, in its parent."""

    @stackshift.job("parent")
    def parent(ctx: Context) -> Any:
        return ctx.step.call("pay")

    with stackshift.crashing("pay", "after_record", job="parent"):
        run = stackshift.start("parent")
    assert run.finish().result == ["reserve", "charge", "a", "b"]
    assert len(run.children) == 1
    assert till.did["charge"] == 1


def test_failed_try_is_counted_once_it_is_recorded(stackshift: Stackshift) -> None:
    """If the worker dies before a failure is recorded, the failure does not count."""
    tries: list[int] = []

    def broken() -> None:
        tries.append(1)
        raise ValueError("no good")

    @stackshift.job("broken", retry=Retry(max_attempts=2, backoff="1m"))
    def handler(ctx: Context) -> None:
        ctx.step.run("break", broken)

    with stackshift.crashing("break", "before_record"):
        run = stackshift.start("broken")
    assert (run.status, run.attempt, len(tries)) == ("retrying", 1, 2)
    assert (run.finish().attempt, len(tries)) == (2, 3)


@pytest.mark.usefixtures("till")
def test_only_the_job_that_is_meant_takes_its_worker_down(stackshift: Stackshift) -> None:
    """A step with the same name in another job does not crash the worker."""
    with stackshift.crashing("charge", job="payAsync"):
        untouched = stackshift.start("pay")
        touched = stackshift.start("payAsync")
    assert "attempt.lost" not in untouched.kinds
    assert "attempt.lost" in touched.kinds


@pytest.mark.usefixtures("till")
def test_worker_that_dies_again_and_again_takes_the_run_with_it(stackshift: Stackshift) -> None:
    """After three deaths without progress, and one more alone in a worker, the run fails."""
    with stackshift.crashing("charge", times=4):
        run = stackshift.start("pay")
    assert run.status == "failed"
    assert run.error is not None
    assert run.error["type"] == "WorkerDied"
    other = stackshift.start("pay")
    assert other.finish().status == "completed"


@pytest.mark.usefixtures("till")
def test_crash_that_does_not_happen_fails_the_test(stackshift: Stackshift) -> None:
    """Otherwise a test of a crash would still pass after its step was renamed."""
    with (
        pytest.raises(AssertionError, match=r"before_record of step 'chargr', but died 0 time"),
        stackshift.crashing("chargr"),
    ):
        stackshift.start("pay")
    with pytest.raises(Usage, match="not a place to crash at"), stackshift.crashing("x", "later"):
        pytest.fail("not reached")


@pytest.mark.usefixtures("till")
def test_failure_in_the_block_is_what_is_told(stackshift: Stackshift) -> None:
    """The test's own failure is reported, not that the worker has not died."""
    with pytest.raises(ZeroDivisionError), stackshift.crashing("charge"):
        raise ZeroDivisionError


@pytest.mark.usefixtures("till")
def test_nothing_dies_after_the_block(stackshift: Stackshift) -> None:
    """A crash can only happen inside its block."""
    with stackshift.crashing("charge"):
        stackshift.start("pay")
    assert "attempt.lost" not in stackshift.start("pay").kinds
