"""Random histories of schedules: time, outages, crashes that lose the unwritten end, people and new
code in any order; each tick comes once, and none is lost in silence."""

from __future__ import annotations

import os
from collections import Counter
from typing import Final

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from core.schedule_story import ScheduledStory
from stackshift_jobs.values.durations import from_rfc3339
from stackshiftd.core import records as r
from stackshiftd.core.decide.schedules import ready, waits
from stackshiftd.core.decide.ticks import Clock, clock_of, count
from stackshiftd.core.fold.fold import fold
from stackshiftd.core.snapshot import state_hash
from stackshiftd.core.state.state import State

LONG: Final = os.environ.get("STACKSHIFT_LONG") == "1"
JOBS: Final = ("resize", "report", "mail")
EXPRESSIONS: Final = ("30 2 * * *", "*/30 */5 * * *", "@hourly", "@every 3h25m", "0 1-3 * * *")
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
            overlap=("allow", "skip", "queue")[pick // 3 % 3],
            payload={"n": pick % 2},
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
        self.define(JOBS[pick % 3], pick // 3)
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
        (self.story.pause, self.story.resume)[pick // 3 % 2](JOBS[pick % 3])
        self.story.look()

    # --- What holds ------------------------------------------------------------------------

    @invariant()
    def nothing_is_left_that_could_be_decided(self) -> None:
        """Every tick that can be decided has been decided."""
        story = self.story
        for each in story.state.schedules.values():
            assert not ready(story.state, each, story.now_us)
            if each.lives and 0 < each.next_us <= story.now_us:
                assert waits(story.state, each, story.now_us)

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
        for job in JOBS:
            self.every_tick_is_recorded(job)
        wanted = state_hash(story.state)
        assert state_hash(story.replayed()) == wanted
        assert state_hash(story.via_snapshot(story.ends[len(story.ends) // 2])) == wanted

    def every_tick_is_recorded(self, job: str) -> None:
        """From the tick that a record calls the next, all that came are fired or passed over."""
        clock: Clock | None = None
        next_us, held = 0, ""
        for entry in self.story.entries:
            record = entry.record
            if getattr(record, "job", None) != job:
                continue
            if isinstance(record, r.ScheduleDefined):
                since_us = from_rfc3339(record.since)
                clock = clock_of(record.schedule, record.timezone, since_us)
                next_us = from_rfc3339(record.next_at) if record.next_at else 0
            elif isinstance(record, r.SchedulePaused | r.ScheduleRetired):
                next_us, held = 0, ""
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
                assert record.next_at is not None
                next_us = from_rfc3339(record.next_at)
                assert next_us == next(clock.after(tick_us))
                held = record.tick if record.reason == "waits" else held


TestSchedules = Schedules.TestCase
TestSchedules.settings = settings(
    max_examples=300 if LONG else 50,
    stateful_step_count=40,
    derandomize=not LONG,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
