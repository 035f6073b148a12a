"""A run that is cancelled gently: its handler is told, cleans up by steps, and then it is
cancelled."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from stackshift_jobs import AsyncJobContext, Cancelling, ChildFailed, JobContext, Retry, Usage
from stackshift_jobs.testing import Run, Stackshift

Context = JobContext[Any]
AsyncContext = AsyncJobContext[Any]
ONCE = Retry(max_attempts=1)
BOTH = pytest.mark.parametrize("job", ["order", "orderAwaited"])


def steps(run: Run) -> list[tuple[str, str]]:
    """The names and statuses of its steps."""
    return [(name, step.status) for name, step in run.steps.items()]


@pytest.fixture(autouse=True)
def orders(stackshift: Stackshift) -> None:
    """`order` reserves, waits to be paid, and releases what it has reserved if it is cancelled."""

    @stackshift.job("order")
    def order(ctx: Context) -> str:
        ctx.step.run("reserve", lambda: "seat 7")
        try:
            ctx.step.wait_for_event("paid", timeout="1d")
        except Cancelling:
            ctx.step.run("release", lambda: "released")
            ctx.step.sleep("settle", "5s")
            ctx.step.run("tell", lambda: "told")
            raise
        return "sold"

    @stackshift.job("orderAwaited")
    async def order_awaited(ctx: AsyncContext) -> str:
        await ctx.step.run("reserve", lambda: "seat 7")
        try:
            await ctx.step.wait_for_event("paid", timeout="1d")
        except Cancelling:
            await ctx.step.run("release", lambda: "released")
            await ctx.step.sleep("settle", "5s")
            await ctx.step.run("tell", lambda: "told")
            raise
        return "sold"


CLEANED = [
    ("reserve", "completed"),
    ("paid", "cancelled"),
    ("release", "completed"),
    ("settle", "completed"),
    ("tell", "completed"),
]


@BOTH
def test_handler_is_told_at_its_wait_and_cleans_up_by_steps(
    stackshift: Stackshift, job: str
) -> None:
    """And the run is cancelled when it has ended."""
    run = stackshift.start(job)
    assert run.status == "waiting"
    assert run.cancel(gently=True, grace="1m")
    assert run.why_code == "cancelling"
    assert "cancelling, grace ends at 2026-01-05T09:01:00Z" in run.why
    assert run.json["cancelling"]["grace_ends_at"] == "2026-01-05T09:01:00.000000Z"
    assert run.json["cancelling"]["told_at"] == "2026-01-05T09:00:00.000000Z"
    run.finish()
    assert run.status == "cancelled"
    assert steps(run) == CLEANED
    stackshift.assert_replays(run)
    assert run.why == "cancelled: its handler ended within the grace"
    assert run.json["cancelling"] is None
    assert run.json["dead"] is False


@BOTH
@pytest.mark.parametrize("step", ["release", "tell"])
@pytest.mark.parametrize("when", ["before_step", "before_record", "after_record"])
def test_clean_up_survives_the_death_of_the_worker(
    stackshift: Stackshift, job: str, step: str, when: Any
) -> None:
    """Each step of it is recorded once, and so is the place at which the handler was told."""
    run = stackshift.start(job)
    with stackshift.crashing(step, when):
        run.cancel(gently=True, grace="1m")
        run.finish()
    assert run.status == "cancelled"
    assert steps(run) == CLEANED
    assert run.kinds.count("cancel.raised") == 1


@BOTH
def test_clean_up_survives_a_restart_of_the_daemon(stackshift: Stackshift, job: str) -> None:
    """The grace goes on."""
    run = stackshift.start(job)
    run.cancel(gently=True, grace="1m")
    stackshift.restart()
    assert "grace ends at 2026-01-05T09:01:00Z" in run.why
    assert run.finish().status == "cancelled"
    assert steps(run) == CLEANED


@BOTH
def test_what_is_not_cancelled_sees_nothing_of_it(stackshift: Stackshift, job: str) -> None:
    """An event that comes in time ends the wait."""
    run = stackshift.start(job)
    stackshift.events.send("paid")
    assert run.finish().result == "sold"


@BOTH
def test_event_is_left_to_others_by_a_run_that_was_told(stackshift: Stackshift, job: str) -> None:
    """Its wait is withdrawn."""
    run = stackshift.start(job)
    run.cancel(gently=True, grace="1m")
    stackshift.events.send("paid")
    other = stackshift.start(job)
    assert other.finish().result == "sold"
    assert run.finish().status == "cancelled"


def _slow(stackshift: Stackshift, seconds: str, answer: Any = None) -> None:
    """Jobs that never answer in time: they wait on and on, after they were told."""

    @stackshift.job("stubborn")
    def stubborn(ctx: Context) -> Any:
        try:
            ctx.step.sleep("long", "1d")
        except Cancelling:
            ctx.step.sleep("on and on", seconds)
        return answer

    @stackshift.job("stubbornAwaited")
    async def stubborn_awaited(ctx: AsyncContext) -> Any:
        try:
            await ctx.step.sleep("long", "1d")
        except Cancelling:
            await ctx.step.sleep("on and on", seconds)
        return answer


STUBBORN = pytest.mark.parametrize("job", ["stubborn", "stubbornAwaited"])


@STUBBORN
def test_without_an_answer_it_is_cancelled_for_good(stackshift: Stackshift, job: str) -> None:
    """When the grace is over."""
    _slow(stackshift, "1h")
    run = stackshift.start(job)
    run.cancel(gently=True)
    stackshift.advance("29s")
    assert run.status == "waiting"
    assert "sleeping until" in run.why
    stackshift.advance("1s")
    assert run.status == "cancelled"
    assert run.why == "cancelled: its handler did not end within the grace"
    assert run.timeline[-1]["reason"] == "grace"


@STUBBORN
def test_handler_that_returns_after_it_was_told_is_cancelled(
    stackshift: Stackshift, job: str
) -> None:
    """What it returns is dropped."""
    _slow(stackshift, "1s", "an answer")
    run = stackshift.start(job)
    run.cancel(gently=True)
    assert run.finish().status == "cancelled"
    assert run.timeline[-1]["reason"] == "gently"


@STUBBORN
def test_second_cancel_changes_nothing_unless_it_names_a_grace(
    stackshift: Stackshift, job: str
) -> None:
    """That is counted from the second; the handler is told once."""
    _slow(stackshift, "1h")
    run = stackshift.start(job)
    assert run.cancel(gently=True)
    stackshift.advance("10s")
    assert not run.cancel(gently=True)
    assert "09:00:30Z" in run.why
    assert run.cancel(gently=True, grace="5s")
    assert "09:00:15Z" in run.why
    stackshift.advance("5s")
    assert run.status == "cancelled"
    assert run.kinds.count("cancel.raised") == 1


@STUBBORN
def test_cancel_within_the_grace_is_at_once(stackshift: Stackshift, job: str) -> None:
    """It does not wait for the handler."""
    _slow(stackshift, "1h")
    run = stackshift.start(job)
    run.cancel(gently=True)
    assert run.cancel()
    assert run.status == "cancelled"
    assert run.timeline[-1]["reason"] == "requested"
    assert not run.cancel(gently=True)


def test_grace_is_for_gentle_cancels(stackshift: Stackshift) -> None:
    """Otherwise the caller is told."""
    run = stackshift.start("order")
    with pytest.raises(Usage, match="gently"):
        run.cancel(grace="1m")
    assert run.status == "waiting"


def test_run_that_has_not_begun_is_cancelled_at_once(stackshift: Stackshift) -> None:
    """It has nothing to clean up."""
    run = stackshift.start("order", delay="1h")
    assert run.cancel(gently=True)
    assert run.status == "cancelled"
    assert run.timeline[-1]["reason"] == "requested"


@pytest.mark.parametrize("is_async", [False, True])
def test_step_that_executes_is_recorded_and_the_next_call_is_told(
    stackshift: Stackshift, is_async: bool
) -> None:
    """So what was done is known to the clean-up."""
    held: list[Run] = []

    def charge() -> str:
        held[0].cancel(gently=True, grace="1m")
        return "charged"

    if is_async:

        @stackshift.job("pays")
        async def pays_awaited(ctx: AsyncContext) -> None:
            await ctx.step.sleep("begin", "1s")
            try:
                paid = await ctx.step.run("charge", charge)
                await ctx.step.run("ship", lambda: "shipped")
            except Cancelling:
                await ctx.step.run("refund", lambda: f"refunded what was {paid}")
                raise
    else:

        @stackshift.job("pays")
        def pays(ctx: Context) -> None:
            ctx.step.sleep("begin", "1s")
            try:
                paid = ctx.step.run("charge", charge)
                ctx.step.run("ship", lambda: "shipped")
            except Cancelling:
                ctx.step.run("refund", lambda: f"refunded what was {paid}")
                raise

    held.append(stackshift.start("pays"))
    run = held[0].finish()
    assert run.status == "cancelled"
    assert steps(run)[1:] == [("charge", "completed"), ("refund", "completed")]
    assert run.steps["refund"].result == "refunded what was charged"


@pytest.mark.parametrize("is_async", [False, True])
def test_backoff_of_a_step_is_a_wait(stackshift: Stackshift, is_async: bool) -> None:
    """The handler is told at once, and not when the step is tried again."""
    retry = Retry(max_attempts=5, backoff="1h")

    def fail() -> None:
        raise ConnectionError("down")

    if is_async:

        @stackshift.job("backs")
        async def backs_awaited(ctx: AsyncContext) -> None:
            try:
                await ctx.step.run("call", fail, retry=retry)
            except Cancelling:
                await ctx.step.run("clean", lambda: None)
                raise
    else:

        @stackshift.job("backs")
        def backs(ctx: Context) -> None:
            try:
                ctx.step.run("call", fail, retry=retry)
            except Cancelling:
                ctx.step.run("clean", lambda: None)
                raise

    run = stackshift.start("backs")
    assert run.status == "retrying"
    run.cancel(gently=True)
    assert run.status == "cancelled"
    assert steps(run) == [("call", "cancelled"), ("clean", "completed")]


@pytest.mark.parametrize("is_async", [False, True])
def test_run_between_attempts_begins_the_next_at_once(
    stackshift: Stackshift, is_async: bool
) -> None:
    """And is told there, at the first call that is not on record."""
    tried: list[str] = []

    def fail() -> None:
        tried.append("call")
        raise ConnectionError("down")

    policy = Retry(max_attempts=3, backoff="1h")
    if is_async:

        @stackshift.job("again", retry=policy)
        async def again_awaited(ctx: AsyncContext) -> None:
            await ctx.step.run("begin", lambda: None)
            try:
                await ctx.step.run("call", fail)
            except Cancelling:
                await ctx.step.run("clean", lambda: None)
                raise
    else:

        @stackshift.job("again", retry=policy)
        def again(ctx: Context) -> None:
            ctx.step.run("begin", lambda: None)
            try:
                ctx.step.run("call", fail)
            except Cancelling:
                ctx.step.run("clean", lambda: None)
                raise

    run = stackshift.start("again")
    assert run.status == "retrying"
    run.cancel(gently=True)
    assert run.status == "cancelled"
    assert run.attempt == 2
    assert tried == ["call"]
    assert ("clean", "completed") in steps(run)


@pytest.mark.parametrize("is_async", [False, True])
def test_clean_up_that_fails_is_tried_again_and_then_fails_the_run(
    stackshift: Stackshift, is_async: bool
) -> None:
    """A person is to see it: it is in the dead letter."""
    tried: list[str] = []

    def release() -> None:
        tried.append("release")
        raise ConnectionError("down")

    policy = Retry(max_attempts=2, backoff="1s")
    if is_async:

        @stackshift.job("fails", retry=policy)
        async def fails_awaited(ctx: AsyncContext) -> None:
            try:
                await ctx.step.sleep("wait", "1d")
            except Cancelling:
                await ctx.step.run("release", release)
                raise
    else:

        @stackshift.job("fails", retry=policy)
        def fails(ctx: Context) -> None:
            try:
                ctx.step.sleep("wait", "1d")
            except Cancelling:
                ctx.step.run("release", release)
                raise

    run = stackshift.start("fails")
    run.cancel(gently=True)
    run.finish()
    assert run.status == "failed"
    assert run.json["dead"]
    assert tried == ["release"] * 2
    assert run.kinds.count("cancel.raised") == 1


# --- What the exception is -------------------------------------------------------------------


def test_except_exception_does_not_catch_it(stackshift: Stackshift) -> None:
    """It is a `BaseException`, and a `CancelledError`."""
    seen: list[str] = []

    @stackshift.job("loops")
    def loops(ctx: Context) -> None:
        for n in range(100):
            try:
                ctx.step.sleep(f"pause-{n}", "1h")
            except Exception:
                seen.append("swallowed")

    run = stackshift.start("loops")
    run.cancel(gently=True)
    assert run.status == "cancelled"
    assert not seen
    assert issubclass(Cancelling, asyncio.CancelledError)
    assert not issubclass(Cancelling, Exception)


def test_task_group_cancels_its_tasks_and_raises_it_itself(stackshift: Stackshift) -> None:
    """And what its tasks waited for is withdrawn."""

    @stackshift.job("group")
    async def group(ctx: AsyncContext) -> None:
        async def branch(name: str) -> None:
            try:
                await ctx.step.wait_for_event(name)
            except asyncio.CancelledError:
                await ctx.step.run("close", lambda: name)
                raise

        try:
            async with asyncio.TaskGroup() as tasks:
                for name in ("left", "right"):
                    tasks.create_task(branch(name))
        except Cancelling:
            await ctx.step.run("last", lambda: None)
            raise

    run = stackshift.start("group")
    run.cancel(gently=True)
    assert run.finish().status == "cancelled"
    assert steps(run) == [
        ("branch/left", "cancelled"),
        ("branch#2/right", "cancelled"),
        ("branch/close", "completed"),
        ("branch#2/close", "completed"),
        ("last", "completed"),
    ]


@pytest.mark.parametrize(
    "how", ["gather", "wait", "task", "sleep", "timeout", "event", "first", "queue"]
)
def test_whatever_the_handler_awaits_raises_it(stackshift: Stackshift, how: str) -> None:
    """Of asyncio's, and of ours."""

    @stackshift.job("awaits")
    async def awaits(ctx: AsyncContext) -> None:
        def long(name: str) -> Any:
            return ctx.step.sleep(name, "1d")

        try:
            match how:
                case "gather":
                    await asyncio.gather(long("a"), long("b"))
                case "wait":
                    await asyncio.wait([asyncio.ensure_future(long("a"))])
                case "task":
                    await asyncio.create_task(long("a"))
                case "sleep":
                    await asyncio.sleep(86_400)
                case "timeout":
                    async with asyncio.timeout(86_400):
                        await long("a")
                case "event":
                    gone = asyncio.create_task(long("a"))
                    with contextlib.suppress(Exception):
                        await asyncio.Event().wait()
                    await gone
                case "first":
                    await ctx.step.first("which", a=long("a"), b=long("b"))
                case "queue":
                    gone = asyncio.create_task(long("a"))
                    await asyncio.Queue[int]().get()
        except Cancelling:
            async with asyncio.timeout(60):
                await ctx.step.run("clean", lambda: how)
            raise

    run = stackshift.start("awaits")
    assert run.status == "waiting"
    run.cancel(gently=True)
    assert run.finish().status == "cancelled"
    assert ("clean", "completed") in steps(run)
    stackshift.assert_replays(run)


def test_race_of_a_sync_handler_is_withdrawn(stackshift: Stackshift) -> None:
    """All of it, so that it eats no event."""

    @stackshift.job("races")
    def races(ctx: Context) -> None:
        ctx.step.first(
            "which",
            paid=lambda: ctx.step.wait_for_event("paid"),
            late=lambda: ctx.step.sleep("late", "1d"),
        )

    run = stackshift.start("races")
    run.cancel(gently=True)
    assert run.status == "cancelled"
    assert steps(run) == [("paid", "cancelled"), ("late", "cancelled")]


@pytest.mark.parametrize("is_async", [False, True])
def test_items_of_a_map_that_execute_are_recorded_and_no_other_begins(
    stackshift: Stackshift, is_async: bool
) -> None:
    """The map raises it then."""
    held: list[Run] = []
    done: list[int] = []

    def work(item: int) -> int:
        if item == 1:
            held[0].cancel(gently=True)
        done.append(item)
        return item

    if is_async:

        @stackshift.job("maps")
        async def maps_awaited(ctx: AsyncContext) -> None:
            await ctx.step.sleep("begin", "1s")
            try:
                await ctx.step.map("item", work, range(5), concurrency=1)
            except Cancelling:
                await ctx.step.run("clean", lambda: None)
                raise
    else:

        @stackshift.job("maps")
        def maps(ctx: Context) -> None:
            ctx.step.sleep("begin", "1s")
            try:
                ctx.step.map("item", work, range(5), concurrency=1)
            except Cancelling:
                ctx.step.run("clean", lambda: None)
                raise

    held.append(stackshift.start("maps"))
    run = held[0].finish()
    assert run.status == "cancelled"
    assert done == [0, 1]
    assert steps(run)[-1] == ("clean", "completed")


# --- Families --------------------------------------------------------------------------------


@pytest.fixture
def family(stackshift: Stackshift) -> list[str]:
    """`parent` and `parentAwaited` call `child`, which waits; both note when they are told."""
    told: list[str] = []

    @stackshift.job("child")
    def child(ctx: Context) -> str:
        try:
            ctx.step.sleep("long", "1d")
        except Cancelling:
            ctx.step.run("note", lambda: told.append("child"))
            ctx.step.sleep("settle", "5s")
            raise
        return "done"

    @stackshift.job("parent")
    def parent(ctx: Context) -> None:
        ctx.step.run("begin", lambda: None)
        try:
            ctx.step.call("child")
        except Cancelling:
            ctx.step.run("note", lambda: told.append("parent"))
            raise

    @stackshift.job("parentAwaited")
    async def parent_awaited(ctx: AsyncContext) -> None:
        await ctx.step.run("begin", lambda: None)
        try:
            await ctx.step.call("child")
        except Cancelling:
            await ctx.step.run("note", lambda: told.append("parent"))
            raise

    return told


PARENTS = pytest.mark.parametrize("job", ["parent", "parentAwaited"])


@PARENTS
def test_children_are_told_first_and_then_the_parent(
    stackshift: Stackshift, family: list[str], job: str
) -> None:
    """The parent gets `Cancelling`, and not `ChildFailed`, at the call."""
    run = stackshift.start(job)
    run.cancel(gently=True)
    (child,) = run.children
    assert family == ["child"]
    assert f"{child.id} ends first" in run.why
    stackshift.advance("5s")
    assert family == ["child", "parent"]
    assert (child.status, run.status) == ("cancelled", "cancelled")
    ended = [each["run"] for each in stackshift.journal if each["kind"] == "run.cancelled"]
    assert ended == [child.id, run.id]


@PARENTS
def test_child_alone_is_cancelled_gently_too(
    stackshift: Stackshift, family: list[str], job: str
) -> None:
    """Its parent is not cancelled: it gets `ChildFailed`, as from any that was."""
    run = stackshift.start(job)
    run.children[0].cancel(gently=True)
    run.finish()
    assert family == ["child"]
    assert run.status == "failed"
    assert run.error is not None
    assert run.error["type"] == ChildFailed.__name__


@PARENTS
def test_grace_of_a_family_is_one(stackshift: Stackshift, family: list[str], job: str) -> None:
    """When it is over, all of them are cancelled."""
    run = stackshift.start(job)
    run.cancel(gently=True, grace="2s")
    stackshift.advance("2s")
    assert (run.children[0].status, run.status) == ("cancelled", "cancelled")
    assert family == ["child"]


def test_children_that_were_only_started_are_cancelled_on_request(stackshift: Stackshift) -> None:
    """Before their parent; otherwise they live on."""
    ended: list[str] = []

    @stackshift.job("started")
    def started(ctx: Context) -> None:
        try:
            ctx.step.sleep("long", "1d")
        except Cancelling:
            ctx.step.run("note", lambda: ended.append("started"))
            raise

    @stackshift.job("starts")
    def starts(ctx: Context) -> None:
        ctx.step.start("started")
        try:
            ctx.step.sleep("long", "1d")
        except Cancelling:
            ctx.step.run("note", lambda: ended.append("starts"))
            raise

    first = stackshift.start("starts")
    first.cancel(gently=True)
    assert (first.status, first.children[0].status) == ("cancelled", "waiting")
    ended.clear()
    second = stackshift.start("starts")
    second.cancel(gently=True, children=True)
    assert (second.status, second.children[0].status) == ("cancelled", "cancelled")
    assert ended == ["started", "starts"]
    third = stackshift.start("starts")
    third.cancel(children=True)
    assert (third.status, third.children[0].status) == ("cancelled", "cancelled")


@pytest.mark.parametrize("is_async", [False, True])
def test_run_that_would_continue_is_cancelled_instead(
    stackshift: Stackshift, is_async: bool
) -> None:
    """Between two runs of a chain there is nothing to clean up."""
    held: list[Run] = []

    def cancel() -> None:
        if held:
            held[0].cancel(gently=True)

    if is_async:

        @stackshift.job("lives")
        async def lives_awaited(ctx: AsyncContext) -> None:
            await ctx.step.sleep("day", "1d")
            await ctx.step.run("cancel", cancel)
            await ctx.continue_as()
    else:

        @stackshift.job("lives")
        def lives(ctx: Context) -> None:
            ctx.step.sleep("day", "1d")
            ctx.step.run("cancel", cancel)
            ctx.continue_as()

    held.append(stackshift.start("lives"))
    stackshift.advance("1d")
    assert held[0].status == "cancelled"
    assert len(stackshift.runs) == 1


def test_lock_of_a_run_that_was_told_is_held_through_its_clean_up(stackshift: Stackshift) -> None:
    """And goes to the next run when its block is left."""
    order: list[str] = []

    @stackshift.job("locks")
    async def locks(ctx: AsyncContext) -> None:
        async with ctx.state.lock("account"):
            try:
                await ctx.step.sleep("hold", "1h")
            except Cancelling:
                await ctx.step.sleep("settle", "5s")
                await ctx.step.run("clean", lambda: order.append("clean"))
                raise

    @stackshift.job("next")
    def following(ctx: Context) -> None:
        with ctx.state.lock("account"):
            ctx.step.run("mine", lambda: order.append("next"))

    run = stackshift.start("locks")
    other = stackshift.start("next")
    run.cancel(gently=True)
    other.finish()
    assert order == ["clean", "next"]
    assert run.status == "cancelled"


def test_retry_goes_on_from_where_it_was_told(stackshift: Stackshift) -> None:
    """The run is not being cancelled any more: it waits again."""
    run = stackshift.start("order")
    run.cancel(gently=True)
    run.finish()
    run.retry()
    assert run.status == "waiting"
    assert run.json["cancelling"] is None
    stackshift.events.send("paid")
    assert run.finish().result == "sold"
