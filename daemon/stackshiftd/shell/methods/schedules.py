"""`schedule.list next pause resume trigger`."""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from msgspec import Raw

from stackshift_jobs.errors import Conflict, NotFound, StackshiftError, Usage
from stackshift_jobs.values.durations import parse_time, rfc3339, to_datetime
from stackshiftd.core import commands as c
from stackshiftd.core.decide.ticks import clock_of, zone_of
from stackshiftd.core.state.schedules import Schedule
from stackshiftd.shell.background.schedule_timer import ScheduleTimer
from stackshiftd.shell.catalog import Catalog
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.params import Answer, FromCursor, Params, Reads, Table, paged
from stackshiftd.shell.views.redaction import Redaction
from stackshiftd.shell.work import Work

MAX_SHOWN: Final = 1000


class NameSchedule(Params):
    """A schedule, by the name of its job."""

    job: str


class NextTicks(Params):
    """The next `count` ticks of one job's schedule, or of all schedules: those after the tick at
    `after_at` of `after_job`, if that is given."""

    job: str | None = None
    count: int = 5
    after_at: str | None = None
    after_job: str = ""


class Schedules:
    """Shows, pauses, resumes and triggers the schedules of jobs."""

    def __init__(
        self,
        engine: Engine,
        catalog: Catalog,
        schedule_timer: ScheduleTimer,
        redaction: Redaction,
    ) -> None:
        self._redaction = redaction
        self._engine = engine
        self._catalog = catalog
        self._schedule_timer = schedule_timer
        self.reads: Reads = {
            "schedule.list": (FromCursor, self.list),
            "schedule.next": (NextTicks, self.next),
        }
        self.table: Table = {
            "schedule.pause": (NameSchedule, self.pause),
            "schedule.resume": (NameSchedule, self.resume),
            "schedule.trigger": (NameSchedule, self.trigger),
        }

    def list(self, params: FromCursor) -> dict[str, Any]:
        """All schedules by name of the job: `{schedules[], cursor}`."""
        jobs = sorted(self._engine.state.schedules)
        schedules, cursor = paged(jobs, self._shown, params.cursor)
        return {"schedules": schedules, "cursor": cursor}

    def _shown(self, job: str) -> dict[str, Any]:
        schedule = self._engine.state.schedules[job]
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
            "payload": self._redaction.payload(Raw(schedule.payload)),
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

    def next(self, params: NextTicks) -> Work:
        """The work that leads to `{ticks[]}`, each `{at, job, local}`, the soonest first."""
        if not 1 <= params.count <= MAX_SHOWN:
            raise Usage(f"count is {params.count}", hint=f"1 to {MAX_SHOWN}")
        schedules = self._engine.state.schedules
        after = (parse_time(params.after_at) if params.after_at else 0, params.after_job)
        if params.job is not None:
            wanted = [self._find(params.job)]
        else:
            problems = self._schedule_timer.problems
            wanted = [schedule for job, schedule in schedules.items() if job not in problems]
        ticks: list[dict[str, Any]] = []
        coming = heapq.merge(*(_coming(schedule, after) for schedule in wanted))
        for us, job in islice(coming, params.count):
            local = _local(us, schedules[job].timezone)
            ticks.append({"at": rfc3339(us), "job": job, "local": local})
            yield None
        return {"ticks": ticks}

    def pause(self, params: NameSchedule, answer: Answer) -> None:
        """Pause a schedule; answer `{job, paused, next_at, changed}`."""
        self._switch(c.PauseSchedule(self._find(params.job).job), answer)

    def resume(self, params: NameSchedule, answer: Answer) -> None:
        """Resume a schedule; answer `{job, paused, next_at, changed}`."""
        self._switch(c.ResumeSchedule(self._find(params.job).job), answer)

    def _switch(self, command: c.PauseSchedule | c.ResumeSchedule, answer: Answer) -> None:
        seen = self._switched(command.job)

        def switched(reply: Any) -> None:
            failed = isinstance(reply, StackshiftError)
            answer(reply if failed else seen | {"changed": reply.changed})

        self._engine.submit(command, switched)
        # A change is already folded here, but answered only when it is durable; if nothing has
        # changed, the answer may already be out.
        seen |= self._switched(command.job)

    def _switched(self, job: str) -> dict[str, Any]:
        schedule = self._engine.state.schedules[job]
        paused = bool(schedule.paused_us)
        return {"job": job, "paused": paused, "next_at": _text(schedule.next_us)}

    def trigger(self, params: NameSchedule, answer: Answer) -> None:
        """Start a run of a schedule now; answer `{id, job}`. Raises `Conflict` if the schedule is
        no longer in the code."""
        schedule = self._find(params.job)
        self._catalog.find(schedule.job)
        if schedule.retired_us:
            raise Conflict(
                f"the schedule of {schedule.job} is no longer in the code",
                hint=f"stackshift start {schedule.job}",
            )

        def started(reply: Any) -> None:
            failed = isinstance(reply, StackshiftError)
            answer(reply if failed else {"id": reply.run, "job": schedule.job})

        self._engine.submit(self._schedule_timer.prepared(schedule), started)

    def _find(self, job: str) -> Schedule:
        """The schedule of the job. Raises `NotFound` with similar names."""
        schedules = self._engine.state.schedules
        schedule = schedules.get(job)
        if schedule is not None:
            return schedule
        if job in self._catalog.jobs:
            raise NotFound(f"job {job!r} has no schedule", hint="stackshift schedules list")
        if self._catalog.failed:
            self._catalog.find(job)  # Raises an error that says which modules failed to import.
        near = difflib.get_close_matches(job, schedules, 3)
        hint = f"did you mean {near[0]}?" if near else "stackshift schedules list"
        raise NotFound(f"no job {job!r} has a schedule", hint=hint, near=near)


def shown_terms(terms: c.ScheduleTerms) -> dict[str, Any]:
    """The options of a schedule in the code, by name, including defaults."""
    return {name: getattr(terms, name) for name in terms.__struct_fields__}


def _text(us: int) -> str | None:
    return rfc3339(us) if us else None


def _coming(schedule: Schedule, after: tuple[int, str]) -> Iterator[tuple[int, str]]:
    """The next ticks of a schedule, each with its job, that come `after` another; none if it is
    paused or retired."""
    if not schedule.next_us:
        return
    clock = clock_of(schedule.expression, schedule.timezone, schedule.since_us)
    next_us, job = schedule.next_us, schedule.job
    if (next_us, job) > after:
        yield next_us, job
    for us in clock.after(max(next_us, after[0] - 1)):
        if (us, job) > after:
            yield us, job


def _local(us: int, timezone: str) -> str:
    """A tick in local time of its time zone: `2026-03-29T03:00:00+02:00`."""
    return to_datetime(us).astimezone(zone_of(timezone)).isoformat()
