"""The alarm for schedules: fires ticks when they are due, and tells the core which schedules the
code and `stackshift.toml` declare.

The core decides what happens with a tick. Its run is prepared here, since the core knows neither
jobs nor ids. If no worker has the job at the moment, or its run cannot be started for another
reason, the tick stays due: it is tried again after the next greeting of a worker.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw

from stackshift_jobs.errors import DiskFull, StackshiftError, Usage
from stackshiftd.core import commands as c
from stackshiftd.core.decide.cron.ticks import REBOOT, clock_of
from stackshiftd.core.decide.schedule_terms import taken
from stackshiftd.core.decide.schedules import busy, ready, waits
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
NO_BOOT: Final = "nothing tells which start of which machine @reboot is"
NONE_IN_FILE: Final[Mapping[str, c.ScheduleTerms]] = {}


class ScheduleTimer:
    """The alarm of all schedules. `in_file` are those that `stackshift.toml` declares; `boot` is
    the boot of the machine, empty if nothing tells it."""

    def __init__(
        self,
        engine: Engine,
        catalog: Catalog,
        in_file: Mapping[str, c.ScheduleTerms] = NONE_IN_FILE,
        boot: str = "",
    ) -> None:
        self._engine = engine
        self._catalog = catalog
        self.in_file = in_file
        self.boot = boot
        self._loop = asyncio.get_running_loop()
        self._alarm: asyncio.TimerHandle | None = None
        self.problems: dict[str, str] = {}
        """Schedule → why its ticks cannot be started; cleared by the next greeting."""
        self.conflicts: dict[str, str] = {}
        """Schedule → what else wants its name, in words."""
        self._seen: tuple[State, int] | None = None
        """The state, and its last change of a schedule, for which the next two were computed."""
        self._due_us = _NEVER_US
        self._waiting: list[Schedule] = []
        self._stopped = False

    @property
    def seed(self) -> str:
        """By which this project spreads its ticks."""
        return self._engine.journal.journal_id

    def declare(self, in_file: Mapping[str, c.ScheduleTerms]) -> None:
        """From now on `stackshift.toml` declares these."""
        self.in_file = in_file
        if self._catalog.greeted:  # Otherwise the first greeting has them learnt.
            self.learn()

    def learn(self) -> None:
        """Tell the core which schedules the jobs in the catalog and `stackshift.toml` have; called
        after a greeting, and when a schedule was removed."""
        self.problems.clear()
        self.conflicts.clear()
        self._seen = None
        schedules: dict[str, c.ScheduleTerms] = {}
        faulty: set[str] = set()
        for name, terms in self._declared():
            if name in schedules:
                self._conflict(name, "another schedule has the same name")
                continue
            if text := taken(self._engine.state, name, terms.source):
                self._conflict(name, text)
            try:
                # The worker's interpreter may know more time zones than the daemon's.
                clock_of(terms.schedule, terms.timezone, 0)
            except StackshiftError as bad:
                self._note(name, bad)
                faulty.add(terms.job or name)
            else:
                schedules[name] = terms
                if terms.schedule == REBOOT and not self.boot:
                    self.problems[name] = NO_BOOT
        jobs = frozenset(self._catalog.jobs).difference(faulty)
        complete = not self._catalog.failed and not faulty
        self._engine.submit(c.DefineSchedules(schedules, jobs, complete, self.seed, self.boot))
        if self.boot:
            self._engine.submit(c.NoteBoot(self.boot))
        self.rearm()

    def check_boot(self, expression: str) -> None:
        """Raise `Usage` for a `@reboot` that never ticks here."""
        if expression == REBOOT and not self.boot:
            raise Usage(f"it would have no ticks: {NO_BOOT}")

    def _declared(self) -> Iterator[tuple[str, c.ScheduleTerms]]:
        for job in self._catalog.jobs.values():
            yield from job.schedules.items()
        yield from self.in_file.items()

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
        for name in list(self._engine.state.schedules):
            while self._is_ready(name, now_us):
                if not left:
                    return False
                left -= 1
                self._fire(name)
        return True

    def _is_ready(self, name: str, now_us: int) -> bool:
        schedule = self._engine.state.schedules[name]
        return (
            self.has_job(schedule)
            and name not in self.problems
            and ready(self._engine.state, schedule, now_us)
        )

    def has_job(self, schedule: Schedule) -> bool:
        """Has a worker the job of the schedule?"""
        return schedule.job in self._catalog.runnable

    def _fire(self, name: str) -> None:
        state = self._engine.state
        before = state.seq
        try:
            start = self.prepared(state.schedules[name], key="schedule")
        except StackshiftError as bad:
            self._note(name, bad)
            return
        self._engine.submit(c.FireSchedule(name, start), lambda reply: self._replied(name, reply))
        if self._engine.state.seq == before and self._is_ready(name, self._engine.now_us()):
            self.problems[name] = "its tick was refused"

    def _replied(self, name: str, reply: Any) -> None:
        # If there was no space, the tick is due again and waits until there is.
        if isinstance(reply, StackshiftError) and not isinstance(reply, DiskFull):
            self._note(name, reply)

    def _note(self, name: str, bad: StackshiftError) -> None:
        self.problems[name] = bad.message
        log.error("the schedule %s: %s", name, bad.message)

    def _conflict(self, name: str, text: str) -> None:
        self.conflicts[name] = text
        log.error("the schedule %s is declared, but %s", name, text)

    def prepared(self, schedule: Schedule, key: str | None = None) -> c.StartRun:
        """The command that starts a run of the schedule, with the idempotency key `key` if given.

        Raises what the catalog raises for a start.
        """
        start = prepared(
            self._catalog,
            c.ScheduleTerms(
                "",
                job=schedule.job,
                payload=Raw(schedule.payload),
                start=Raw(schedule.start),
            ),
            self._engine.ids.run(),
            self._engine.now_us(),
            key,
        )
        return msgspec.structs.replace(
            start,
            schedule=schedule.name,
            max_runtime_ms=schedule.max_runtime_ms or start.max_runtime_ms,
        )

    def _look_ahead(self, now_us: int) -> None:
        """Compute what comes next, so that not every run has to go through all schedules."""
        state = self._engine.state
        self._seen = (state, state.schedules_seq)
        self._due_us, self._waiting = _NEVER_US, []
        for name, schedule in state.schedules.items():
            if not schedule.lives or name in self.problems or not self.has_job(schedule):
                continue
            if waits(state, schedule, now_us):
                self._waiting.append(schedule)
            if schedule.due_us > now_us:
                self._due_us = min(self._due_us, schedule.due_us)

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


def prepared(
    catalog: Catalog, terms: c.ScheduleTerms, run: str, now_us: int, key: str | None = None
) -> c.StartRun:
    """The command that starts the run `run` of a schedule with these terms, of which only the job,
    the payload and the options of the start matter. Raises what the catalog raises for a start."""
    options = msgspec.json.decode(bytes(terms.start), type=c.StartOptions)
    given = {name: getattr(options, name) for name in options.__struct_fields__}
    params = StartParams(terms.job, terms.payload, idempotency_key=key, **given)
    return catalog.start_command(params, run, now_us)
