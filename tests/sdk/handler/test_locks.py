"""Locks that a handler holds: across passes, after normal and other exits, and when lost.

`record.busy` are locks that another has; `record.clock` is the time by which a lock runs out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sdk.handler.daemon_answers import token
from sdk.handler.passes import START_US, Ended, Record, play, play_async
from stackshift_jobs import (
    AsyncJobContext,
    JobContext,
    LockHeld,
    LockLost,
    ReplayError,
    Retry,
    StepFailed,
    Usage,
)
from stackshift_jobs.handler.ops import RecordedCall, RecordResult
from stackshift_jobs.values.strict_json import dumps

Context = JobContext[Any]
ASKED = ("[lock k]", "lock.acquire", {"key": "k", "ttl_ms": 0, "wait_ms": None})
LEFT = ("", "lock.release", {"lock": "[lock k]", "raised": False})
RAISED = ("", "lock.release", {"lock": "[lock k]", "raised": True})
START = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=START_US)


def check(step: str) -> tuple[str, str, Any]:
    """The request by which the call `step` checks that the lock `k` is still held."""
    return (step, "lock.check", {"lock": "[lock k]"})


# --- Taken and left ------------------------------------------------------------------------


def test_lock_is_acquired_once_and_released_once() -> None:
    """A later pass asks for nothing, and has the same token."""
    record = Record()

    def handler(ctx: Context) -> Any:
        with ctx.state.lock("k") as lock:
            ctx.step.run("s", int)
            return lock.token, lock.expires_at, lock.key

    assert play(handler, record) == play(handler, record) == Ended((1, None, "k"))
    assert record.asked() == [ASKED, LEFT]
    assert record.calls() == ["s"]
    assert record.recorded_calls["[lock k]"].phase == "released"


def test_async_lock_is_acquired_once_and_released_once() -> None:
    """It behaves like that of a `def` handler."""
    record = Record()

    async def handler(ctx: AsyncJobContext[Any]) -> Any:
        async with ctx.state.lock("k", ttl="1m") as lock:
            await ctx.step.run("s", int)
            return lock.token, lock.expires_at

    expected = Ended((1, START + timedelta(minutes=1)))
    assert play_async(handler, record) == play_async(handler, record) == expected
    asked = ("[lock k]", "lock.acquire", {"key": "k", "ttl_ms": 60_000, "wait_ms": None})
    assert record.asked() == [asked, LEFT]


def test_wait_for_a_held_lock_is_durable() -> None:
    """The pass ends, and the record brings the lock."""
    record = Record()
    record.busy.add("k")

    def handler(ctx: Context) -> int:
        with ctx.state.lock("k", wait="5m") as lock:
            ctx.step.run("s", int)
            return lock.token

    assert play(handler, record) == Ended(parked=("[lock k]",))
    assert record.asked() == [(*ASKED[:2], {**ASKED[2], "wait_ms": 300_000})]
    assert play(handler, record) == Ended(parked=("[lock k]",))
    record.recorded_calls["[lock k]"] = token(record, "k", 0)
    assert play(handler, record) == play(handler, record) == Ended(1)
    assert record.asked()[1:] == [LEFT]
    assert record.calls() == ["s"]


def test_lock_that_was_not_acquired_in_time_raises_on_every_pass() -> None:
    """It raises `LockHeld`, which names the holder."""
    record = Record()
    record.busy.add("k")

    def handler(ctx: Context) -> None:
        with ctx.state.lock("k", wait=1):
            raise AssertionError("it was not had")

    play(handler, record)
    error = LockHeld("held by run_2", owner="run_2").as_json()
    record.recorded_calls["[lock k]"] = RecordedCall("lock", "failed", dumps(error))
    for _ in range(2):
        held = play(handler, record).error
        assert isinstance(held, LockHeld)
        assert (held.owner, held.fields["step"]) == ("run_2", "[lock k]")
    assert len(record.told) == 1


def test_lock_that_is_not_waited_for_is_refused_at_once_and_on_every_pass() -> None:
    """With `wait=0` the handler can do something else, and does the same on a replay."""
    record = Record()
    record.refusals["[lock k]"] = LockHeld("held by run_2", owner="run_2")

    def handler(ctx: Context) -> str:
        try:
            with ctx.state.lock("k", wait=0):
                return "mine"
        except LockHeld as held:
            return str(held.owner)

    assert play(handler, record) == Ended("run_2")
    record.refusals.clear()
    assert play(handler, record) == Ended("run_2")
    assert record.asked() == [(*ASKED[:2], {**ASKED[2], "wait_ms": 0})]


def test_lock_is_kept_during_a_wait_in_its_block() -> None:
    """Unwinding releases nothing and asks for nothing."""
    record = Record()

    def handler(ctx: Context) -> str:
        with ctx.state.lock("k"):
            ctx.step.sleep("nap", 1)
            ctx.step.run("s", int)
        return "done"

    assert play(handler, record) == Ended(parked=("nap",))
    assert record.asked() == [ASKED]
    record.ends("nap")
    assert play(handler, record) == Ended("done")
    assert record.asked() == [ASKED, LEFT]


def test_async_lock_is_kept_during_a_wait_in_its_block() -> None:
    """Its tasks are cancelled, which does not leave the block for good."""
    record = Record()

    async def handler(ctx: AsyncJobContext[Any]) -> str:
        async with ctx.state.lock("k"):
            await ctx.step.sleep("nap", 1)
        return "done"

    assert play_async(handler, record) == Ended(parked=("nap",))
    assert record.asked() == [ASKED]
    record.ends("nap")
    assert play_async(handler, record) == Ended("done")
    assert record.asked() == [ASKED, LEFT]


def test_lock_in_a_finally_asks_for_nothing_while_the_pass_is_unwound() -> None:
    """Every call unwinds again, also one that acquires a lock."""
    record = Record()

    def handler(ctx: Context) -> None:
        try:
            ctx.step.sleep("nap", 1)
        finally:
            with ctx.state.lock("k"):
                raise AssertionError("nobody may have a lock while the pass is left")

    assert play(handler, record) == Ended(parked=("nap",))
    assert record.asked() == []


def test_lock_is_released_when_an_exception_leaves_its_block() -> None:
    """Others need not wait for the run's next attempt, and the exception propagates."""
    record = Record()

    def fails() -> None:
        raise ValueError("boom")

    def handler(ctx: Context) -> None:
        with ctx.state.lock("k"):
            ctx.step.run("s", fails)

    assert isinstance(play(handler, record).error, StepFailed)
    assert record.asked() == [ASKED, RAISED]
    assert record.recorded_calls["[lock k]"].phase == "gone"


def test_exception_that_was_caught_outside_of_the_block_replays() -> None:
    """The lock is no longer held, but what was recorded under it is still answered."""
    record = Record()

    def fails() -> None:
        raise ValueError("boom")

    def handler(ctx: Context) -> str:
        with suppress(StepFailed), ctx.state.lock("k"):
            ctx.step.run("s", fails)
        ctx.step.sleep("nap", 1)
        return "done"

    assert play(handler, record) == Ended(parked=("nap",))
    record.ends("nap")
    assert play(handler, record) == Ended("done")
    assert record.asked() == [ASKED, RAISED]


def test_cancelled_task_releases_its_lock() -> None:
    """A branch that the handler itself cancels has left its block for good."""
    record = Record()

    async def handler(ctx: AsyncJobContext[Any]) -> str:
        async def branch() -> None:
            async with ctx.state.lock("k"):
                await asyncio.get_running_loop().create_future()

        task = asyncio.ensure_future(branch())
        await ctx.step.run("s", int)
        await ctx.step.run("t", int)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        return "done"

    assert play_async(handler, record) == Ended("done")
    assert record.asked() == [ASKED, RAISED]


def test_lock_can_be_acquired_again_after_its_block() -> None:
    """The second time is another call."""
    record = Record()

    def handler(ctx: Context) -> list[int]:
        tokens = []
        for n in range(2):
            with ctx.state.lock("k") as lock:
                ctx.step.run(f"s{n}", int)
                tokens.append(lock.token)
        return tokens

    first = play(handler, record)
    assert play(handler, record) == first
    assert first.value == sorted(set(first.value))
    assert [step for step, method, _ in record.asked() if method == "lock.acquire"] == [
        "[lock k]",
        "[lock k]#2",
    ]


# --- Lost ----------------------------------------------------------------------------------


CALLS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "run": ("other", lambda ctx: ctx.step.run("other", int)),
    "sleep": ("other", lambda ctx: ctx.step.sleep("other", 1)),
    "start": ("other", lambda ctx: ctx.step.start("job", name="other")),
    "call": ("other", lambda ctx: ctx.step.call("job", name="other")),
    "result": ("other", lambda ctx: ctx.step.result("run_2", name="other")),
    "event": ("other", lambda ctx: ctx.step.wait_for_event("other")),
    "now": ("[now]", lambda ctx: ctx.now()),
    "uuid": ("[uuid]", lambda ctx: ctx.uuid()),
    "get": ("[state.get x]", lambda ctx: ctx.state.get("x")),
    "set": ("[state.set x]", lambda ctx: ctx.state.set("x", 1)),
    "list": ("[state.list x]", lambda ctx: ctx.state.list("x")),
    "send": ("[event.send x]", lambda ctx: ctx.events.send("x")),
    "lock": ("[lock x]", lambda ctx: ctx.state.lock("x").__enter__()),
}


@pytest.mark.parametrize("name", CALLS)
def test_first_call_after_the_lock_ran_out_raises_and_does_nothing(name: str) -> None:
    """Whatever call it is, and on every later pass again."""
    step, call = CALLS[name]
    record = Record()

    def handler(ctx: Context) -> None:
        with ctx.state.lock("k", ttl="30s"):
            ctx.step.run("long", record.clock.pass_, 30)
            call(ctx)

    for _ in range(2):
        lost = play(handler, record).error
        assert isinstance(lost, LockLost)
        assert (lost.key, lost.fields["step"]) == ("k", step)
    assert record.calls() == ["long"]
    assert record.kinds() == ["Ask", "RecordResult", "Ask"]
    assert record.asked()[1] == check(step)


def test_item_of_a_map_does_not_run_once_the_lock_is_lost() -> None:
    """This holds on the threads of a map, too."""
    record = Record()

    def handler(ctx: Context) -> None:
        with ctx.state.lock("k", ttl="30s"):
            ctx.step.map("item", lambda _n: record.clock.pass_(20), range(3), concurrency=1)

    assert isinstance(play(handler, record).error, LockLost)
    assert record.calls() == ["item[0]", "item[1]"]


def test_step_is_not_tried_again_once_the_lock_is_lost() -> None:
    """The backoff may be longer than the ttl of the lock."""
    record = Record()

    def handler(ctx: Context) -> None:
        def fails() -> None:
            raise ValueError("boom")

        with ctx.state.lock("k", ttl="30s"):
            ctx.step.run("s", fails, retry=Retry(max_attempts=2))

    assert play(handler, record) == Ended(parked=("s",))
    record.clock.pass_(30)
    record.ends("s")
    for _ in range(2):
        assert isinstance(play(handler, record).error, LockLost)
    assert record.calls() == ["s"]


def test_lock_that_the_daemon_says_is_gone_is_lost_whatever_the_clock_says() -> None:
    """The daemon may say so in the middle of a step."""
    record = Record()

    def gone() -> None:
        record.settle("[lock k]", record.recorded_calls["[lock k]"]._replace(phase="gone"))

    def handler(ctx: Context) -> None:
        with ctx.state.lock("k", ttl="30s"):
            ctx.step.run("s", gone)
            ctx.step.run("t", int)

    assert isinstance(play(handler, record).error, LockLost)
    assert record.calls() == ["s"]
    assert [step for step, *_ in record.asked()] == ["[lock k]", "t"]


def test_clock_that_is_ahead_of_the_daemons_loses_no_lock() -> None:
    """The daemon is asked, and says that the lock is still held."""
    record = Record()

    def ahead() -> None:
        record.recorded_calls["[lock k]"] = record.recorded_calls["[lock k]"]._replace(
            due_us=START_US + 10**9
        )
        record.clock.pass_(31)

    def handler(ctx: Context) -> str:
        with ctx.state.lock("k", ttl="30s"):
            ctx.step.run("s", ahead)
            ctx.step.run("t", int)
        return "done"

    assert play(handler, record) == Ended("done")
    assert record.asked()[1:] == [check("t"), LEFT]
    assert record.calls() == ["s", "t"]


def test_lock_that_ran_out_within_its_block_raises_at_its_end_on_every_pass() -> None:
    """Another holder may have done the last thing as well."""
    record = Record()

    def handler(ctx: Context) -> str:
        try:
            with ctx.state.lock("k", ttl="30s"):
                ctx.step.run("long", record.clock.pass_, 30)
        except LockLost as lost:
            return lost.message
        return "kept"

    first = play(handler, record)
    assert "'k' expired at 2026-11-18T" in first.value
    assert play(handler, record) == first
    assert record.asked()[1:] == [LEFT]


def test_exception_in_the_block_is_not_replaced_by_the_loss_of_the_lock() -> None:
    """The exception says more."""
    record = Record()

    def handler(ctx: Context) -> None:
        with ctx.state.lock("k", ttl="30s"):
            ctx.step.run("long", record.clock.pass_, 30)
            raise ValueError("boom")

    for _ in range(2):
        assert isinstance(play(handler, record).error, ValueError)


def test_recorded_calls_are_answered_even_after_the_lock_is_lost() -> None:
    """A replay takes the same path as the first pass."""
    record = Record()

    def handler(ctx: Context) -> str:
        try:
            with ctx.state.lock("k", ttl="30s"):
                ctx.step.run("s", int)
                ctx.step.run("long", record.clock.pass_, 30)
                ctx.step.run("t", int)
        except LockLost:
            ctx.step.run("amends", int)
        ctx.step.sleep("nap", 1)
        return "done"

    assert play(handler, record) == Ended(parked=("nap",))
    record.ends("nap")
    assert play(handler, record) == Ended("done")
    assert record.calls() == ["s", "long", "amends"]


def test_lock_that_ran_out_during_a_wait_is_lost_at_the_next_call() -> None:
    """The next pass knows from the record when the lock ends."""
    record = Record()

    def handler(ctx: Context) -> None:
        with ctx.state.lock("k", ttl="30s"):
            ctx.step.sleep("nap", 60)
            ctx.step.run("s", int)

    play(handler, record)
    record.clock.pass_(60)
    record.ends("nap")
    assert isinstance(play(handler, record).error, LockLost)
    assert record.calls() == []


def test_call_in_a_step_is_refused_once_the_lock_is_lost() -> None:
    """A function that outlasts the lock must not overwrite what the next holder wrote."""
    record = Record()

    def handler(ctx: Context) -> None:
        def work() -> None:
            record.clock.pass_(30)
            ctx.state.set("x", 1)

        with ctx.state.lock("k", ttl="30s"):
            ctx.step.run("s", work)

    failed = play(handler, record).error
    assert isinstance(failed, StepFailed)
    assert failed.type == "LockLost"
    assert record.asked() == [(*ASKED[:2], {**ASKED[2], "ttl_ms": 30_000}), check("")]


def test_branch_outside_of_the_block_does_not_need_the_lock() -> None:
    """Only calls within the block depend on the lock."""
    record = Record()

    async def handler(ctx: AsyncJobContext[Any]) -> str:
        left = asyncio.Event()

        async def holds() -> None:
            async with ctx.state.lock("k", ttl="30s"):
                await ctx.step.run("long", record.clock.pass_, 30)
                left.set()
                await ctx.step.run("s", int)

        async def other() -> None:
            await left.wait()
            await ctx.step.run("other", int)

        with suppress(LockLost):
            await asyncio.gather(holds(), other())
        return "done"

    assert play_async(handler, record) == Ended("done")
    assert record.calls() == ["long", "other"]


def test_tasks_created_in_the_block_need_the_lock() -> None:
    """A gather in the block is the usual way to work under a lock."""
    record = Record()

    async def handler(ctx: AsyncJobContext[Any]) -> None:
        async def branch(n: int) -> None:
            await ctx.step.run(f"s{n}", int)

        async with ctx.state.lock("k", ttl="30s"):
            await ctx.step.run("long", record.clock.pass_, 30)
            await asyncio.gather(branch(0), branch(1))

    assert isinstance(play_async(handler, record).error, LockLost)
    assert record.calls() == ["long"]


def test_task_that_outlives_the_block_does_not_need_the_lock() -> None:
    """The block ended normally, and what comes later does not need the lock."""
    record = Record()

    async def handler(ctx: AsyncJobContext[Any]) -> str:
        async def later() -> str:
            await left.wait()
            return await ctx.step.run("s", lambda: "done")

        left = asyncio.Event()
        async with ctx.state.lock("k", ttl="30s"):
            task = asyncio.ensure_future(later())
            await ctx.step.run("t", int)
        record.clock.pass_(60)
        left.set()
        return await task

    assert play_async(handler, record) == Ended("done")
    assert [method for _, method, _ in record.asked()] == ["lock.acquire", "lock.release"]


def test_new_call_in_a_block_that_was_left_is_an_error_that_says_so() -> None:
    """The code has changed, and making the call without the lock would be worse."""
    record = Record()

    def old(ctx: Context) -> None:
        with ctx.state.lock("k"):
            ctx.step.run("s", int)
        ctx.step.sleep("nap", 1)

    def new(ctx: Context) -> None:
        with ctx.state.lock("k"):
            ctx.step.run("s", int)
            ctx.step.run("t", int)
        ctx.step.sleep("nap", 1)

    play(old, record)
    error = play(new, record).error
    assert isinstance(error, ReplayError)
    assert "lock 'k'" in error.message
    assert record.calls() == ["s"]


def test_handler_without_a_lock_asks_nothing_about_locks() -> None:
    """A handler that does not use locks pays nothing for them."""
    record = Record()

    def handler(ctx: Context) -> None:
        ctx.step.run("s", record.clock.pass_, 10**6)
        with ctx.state.lock("k"):
            ctx.step.run("t", record.clock.pass_, 10**6)  # no ttl: it never runs out
            ctx.step.run("u", int)
        ctx.step.run("v", int)

    play(handler, record)
    assert record.asked() == [ASKED, LEFT]


# --- Extended ------------------------------------------------------------------------------


def test_extended_lock_is_held_for_longer() -> None:
    """It is held for the new ttl from now on, and the call is recorded like any other."""
    record = Record()

    def handler(ctx: Context) -> Any:
        with ctx.state.lock("k", ttl="30s") as lock:
            ctx.step.run("s", record.clock.pass_, 20)
            lock.extend("1m")
            until = lock.expires_at
            ctx.step.run("t", record.clock.pass_, 40)
            ctx.step.run("u", int)
            return until

    expected = Ended(START + timedelta(seconds=80))
    assert play(handler, record) == play(handler, record) == expected
    extended = ("[lock.extend k]", "lock.extend", {"key": "k", "ttl_ms": 60_000})
    assert record.asked()[1:] == [extended, LEFT]
    assert record.calls() == ["s", "t", "u"]


def test_replayed_extension_does_not_shorten_the_lock() -> None:
    """It may have been extended again since; the record of the lock says until when."""
    record = Record()

    def handler(ctx: Context) -> str:
        with ctx.state.lock("k", ttl="30s") as lock:
            lock.extend("30s")
            ctx.step.run("s", record.clock.pass_, 20)
            lock.extend("1h")
            ctx.step.sleep("nap", 60)
            ctx.step.run("t", int)
        return "done"

    play(handler, record)
    record.clock.pass_(60)
    record.ends("nap")
    assert play(handler, record) == Ended("done")
    assert "lock.check" not in [method for _, method, _ in record.asked()]


def test_lock_is_extended_from_within_a_step() -> None:
    """It takes effect at once and is not recorded, so that a long function can keep its lock."""
    record = Record()

    def handler(ctx: Context) -> str:
        def work() -> None:
            for _ in range(5):
                record.clock.pass_(20)
                lock.extend("30s")

        with ctx.state.lock("k", ttl="30s") as lock:
            ctx.step.run("s", work)
        return "done"

    assert play(handler, record) == play(handler, record) == Ended("done")
    assert [step for step, method, _ in record.asked() if method == "lock.extend"] == [""] * 5


def test_lost_lock_cannot_be_extended() -> None:
    """Somebody else may hold it by now."""
    record = Record()

    async def handler(ctx: AsyncJobContext[Any]) -> None:
        async with ctx.state.lock("k", ttl="30s") as lock:
            await ctx.step.run("s", record.clock.pass_, 30)
            await lock.extend("30s")

    for _ in range(2):
        assert isinstance(play_async(handler, record).error, LockLost)
    assert record.asked()[1:] == [check("[lock.extend k]")]


# --- Mistakes ------------------------------------------------------------------------------


def test_lock_inside_a_step_is_refused() -> None:
    """The handler acquires the lock around the step."""
    record = Record()

    def handler(ctx: Context) -> None:
        def work() -> None:
            with pytest.raises(ReplayError, match=r"ctx\.state\.lock was used inside"):
                ctx.state.lock("k")

        ctx.step.run("s", work)

    assert play(handler, record) == Ended()
    assert record.asked() == []


def test_lock_object_is_one_acquisition() -> None:
    """Entered again, it would find the record of the first time."""

    def handler(ctx: Context) -> None:
        lock = ctx.state.lock("k")
        with lock:
            ctx.step.run("s", int)
        with lock:
            raise AssertionError("entered twice")

    assert isinstance(play(handler, Record()).error, Usage)


def test_lock_has_a_token_in_its_block_only() -> None:
    """Before the block there is none, and after it the lock cannot be extended."""

    def handler(ctx: Context) -> None:
        lock = ctx.state.lock("k", ttl=30)
        with pytest.raises(Usage, match="is not held"):
            _ = lock.token
        with lock:
            pass
        lock.extend(30)

    record = Record()
    assert isinstance(play(handler, record).error, Usage)
    assert not any(isinstance(op, RecordResult) for op in record.told)


def test_lock_that_is_never_entered_counts_as_forgotten() -> None:
    """A lock that is never acquired protects nothing."""
    record = Record()
    play(lambda ctx: ctx.state.lock("k") and None, record)
    assert record.passing is not None
    assert list(record.passing.unawaited) == ["[lock k]"]
