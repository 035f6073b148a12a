"""`schedule.add remove backfill`: schedules without code, and runs for ticks of the past."""

from __future__ import annotations

from functools import partial
from itertools import islice, takewhile
from typing import Any, Final

import msgspec
from msgspec import Raw

from stackshift_jobs.errors import PayloadRefused, StackshiftError, Usage
from stackshift_jobs.schedules import check_terms
from stackshift_jobs.values.destinations import web_address
from stackshift_jobs.values.durations import MAX_DURATION_MS, parse_time, rfc3339
from stackshift_jobs.values.expectations import check_expectation
from stackshift_jobs.values.limits import MAX_SCHEDULE_PAYLOAD
from stackshift_jobs.values.names import check_name, one_of
from stackshiftd.core import commands as c
from stackshiftd.core.decide.cron.ticks import clock_of, tick_key
from stackshiftd.core.decide.schedules import clock_of_schedule
from stackshiftd.core.effects import Started
from stackshiftd.core.state.schedules import BY_COMMAND, BY_CRONTAB, Schedule
from stackshiftd.shell.background.schedule_timer import ScheduleTimer, prepared
from stackshiftd.shell.catalog import Catalog
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.methods.schedules import NameSchedule, find_schedule
from stackshiftd.shell.params import Answer, Params, Reads, Table, within

MAX_ADDED: Final = 10_000
MAX_NOTE: Final = 8192
"""Characters of what a person wrote about a schedule."""
MAX_BACKFILLED: Final = 100
"""Ticks of one request."""


class AddParams(Params):
    """A schedule of `job`: `schedule` is the expression, `options` are those of its runs."""

    name: str
    job: str
    schedule: str
    timezone: str = "UTC"
    catch_up: str = "once"
    catch_up_for_ms: int = 0
    overlap: str = "skip"
    jitter_ms: int = 0
    payload: Raw = Raw(b"{}")
    options: c.StartOptions = c.StartOptions()
    note: str = ""
    source: str = BY_COMMAND
    replace: bool = False
    expect: str = ""
    max_runtime_ms: int | None = None
    heartbeat: str = ""


class BackfillParams(Params):
    """The ticks of a schedule from `since` to before `until` (now, without it), of which at most
    `limit` are handled at once."""

    name: str
    since: str
    until: str | None = None
    limit: int = MAX_BACKFILLED


class ScheduleChanges:
    """Adds and removes schedules, and starts runs for past ticks."""

    def __init__(self, engine: Engine, catalog: Catalog, schedule_timer: ScheduleTimer) -> None:
        self._engine = engine
        self._catalog = catalog
        self._schedule_timer = schedule_timer
        self.reads: Reads = {"schedule.past": (BackfillParams, self.past)}
        self.table: Table = {
            "schedule.add": (AddParams, self.add),
            "schedule.remove": (NameSchedule, self.remove),
            "schedule.backfill": (BackfillParams, self.backfill),
        }

    def add(self, params: AddParams, answer: Answer) -> None:
        """Add a schedule, or change one that was added; answer `{name, changed, next_at}`. Raises
        what a start of its job raises, `Usage` and `Conflict`."""
        terms = self._terms(params)
        name = check_name(params.name, "schedule")
        timer, engine = self._schedule_timer, self._engine
        command = c.AddSchedule(name, terms, params.replace, timer.seed, timer.boot)
        if name not in engine.state.schedules and len(engine.state.schedules) >= MAX_ADDED:
            raise Usage(f"there are {MAX_ADDED} schedules already", hint="schedules rm")
        told: dict[str, Any] = {"name": name, "next_at": self._next_at(name)}

        def added(reply: Any) -> None:
            failed = isinstance(reply, StackshiftError)
            answer(reply if failed else told | {"changed": reply.changed})

        engine.submit(command, added)
        # A change is already folded here, but answered only when it is durable; if nothing has
        # changed, the answer may already be out.
        told["next_at"] = self._next_at(name)
        timer.problems.pop(name, None)
        timer.rearm()

    def _next_at(self, name: str) -> str | None:
        schedule = self._engine.state.schedules.get(name)
        return rfc3339(schedule.due_us) if schedule is not None and schedule.due_us else None

    def _terms(self, params: AddParams) -> c.ScheduleTerms:
        expression = " ".join(params.schedule.split())
        clock_of(expression, params.timezone, 0)
        self._schedule_timer.check_boot(expression)
        within(params.catch_up_for_ms, 0, MAX_DURATION_MS, "catch_up_for_ms")
        within(params.jitter_ms, 0, MAX_DURATION_MS, "jitter_ms")
        check_terms(params.catch_up, params.catch_up_for_ms, params.overlap, params.jitter_ms)
        if params.max_runtime_ms is not None:
            within(params.max_runtime_ms, 1, MAX_DURATION_MS, "max_runtime_ms")
        within(len(params.note), 0, MAX_NOTE, "the length of the note")
        terms = c.ScheduleTerms(
            schedule=expression,
            timezone=params.timezone,
            catch_up=params.catch_up,
            overlap=params.overlap,
            payload=params.payload,
            job=self._catalog.find(params.job).name,
            source=one_of(params.source, (BY_COMMAND, BY_CRONTAB), "source"),
            catch_up_for_ms=params.catch_up_for_ms,
            jitter_ms=params.jitter_ms,
            start=Raw(msgspec.json.encode(params.options)),
            note=params.note,
            expect=check_expectation(params.expect) if params.expect else "",
            max_runtime_ms=params.max_runtime_ms or 0,
            heartbeat=_heartbeat(params.heartbeat) if params.heartbeat else "",
        )
        # What its runs would be refused for is refused now.
        start = prepared(self._catalog, terms, "", self._engine.now_us(), key="schedule")
        if len(start.payload) > MAX_SCHEDULE_PAYLOAD:
            raise PayloadRefused(
                f"the payload of a schedule has at most {MAX_SCHEDULE_PAYLOAD >> 10} KiB",
                hint="put it into a file that the job reads",
                path="$",
            )
        return msgspec.structs.replace(terms, payload=Raw(start.payload))

    def remove(self, params: NameSchedule, answer: Answer) -> None:
        """Remove a schedule; answer `{name}`. Raises `NotFound`, and `Conflict` if it is declared
        by code or `stackshift.toml`."""
        name = find_schedule(self._engine, self._catalog, params.name).name

        def removed(reply: Any) -> None:
            answer(reply if isinstance(reply, StackshiftError) else {"name": name})

        self._engine.submit(c.RemoveSchedule(name), removed)
        if name not in self._engine.state.schedules:
            self._schedule_timer.learn()  # The code may have waited for the name.

    def past(self, params: BackfillParams) -> dict[str, Any]:
        """What `backfill` would do: `{runs[], next, until}`, each `{tick, id, reused}`, where `id`
        is null for a run that would be started."""
        schedule, ticks, until_us = self._ticks(params)
        now_us = self._engine.now_us()
        runs = []
        for tick_us in ticks:
            owner = self._engine.state.key_owner(tick_key(schedule.name, tick_us), now_us)
            run = owner.run if owner is not None else None
            runs.append({"tick": rfc3339(tick_us), "id": run, "reused": owner is not None})
        return _page(runs, ticks, params.limit, until_us)

    def backfill(self, params: BackfillParams, answer: Answer) -> None:
        """Start a run for each tick that has none; answer `{runs[], next, until}`, each `{tick, id,
        reused}`, once all are durable. `next` is the `since` of the next request, null at the
        end."""
        schedule, ticks, until_us = self._ticks(params)
        self._catalog.find(schedule.job)
        runs: list[dict[str, Any]] = []
        refused: list[StackshiftError] = []
        left = len(ticks)

        def done() -> None:
            runs.sort(key=lambda run: run["tick"])
            answer(refused[0] if refused else _page(runs, ticks, params.limit, until_us))

        def started(tick_us: int, reply: Any) -> None:
            nonlocal left
            if isinstance(reply, Started):
                tick = {"tick": rfc3339(tick_us), "id": reply.run, "reused": reply.reused}
                runs.append(tick)
            else:
                refused.append(reply)
            left -= 1
            if not left:
                done()

        if not ticks:
            done()
        now_us = self._engine.now_us()
        for tick_us in ticks:
            key = tick_key(schedule.name, tick_us)
            owner = self._engine.state.key_owner(key, now_us)
            if owner is not None:
                started(tick_us, Started(owner.run, True))
                continue
            start = self._schedule_timer.prepared(schedule, key)
            start = msgspec.structs.replace(start, due_us=tick_us)
            self._engine.submit(start, partial(started, tick_us))

    def _ticks(self, params: BackfillParams) -> tuple[Schedule, list[int], int]:
        """The schedule, the first of its ticks, and the end in µs. Raises `Usage` for a time that
        is yet to come."""
        schedule = find_schedule(self._engine, self._catalog, params.name)
        now_us = self._engine.now_us()
        since_us = parse_time(params.since)
        until_us = now_us if params.until is None else parse_time(params.until)
        within(params.limit, 1, MAX_BACKFILLED, "limit")
        if until_us > now_us:
            raise Usage(
                f"until {params.until} is in the future", hint="its ticks come by themselves"
            )
        if since_us >= until_us:
            raise Usage(f"since {params.since} is not before until {rfc3339(until_us)}")
        coming = clock_of_schedule(schedule).after(since_us - 1)
        ticks = takewhile(lambda us: us < until_us, coming)
        return schedule, list(islice(ticks, params.limit)), until_us


def _heartbeat(url: str) -> str:
    try:
        return web_address(url)
    except ValueError as bad:
        raise Usage(f"heartbeat: {url!r} is not {bad}") from None


def _page(
    runs: list[dict[str, Any]], ticks: list[int], limit: int, until_us: int
) -> dict[str, Any]:
    following = rfc3339(ticks[-1] + 1) if len(ticks) == limit else None
    return {"runs": runs, "next": following, "until": rfc3339(until_us)}
