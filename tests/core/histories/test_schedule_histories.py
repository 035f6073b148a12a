"""Random histories of schedules: time, outages, crashes that lose the unwritten end, people and new
code in any order; each tick comes once, and none is lost in silence."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from typing import Final

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from core.schedule_story import ScheduledStory
from stackshift_jobs.errors import Conflict, NotFound
from stackshift_jobs.values.durations import from_rfc3339, rfc3339
from stackshiftd.core import records as r
from stackshiftd.core.decide.cron.ticks import Clock, clock_of, count
from stackshiftd.core.decide.schedules import ready, waits
from stackshiftd.core.fold.fold import fold
from stackshiftd.core.snapshot import state_hash
from stackshiftd.core.state.state import State

LONG: Final = os.environ.get("STACKSHIFT_LONG") == "1"
JOBS: Final = ("resize", "report", "mail")
ADDED: Final = ("extra",)
EXPRESSIONS: Final = (
    "30 2 * * *",
    "*/30 */5 * * *",
    "@hourly",
    "@every 3h25m",
    "0 1-3 * * *",
    "@reboot",
)
STOPS: Final = (r.SchedulePaused, r.ScheduleRetired, r.ScheduleRemoved)
SPANS: Final = ("1s", "59s", "10m", "1h", "5h", "1d")

picks = st.integers(0, 999)


class Schedules(RuleBasedStateMachine):
    """Three jobs in Berlin, around the night in which the clocks go back."""

    def __init__(self) -> None:
        super().__init__()
        self.story = ScheduledStory("2026-10-24 20:00")

    @initialize(pick=picks)
    def open(self, pick: int) -> None:
        """A daemon claims the journal, and each job has a schedule."""
        self.story.claim()
        for number, job in enumerate(JOBS):
            self.story.jobs[job] = "code-1"
            self.define(job, pick + number)

    def define(self, job: str, pick: int) -> None:
        """The code of a job gets another schedule."""
        self.story.schedule(
            job,
            EXPRESSIONS[pick % len(EXPRESSIONS)],
            "Europe/Berlin",
            catch_up=("skip", "once", "all")[pick % 3],
            overlap=("allow", "skip", "queue", "cancel")[pick // 3 % 4],
            payload={"n": pick % 2},
            jitter=("0s", "0s", "40m", "4h")[pick // 12 % 4],
            catch_up_for=("0s", "6h")[pick // 48 % 2] if pick % 3 else "0s",
        )

    # --- What happens ----------------------------------------------------------------------

    @rule(span=st.sampled_from(SPANS))
    def time_passes(self, span: str) -> None:
        """Time passes while the daemon is up."""
        self.story.goes_on(span)

    @rule(span=st.sampled_from(SPANS))
    def daemon_is_down(self, span: str) -> None:
        """Time passes while the daemon is down."""
        self.story.is_down(span)
        self.story.look()

    @rule(span=st.sampled_from(SPANS))
    def clock_is_set_back(self, span: str) -> None:
        """The wall clock is set back."""
        self.story.wall_us -= {"1d": 3_600_000_000}.get(span, 60_000_000)

    @rule(lost=st.integers(1, 4))
    def daemon_crashes(self, lost: int) -> None:
        """The last appends were never written; the next daemon begins before them."""
        story = self.story
        end = story.ends[-min(lost, len(story.ends))]
        if end < 4:
            return
        del story.entries[end:]
        del story.ends[story.ends.index(end) + 1 :]
        story.state = State()
        for entry in story.entries:
            fold(story.state, entry)
        story.is_down("1s")
        story.look()

    @rule(pick=picks)
    def run_is_worked_on(self, pick: int) -> None:
        """A run ends, or is dispatched."""
        story = self.story
        executing = [run for run in story.state.runs.values() if run.token]
        if executing and pick % 4:
            run = executing[pick % len(executing)].id
            (story.completes, story.fails, story.cancel)[pick % 3](run)
            if story.token(run):
                story.stops(run)
        else:
            story.assign()
        story.look()

    @rule(pick=picks)
    def code_changes(self, pick: int) -> None:
        """The schedule of a job changes."""
        self.define(JOBS[pick % 3], pick)
        self.story.look()

    @rule(pick=picks)
    def code_goes(self, pick: int) -> None:
        """A job disappears from the code."""
        self.story.code.pop(JOBS[pick % 3], None)
        self.story.learn(complete=bool(pick % 2))
        self.story.look()

    @rule(pick=picks)
    def person_switches(self, pick: int) -> None:
        """A person pauses or resumes a schedule."""
        name = (*JOBS, *ADDED)[pick % 4]
        with suppress(NotFound):
            (self.story.pause, self.story.resume)[pick // 4 % 2](name)
        self.story.look()

    @rule(pick=picks)
    def person_adds_or_removes(self, pick: int) -> None:
        """A person adds, changes or removes a schedule, of a name of its own or of the code's."""
        story, name = self.story, (*ADDED, *JOBS)[pick % 4]
        with suppress(Conflict, NotFound):
            if pick // 4 % 3:
                story.add(
                    name,
                    EXPRESSIONS[pick % len(EXPRESSIONS)],
                    job=JOBS[pick // 12 % 3],
                    overlap=("allow", "cancel")[pick // 36 % 2],
                    jitter_ms=(0, 2_400_000)[pick // 72 % 2],
                    replace=bool(pick // 144 % 2),
                )
            else:
                story.rm(name)
                story.learn()
        story.look()

    @rule()
    def machine_starts(self) -> None:
        """The machine is started again."""
        self.story.boot += "1"
        self.story.is_down("10m")
        self.story.look()

    # --- What holds ------------------------------------------------------------------------

    @invariant()
    def nothing_is_left_that_could_be_decided(self) -> None:
        """Every tick that can be decided has been decided."""
        story = self.story
        for each in story.state.schedules.values():
            assert not ready(story.state, each, story.now_us)
            if each.lives and 0 < each.due_us <= story.now_us:
                assert waits(story.state, each, story.now_us)
            assert bool(each.next_us) == bool(each.due_us)
            assert each.next_us <= each.due_us

    def teardown(self) -> None:
        """Every tick has at most one run, and none is missing."""
        story = self.story
        created = [e.record for e in story.entries if isinstance(e.record, r.RunCreated)]
        scheduled = [x for x in created if x.key is not None]
        assert not [n for n in Counter(x.key for x in scheduled).values() if n > 1]
        fired = [
            e.record
            for e in story.entries
            if isinstance(e.record, r.ScheduleFired) and e.record.started
        ]
        assert [(x.job, x.tick) for x in fired] == [(x.job, x.scheduled_at) for x in scheduled]
        for name in (*ADDED, *JOBS):
            self.every_tick_is_recorded(name)
        wanted = state_hash(story.state)
        assert state_hash(story.replayed()) == wanted
        assert state_hash(story.via_snapshot(story.ends[len(story.ends) // 2])) == wanted

    def every_tick_is_recorded(self, name: str) -> None:
        """From the tick that a record calls the next, all that came are fired or passed over, and
        none before the time that a record gave it."""
        clock: Clock | None = None
        next_us, due_us, held = 0, 0, ""
        for entry in self.story.entries:
            record = entry.record
            if (getattr(record, "name", "") or getattr(record, "job", None)) != name:
                continue
            if isinstance(record, r.ScheduleDefined):
                since_us = from_rfc3339(record.since)
                clock = clock_of(record.schedule, record.timezone, since_us)
                next_us = from_rfc3339(record.next_at) if record.next_at else 0
            elif isinstance(record, STOPS):
                next_us, held = 0, ""
            elif isinstance(record, r.ScheduleBooted):
                assert record.next_at is None or clock is None or not next(clock.after(0), 0)
                next_us = from_rfc3339(record.next_at) if record.next_at else 0
            elif isinstance(record, r.ScheduleResumed):
                next_us = from_rfc3339(record.next_at) if record.next_at else 0
            elif isinstance(record, r.ScheduleFired):
                tick_us = from_rfc3339(record.tick)
                assert tick_us <= entry.at_us, "early"
                if record.tick == held and record.started:
                    held = ""
                    continue
                assert clock is not None and next_us
                replaced = bool(held) and record.reason == "waits"
                assert record.passed == count(clock, next_us, tick_us) + replaced
                assert entry.at_us >= due_us or tick_us > next_us, "before the time that was said"
                next_us = from_rfc3339(record.next_at) if record.next_at else 0
                assert next_us == next(clock.after(tick_us), 0)
                held = record.tick if record.reason == "waits" else held
            due_us = from_rfc3339(getattr(record, "due_at", None) or rfc3339(next_us or 1))


TestSchedules = Schedules.TestCase
TestSchedules.settings = settings(
    max_examples=300 if LONG else 50,
    stateful_step_count=40,
    derandomize=not LONG,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
