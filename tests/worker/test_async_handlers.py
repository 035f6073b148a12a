"""What `async def` handlers may do with asyncio, and that a replay does the same."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import pytest

from stackshift_jobs import AsyncJobContext, JobContext, Retry
from stackshift_jobs.testing import Run, Stackshift

Context = AsyncJobContext[Any]
ONCE = Retry(max_attempts=1)


def kinds(stackshift: Stackshift, run: Run) -> list[tuple[str, str | None]]:
    """Kind and step of the records of a run."""
    records = [record for record in stackshift.journal if record.get("run") == run.id]
    return [(record["kind"], record.get("step")) for record in records]


def withdrawn(stackshift: Stackshift, run: Run) -> list[str | None]:
    """The calls that a run has withdrawn, in order."""
    return [step for kind, step in kinds(stackshift, run) if kind == "call.withdrawn"]


# --- Order ---------------------------------------------------------------------------------


def test_race_takes_the_same_branch_on_every_pass(stackshift: Stackshift) -> None:
    """An event that arrives after the sleep has won does not win on a later pass
    (guarantee: recorded order)."""

    @stackshift.job("race")
    async def race(ctx: Context) -> str:
        answer = asyncio.create_task(ctx.step.wait_for_event("answer"))
        timer = asyncio.create_task(ctx.step.sleep("patience", "1s"))
        done, _ = await asyncio.wait({answer, timer}, return_when=asyncio.FIRST_COMPLETED)
        if answer in done:
            return await ctx.step.run("thank", lambda: "thanked")
        await ctx.step.run("remind", lambda: "reminded")
        await ctx.step.sleep("rest", "5s")
        return "reminded"

    run = stackshift.start("race")
    stackshift.advance("3s")
    stackshift.events.send("answer")
    stackshift.advance("5s")
    assert run.result == "reminded"
    assert ("step.completed", "thank") not in kinds(stackshift, run)


def test_failed_group_does_not_turn_a_limit_into_a_cancel(stackshift: Stackshift) -> None:
    """A task group that has failed while its handler waited for it leaves no cancel behind, on
    every version of Python: a limit around it that passes later is a `TimeoutError`."""

    async def fails() -> None:
        raise ValueError("no")

    @stackshift.job("limited", retry=ONCE)
    async def limited(ctx: Context) -> str:
        try:
            async with asyncio.timeout(60):
                try:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(fails())
                except* ValueError:
                    await ctx.step.run("note", lambda: "failed")
                await ctx.step.sleep("long", "1h")
        except TimeoutError:
            return "late"
        return "in time"

    assert stackshift.start("limited").finish().result == "late"


def test_cancel_is_not_swallowed_by_a_group_that_fails(stackshift: Stackshift) -> None:
    """A limit that passes while a group winds up, and fails, still ends what it is around."""

    async def fails_late(ctx: Context) -> None:
        try:
            await ctx.step.sleep("forever", "9d")
        finally:
            raise ValueError("no")

    @stackshift.job("limited", retry=ONCE)
    async def limited(ctx: Context) -> str:
        try:
            async with asyncio.timeout(60):
                try:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(fails_late(ctx))
                except* ValueError:
                    pass
                await ctx.step.sleep("long", "1h")
        except TimeoutError:
            return "late"
        return "in time"

    assert stackshift.start("limited").finish().result == "late"


@pytest.mark.parametrize("names", [["slow", "fast"], ["fast", "slow"]])
def test_shared_list_has_the_order_of_the_first_pass(
    stackshift: Stackshift, names: list[str]
) -> None:
    """Steps that ended in one order are seen in that order when they are on record."""
    release: dict[str, asyncio.Event] = {}

    async def wait(name: str) -> str:
        if name == "fast":
            release["slow"].set()
        else:
            await release["slow"].wait()
        return name

    @stackshift.job("order")
    async def order(ctx: Context) -> list[str]:
        release.setdefault("slow", asyncio.Event())
        seen: list[str] = []

        async def one(name: str) -> None:
            seen.append(await ctx.step.run(name, wait, name))

        await asyncio.gather(*map(one, names))
        await ctx.step.run(f"prize-{seen[0]}", int)
        await ctx.step.sleep("rest", "1s")
        return seen

    run = stackshift.start("order")
    stackshift.advance("1s")
    assert run.result == ["fast", "slow"]
    assert [step for _, step in kinds(stackshift, run) if step and "prize" in step] == [
        "prize-fast"
    ]


def test_handler_that_waits_by_asyncios_own_means_is_suspended(stackshift: Stackshift) -> None:
    """Lock, Semaphore, Queue and as_completed between branches that wait durably."""

    @stackshift.job("means")
    async def means(ctx: Context) -> Any:
        limit, lock, queue = asyncio.Semaphore(1), asyncio.Lock(), asyncio.Queue[int](1)

        async def one(hours: int) -> int:
            async with limit:
                await ctx.step.sleep("nap", f"{hours}h")
            await queue.put(hours)
            async with lock:
                await ctx.step.sleep("rest", f"{hours}h")
            return hours

        async def consume() -> list[int]:
            return [await queue.get() for _ in range(3)]

        consumer = asyncio.create_task(consume())
        ended = [await each for each in asyncio.as_completed([one(3), one(1), one(2)])]
        return [ended, await consumer]

    run = stackshift.start("means")
    assert run.status == "waiting"
    stackshift.advance("20h")
    assert run.result == [[3, 1, 2], [3, 1, 2]]


# --- Branches ------------------------------------------------------------------------------


def test_same_names_in_several_branches_are_different_steps(stackshift: Stackshift) -> None:
    """A task is known by its function and occurrence; a failed step is repeated in its branch."""
    tried: list[int] = []

    @stackshift.job("indexing", retry=Retry(max_attempts=3, backoff="1s", jitter=0))
    async def indexing(ctx: Context) -> list[int]:
        async def index(page: int) -> int:
            async def fetch() -> int:
                tried.append(page)
                if page == 1 and tried.count(1) < 3:
                    raise ConnectionError("not yet")
                return page

            return await ctx.step.run("fetch", fetch)

        return list(await asyncio.gather(*(index(page) for page in range(3))))

    run = stackshift.start("indexing")
    stackshift.advance("1m")
    assert run.result == [0, 1, 2]
    assert tried == [0, 1, 2, 1, 1]
    completed = [step for kind, step in kinds(stackshift, run) if kind == "step.completed"]
    assert completed == ["index/fetch", "index#3/fetch", "index#2/fetch"]


def test_branches_within_branches_have_longer_names(stackshift: Stackshift) -> None:
    """The handler itself has no prefix; what a call is given as its task makes no branch."""

    @stackshift.job("nested")
    async def nested(ctx: Context) -> None:
        async def leaf() -> None:
            await ctx.step.run("do", int)
            await ctx.now()

        async def inner() -> None:
            await asyncio.gather(leaf(), leaf())

        async with asyncio.TaskGroup() as group:
            group.create_task(inner())
            group.create_task(ctx.step.run("do", int))

    run = stackshift.start("nested")
    assert run.status == "completed"
    assert sorted(step for _, step in kinds(stackshift, run) if step) == [
        "do",
        "inner/leaf#2/[now]",
        "inner/leaf#2/do",
        "inner/leaf/[now]",
        "inner/leaf/do",
    ]


def test_wait_for_makes_no_branch(stackshift: Stackshift) -> None:
    """On every version of Python a coroutine runs where `wait_for` is awaited."""

    @stackshift.job("limited")
    async def limited(ctx: Context) -> int:
        async def inner() -> int:
            return await ctx.step.run("do", lambda: 1)

        return await asyncio.wait_for(inner(), 5)

    run = stackshift.start("limited")
    assert run.result == 1
    assert ("step.completed", "do") in kinds(stackshift, run)


# --- Time ----------------------------------------------------------------------------------


async def _timeout(ctx: Context) -> str:
    async with asyncio.timeout(3600):
        await ctx.step.wait_for_event("never")
    return "came"


async def _wait_for(ctx: Context) -> str:
    await asyncio.wait_for(ctx.step.sleep("long", "1d"), 3600)
    return "slept"


async def _wait(ctx: Context) -> str:
    task = asyncio.create_task(ctx.step.wait_for_event("never"))
    done, _ = await asyncio.wait({task}, timeout=3600)
    if not done:
        raise TimeoutError
    return "came"


@pytest.mark.parametrize("limited", [_timeout, _wait_for, _wait])
def test_limits_of_asyncio_count_while_the_run_is_suspended(
    stackshift: Stackshift, limited: Callable[[Context], Awaitable[str]]
) -> None:
    """And while the daemon is down; what they limit is withdrawn."""

    @stackshift.job("limited", retry=ONCE)
    async def job(ctx: Context) -> str:
        try:
            return await limited(ctx)
        except TimeoutError:
            await asyncio.sleep(60)
            return "late"

    run = stackshift.start("limited")
    assert run.status == "waiting"
    stackshift.restart(down_for="59m")
    assert run.status == "waiting"
    stackshift.advance("2m1s")
    assert run.result == "late"
    assert withdrawn(stackshift, run) in (["never"], ["long"])


def test_limit_that_failed_an_attempt_is_set_anew_by_the_next(stackshift: Stackshift) -> None:
    """A retry after a timeout has as much time as the first attempt."""

    @stackshift.job("limited", retry=Retry(max_attempts=3, backoff="10m", jitter=0))
    async def limited(ctx: Context) -> str:
        async with asyncio.timeout(60):
            await ctx.step.wait_for_event("go")
        return "went"

    run = stackshift.start("limited")
    stackshift.advance("11m")
    assert (run.status, run.attempt) == ("waiting", 2)
    stackshift.advance("30s")
    stackshift.events.send("go")
    assert run.result == "went"


def test_deadline_is_one_moment_on_every_pass(stackshift: Stackshift) -> None:
    """`loop.time()` is the time of the outcome that the handler has seen last."""

    @stackshift.job("deadline", retry=ONCE)
    async def deadline(ctx: Context) -> int:
        until = asyncio.get_running_loop().time() + 150
        for turn in range(10):
            try:
                async with asyncio.timeout_at(until):
                    await ctx.step.sleep("turn", "1m")
            except TimeoutError:
                return turn
        return -1

    run = stackshift.start("deadline")
    stackshift.advance("1h")
    assert run.result == 2


# --- What is given up ----------------------------------------------------------------------


def test_cancelled_wait_takes_no_event(stackshift: Stackshift) -> None:
    """The event is kept for the wait that comes after it (guarantee: withdrawal)."""

    @stackshift.job("ghost")
    async def ghost(ctx: Context) -> bool:
        first = asyncio.create_task(ctx.step.wait_for_event("answer", name="first", timeout="2s"))
        await asyncio.sleep(1)
        first.cancel()
        await ctx.step.sleep("busy", "5s")
        return bool(await ctx.step.wait_for_event("answer", name="second", timeout="3s"))

    run = stackshift.start("ghost")
    stackshift.advance("2s")
    assert stackshift.events.send("answer").kept_until is not None
    stackshift.advance("10s")
    assert run.result is True
    assert withdrawn(stackshift, run) == ["first"]


def test_cancelled_call_cancels_its_child(stackshift: Stackshift) -> None:
    """And only the one that it has started."""

    @stackshift.job("child")
    async def child(ctx: Context) -> None:
        await ctx.step.sleep("nap", "1h")

    @stackshift.job("parent")
    async def parent(ctx: Context) -> str:
        other = await ctx.step.start("child", name="other")
        try:
            async with asyncio.timeout(5):
                await asyncio.gather(ctx.step.call("child"), ctx.step.result(other))
        except TimeoutError:
            return "late"
        return "ended"

    run = stackshift.start("parent")
    stackshift.advance("1m")
    assert run.result == "late"
    assert [each.status for each in stackshift.runs_of("child")] == ["waiting", "cancelled"]


def test_cancelled_wait_for_a_lock_leaves_the_line(stackshift: Stackshift) -> None:
    """The lock goes to the next in its line."""

    @stackshift.job("holds")
    async def holds(ctx: Context) -> None:
        async with ctx.state.lock("k"):
            await ctx.step.sleep("nap", "1h")

    @stackshift.job("gives-up")
    async def gives_up(ctx: Context) -> None:
        try:
            async with asyncio.timeout(5), ctx.state.lock("k"):
                raise AssertionError("it is held")
        except TimeoutError:
            await ctx.step.sleep("long", "2d")

    for job in ("holds", "gives-up", "holds"):
        stackshift.start(job)
    stackshift.advance("90m")
    assert [run.status for run in stackshift.runs_of("holds")] == ["completed", "waiting"]
    stackshift.advance("1h")
    assert [run.status for run in stackshift.runs_of("holds")] == ["completed", "completed"]


def test_task_cancelled_before_its_first_turn_has_forgotten_nothing(
    stackshift: Stackshift,
) -> None:
    """On a pass that has everything on record, a task group may cancel a task that never began."""

    @stackshift.job("group")
    async def group(ctx: Context) -> str:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(ctx.step.sleep("beside", "10h"))
                await ctx.step.run("one", lambda: 1)
                raise ValueError("stop")
        except* ValueError:
            pass
        never = asyncio.create_task(ctx.step.sleep("never", "10h"))
        never.cancel()
        await ctx.step.sleep("later", "1h")
        return "fine"

    run = stackshift.start("group")
    stackshift.advance("1h")
    assert run.result == "fine"
    assert withdrawn(stackshift, run) == ["beside"]


def test_task_left_behind_is_given_up_and_the_log_says_so(stackshift: Stackshift) -> None:
    """A handler that returns before its tasks have ended does not wait for them."""

    @stackshift.job("leaves")
    async def leaves(ctx: Context) -> str:
        async def beside() -> None:
            await ctx.step.sleep("nap", "1h")

        asyncio.create_task(beside())  # noqa: RUF006  # which is what this is about
        await ctx.step.run("one", int)
        return "left"

    run = stackshift.start("leaves")
    assert run.result == "left"
    assert withdrawn(stackshift, run) == ["beside/nap"]
    lines = stackshift.call("run.logs", run=run.id)["lines"]
    assert any("tasks had ended: beside" in line["message"] for line in lines)


# --- What is refused -----------------------------------------------------------------------


async def _connect() -> None:
    await asyncio.open_connection("localhost", 1)


@pytest.mark.parametrize(
    "asks",
    [
        lambda: asyncio.to_thread(int),
        _connect,
        lambda: asyncio.create_subprocess_exec("true"),
        lambda: asyncio.get_running_loop().run_in_executor(None, int),
        lambda: asyncio.get_running_loop().getaddrinfo("localhost", 1),
    ],
    ids=["to_thread", "connect", "program", "executor", "resolve"],
)
def test_world_is_refused_outside_of_steps(stackshift: Stackshift, asks: Any) -> None:
    """At once, for good, and with the way to do it; within a step it works."""

    @stackshift.job("outside")
    async def outside(_ctx: Context) -> None:
        await asks()

    @stackshift.job("inside")
    async def inside(ctx: Context) -> int:
        return await ctx.step.run("do", asyncio.to_thread, lambda: 7)

    run = stackshift.start("outside")
    assert (run.status, run.attempt) == ("failed", 1)
    assert run.error is not None
    assert run.error["type"] == "InsideHandler"
    assert "an async handler called loop." in run.error["message"]
    assert stackshift.start("inside").result == 7


def test_handler_that_never_rests_fails(stackshift: Stackshift) -> None:
    """It is not left to keep its worker from everybody else."""

    @stackshift.job("spins")
    async def spins(_ctx: Context) -> None:
        while True:
            await asyncio.sleep(0)

    run = stackshift.start("spins")
    assert (run.status, run.attempt) == ("failed", 1)
    assert run.error is not None
    assert "without coming to rest" in run.error["message"]


def test_handler_that_nothing_can_wake_fails(stackshift: Stackshift) -> None:
    """Such as two branches that wait for each other."""

    @stackshift.job("stranded")
    async def stranded(_ctx: Context) -> None:
        await asyncio.Event().wait()

    run = stackshift.start("stranded")
    assert (run.status, run.attempt) == ("failed", 1)
    assert run.error is not None
    assert "nothing can bring" in run.error["message"]


def test_loop_that_catches_everything_fails_and_disturbs_nobody(stackshift: Stackshift) -> None:
    """It would catch its own suspension for ever."""

    @stackshift.job("polls")
    async def polls(ctx: Context) -> None:
        while True:
            try:
                await ctx.step.sleep("pause", "1s")
            except:  # noqa: E722  # the mistake
                continue

    @stackshift.job("returns")
    async def returns(ctx: Context) -> str:
        try:
            await ctx.step.sleep("pause", "1s")
        except BaseException:
            return "too early"
        return "slept"

    for job in ("polls", "returns"):
        run = stackshift.start(job)
        assert (run.status, run.attempt) == ("failed", 1)
        assert run.error is not None
        assert "except BaseException" in run.error["message"]


NEVER_ENDS = """
import types

from stackshiftd.worker.loop.handler_loop import _close


@types.coroutine
def nothing():
    yield


async def polls():
    while True:
        try:
            await nothing()
        except:
            continue


made = polls()
made.send(None)
print(_close(made))
"""


def test_loop_that_catches_everything_keeps_no_process_from_ending() -> None:
    """When the interpreter ends, what the handler calls is gone, and each call raises at once."""
    code = [sys.executable, "-c", NEVER_ENDS]
    done = subprocess.run(code, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("None\n", "", 0)


def test_threads_loop_that_catches_everything_is_abandoned(stackshift: Stackshift) -> None:
    """A `def` handler that goes round and round is failed, and its thread stands still."""

    @stackshift.job("polls")
    def polls(ctx: JobContext[Any]) -> None:
        while True:
            try:
                ctx.step.sleep("pause", "1s")
            except:  # noqa: E722  # the mistake
                continue

    run = stackshift.start("polls")
    assert (run.status, run.attempt) == ("failed", 1)
    assert run.error is not None
    assert "except BaseException" in run.error["message"]


def test_cancelled_error_is_not_seen_by_a_handler_that_is_suspended(
    stackshift: Stackshift,
) -> None:
    """What a handler does when it is cancelled, it does only then."""

    @stackshift.job("careful")
    async def careful(ctx: Context) -> str:
        try:
            await ctx.step.sleep("nap", "1h")
        except asyncio.CancelledError:
            return "cancelled"
        return "slept"

    run = stackshift.start("careful")
    stackshift.advance("1h")
    assert run.result == "slept"


# --- Steps ---------------------------------------------------------------------------------


def test_context_variables_are_those_of_the_task(stackshift: Stackshift) -> None:
    """A step's function sees them; what it sets is its own. A `finally` block can reset them."""
    name: ContextVar[str] = ContextVar("name", default="nobody")

    @stackshift.job("names")
    async def names(ctx: Context) -> list[str]:
        token = name.set("ada")
        try:

            async def fn() -> str:
                seen = name.get()
                name.set("bob")
                return seen

            first = await ctx.step.run("first", fn)
            second = await ctx.step.run("second", name.get)
            await ctx.step.sleep("nap", "1h")
            return [first, second, name.get()]
        finally:
            name.reset(token)

    run = stackshift.start("names")
    stackshift.advance("1h")
    assert run.result == ["ada", "ada", "ada"]


def test_wait_for_a_thread_does_not_count_towards_a_timeout(stackshift: Stackshift) -> None:
    """More `def` items than threads, each within its own time."""
    together = threading.Barrier(8)

    def item(number: int) -> int:
        together.wait()
        return number

    @stackshift.job("wide", retry=ONCE)
    async def wide(ctx: Context) -> int:
        items = range(128)
        return len(await ctx.step.map("m", item, items, concurrency=128, timeout="8s"))

    assert stackshift.start("wide").result == 128


def test_event_that_came_too_late_to_be_seen_goes_to_the_next_wait(
    stackshift: Stackshift,
) -> None:
    """The limit had passed already when the event ended the wait, since the run was in the queue:
    it is kept, in its place among others, and not lost."""
    blocks = threading.Event()
    begun = threading.Event()

    @stackshift.job("blocks")
    async def block(ctx: Context) -> None:
        def fn() -> None:
            begun.set()
            blocks.wait()

        await ctx.step.sleep("nap", "1m")
        await ctx.step.run("block", fn)

    @stackshift.job("waits")
    async def waits(ctx: Context) -> list[Any]:
        try:
            async with asyncio.timeout(60):
                await ctx.step.wait_for_event("answer", name="first")
        except TimeoutError:
            pass
        await ctx.step.sleep("rest", "1h")
        return [(await ctx.step.wait_for_event("answer", name=f"{n}")).payload for n in range(2)]

    stackshift.start("blocks")
    run = stackshift.start("waits")

    def send() -> None:
        begun.wait()
        for number in range(2):
            stackshift._bench.call("event.send", b'{"name":"answer","payload":%d}' % number)
        blocks.set()

    sender = threading.Thread(target=send)
    sender.start()
    stackshift.advance("61s")
    sender.join()
    stackshift.advance("2h")
    assert run.result == [0, 1]
    assert ("event.returned", "first") in kinds(stackshift, run)
