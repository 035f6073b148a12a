"""Delays, times, sleeps and backoffs by the real engine and its alarm, with a clock that is the
test's: they fire once, never early, whatever the wall clock does and however long the machine
slept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from stackshift_jobs.values.durations import milliseconds
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.effects import Effect
from stackshiftd.core.records import Entry
from stackshiftd.core.state.state import Status
from stackshiftd.journal.interface import Owner
from stackshiftd.journal.memory import MemoryJournal
from stackshiftd.shell.background import timers as shell_timers
from stackshiftd.shell.background.timers import MAX_SLEEP_SECONDS, Timers
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.methods.clock import Clock, ClockParams
from stackshiftd.shell.work import run_through

START_US = 1_795_000_000_000_000
ONCE_AGAIN = r.RetryTerms(max_attempts=2, backoff_ms=60_000, jitter=0.0)


class Alarm:
    """The loop's `call_later`, of which the time is the test's."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.call: Callable[[], None] | None = None

    def call_later(self, seconds: float, call: Callable[[], None]) -> Alarm:
        assert self.call is None, "two alarms at a time"
        self.seconds, self.call = seconds, call
        return self

    def cancel(self) -> None:
        self.call = None


class Machine:
    """Engine and timers of a daemon without workers, in memory. `wall_us` is the wall clock."""

    def __init__(self) -> None:
        self.wall_us = START_US
        self.published_: list[Entry] = []
        self.failure: BaseException | None = None
        self.alarm = Alarm()
        self.engine = Engine(MemoryJournal(), lambda: self.wall_us)
        self.timers = Timers(self.engine, 86_400_000)
        self.timers._loop = self.alarm  # type: ignore[assignment]
        self.engine.attach(self)  # type: ignore[arg-type]
        self._made = 0

    async def open(self) -> Machine:
        await self.engine.replay(0)
        await self.engine.claim(Owner(1, "test"))
        self.engine.poke()  # as the first worker's greeting does
        await self.settle()
        return self

    # --- engine.EffectSink ---

    def timers_moved(self) -> None:
        self.timers.rearm()

    def published(self, entries: list[Entry]) -> None:
        self.published_ += entries

    def failed(self, error: BaseException) -> None:
        self.failure = error

    def perform(self, effect: Effect, source: Any, at_us: int) -> None: ...

    def fill_slots(self, now_us: int) -> None: ...

    def finished(self, run: Any, row: Any) -> None: ...

    # --- What tests do ---

    async def settle(self) -> None:
        """Let all that is ready happen."""
        for _ in range(30):
            await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure

    async def submit(self, command: c.Command) -> None:
        self.engine.submit(command)
        await self.settle()

    async def start(self, due: str, **more: Any) -> str:
        """Start a run that is due in so long."""
        self._made += 1
        run = f"run_{self._made}"
        due_us = self.engine.now_us() + milliseconds(due) * 1000
        await self.submit(c.StartRun(run, "job", "default", b"{}", due_us=due_us, **more))
        return run

    async def passes(self, seconds: float, *, wall: float | None = None) -> None:
        """The machine is awake for so long: its alarm rings as often as it is set for meanwhile.
        `wall` is what the wall clock makes of these seconds, if it is another time."""
        rate = 1.0 if wall is None else wall / seconds
        end = seconds
        while self.alarm.call is not None and self.alarm.seconds <= end:
            end -= self.alarm.seconds
            self.wall_us += round(self.alarm.seconds * rate * 1e6)
            call, self.alarm.call = self.alarm.call, None
            await self.ring(call)
        self.wall_us += round(end * rate * 1e6)
        self.alarm.seconds -= end

    async def ring(self, call: Callable[[], None]) -> None:
        """Let what the alarm calls happen. It rings every second, for nothing most of the time:
        then it is only set again."""
        seq = self.engine.state.seq
        call()
        for _ in range(5):
            await asyncio.sleep(0)
            if self.alarm.call is not None and self.engine.state.seq == seq:
                return
        await self.settle()

    async def jumps(self, by: str) -> None:
        """The wall clock is set, by hand or by a time server, or the machine sleeps for so long:
        its alarm knows nothing of it."""
        sign = -1 if by.startswith("-") else 1
        self.wall_us += sign * milliseconds(by.lstrip("-")) * 1000

    def status(self, run: str) -> Status:
        return self.engine.state.runs[run].status

    def fired(self, run: str) -> list[int]:
        """When (daemon time, seconds after the beginning) the run was queued by a timer."""
        return [
            (entry.at_us - START_US) // 1_000_000
            for entry in self.published_
            if isinstance(entry.record, r.RunQueued | r.WaitEnded) and entry.record.run == run
        ]


def told(story: Callable[[Machine], Any]) -> None:
    async def tell() -> None:
        await story(await Machine().open())

    asyncio.run(tell())


def test_delayed_run_is_scheduled_until_its_time_and_queued_once() -> None:
    """Not a moment before, and not again."""

    async def story(machine: Machine) -> None:
        run = await machine.start("10m")
        await machine.passes(599.9)
        assert machine.status(run) is Status.SCHEDULED
        await machine.passes(0.2)
        assert machine.status(run) is Status.QUEUED
        await machine.passes(3600)
        assert machine.fired(run) == [600]

    told(story)


def test_long_sleep_of_the_machine_fires_within_a_second_of_waking() -> None:
    """The alarm did not count while it slept, but it is never set for more than a second."""

    async def story(machine: Machine) -> None:
        run = await machine.start("8h")
        await machine.passes(5)
        await machine.jumps("9h")
        assert machine.status(run) is Status.SCHEDULED
        await machine.passes(1.0)
        assert machine.status(run) is Status.QUEUED
        await machine.passes(60)
        assert len(machine.fired(run)) == 1

    told(story)


def test_clock_set_forward_brings_what_is_due_by_it_forward_and_nothing_else() -> None:
    """Due means due by the clock: an hour forward, a run in 30 minutes is due, one in two hours
    not yet."""

    async def story(machine: Machine) -> None:
        soon, late = await machine.start("30m"), await machine.start("2h")
        await machine.jumps("1h")
        await machine.passes(1.1)
        assert (machine.status(soon), machine.status(late)) == (Status.QUEUED, Status.SCHEDULED)
        await machine.passes(3597)
        assert machine.status(late) is Status.SCHEDULED
        await machine.passes(3)
        assert machine.fired(late) == [7200]

    told(story)


@pytest.mark.parametrize("back", ["1s", "1h", "30d"])
def test_clock_set_back_never_fires_early_and_does_not_fire_twice(back: str) -> None:
    """A run waits for the clock to come to its time; what has fired does not fire again when the
    clock passes that time once more."""

    async def story(machine: Machine) -> None:
        before, after = await machine.start("10s"), await machine.start("1m")
        await machine.passes(10.5)
        assert machine.status(before) is Status.QUEUED
        await machine.jumps("-" + back)
        gone = milliseconds(back) / 1000
        await machine.passes(49 if gone < 49 else 3)
        assert machine.status(after) is Status.SCHEDULED
        machine.wall_us = START_US + 59_900_000
        await machine.passes(0.05)
        assert machine.status(after) is Status.SCHEDULED
        await machine.passes(1.2)
        assert machine.status(after) is Status.QUEUED
        assert len(machine.fired(before)) == len(machine.fired(after)) == 1
        times = [entry.at_us for entry in machine.published_]
        assert times == sorted(times)

    told(story)


def test_clock_that_runs_fast_or_slow_is_followed() -> None:
    """A time server slews it: the alarm is looked at by the wall clock, not by what it was set
    for."""

    async def story(machine: Machine) -> None:
        run = await machine.start("100s")
        await machine.passes(150, wall=99)
        assert machine.status(run) is Status.SCHEDULED
        await machine.passes(2, wall=1.5)
        assert machine.status(run) is Status.QUEUED
        other = await machine.start("100s")
        await machine.passes(50, wall=99)
        assert machine.status(other) is Status.SCHEDULED
        await machine.passes(2, wall=4)
        assert len(machine.fired(other)) == 1

    told(story)


def test_time_that_has_passed_is_due_at_once() -> None:
    """`--at` a time of yesterday starts now: it is queued, never scheduled."""

    async def story(machine: Machine) -> None:
        yesterday = START_US - 86_400_000_000
        await machine.submit(c.StartRun("run_x", "job", "default", b"{}", due_us=yesterday))
        assert machine.status("run_x") is Status.QUEUED
        await machine.passes(5)
        assert machine.fired("run_x") == []

    told(story)


def test_sleeps_and_backoffs_follow_the_same_clock() -> None:
    """A step's sleep and a run's backoff fire once and never early, across a jump each way."""

    async def story(machine: Machine) -> None:
        sleeper, failer = await machine.start("0s"), await machine.start("0s", retry=ONCE_AGAIN)
        for _ in range(2):
            await machine.submit(c.Assign("w1", {"job": "1"}))
        runs = machine.engine.state.runs
        await machine.submit(c.BeginSleep(sleeper, runs[sleeper].token, 1, "nap", 60_000))
        await machine.submit(c.Suspend(sleeper, runs[sleeper].token, ["nap"]))
        error = r.Error("ValueError", "boom")
        await machine.submit(c.FailAttempt(failer, runs[failer].token, error))
        await machine.passes(30)
        await machine.jumps("-1h")
        await machine.passes(40)
        assert [machine.status(each) for each in (sleeper, failer)] == [
            Status.WAITING,
            Status.RETRYING,
        ]
        await machine.jumps("2h")
        await machine.passes(1.1)
        assert [machine.status(each) for each in (sleeper, failer)] == [Status.QUEUED] * 2
        await machine.passes(7200)
        assert len(machine.fired(sleeper)) == len(machine.fired(failer)) == 1

    told(story)


def test_thousands_due_at_once_fire_once_each() -> None:
    """In portions, so that they do not keep all else waiting; none is forgotten."""

    async def story(machine: Machine) -> None:
        count = shell_timers.MAX_TICKS * 2 + 10
        runs = [await machine.start("1h") for _ in range(count)]
        await machine.jumps("1d")
        await machine.passes(MAX_SLEEP_SECONDS)
        for _ in range(5):
            await machine.passes(0.0)
        assert {machine.status(run) for run in runs} == {Status.QUEUED}
        assert all(len(machine.fired(run)) == 1 for run in runs)

    told(story)


def test_what_was_due_while_the_daemon_was_away_fires_once_when_it_is_back() -> None:
    """A journal read by another daemon, a week later by a clock that is a day slow."""

    async def story(machine: Machine) -> None:
        run = await machine.start("1d")
        later = Machine()
        later.engine = Engine(machine.engine.journal, lambda: later.wall_us)
        later.timers = Timers(later.engine, 86_400_000)
        later.timers._loop = later.alarm  # type: ignore[assignment]
        later.engine.attach(later)  # type: ignore[arg-type]
        later.wall_us = START_US + 6 * 86_400_000_000
        await later.open()
        await later.passes(1.0)
        assert later.status(run) is Status.QUEUED
        await later.passes(30)
        assert len(later.fired(run)) == 1
        assert later.engine.state.runs[run].scheduled_us == START_US + 86_400_000_000

    told(story)


def test_time_that_stands_still_is_said_and_can_be_set_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One record is made with the clock a day ahead: no timer fires, which the log says once. A
    person sets time back: what was due by then has fired, and what is set from then on fires at its
    time. (guarantee: timers)"""
    caplog.set_level("INFO", "stackshiftd.clock")

    async def story(machine: Machine) -> None:
        clock = Clock(machine.engine, 86_400_000)
        early, late = await machine.start("1h"), await machine.start("3d")
        clock.watch()
        await machine.jumps("1d")
        noticed = await machine.start("0s")
        await machine.jumps("-1d")
        for _ in range(3):
            clock.watch()
        assert [entry.levelname for entry in caplog.records] == ["WARNING"]
        assert "ahead of the system clock and stands still" in caplog.text
        stalled = await machine.start("500ms")
        await machine.passes(600)
        assert machine.status(stalled) is Status.SCHEDULED
        answers: list[Any] = []
        work = clock.clock(ClockParams(set_back=True), answers.append)
        assert work is not None
        run_through(work, lambda _result: None)
        await machine.settle()
        assert [answer["changed"] for answer in answers] == [True]
        assert answers[0]["ahead_ms"] == 0
        assert machine.engine.ahead_us == 0
        assert machine.status(noticed) is machine.status(early) is Status.QUEUED
        fresh = await machine.start("500ms")
        await machine.passes(0.4)
        assert machine.status(fresh) is Status.SCHEDULED
        await machine.passes(0.2)
        assert machine.status(fresh) is Status.QUEUED
        assert machine.status(stalled) is machine.status(late) is Status.SCHEDULED
        await machine.passes(86_400)
        assert machine.status(stalled) is Status.QUEUED
        assert machine.status(late) is Status.SCHEDULED
        await machine.passes(3 * 86_400)
        assert machine.status(late) is Status.QUEUED
        for run in (early, late, stalled, fresh):
            assert len(machine.fired(run)) == 1
        clock.watch()
        assert [entry.levelname for entry in caplog.records] == ["WARNING", "WARNING"]

    told(story)


def test_clock_that_catches_up_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """And a difference that a time server makes is not worth a word."""
    caplog.set_level("INFO", "stackshiftd.clock")

    async def story(machine: Machine) -> None:
        clock = Clock(machine.engine, 86_400_000)
        await machine.start("1h")
        machine.wall_us -= 900_000
        clock.watch()
        assert not caplog.records
        machine.wall_us -= 200_000
        clock.watch()
        machine.wall_us += 300_000
        clock.watch()
        assert [entry.levelname for entry in caplog.records] == ["WARNING", "INFO"]
        answers: list[Any] = []
        assert clock.clock(ClockParams(), answers.append) is None
        assert (answers[0]["changed"], answers[0]["ahead_ms"]) == (False, 800)

    told(story)
