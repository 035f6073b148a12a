"""Stories with schedules: `story.schedule("nightly", "0 9 * * *")`, `story.goes_on("1d")`.

Ticks are fired as in the daemon, which looks after everything that happens and at the time of the
next tick; a daemon that is down does not look.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from msgspec import Raw

from core.story import ONCE, Story
from stackshift_jobs.values.durations import milliseconds, rfc3339, to_us
from stackshift_jobs.values.strict_json import dumps
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.decide.schedules import ready
from stackshiftd.core.effects import Changed
from stackshiftd.core.state.schedules import Schedule


def at(text: str) -> int:
    """µs since 1970 of `2026-03-29 02:30`, in UTC."""
    return to_us(datetime.fromisoformat(text).replace(tzinfo=UTC))


class ScheduledStory(Story):
    """A `Story` that begins at `begins` (UTC) and whose code has schedules."""

    def __init__(self, begins: str = "2026-11-22 08:00") -> None:
        super().__init__()
        self.wall_us = at(begins)
        self.code: dict[str, c.ScheduleTerms] = {}
        self.unique: dict[str, str] = {}
        """Unique keys of the runs of jobs."""
        self.boot = "boot-1"

    # --- The code --------------------------------------------------------------------------

    def schedule(
        self,
        job: str,
        expression: str,
        timezone: str = "UTC",
        *,
        catch_up: str = "once",
        overlap: str = "skip",
        payload: Any = None,
        name: str = "",
        jitter: str = "0s",
        catch_up_for: str = "0s",
        source: str = "",
    ) -> Schedule:
        """Give the code of `job` this schedule, and let the daemon learn of it."""
        self.code[name or job] = self.terms(
            expression,
            timezone,
            catch_up=catch_up,
            overlap=overlap,
            payload=Raw(dumps({} if payload is None else payload)),
            job=job if name else "",
            jitter_ms=milliseconds(jitter),
            catch_up_for_ms=milliseconds(catch_up_for),
            source=source,
        )
        self.jobs.setdefault(job, "code-1")
        self.learn()
        return self.state.schedules[name or job]

    def terms(self, expression: str, timezone: str = "UTC", **others: Any) -> c.ScheduleTerms:
        """A declaration."""
        return c.ScheduleTerms(expression, timezone, **others)

    def add(self, name: str, expression: str, *, replace: bool = False, **others: Any) -> bool:
        """A person adds a schedule; returns whether that changed anything."""
        terms = self.terms(expression, **({"source": "command"} | others))
        self.jobs.setdefault(terms.job or name, "code-1")
        return self._switch(c.AddSchedule(name, terms, replace, "seed", self.boot))

    def rm(self, name: str) -> bool:
        """A person removes a schedule; returns whether that changed anything."""
        return self._switch(c.RemoveSchedule(name))

    def learn(self, *, complete: bool = True, without: str = "") -> None:
        """Workers greet; the module of the job `without` does not import."""
        found = {job: terms for job, terms in self.code.items() if job != without}
        jobs = frozenset(job for job in self.jobs if job != without)
        whole = complete and not without
        self.do(c.DefineSchedules(found, jobs, whole, "seed", self.boot))
        defined = self.decision
        if self.boot:
            self.do(c.NoteBoot(self.boot))
        self.decision = defined

    # --- Time ------------------------------------------------------------------------------

    def look(self, *, without: str = "") -> list[str]:
        """Decide everything that is due now, as the daemon does; returns the runs that it
        started."""
        started: list[str] = []
        for name, each in list(self.state.schedules.items()):
            while each.job != without and ready(
                self.state, self.state.schedules[name], self.now_us
            ):
                before = self.state.seq
                started += self.fire(name)
                assert self.state.seq > before, "a tick that is due and comes to nothing"
        return started

    def fire(self, name: str) -> list[str]:
        """Fire the tick of a schedule, due or not; returns the run that it started, if any."""
        job, payload = self.state.schedules[name].job, self.state.schedules[name].payload
        run = self.new_id()
        start = c.StartRun(
            run=run,
            job=job,
            queue="media",
            payload=payload,
            retry=ONCE,
            key="schedule",
            key_ttl_ms=milliseconds("30d"),
            digest=payload.decode(),
            unique=self.unique.get(job, ""),
            schedule=name,
            max_runtime_ms=self.state.schedules[name].max_runtime_ms,
        )
        self.do(c.FireSchedule(name, start))
        return [run] if any(isinstance(x, r.RunCreated) for x in self.decision.records) else []

    def goes_on(self, duration: str) -> list[str]:
        """Let time pass while the daemon is up; returns the runs that were started."""
        end_us = self.wall_us + milliseconds(duration) * 1000
        started = self.look()
        while True:
            coming = [each.due_us for each in self.state.schedules.values()]
            due_us = min((us for us in coming if us > self.wall_us), default=end_us + 1)
            if due_us > end_us:
                break
            self.wall_us = due_us
            started += self.look()
        self.wall_us = end_us
        return started

    def is_down(self, duration: str) -> None:
        """Let time pass while the daemon is down; then it claims its journal and its workers
        greet."""
        self.wall_us += milliseconds(duration) * 1000
        self.claim()
        self.learn()

    def finish(self, *runs: str) -> None:
        """These runs get a slot and complete."""
        for _ in runs:
            assert self.assign() in runs
        for run in runs:
            self.completes(run)

    # --- A person --------------------------------------------------------------------------

    def pause(self, job: str) -> bool:
        """Pause a schedule; returns whether that changed anything."""
        return self._switch(c.PauseSchedule(job))

    def resume(self, job: str) -> bool:
        """Resume a schedule; returns whether that changed anything."""
        return self._switch(c.ResumeSchedule(job))

    def _switch(self, command: c.Command) -> bool:
        reply = self.do(command).reply
        assert isinstance(reply, Changed)
        return reply.changed

    # --- Looking ---------------------------------------------------------------------------

    def ticks(self, name: str) -> list[str]:
        """The ticks that started a run, to the minute: `2026-11-22 09:00`."""
        return [_minute(fired.tick) for fired in self.fired(name) if fired.started]

    def fired(self, name: str) -> list[r.ScheduleFired]:
        """The decisions about ticks of a schedule, in order."""
        found = (entry.record for entry in self.entries)
        return [x for x in found if isinstance(x, r.ScheduleFired) and (x.name or x.job) == name]


def _minute(text: str) -> str:
    assert text.endswith(":00.000000Z"), text
    return f"{text[:10]} {text[11:16]}"


def minutes(*us: int | None) -> list[str]:
    """Times to the minute, in UTC."""
    return [_minute(rfc3339(each)) for each in us if each is not None]
