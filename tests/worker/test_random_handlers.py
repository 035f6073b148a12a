"""Random handlers decide alike on every pass, and as they would in plain asyncio."""

from __future__ import annotations

import asyncio
import itertools
import os
import selectors
import sys
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stackshift_jobs import AsyncJobContext, Cancelling, Retry
from stackshift_jobs.testing import Stackshift
from stackshift_jobs.values.identities import undone_by
from stackshift_jobs.values.limits import FINISHED
from stackshiftd.testing.crashes import AFTER_RECORD, Crash
from worker.random_handlers import SET, Node, Play, distinct, millis, programs

LONG = bool(os.environ.get("STACKSHIFT_LONG"))


class EveryCall(Crash):
    """The worker dies whenever it hears that anything is recorded, the first time for each run and
    call."""

    def __init__(self) -> None:
        super().__init__("*", AFTER_RECORD, None, 0)
        self.died_at: set[tuple[int, str]] = set()
        self.run = 0

    def is_at(self, _job: str, step: str, when: str) -> bool:
        """Is this the first time that the worker comes here?"""
        here = (self.run, step)
        if when != AFTER_RECORD or here in self.died_at:
            return False
        self.died_at.add(here)
        return True


class Durable:
    """The world of a run."""

    def __init__(self, ctx: AsyncJobContext[Any], undo: Callable[[Any], Any] | None = None) -> None:
        self._step = ctx.step
        self._undo = undo

    async def step(self, value: int) -> Any:
        async def fn() -> int:
            return value

        if value % 2:
            return await self._step.run("s", fn, undo=self._undo)
        return await self._step.run("s", int, value, undo=self._undo)

    async def fails(self) -> Any:
        return await self._step.run("f", int, "no number", retry=Retry(max_attempts=2, backoff=1))

    async def sleep(self, ms: int) -> None:
        await self._step.sleep("z", f"{ms}ms")

    async def event(self, ms: int) -> bool:
        wait = self._step.wait_for_event("e", timeout=f"{ms}ms", on_timeout="continue")
        return bool(await wait)

    async def wait_for(self, awaitable: Awaitable[Any], seconds: float) -> Any:
        return await asyncio.wait_for(awaitable, seconds)

    def as_completed(self, coroutines: list[Coroutine[Any, Any, Any]]) -> Iterator[Awaitable[Any]]:
        return iter(asyncio.as_completed(coroutines))

    def group(self) -> asyncio.TaskGroup:
        return asyncio.TaskGroup()


class Group(asyncio.TaskGroup):
    """A task group that leaves the task that waits for it as that of Python 3.13 does."""

    async def __aexit__(self, *raised: Any) -> None:
        parent: asyncio.Task[Any] = self._parent_task  # type: ignore[attr-defined]
        own = self._parent_cancel_requested  # type: ignore[attr-defined]
        try:
            await super().__aexit__(*raised)
        except BaseExceptionGroup:
            if not own and self._parent_cancel_requested:  # type: ignore[attr-defined]
                parent.uncancel()
            if parent.cancelling():
                parent.uncancel()
                parent.cancel()
            raise


class Plain:
    """The world of asyncio alone; without steps, only time passes."""

    async def step(self, _value: int) -> Any:
        raise AssertionError("a program without steps asks for no such thing")

    async def fails(self) -> Any:
        raise AssertionError("a program without steps asks for no such thing")

    async def sleep(self, ms: int) -> None:
        await asyncio.sleep(ms / 1000)

    async def event(self, _ms: int) -> bool:
        raise AssertionError("a program without steps asks for no such thing")

    async def wait_for(self, awaitable: Awaitable[Any], seconds: float) -> Any:
        async with asyncio.timeout(seconds):
            return await awaitable

    def as_completed(self, coroutines: list[Coroutine[Any, Any, Any]]) -> Iterator[Awaitable[Any]]:
        return iter(asyncio.as_completed([asyncio.ensure_future(each) for each in coroutines]))

    def group(self) -> asyncio.TaskGroup:
        return Group() if sys.version_info < (3, 13) else asyncio.TaskGroup()


class Bench:
    """A daemon with one job, `random`, and the traces of the passes of its last run."""

    def __init__(self, stackshift: Stackshift) -> None:
        self.stackshift = stackshift
        self.passes: list[list[Any]] = []
        self.undone: list[Any] = []
        self.results: dict[str, Any] = {}

        @stackshift.job("random", retry=Retry(max_attempts=1))
        async def random(ctx: AsyncJobContext[Any]) -> Any:
            trace: list[Any] = []
            self.passes.append(trace)
            return await Play(Durable(ctx), trace).whole(ctx.payload)

        @stackshift.job("cancelled", retry=Retry(max_attempts=1))
        async def cancelled(ctx: AsyncJobContext[Any]) -> Any:
            trace: list[Any] = []
            self.passes.append(trace)
            try:
                return await Play(Durable(ctx, self.undone.append), trace).whole(ctx.payload)
            except Cancelling:
                trace.append("told")
                trace.append(await ctx.step.run("clean", int, 1))
                await ctx.step.sleep("settle", "1s")
                trace.append("settled")
                raise

    def cancel(
        self, program: Node, events: list[int], cancelled_after: int
    ) -> list[dict[str, Any]]:
        """Run the program, and cancel it gently after so many milliseconds. Returns the records of
        its run."""
        self.passes.clear()
        self.undone.clear()
        run = self.stackshift.start("cancelled", program)
        for ms in events:
            self.stackshift.advance(f"{ms}ms")
            if run.status not in FINISHED:
                self.stackshift.events.send("e", ttl=0)
        self.stackshift.advance(f"{cancelled_after}ms")
        run.cancel(gently=True, grace="9w")
        while run.status not in FINISHED:
            self.stackshift.advance("1d")
        assert run.error is None or run.error["type"] != "UndoFailed", run.error
        self.results = {name: step.result for name, step in run.steps.items()}
        return [record for record in self.stackshift.journal if record.get("run") == run.id]

    def play(self, program: Node, events: list[int]) -> list[dict[str, Any]]:
        """Run the program; the events are sent after so many milliseconds each. Returns the records
        of its run."""
        self.passes.clear()
        run = self.stackshift.start("random", program)
        for ms in events:
            self.stackshift.advance(f"{ms}ms")
            if run.status not in FINISHED:
                self.stackshift.events.send("e", ttl=0)
        while run.status not in FINISHED:
            self.stackshift.advance("30d")
        assert run.status == "completed", run.error
        return [record for record in self.stackshift.journal if record.get("run") == run.id]


@pytest.mark.parametrize("crashing", [False, True], ids=["whole", "crashing"])
def test_every_pass_sees_what_the_one_before_saw(stackshift: Stackshift, crashing: bool) -> None:
    """What a pass sees and decides begins with all that the pass before it saw and decided, also if
    the worker dies whenever something is recorded, and no step is recorded twice
    (guarantee: recorded order)."""
    bench = Bench(stackshift)
    crashes = EveryCall()
    if crashing:
        stackshift._bench.home.crashes.arm(crashes)

    @settings(
        max_examples=10_000 if LONG else 60,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(programs(with_steps=True), st.lists(millis(), max_size=2))
    def hold(program: Node, events: list[int]) -> None:
        crashes.run += 1
        records = bench.play(program, events)
        for before, after in zip(bench.passes, bench.passes[1:], strict=False):
            assert after[: len(before)] == before
        ended = Counter(
            record["step"]
            for record in records
            if record["kind"] in ("step.completed", "wait.ended")
        )
        retried = {record["step"] for record in records if record["kind"] == "step.failed"}
        assert {step for step, times in ended.items() if times > 1} <= retried

    hold()


@pytest.mark.parametrize("crashing", [False, True], ids=["whole", "crashing"])
def test_every_pass_is_told_at_the_same_place_that_it_is_cancelled(
    stackshift: Stackshift, crashing: bool
) -> None:
    """Whatever its branches wait for, and if the worker dies whenever something is recorded; what
    was done is undone once, the last outcome first (guarantee: gentle cancels)."""
    bench = Bench(stackshift)
    crashes = EveryCall()
    if crashing:
        stackshift._bench.home.crashes.arm(crashes)

    @settings(
        max_examples=10_000 if LONG else 60,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(programs(with_steps=True), st.lists(millis(), max_size=2), st.integers(0, 60))
    def hold(program: Node, events: list[int], cancelled_after: int) -> None:
        crashes.run += 1
        records = bench.cancel(program, events, cancelled_after)
        for before, after in zip(bench.passes, bench.passes[1:], strict=False):
            shorter = min(len(before), len(after))  # An undo ends its pass where the record does.
            assert after[:shorter] == before[:shorter]
        kinds = [record["kind"] for record in records]
        assert kinds.count("cancel.raised") <= 1
        done = [
            record["step"]
            for record in records
            if record["kind"] == "step.completed" and record.get("undo")
        ]
        undone = [
            undone_by(record["step"])
            for record in records
            if record["kind"] == "step.completed" and undone_by(record["step"])
        ]
        if kinds[-1] == "run.cancelled" or "undo.started" in kinds:
            assert undone == done[::-1]
            assert bench.undone == [bench.results[step] for step in undone]
        else:
            assert not undone

    hold()


def test_random_handlers_replay_from_every_prefix_of_their_records(
    stackshift: Stackshift,
) -> None:
    """Whatever is on record, the next pass asks for what came next, and ends as the last did."""
    bench = Bench(stackshift)

    @settings(
        max_examples=1_000 if LONG else 30,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(programs(with_steps=True), st.lists(millis(), max_size=2))
    def hold(program: Node, events: list[int]) -> None:
        bench.play(program, events)
        stackshift.assert_replays(stackshift.runs_of("random")[-1])

    hold()


def test_without_crashes_it_is_plain_asyncio(stackshift: Stackshift) -> None:
    """The same program on asyncio's own loop, with a clock that jumps, sees the same."""
    bench = Bench(stackshift)

    @settings(
        max_examples=10_000 if LONG else 60,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(programs(with_steps=False))
    def hold(program: Node) -> None:
        program = distinct(program)
        bench.play(program, [])
        assert without_sets(bench.passes[-1]) == without_sets(in_plain_asyncio(program))

    hold()


def without_sets(trace: list[Any]) -> list[Any]:
    """What was seen but for the order of sets, which here depends on how many tasks there were in
    this process."""
    return [each for each in trace if each[0] != SET]


def in_plain_asyncio(program: Node) -> list[Any]:
    """What the program sees in asyncio."""
    trace: list[Any] = []

    async def main() -> None:
        await Play(Plain(), trace).whole(program)

    # As in a handler. What is cancelled together is so in the order of a set, and that depends on
    # the numbers: of 7, 8 and 9, the eighth would be the first.
    NumberedTask.numbers = itertools.count(1)
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(main())
    return trace


class NumberedTask(asyncio.Task[Any]):
    """A task of which asyncio's sets are in the order of creation, and not of addresses."""

    numbers = itertools.count(1)

    def __new__(cls, *_arguments: Any, **_options: Any) -> NumberedTask:
        made = super().__new__(cls)
        made.number = next(cls.numbers)
        return made

    number: int

    def __hash__(self) -> int:
        return self.number


class JumpingLoop(asyncio.SelectorEventLoop):
    """asyncio's loop, whose clock jumps to the next timer instead of waiting for it."""

    _scheduled: list[asyncio.TimerHandle]
    _ready: deque[asyncio.Handle]

    def __init__(self) -> None:
        super().__init__(selectors.SelectSelector())
        self.set_task_factory(
            lambda loop, coro, **options: NumberedTask(coro, loop=loop, **options)
        )
        self._now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        timers = [timer for timer in self._scheduled if not timer.cancelled()]
        if timers and not self._ready:
            self._now = max(self._now, min(timer.when() for timer in timers))
        super()._run_once()  # type: ignore[misc]


def test_plain_asyncio_sees_the_same_each_time() -> None:
    """However many tasks there were before: what it cancels together is in the order of a set."""
    limited = ["group", [["sleep", 1], ["race", [["sleep", 17]]]]]
    program = distinct(["some", 1, [["sleep", 1], ["sleep", 1], limited]])
    first, *others = (in_plain_asyncio(program) for _ in range(8))
    assert others == [first] * 7
