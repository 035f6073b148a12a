"""`schedule.list next pause resume trigger lint`: what becomes of the schedules that there are."""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import islice
from typing import Any, Final

from msgspec import Raw

from stackshift_jobs.errors import Conflict, NotFound, StackshiftError, Usage
from stackshift_jobs.values.durations import parse_time, rfc3339, to_datetime
from stackshift_jobs.values.strict_json import canonical, loads
from stackshiftd.core import commands as c
from stackshiftd.core.decide.cron.lint import lint
from stackshiftd.core.decide.cron.ticks import REBOOT, clock_of, zone_of
from stackshiftd.core.decide.schedules import clock_of_schedule, spread_of
from stackshiftd.core.state.schedules import Schedule
from stackshiftd.shell.background.schedule_timer import ScheduleTimer
from stackshiftd.shell.catalog import Catalog
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.params import Answer, FromCursor, Params, Reads, Table, paged
from stackshiftd.shell.views.redaction import Redaction
from stackshiftd.shell.views.run import View
from stackshiftd.shell.work import Work

MAX_SHOWN: Final = 1000


class NameSchedule(Params):
    """A schedule by its name: that of its job, `JOB/NAME`, or the one it was added under."""

    name: str


class NextTicks(Params):
    """The next `count` ticks of one schedule, or of all: those after the tick at `after_at` of
    `after_name`, if that is given. Or those of an expression that nothing has yet."""

    name: str | None = None
    schedule: str | None = None
    timezone: str = "UTC"
    count: int = 5
    after_at: str | None = None
    after_name: str = ""


class LintSchedules(Params):
    """One schedule, or all; or an expression that is not one yet."""

    name: str | None = None
    schedule: str | None = None
    timezone: str = "UTC"


class Schedules:
    """Shows, pauses, resumes, triggers and examines schedules."""

    def __init__(
        self,
        engine: Engine,
        catalog: Catalog,
        schedule_timer: ScheduleTimer,
        view: View,
        redaction: Redaction,
        expectation: Callable[[str, str], dict[str, Any] | None],
        has_heartbeat: Callable[[Schedule], bool],
    ) -> None:
        self._redaction = redaction
        self._expectation = expectation
        self._has_heartbeat = has_heartbeat
        self._engine = engine
        self._catalog = catalog
        self._view = view
        self._schedule_timer = schedule_timer
        self.reads: Reads = {
            "schedule.list": (FromCursor, self.list),
            "schedule.next": (NextTicks, self.next),
            "schedule.lint": (LintSchedules, self.lint),
        }
        self.table: Table = {
            "schedule.pause": (NameSchedule, self.pause),
            "schedule.resume": (NameSchedule, self.resume),
            "schedule.trigger": (NameSchedule, self.trigger),
        }

    def list(self, params: FromCursor) -> dict[str, Any]:
        """All schedules by name: `{schedules[], cursor}`."""
        names = sorted(self._engine.state.schedules)
        schedules, cursor = paged(names, self._shown, params.cursor)
        return {"schedules": schedules, "cursor": cursor}

    def _shown(self, name: str) -> dict[str, Any]:
        schedule = self._engine.state.schedules[name]
        last = schedule.last_run
        own = self._expectation(schedule.job, name)
        expectation = own or self._expectation(schedule.job, "")
        return {
            "job": schedule.job,
            "schedule": schedule.expression,
            "timezone": schedule.timezone,
            "next_at": _text(schedule.due_us),
            "last_at": _text(schedule.last_us),
            "paused": bool(schedule.paused_us),
            "retired": bool(schedule.retired_us),
            "catch_up": schedule.catch_up,
            "overlap": schedule.overlap,
            "payload": self._redaction.payload(Raw(schedule.payload)),
            "last_run": last or None,
            "waiting_tick": _text(schedule.held_us),
            "problem": self._problem(schedule),
            "name": name,
            "source": schedule.source or "code",
            "next_tick": _text(schedule.next_us),
            "jitter_ms": schedule.jitter_ms,
            "catch_up_for_ms": schedule.catch_up_for_ms or None,
            "last_status": self._view.status(last) if last else None,
            "skipped": schedule.skipped,
            "last_skip": {"tick": _text(schedule.skipped_us), "reason": schedule.skipped_why}
            if schedule.skipped_us
            else None,
            "options": Raw(schedule.start),
            "note": schedule.note or None,
            "payload_digest": sha256(canonical(loads(schedule.payload))).hexdigest(),
            "expected": expectation and expectation["status"],
            "expectation": own,
            "max_runtime_ms": schedule.max_runtime_ms or None,
            "heartbeat": self._has_heartbeat(schedule),
        }

    def _problem(self, schedule: Schedule) -> str | None:
        if schedule.retired_us:
            return None
        if not self._schedule_timer.has_job(schedule):
            return "no worker has the job"
        if schedule.expression == REBOOT and not self._schedule_timer.boot:
            return "@reboot does not tick here: nothing tells one start of the machine from another"
        timer = self._schedule_timer
        return timer.problems.get(schedule.name) or timer.conflicts.get(schedule.name)

    def next(self, params: NextTicks) -> Work:
        """The work that leads to `{ticks[]}`, each `{at, job, local, name, tick}`, the soonest
        first: `at` is when it starts a run, `tick` the time without jitter."""
        if not 1 <= params.count <= MAX_SHOWN:
            raise Usage(f"count is {params.count}", hint=f"1 to {MAX_SHOWN}")
        if params.schedule is not None:
            self._schedule_timer.check_boot(params.schedule.strip())
            return {"ticks": _ticks_of(params, self._engine.now_us())}
        schedules = self._engine.state.schedules
        after = (parse_time(params.after_at) if params.after_at else 0, params.after_name)
        if params.name is not None:
            wanted = [self._find(params.name)]
        else:
            problems = self._schedule_timer.problems
            wanted = [schedule for name, schedule in schedules.items() if name not in problems]
        ticks: list[dict[str, Any]] = []
        coming = heapq.merge(*(_coming(schedule, after) for schedule in wanted))
        for at_us, name, tick_us in islice(coming, params.count):
            schedule = schedules[name]
            ticks.append(
                {
                    "at": rfc3339(at_us),
                    "job": schedule.job,
                    "local": _local(at_us, schedule.timezone),
                    "name": name,
                    "tick": rfc3339(tick_us),
                }
            )
            yield None
        return {"ticks": ticks}

    def lint(self, params: LintSchedules) -> Work:
        """The work that leads to `{findings[]}`, each `{name, code, message}`, where `code` is
        `never`, `problem`, `clock_change` or `short_month`. An expression is checked as a schedule
        without a name."""
        now_us = self._engine.now_us()
        if params.schedule is not None:
            expression = " ".join(params.schedule.split())
            self._schedule_timer.check_boot(expression)
            found = [("", *finding) for finding in lint(expression, params.timezone, now_us)]
            return {"findings": [_finding(*each) for each in found]}
        schedules = self._engine.state.schedules
        names = sorted(schedules) if params.name is None else [self._find(params.name).name]
        findings: list[dict[str, Any]] = []
        for name in names:
            yield None
            schedule = schedules.get(name)
            if schedule is None or schedule.retired_us:
                continue
            if (problem := self._problem(schedule)) is not None:
                findings.append(_finding(name, "problem", problem))
            elif schedule.lives and not schedule.next_us and schedule.expression != REBOOT:
                findings.append(_finding(name, "never", "it never ticks again"))
            found_here = lint(schedule.expression, schedule.timezone, now_us)
            findings += [_finding(name, *finding) for finding in found_here]
        return {"findings": findings}

    def pause(self, params: NameSchedule, answer: Answer) -> None:
        """Pause a schedule; answer `{name, job, paused, next_at, changed}`."""
        self._switch(c.PauseSchedule(self._find(params.name).name), answer)

    def resume(self, params: NameSchedule, answer: Answer) -> None:
        """Resume a schedule; answer `{name, job, paused, next_at, changed}`."""
        self._switch(c.ResumeSchedule(self._find(params.name).name), answer)

    def _switch(self, command: c.PauseSchedule | c.ResumeSchedule, answer: Answer) -> None:
        seen = self._switched(command.name)

        def switched(reply: Any) -> None:
            failed = isinstance(reply, StackshiftError)
            answer(reply if failed else seen | {"changed": reply.changed})

        self._engine.submit(command, switched)
        # A change is already folded here, but answered only when it is durable; if nothing has
        # changed, the answer may already be out.
        seen |= self._switched(command.name)

    def _switched(self, name: str) -> dict[str, Any]:
        schedule = self._engine.state.schedules[name]
        return {
            "name": name,
            "job": schedule.job,
            "paused": bool(schedule.paused_us),
            "next_at": _text(schedule.due_us),
        }

    def trigger(self, params: NameSchedule, answer: Answer) -> None:
        """Start a run of a schedule now; answer `{id, job, name}`. Raises `Conflict` if the
        schedule is retired."""
        schedule = self._find(params.name)
        self._catalog.find(schedule.job)
        if schedule.retired_us:
            raise Conflict(
                f"the schedule {schedule.name} is no longer in the code",
                hint=f"stackshift start {schedule.job}",
            )

        def started(reply: Any) -> None:
            failed = isinstance(reply, StackshiftError)
            told = {"job": schedule.job, "name": schedule.name}
            answer(reply if failed else {"id": reply.run} | told)

        self._engine.submit(self._schedule_timer.prepared(schedule), started)

    def _find(self, name: str) -> Schedule:
        return find_schedule(self._engine, self._catalog, name)


def find_schedule(engine: Engine, catalog: Catalog, name: str) -> Schedule:
    """The schedule of this name. Raises `NotFound` with similar names, or with those of the job
    that is called so."""
    schedules = engine.state.schedules
    schedule = schedules.get(name)
    if schedule is not None:
        return schedule
    of_job = sorted(each for each, other in schedules.items() if other.job == name)
    if of_job:
        raise NotFound(
            f"job {name!r} has no schedule of its name",
            hint=f"it has {', '.join(of_job[:3])}",
            near=of_job[:3],
        )
    if name in catalog.jobs:
        raise NotFound(f"job {name!r} has no schedule", hint="stackshift schedules list")
    if catalog.failed:
        catalog.find(name)  # Raises an error that says which modules failed to import.
    near = difflib.get_close_matches(name, schedules, 3)
    hint = f"did you mean {near[0]}?" if near else "stackshift schedules list"
    raise NotFound(f"no schedule is named {name!r}", hint=hint, near=near)


def shown_terms(terms: c.ScheduleTerms) -> dict[str, Any]:
    """The options of a schedule in the code, by name, including defaults."""
    own = ("schedule", "timezone", "catch_up", "overlap", "payload", "catch_up_for_ms", "jitter_ms")
    return {name: getattr(terms, name) for name in own}


def _finding(name: str, code: str, text: str) -> dict[str, Any]:
    return {"name": name or None, "code": code, "message": text}


def _text(us: int) -> str | None:
    return rfc3339(us) if us else None


def _coming(schedule: Schedule, after: tuple[int, str]) -> Iterator[tuple[int, str, int]]:
    """When the next ticks of a schedule start a run, each with its name and the tick, that come
    `after` another; none if it is paused or retired."""
    if not schedule.next_us:
        return
    clock, spread, name = clock_of_schedule(schedule), spread_of(schedule), schedule.name
    if (schedule.due_us, name) > after:
        yield schedule.due_us, name, schedule.next_us
    # A tick before the time asked about may start its run only after it.
    earlier_us = after[0] - schedule.jitter_ms * 1000 - 1
    for tick_us in clock.after(max(schedule.next_us, earlier_us)):
        at_us = spread.due_us(clock, tick_us)
        if (at_us, name) > after:
            yield at_us, name, tick_us


def _ticks_of(params: NextTicks, now_us: int) -> list[dict[str, Any]]:
    """The next ticks of the expression in `params`."""
    clock = clock_of(" ".join(str(params.schedule).split()), params.timezone, now_us)
    ticks = islice(clock.after(now_us), params.count)
    return [
        {
            "at": rfc3339(us),
            "job": None,
            "local": _local(us, params.timezone),
            "name": None,
            "tick": rfc3339(us),
        }
        for us in ticks
    ]


def _local(us: int, timezone: str) -> str:
    """A time in local time of a time zone: `2026-03-29T03:00:00+02:00`."""
    return to_datetime(us).astimezone(zone_of(timezone)).isoformat()
