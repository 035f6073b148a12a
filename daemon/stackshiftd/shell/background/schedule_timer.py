"""The alarm for schedules: fires ticks when they are due, and tells the core which schedules the
code declares.

The core decides what happens with a tick. Its run is prepared here, since the core knows neither
jobs nor ids. If no worker has the job at the moment, or its run cannot be started for another
reason, the tick stays due: it is tried again after the next greeting of a worker.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from msgspec import Raw

from stackshift_jobs.errors import DiskFull, StackshiftError
from stackshiftd.core import commands as c
from stackshiftd.core.decide.schedules import busy, ready, waits
from stackshiftd.core.decide.ticks import clock_of
from stackshiftd.core.state.schedules import Schedule
from stackshiftd.core.state.state import State
from stackshiftd.shell.catalog import Catalog, StartParams
from stackshiftd.shell.engine import Engine

log = logging.getLogger("stackshiftd.schedules")

MAX_SLEEP_SECONDS: Final = 1.0
"""As in `timers`: the longest alarm, so that a jump of the clock or a suspended machine is noticed.
"""
MAX_FIRED: Final = 64
"""The most ticks decided in one turn of the loop."""
_NEVER_US: Final = 1 << 62


class ScheduleTimer:
    """The alarm of all schedules."""

    def __init__(self, engine: Engine, catalog: Catalog) -> None:
        self._engine = engine
        self._catalog = catalog
        self._loop = asyncio.get_running_loop()
        self._alarm: asyncio.TimerHandle | None = None
        self.problems: dict[str, str] = {}
        """Job → why its ticks cannot be started; cleared by the next greeting."""
        self._seen: tuple[State, int] | None = None
        """The state, and its last change of a schedule, for which the next two were computed."""
        self._due_us = _NEVER_US
        self._waiting: list[Schedule] = []
        self._stopped = False

    def learn(self) -> None:
        """Tell the core which schedules the jobs in the catalog have; called after a greeting."""
        self.problems.clear()
        self._seen = None
        schedules: dict[str, c.ScheduleTerms] = {}
        for job in self._catalog.jobs.values():
            if job.schedule is None:
                continue
            try:
                # The worker's interpreter may know more time zones than the daemon's.
                clock_of(job.schedule.schedule, job.schedule.timezone, 0)
            except StackshiftError as bad:
                self._note(job.name, bad)
            else:
                schedules[job.name] = job.schedule
        jobs = frozenset(self._catalog.jobs).difference(self.problems)
        complete = not self._catalog.failed and not self.problems
        self._engine.submit(c.DefineSchedules(schedules, jobs, complete))
        self.rearm()

    def rearm(self) -> None:
        """Fire what is due, and set the alarm for what is next."""
        engine = self._engine
        if self._stopped or not engine.state.schedules or not self._catalog.greeted:
            return
        now_us = engine.now_us()
        is_fresh = self._seen == (engine.state, engine.state.schedules_seq)
        freed = any(not busy(engine.state, schedule) for schedule in self._waiting)
        if is_fresh and not freed and now_us < self._due_us:
            if self._alarm is None:
                self._set((self._due_us - now_us) / 1e6)
        elif engine.room.is_short:
            self._set(MAX_SLEEP_SECONDS)  # No space for new runs: their ticks stay due.
        elif self._fire_all(now_us):
            self._look_ahead(now_us)
            self._set((self._due_us - now_us) / 1e6)
        else:
            self._set(0.0)

    def _fire_all(self, now_us: int) -> bool:
        """Decide all due ticks; false if more are left than may be decided in one turn."""
        left = MAX_FIRED
        for job in list(self._engine.state.schedules):
            while self._is_ready(job, now_us):
                if not left:
                    return False
                left -= 1
                self._fire(job)
        return True

    def _is_ready(self, job: str, now_us: int) -> bool:
        return (
            job in self._catalog.jobs
            and job not in self.problems
            and ready(self._engine.state, self._engine.state.schedules[job], now_us)
        )

    def _fire(self, job: str) -> None:
        state = self._engine.state
        before = state.seq
        try:
            start = self.prepared(state.schedules[job], key="schedule")
        except StackshiftError as bad:
            self._note(job, bad)
            return
        self._engine.submit(c.FireSchedule(job, start), lambda reply: self._replied(job, reply))
        if self._engine.state.seq == before and self._is_ready(job, self._engine.now_us()):
            self.problems[job] = "its tick was refused"

    def _replied(self, job: str, reply: Any) -> None:
        # If there was no space, the tick is due again and waits until there is.
        if isinstance(reply, StackshiftError) and not isinstance(reply, DiskFull):
            self._note(job, reply)

    def _note(self, job: str, bad: StackshiftError) -> None:
        self.problems[job] = bad.message
        log.error("the schedule of %s: %s", job, bad.message)

    def prepared(self, schedule: Schedule, key: str | None = None) -> c.StartRun:
        """The command that starts a run of the schedule, with the idempotency key `key` if given.

        Raises what the catalog raises for a start.
        """
        params = StartParams(schedule.job, Raw(schedule.payload), idempotency_key=key)
        return self._catalog.start_command(params, self._engine.ids.run(), self._engine.now_us())

    def _look_ahead(self, now_us: int) -> None:
        """Compute what comes next, so that not every run has to go through all schedules."""
        state = self._engine.state
        self._seen = (state, state.schedules_seq)
        self._due_us, self._waiting = _NEVER_US, []
        startable = self._catalog.jobs.keys() - self.problems.keys()
        for schedule in state.schedules.values():
            if not schedule.lives or schedule.job not in startable:
                continue
            if waits(state, schedule, now_us):
                self._waiting.append(schedule)
            if schedule.next_us > now_us:
                self._due_us = min(self._due_us, schedule.next_us)

    @property
    def next_us(self) -> int | None:
        """When the next tick is due, in microseconds; None if there is none."""
        return self._due_us if self._due_us < _NEVER_US else None

    def _set(self, seconds: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        seconds = min(max(seconds, 0.0), MAX_SLEEP_SECONDS)
        self._alarm = self._loop.call_later(seconds, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self.rearm()

    def stop(self) -> None:
        """Stop the alarm for good."""
        self._stopped = True
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
