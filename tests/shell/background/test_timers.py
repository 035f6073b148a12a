"""The alarm for timers and rates: whatever the clock does between two readings, nothing that may
start waits for longer than the alarm is set for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from stackshiftd.core import commands as c
from stackshiftd.core.effects import Dispatch, Effect
from stackshiftd.core.records import Entry, QueueTerms
from stackshiftd.core.state.state import Status
from stackshiftd.journal.interface import Owner
from stackshiftd.journal.memory import MemoryJournal
from stackshiftd.shell.background.timers import MAX_SLEEP_SECONDS, Timers
from stackshiftd.shell.engine import Engine

START_US = 1_795_000_000_000_000
EARLY_US = 500
"""How much earlier than asked uvloop may ring."""


class Alarm:
    """The loop's `call_later`, whose time is the test's."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.call: Callable[[], None] | None = None

    def call_later(self, seconds: float, call: Callable[[], None]) -> Alarm:
        """Set the alarm."""
        self.seconds, self.call = seconds, call
        return self

    def cancel(self) -> None:
        """Cancel the alarm."""
        self.call = None


class Machine:
    """Engine, timers and one worker. Each reading of the clock moves it by what `step_us` says."""

    def __init__(self, slots: int, step_us: Callable[[], int]) -> None:
        self.us = START_US
        self.slots = slots
        self.step_us = step_us
        self.alarm = Alarm()
        self.failure: BaseException | None = None
        self.started: list[int] = []
        self.engine = Engine(MemoryJournal(), self.read_clock)
        self.timers = Timers(self.engine, 86_400_000)
        self.timers._loop = self.alarm  # type: ignore[assignment]
        self.engine.attach(self)  # type: ignore[arg-type]

    def read_clock(self) -> int:
        """The time, which moves on with every reading."""
        self.us += self.step_us()
        return self.us

    # --- engine.EffectSink ---

    def fill_slots(self, now_us: int) -> None:
        """Fill slots as the dispatcher does."""
        state = self.engine.state
        while self.free and state.next_ready(now_us) is not None:
            self.engine.submit(c.Assign("w1", {"mail": "code-1", "nap": "code-1"}))

    @property
    def free(self) -> int:
        """How many slots are free."""
        return self.slots - len(self.engine.state.executions.get("w1", ()))

    def timers_moved(self) -> None:
        """Look again at what is due."""
        self.timers.rearm()

    def perform(self, effect: Effect, _source: Any, at_us: int) -> None:
        """Complete each run as soon as it is dispatched."""
        if isinstance(effect, Dispatch):
            self.started.append(at_us)
            done = c.CompleteRun(effect.run, effect.token, b"1")  # type: ignore[arg-type]
            self.engine.submit(done)

    def published(self, entries: list[Entry]) -> None:
        """Nobody follows."""

    def failed(self, error: BaseException) -> None:
        """Keep the failure for `settle`."""
        self.failure = error

    def finished(self, run: Any, row: Any) -> None:
        """There is no history."""

    def lengthened(self, run: str, places: Any) -> None:
        """There is no history."""

    # --- What tests do ---

    async def open(self, rates: list[tuple[int, int]]) -> None:
        """Begin, with a queue `q0`, `q1` … for each rate."""
        await self.engine.replay(0)
        await self.engine.claim(Owner(1, "test"))
        terms = {f"q{n}": QueueTerms(rate=r, rate_per_ms=ms) for n, (r, ms) in enumerate(rates)}
        self.engine.submit(c.DefineQueues("file", terms))
        await self.settle()

    async def settle(self) -> None:
        """Let everything happen that needs no alarm."""
        await asyncio.sleep(0)
        while not self.engine.idle:
            await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure

    async def ring(self, early_us: int) -> None:
        """Let the time of the alarm come, less `early_us`."""
        call, self.alarm.call = self.alarm.call, None
        assert call is not None
        self.us += max(0, round(self.alarm.seconds * 1e6) - early_us)
        call()
        await self.settle()

    def waiting(self) -> int:
        """How many runs are ready, or will be at their time."""
        waits = (Status.QUEUED, Status.SCHEDULED)
        return sum(run.status in waits for run in self.engine.state.runs.values())


@given(
    rates=st.lists(
        st.tuples(st.integers(1, 50), st.sampled_from([1, 10, 1000, 60_000])),
        min_size=1,
        max_size=4,
    ),
    slots=st.integers(1, 4),
    steps=st.lists(st.sampled_from([0, 1, 7, 300, 5_000, 150_000, 2_000_000]), min_size=1),
    seed=st.integers(0, 1 << 30),
)
def test_no_permit_and_no_timer_comes_due_unseen_between_two_looks(
    rates: list[tuple[int, int]], slots: int, steps: list[int], seed: int
) -> None:
    """While runs wait with slots free, the alarm is set, for no later than the first of them may
    start, however the clock moves while it is read. (guarantee: limits and work)"""
    random = Random(seed)

    async def story() -> None:
        machine = Machine(slots, lambda: random.choice(steps))
        await machine.open(rates)
        for n in range(24):
            due_us = machine.us + random.randrange(3_000_000) if random.random() < 0.3 else 0
            queue = f"q{random.randrange(len(rates))}"
            machine.engine.submit(c.StartRun(f"run_{n}", "mail", queue, b"{}", due_us=due_us))
            if random.random() < 0.5:
                await machine.settle()
        await machine.settle()
        state = machine.engine.state
        rings = 0
        while machine.waiting():
            assert machine.alarm.call is not None, "runs wait, and nobody looks"
            first = [us for us in (state.next_due_us(), state.next_permit_us(0)) if us is not None]
            set_for_us = round(machine.alarm.seconds * 1e6)
            # The clock may have been read, and so have moved, since the alarm was set.
            assert set_for_us <= max(0, min(first) - machine.us) + 100 * max(steps)
            assert set_for_us <= MAX_SLEEP_SECONDS * 1e6
            await machine.ring(random.choice((0, EARLY_US, -3_000)))
            rings += 1
            assert rings < 24 * 70, "the alarm rings without end"
        assert len(machine.started) == 24

    asyncio.run(story())


def test_permit_that_comes_due_while_a_look_is_under_way_starts_its_run() -> None:
    """Ten a second stay ten a second: no start waits for the next record of somebody else."""

    async def story() -> None:
        machine = Machine(4, lambda: 0)
        await machine.open([(10, 1000)])
        for n in range(3):
            machine.engine.submit(c.StartRun(f"run_{n}", "mail", "q0", b"{}"))
        await machine.settle()
        assert len(machine.started) == 1
        # Between the reading for free slots, just before the permit, and the next, just after.
        readings = [0, EARLY_US * 2]
        machine.step_us = lambda: readings.pop(0) if readings else 0
        await machine.ring(EARLY_US)
        machine.step_us = lambda: 0
        for _ in range(4):
            if machine.alarm.call is not None:
                await machine.ring(0)
        gaps = [after - before for before, after in pairwise(machine.started)]
        assert len(gaps) == 2
        assert all(100_000 <= gap <= 102_000 for gap in gaps)

    asyncio.run(story())


def test_alarm_rests_while_an_append_is_under_way() -> None:
    """A permit that comes due meanwhile is looked at after the append, not asked about until
    then."""

    async def story() -> None:
        machine = Machine(4, lambda: 0)
        await machine.open([(10, 1000)])
        for n in range(2):
            machine.engine.submit(c.StartRun(f"run_{n}", "mail", "q0", b"{}"))
        await machine.settle()
        journal: Any = machine.engine.journal
        journal.hold()
        machine.engine.submit(c.StartRun("run_9", "mail", "q0", b"{}"))
        while machine.engine._flying is None:
            await asyncio.sleep(0)
        call, machine.alarm.call = machine.alarm.call, None
        assert call is not None
        machine.us += 200_000
        call()
        assert machine.alarm.call is None
        journal.release()
        await machine.settle()
        assert len(machine.started) == 2

    asyncio.run(story())
