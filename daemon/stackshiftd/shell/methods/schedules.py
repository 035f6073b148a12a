"""`schedule.list next pause resume trigger`."""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from msgspec import Raw

from stackshift_jobs.errors import Conflict, NotFound, StackshiftError, Usage
from stackshift_jobs.values.durations import rfc3339, to_datetime
from stackshiftd.core import commands as c
from stackshiftd.core.decide.ticks import clock_of, zone_of
from stackshiftd.core.state.schedules import Schedule
from stackshiftd.shell.background.schedule_timer import ScheduleTimer
from stackshiftd.shell.catalog import Catalog
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.params import Answer, NoParams, Params, Table

MAX_SHOWN: Final = 1000


class NameSchedule(Params):
    job: str


class NextTicks(Params):
    job: str | None = None
    count: int = 5


class Schedules:
    """The schedules of all jobs, shown and acted on."""

    def __init__(self, engine: Engine, catalog: Catalog, schedule_timer: ScheduleTimer) -> None:
        self._engine = engine
        self._catalog = catalog
        self._schedule_timer = schedule_timer
        self.table: Table = {
            "schedule.list": (NoParams, self.list),
            "schedule.next": (NextTicks, self.next),
            "schedule.pause": (NameSchedule, self.pause),
            "schedule.resume": (NameSchedule, self.resume),
            "schedule.trigger": (NameSchedule, self.trigger),
        }

    def list(self, params: NoParams, answer: Answer) -> None:
        state = self._engine.state
        told = [self._shown(state.schedules[job]) for job in sorted(state.schedules)]
        self._engine.when_durable(answer, {"schedules": told})

    def _shown(self, schedule: Schedule) -> dict[str, Any]:
        return {
            "job": schedule.job,
            "schedule": schedule.expression,
            "timezone": schedule.timezone,
            "next_at": _text(schedule.next_us),
            "last_at": _text(schedule.last_us),
            "paused": bool(schedule.paused_us),
            "retired": bool(schedule.retired_us),
            "catch_up": schedule.catch_up,
            "overlap": schedule.overlap,
            "payload": Raw(schedule.payload),
            "last_run": schedule.last_run or None,
            "waiting_tick": _text(schedule.held_us),
            "problem": self._problem(schedule),
        }

    def _problem(self, schedule: Schedule) -> str | None:
        if schedule.retired_us:
            return None
        if schedule.job not in self._catalog.jobs:
            return "no worker has the job"
        return self._schedule_timer.problems.get(schedule.job)

    def next(self, params: NextTicks, answer: Answer) -> None:
        if not 1 <= params.count <= MAX_SHOWN:
            raise Usage(f"count is {params.count}", hint=f"1 to {MAX_SHOWN}")
        schedules = self._engine.state.schedules
        if params.job is not None:
            wanted = [self._find(params.job)]
        else:
            wanted = [
                each for each in schedules.values() if each.job not in self._schedule_timer.problems
            ]
        ticks = heapq.merge(*map(_coming, wanted))
        told = [
            {"at": rfc3339(us), "job": job, "local": _local(us, schedules[job].timezone)}
            for us, job in islice(ticks, params.count)
        ]
        self._engine.when_durable(answer, {"ticks": told})

    def pause(self, params: NameSchedule, answer: Answer) -> None:
        self._switch(c.PauseSchedule(self._find(params.job).job), answer)

    def resume(self, params: NameSchedule, answer: Answer) -> None:
        self._switch(c.ResumeSchedule(self._find(params.job).job), answer)

    def _switch(self, command: c.PauseSchedule | c.ResumeSchedule, answer: Answer) -> None:
        seen = self._switched(command.job)

        def switched(reply: Any) -> None:
            failed = isinstance(reply, StackshiftError)
            answer(reply if failed else seen | {"changed": reply.changed})

        self._engine.submit(command, switched)
        # What has changed is folded by now and is answered when it is durable; where nothing has,
        # it may be answered already.
        seen |= self._switched(command.job)

    def _switched(self, job: str) -> dict[str, Any]:
        schedule = self._engine.state.schedules[job]
        return {
            "job": job,
            "paused": bool(schedule.paused_us),
            "next_at": _text(schedule.next_us),
        }

    def trigger(self, params: NameSchedule, answer: Answer) -> None:
        schedule = self._find(params.job)
        self._catalog.find(schedule.job)
        if schedule.retired_us:
            raise Conflict(
                f"the schedule of {schedule.job} is not in the code any more",
                hint=f"stackshift start {schedule.job}",
            )

        def started(reply: Any) -> None:
            failed = isinstance(reply, StackshiftError)
            answer(reply if failed else {"id": reply.run, "job": schedule.job})

        self._engine.submit(self._schedule_timer.prepared(schedule), started)

    def _find(self, job: str) -> Schedule:
        """The schedule of that job. Raises `NotFound` with near names."""
        schedules = self._engine.state.schedules
        found = schedules.get(job)
        if found is not None:
            return found
        if job in self._catalog.jobs:
            raise NotFound(f"job {job!r} has no schedule", hint="stackshift schedules list")
        if self._catalog.failed:
            self._catalog.find(job)  # says which modules did not import
        near = difflib.get_close_matches(job, schedules, 3)
        hint = f"did you mean {near[0]}?" if near else "stackshift schedules list"
        raise NotFound(f"no job {job!r} has a schedule", hint=hint, near=near)


def shown_terms(terms: c.ScheduleTerms) -> dict[str, Any]:
    """What the code says of a schedule, defaults included."""
    return {name: getattr(terms, name) for name in terms.__struct_fields__}


def _text(us: int) -> str | None:
    return rfc3339(us) if us else None


def _coming(schedule: Schedule) -> Iterator[tuple[int, str]]:
    """The next ticks of a schedule, with its job; none where it is paused or retired."""
    if schedule.next_us:
        clock = clock_of(schedule.expression, schedule.timezone, schedule.since_us)
        yield schedule.next_us, schedule.job
        for us in clock.after(schedule.next_us):
            yield us, schedule.job


def _local(us: int, timezone: str) -> str:
    """A tick as the clocks of its zone show it: `2026-03-29T03:00:00+02:00`."""
    return to_datetime(us).astimezone(zone_of(timezone)).isoformat()
