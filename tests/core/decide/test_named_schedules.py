"""Several schedules of one job, schedules that a person adds, and what spreads, bounds and ends
their runs."""

from __future__ import annotations

import pytest
from msgspec import Raw

from core.schedule_story import ScheduledStory, at, minutes
from stackshift_jobs.errors import Conflict, NotFound
from stackshift_jobs.values.durations import from_rfc3339
from stackshiftd.core import records as r
from stackshiftd.core.decide.cron.ticks import Spread, clock_of
from stackshiftd.core.snapshot import state_hash
from stackshiftd.core.state.state import Status

HOURLY = "0 * * * *"


def folds_alike(story: ScheduledStory) -> None:
    """Replay, and every snapshot with its tail, give the state of the story."""
    wanted = state_hash(story.state)
    assert state_hash(story.replayed()) == wanted
    for end in story.ends:
        assert state_hash(story.via_snapshot(end)) == wanted


# --- Names ---------------------------------------------------------------------------------


def test_job_has_several_schedules_and_each_its_ticks() -> None:
    """Each starts runs of the one job, under keys of its own, also at the same minute."""
    story = ScheduledStory()
    story.schedule("report", "0 9 * * *", overlap="allow")
    story.schedule("report", HOURLY, name="report/often", overlap="allow")
    started = story.goes_on("2h")
    keys = sorted(story.created(run).key or "" for run in started)
    assert keys == [
        "schedule:report/often:2026-11-22T09:00:00Z",
        "schedule:report/often:2026-11-22T10:00:00Z",
        "schedule:report:2026-11-22T09:00:00Z",
    ]
    assert {story.created(run).job for run in started} == {"report"}
    assert story.pause("report/often")
    assert story.ticks("report") == ["2026-11-22 09:00"]
    assert len(story.goes_on("1d")) == 1
    folds_alike(story)


def test_unnamed_schedule_is_recorded_as_before_there_were_names() -> None:
    """So that a journal of today differs from one of yesterday only where something is new."""
    story = ScheduledStory()
    story.schedule("report", HOURLY)
    (defined,) = story.decision.records
    assert defined == r.ScheduleDefined(
        "report",
        HOURLY,
        "UTC",
        "2026-11-22T08:00:00.000000Z",
        "once",
        "skip",
        Raw(b"{}"),
        "2026-11-22T09:00:00.000000Z",
    )


def test_named_schedule_that_leaves_the_code_is_retired_alone() -> None:
    """The other schedules of its job tick on."""
    story = ScheduledStory()
    story.schedule("report", "0 9 * * *")
    story.schedule("report", HOURLY, name="report/often")
    del story.code["report/often"]
    story.learn()
    assert list(story.decision.records) == [r.ScheduleRetired("report", "report/often")]
    assert len(story.goes_on("3h")) == 1
    folds_alike(story)


# --- Jitter --------------------------------------------------------------------------------


def test_jitter_starts_each_tick_later_by_its_own_amount_and_in_order() -> None:
    """Never before the tick, nor after the following one; the run is that of the tick."""
    story = ScheduledStory()
    story.schedule("often", HOURLY, overlap="allow", jitter="3h")
    delays = set()
    for _ in range(24):
        before = len(story.fired("often"))
        while len(story.fired("often")) == before:
            story.wall_us = story.state.schedules["often"].due_us
            story.look()
        tick_us = from_rfc3339(story.fired("often")[-1].tick)
        delays.add(story.now_us - tick_us)
        assert 0 <= story.now_us - tick_us < 3_600_000_000
    assert len(delays) > 20, "ticks are spread by different amounts"
    assert len(story.ticks("often")) == 24
    folds_alike(story)


def test_jittered_tick_is_not_moved_by_restarts_and_not_decided_early() -> None:
    """What was said before a crash holds after it: the time stands in a record."""
    story = ScheduledStory()
    story.schedule("often", HOURLY, jitter="50m")
    due_us = story.state.schedules["often"].due_us
    assert due_us > at("2026-11-22 09:00")
    for _ in range(3):
        story.is_down("1s")
        assert story.state.schedules["often"].due_us == due_us
    story.wall_us = due_us - 1
    assert story.look() == []
    story.wall_us = due_us
    assert len(story.look()) == 1
    assert story.look() == []


def test_tick_whose_jitter_is_not_over_is_not_caught_up() -> None:
    """After an outage the latest tick that is due has the run; the one after it comes in its
    time."""
    story = ScheduledStory()
    schedule = story.schedule("often", HOURLY, jitter="50m", overlap="allow")
    clock = clock_of(HOURLY, "UTC", 0)
    twelve = at("2026-11-22 12:00")
    due_us = Spread("often", schedule.jitter_ms, schedule.seed).due_us(clock, twelve)
    assert due_us > twelve
    story.wall_us = due_us - 1
    assert len(story.look()) == 1
    assert story.ticks("often") == ["2026-11-22 11:00"]
    assert story.state.schedules["often"].due_us == due_us
    story.wall_us = due_us
    story.look()
    assert story.ticks("often") == ["2026-11-22 11:00", "2026-11-22 12:00"]
    assert [fired.passed for fired in story.fired("often")] == [2, 0]


def test_two_projects_spread_their_ticks_differently() -> None:
    """A hundred machines with one line do not come at one moment."""
    clock = clock_of(HOURLY, "UTC", 0)
    nine = at("2026-11-22 09:00")
    times = {Spread("often", 1_800_000, f"{n}").due_us(clock, nine) for n in range(100)}
    assert len(times) > 95


def test_changed_jitter_keeps_the_tick() -> None:
    """Only how much later it starts is another; none is lost or repeated."""
    story = ScheduledStory()
    story.schedule("often", HOURLY, jitter="50m")
    story.schedule("often", HOURLY)
    schedule = story.state.schedules["often"]
    assert schedule.next_us == schedule.due_us == at("2026-11-22 09:00")


# --- What is caught up ---------------------------------------------------------------------


@pytest.mark.parametrize("catch_up", ["once", "all"])
def test_catch_up_for_bounds_how_old_a_missed_tick_may_be(catch_up: str) -> None:
    """`once`: no run if the latest is too old. `all`: only those that are not."""
    story = ScheduledStory()
    story.schedule("often", HOURLY, catch_up=catch_up, catch_up_for="149m", overlap="allow")
    story.is_down("6h30m")
    story.look()
    wanted = ["2026-11-22 13:00", "2026-11-22 14:00"] if catch_up == "all" else ["2026-11-22 14:00"]
    assert story.ticks("often") == wanted
    assert story.state.schedules["often"].skipped == 6 - len(wanted)
    folds_alike(story)


@pytest.mark.parametrize("catch_up", ["once", "all"])
def test_tick_that_is_too_old_is_recorded_as_missed(catch_up: str) -> None:
    """No run, and the record says why."""
    story = ScheduledStory()
    story.schedule("nightly", "0 9 * * *", catch_up=catch_up, catch_up_for="2h")
    story.is_down("20h")
    assert story.look() == []
    (fired,) = story.fired("nightly")
    assert (fired.reason, fired.passed) == ("missed", 0)
    schedule = story.state.schedules["nightly"]
    assert (schedule.skipped, schedule.skipped_why) == (1, "missed")
    assert minutes(schedule.next_us, schedule.skipped_us) == [
        "2026-11-23 09:00",
        "2026-11-22 09:00",
    ]
    folds_alike(story)


# --- overlap="cancel" ----------------------------------------------------------------------


def test_overlap_cancel_ends_the_last_run_before_the_next_begins() -> None:
    """Its handler has stopped before the next run exists; the tick waits for that, durably."""
    story = ScheduledStory()
    story.schedule("often", HOURLY, overlap="cancel")
    (first,) = story.goes_on("1h")
    assert story.assign() == first
    assert story.goes_on("1h") == [], "the handler of the first run still executes"
    assert story.status(first) is Status.CANCELLED
    assert story.fired("often")[-1].reason == "waits"
    story.is_down("1s")
    (second,) = story.look()
    assert story.ticks("often") == ["2026-11-22 09:00", "2026-11-22 10:00"]
    assert story.status(second) is Status.QUEUED
    cancelled = [e.record for e in story.entries if isinstance(e.record, r.RunCancelled)]
    assert [(x.run, x.reason) for x in cancelled] == [(first, "overlap")]
    folds_alike(story)


def test_overlap_cancel_of_a_run_that_executes_nothing_takes_its_place_at_once() -> None:
    """A queued, waiting or retrying run has nothing to stop."""
    story = ScheduledStory()
    story.schedule("often", HOURLY, overlap="cancel")
    (first,) = story.goes_on("1h")
    (second,) = story.goes_on("1h")
    assert story.status(first) is Status.CANCELLED
    assert story.status(second) is Status.QUEUED
    folds_alike(story)


def test_overlap_cancel_starts_only_the_latest_of_ticks_that_wait_for_a_handler_to_stop() -> None:
    """A handler that does not stop is cancelled once, and ticks do not pile up behind it."""
    story = ScheduledStory()
    story.schedule("often", HOURLY, overlap="cancel")
    (first,) = story.goes_on("1h")
    assert story.assign() == first
    assert story.goes_on("3h") == []
    story.stops(first)
    assert len(story.look()) == 1
    assert story.ticks("often") == ["2026-11-22 09:00", "2026-11-22 12:00"]
    cancelled = [e.record for e in story.entries if isinstance(e.record, r.RunCancelled)]
    assert len(cancelled) == 1
    assert sum(fired.passed for fired in story.fired("often")) == 2


def test_runs_that_catch_up_do_not_cancel_each_other() -> None:
    """Each missed tick has its run, one after another."""
    story = ScheduledStory()
    story.schedule("often", HOURLY, overlap="cancel", catch_up="all")
    story.is_down("3h30m")
    for hour in (9, 10, 11):
        (run,) = story.look()
        assert story.ticks("often")[-1] == f"2026-11-22 {hour:02}:00"
        story.finish(run)
    assert story.look() == []


# --- Adding and removing -------------------------------------------------------------------


def test_added_schedule_ticks_and_no_greeting_retires_it() -> None:
    """It belongs to no code: a reload, a restart or a module that does not import is none of its
    business."""
    story = ScheduledStory()
    assert story.add("nightly", HOURLY, job="backup")
    story.learn()
    story.is_down("1s")
    story.learn(complete=False)
    (run,) = story.goes_on("1h")
    assert story.created(run).job == "backup"
    assert story.created(run).key == "schedule:nightly:2026-11-22T09:00:00Z"
    folds_alike(story)


def test_adding_the_same_again_changes_nothing() -> None:
    """And something else of that name is refused, unless it is to replace it."""
    story = ScheduledStory()
    assert story.add("nightly", HOURLY, job="backup")
    assert not story.add("nightly", HOURLY, job="backup")
    assert not story.decision.records
    with pytest.raises(Conflict, match="another schedule named 'nightly'"):
        story.add("nightly", "0 9 * * *", job="backup")
    assert story.add("nightly", "0 9 * * *", job="backup", replace=True)
    assert story.state.schedules["nightly"].expression == "0 9 * * *"
    folds_alike(story)


def test_removed_schedule_is_gone_and_its_runs_stay() -> None:
    """Also a tick that is due; the same name can be added again, and repeats no tick."""
    story = ScheduledStory()
    story.add("nightly", HOURLY, job="backup")
    (run,) = story.goes_on("1h")
    assert story.rm("nightly")
    assert story.state.schedules == {}
    assert story.status(run) is Status.QUEUED
    assert story.goes_on("1h") == []
    assert story.add("nightly", HOURLY, job="backup")
    story.goes_on("1h")
    assert story.ticks("nightly") == ["2026-11-22 09:00", "2026-11-22 11:00"]
    folds_alike(story)


def test_what_the_code_declares_can_neither_be_added_nor_removed() -> None:
    """The next greeting would undo it; once it is retired, it can be removed."""
    story = ScheduledStory()
    story.schedule("nightly", HOURLY)
    story.schedule("backup", HOURLY, name="from-file", source="file")
    with pytest.raises(Conflict, match="the code of job 'nightly'"):
        story.add("nightly", HOURLY, job="backup")
    with pytest.raises(Conflict, match="the code of job 'nightly'"):
        story.rm("nightly")
    with pytest.raises(Conflict, match=r"stackshift\.toml"):
        story.rm("from-file")
    with pytest.raises(NotFound):
        story.rm("nobody")
    story.code.clear()
    story.learn()
    assert story.rm("nightly")
    assert story.rm("from-file")
    folds_alike(story)


def test_code_does_not_take_over_the_name_of_an_added_schedule() -> None:
    """Which of two schedules ticks is a person's decision, and not that of the next reload."""
    story = ScheduledStory()
    story.add("nightly", "0 9 * * *", job="backup")
    story.schedule("nightly", HOURLY)
    assert story.state.schedules["nightly"].expression == "0 9 * * *"
    story.rm("nightly")
    story.learn()
    assert story.state.schedules["nightly"].expression == HOURLY


# --- @reboot -------------------------------------------------------------------------------


def test_reboot_starts_one_run_for_each_start_of_the_machine() -> None:
    """Not when it is declared, and not for a restart of the daemon."""
    story = ScheduledStory()
    story.schedule("warm", "@reboot")
    story.is_down("1h")
    assert story.look() == []
    for number in (2, 3):
        story.boot = f"boot-{number}"
        story.is_down("1h")
        (run,) = story.look()
        story.finish(run)
        story.is_down("1h")
        assert story.look() == []
    assert story.ticks("warm") == ["2026-11-22 10:00", "2026-11-22 12:00"]
    folds_alike(story)


def test_reboot_of_a_paused_schedule_is_not_made_up_for() -> None:
    """As other ticks during a pause are not."""
    story = ScheduledStory()
    story.schedule("warm", "@reboot")
    story.pause("warm")
    story.boot = "boot-2"
    story.is_down("1h")
    story.resume("warm")
    assert story.look() == []
    story.boot = ""  # A machine that does not tell.
    story.is_down("1h")
    assert story.look() == []
    folds_alike(story)
