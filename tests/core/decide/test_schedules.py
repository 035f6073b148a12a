"""Schedules: one run for each tick; missed ticks, overlaps, and what a person and the code
change."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from msgspec import Raw

from core.schedule_story import ScheduledStory, at, minutes
from stackshift_jobs.errors import NotFound
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.decide import schedules
from stackshiftd.core.decide.cron.ticks import MAX_COUNTED
from stackshiftd.core.snapshot import state_hash
from stackshiftd.core.state.state import Status

NINE = "0 9 * * *"


def folds_alike(story: ScheduledStory) -> None:
    """Replay, and every snapshot with its tail, give the state of the story."""
    wanted = state_hash(story.state)
    assert state_hash(story.replayed()) == wanted
    for end in story.ends:
        assert state_hash(story.via_snapshot(end)) == wanted


# --- Ticks ---------------------------------------------------------------------------------


def test_tick_starts_one_run_in_one_append() -> None:
    """At its time and not before, with tick, payload and key; the record contains the next tick."""
    story = ScheduledStory()
    story.schedule("nightly", NINE, payload={"all": True})
    assert story.goes_on("59m") == []
    (run,) = story.goes_on("1m")
    assert story.recorded() == ["schedule.fired", "run.created"]
    created = story.created(run)
    assert created.scheduled_at == "2026-11-22T09:00:00.000000Z"
    assert created.key == "schedule:nightly:2026-11-22T09:00:00Z"
    assert created.payload == Raw(b'{"all":true}')
    assert story.status(run) is Status.QUEUED
    schedule = story.state.schedules["nightly"]
    assert minutes(schedule.next_us, schedule.last_us) == ["2026-11-23 09:00", "2026-11-22 09:00"]
    assert schedule.last_run == run
    folds_alike(story)


def test_tick_is_not_started_before_its_time_or_twice() -> None:
    """Whoever asks, and however often: the core checks the time itself, to the microsecond."""
    story = ScheduledStory()
    story.schedule("nightly", NINE)
    story.wall_us = at("2026-11-22 09:00") - 1
    assert story.fire("nightly") == []
    story.wall_us += 1
    assert len(story.fire("nightly")) == 1
    assert story.fire("nightly") == []
    assert len(story.fired("nightly")) == 1


def test_clock_that_jumps_back_fires_no_tick_twice() -> None:
    """Neither while the daemon is up, nor after a restart, nor for a schedule that was paused or
    retired meanwhile."""
    story = ScheduledStory()
    story.schedule("often", "*/10 * * * *", overlap="allow")
    story.goes_on("1h")
    seen = story.ticks("often")
    assert len(seen) == 6
    story.wall_us -= 3_600_000_000
    story.is_down("1m")
    story.goes_on("50m")
    story.pause("often")
    story.resume("often")
    del story.code["often"]
    story.learn()
    story.schedule("often", "*/10 * * * *", overlap="allow")
    story.goes_on("20m")
    again = story.ticks("often")
    assert again == sorted(set(again))
    assert again[6:] == ["2026-11-22 09:10"]
    folds_alike(story)


def test_key_that_has_an_owner_is_the_ticks_run() -> None:
    """A run that was started by hand under the tick's key counts as the tick's run."""
    story = ScheduledStory()
    story.schedule("nightly", NINE)
    run = story.start("nightly", key="schedule:nightly:2026-11-22T09:00:00Z", payload={"x": 1})
    assert story.goes_on("2h") == []
    assert [fired.started for fired in story.fired("nightly")] == [run]
    assert story.state.schedules["nightly"].last_run == run


@pytest.mark.parametrize(
    ("begins", "wanted"),
    [
        ("2026-03-28 12:00", ["2026-03-29 01:00", "2026-03-30 00:30"]),
        ("2026-10-24 12:00", ["2026-10-25 00:30", "2026-10-26 01:30"]),
    ],
)
def test_daily_run_comes_once_when_clocks_change(begins: str, wanted: list[str]) -> None:
    """02:30 in Berlin: in the night that leaves it out, and in the one that has it twice."""
    story = ScheduledStory(begins)
    story.schedule("nightly", "30 2 * * *", "Europe/Berlin", overlap="allow")
    story.goes_on("2d")
    assert story.ticks("nightly") == wanted
    folds_alike(story)


@pytest.mark.parametrize("begins", ["2026-03-28 23:30", "2026-10-24 22:30"])
def test_hourly_run_keeps_coming_when_clocks_change(begins: str) -> None:
    """Five hours, five runs."""
    story = ScheduledStory(begins)
    story.schedule("hourly", "@hourly", "Europe/Berlin", overlap="allow")
    assert len(story.goes_on("5h")) == 5


def test_every_is_not_reset_by_restarts() -> None:
    """Counted from when it was first seen, to the whole second, by whichever daemon."""
    story = ScheduledStory()
    story.wall_us += 250_000
    story.schedule("often", "@every 40m", overlap="allow")
    story.goes_on("1h")
    story.is_down("5m")
    story.goes_on("1h")
    assert [fired.tick[11:19] for fired in story.fired("often")] == [
        "08:40:01",
        "09:20:01",
        "10:00:01",
    ]


# --- Missed ticks --------------------------------------------------------------------------


def down_for_three_ticks(catch_up: str, overlap: str = "allow") -> ScheduledStory:
    """A story with an hourly schedule whose daemon was down for three ticks."""
    story = ScheduledStory()
    story.schedule("hourly", "0 * * * *", catch_up=catch_up, overlap=overlap)
    story.is_down("3h30m")
    return story


def test_missed_ticks_are_skipped() -> None:
    """`skip`: no run; one record counts all of them, and the next tick is in the future."""
    story = down_for_three_ticks("skip")
    assert story.look() == []
    (fired,) = story.fired("hourly")
    assert (fired.reason, fired.passed, fired.tick[11:16]) == ("missed", 2, "11:00")
    assert story.goes_on("1h") != []
    assert story.ticks("hourly") == ["2026-11-22 12:00"]
    folds_alike(story)


def test_missed_ticks_are_one_run() -> None:
    """`once`: for the latest of them."""
    story = down_for_three_ticks("once")
    assert len(story.look()) == 1
    assert story.ticks("hourly") == ["2026-11-22 11:00"]
    assert story.fired("hourly")[0].passed == 2
    assert minutes(story.state.schedules["hourly"].next_us) == ["2026-11-22 12:00"]


def test_missed_ticks_are_a_run_each() -> None:
    """`all`: in order, none skipped."""
    story = down_for_three_ticks("all")
    assert len(story.look()) == 3
    assert story.ticks("hourly") == [f"2026-11-22 {hour:02d}:00" for hour in (9, 10, 11)]
    assert {fired.passed for fired in story.fired("hourly")} == {0}
    folds_alike(story)


def test_missed_ticks_that_may_not_overlap_run_one_after_another() -> None:
    """`all` with `skip` or `queue`: they did not overlap when they were due."""
    for overlap in ("skip", "queue"):
        story = down_for_three_ticks("all", overlap)
        for hour in (9, 10, 11):
            (run,) = story.look()
            assert story.created(run).scheduled_at == f"2026-11-22T{hour:02d}:00:00.000000Z"
            assert story.look() == []
            story.finish(run)
        assert story.look() == []
        folds_alike(story)


def test_ticks_found_due_together_run_one_after_another_however_late_they_are() -> None:
    """`all` with `skip`: of ticks that are due at once, even the last ones get a run."""
    story = ScheduledStory()
    story.schedule("often", "@every 10s", catch_up="all")
    story.wall_us += 75_000_000
    ran = 0
    while runs := story.look():
        story.finish(*runs)
        ran += 1
    assert ran == 7
    assert {fired.reason for fired in story.fired("often")} == {""}
    folds_alike(story)


def test_tick_on_time_does_not_wait_to_be_caught_up() -> None:
    """`all` is about missed ticks: a tick on time, while the last run executes, overlaps."""
    story = ScheduledStory()
    story.schedule("hourly", "0 * * * *", catch_up="all")
    (run,) = story.goes_on("1h")
    assert story.goes_on("1h") == []
    assert [fired.reason for fired in story.fired("hourly")] == ["", "overlap"]
    story.finish(run)
    assert story.look() == []


def test_ticks_that_are_caught_up_are_not_given_up_for_later_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`all`: those that were few enough keep their turn, even if more come due meanwhile."""
    monkeypatch.setattr(schedules, "MAX_CAUGHT_UP", 3)
    story = ScheduledStory()
    story.schedule("hourly", "0 * * * *", catch_up="all", overlap="queue")
    story.is_down("5h30m")
    (run,) = story.look()
    story.goes_on("2h")
    for _ in range(2):
        story.finish(run)
        (run,) = story.look()
    assert story.ticks("hourly") == [f"2026-11-22 {hour}:00" for hour in (11, 12, 13)]
    assert [fired.passed for fired in story.fired("hourly")] == [2, 0, 0]


def test_tick_that_is_a_little_late_was_not_missed() -> None:
    """A restart that takes a minute at most is no reason to skip the ticks in between."""
    story = ScheduledStory("2026-11-22 08:59")
    story.schedule("nightly", NINE, catch_up="skip")
    story.is_down("2m")
    assert len(story.look()) == 1
    late = ScheduledStory("2026-11-22 08:59")
    late.schedule("nightly", NINE, catch_up="skip")
    late.is_down("2m1ms")
    assert late.look() == []


@pytest.mark.parametrize("expression", ["* * * * *", "@every 1m", "*/3 * * * *"])
def test_more_missed_ticks_than_anyone_wants_are_passed_over(
    expression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`all` is bounded: the newest ones get a run each and the older ones are counted; also if more
    come due before those are done."""
    monkeypatch.setattr(schedules, "MAX_CAUGHT_UP", 40)
    story = ScheduledStory()
    story.schedule("often", expression, catch_up="all", overlap="allow")
    story.is_down("60d")
    missed = 60 * 24 * (20 if expression.startswith("*/3") else 60)
    assert len(story.look()) == 40
    first, *others = story.fired("often")
    assert first.passed == min(missed - 40, MAX_COUNTED)
    assert {fired.passed for fired in others} == {0}
    assert story.fired("often")[-1].tick == "2027-01-21T08:00:00.000000Z"
    assert len(story.goes_on("3m")) == (1 if expression.startswith("*/3") else 3)
    assert state_hash(story.replayed()) == state_hash(story.state)


def test_tick_of_a_job_whose_module_does_not_import_stays_due() -> None:
    """It is not retired, because a correction may bring it back; then it is caught up."""
    story = ScheduledStory()
    story.schedule("nightly", NINE)
    story.learn(without="nightly")
    assert story.recorded() == []
    story.wall_us = at("2026-11-24 10:00")
    assert story.look(without="nightly") == []
    story.learn()
    assert len(story.look()) == 1
    assert story.ticks("nightly") == ["2026-11-24 09:00"]


# --- Overlap -------------------------------------------------------------------------------


def test_tick_is_skipped_while_the_last_run_is_unfinished() -> None:
    """`skip`: recorded, without a run; also while that run sleeps, or waits for its next try."""
    story = ScheduledStory()
    story.schedule("hourly", "0 * * * *")
    (run,) = story.goes_on("1h")
    assert story.goes_on("1h") == []
    assert story.assign() == run
    story.sleeps(run, "nap", "90m")
    story.suspends(run)
    assert story.goes_on("1h") == []
    assert [fired.reason for fired in story.fired("hourly")] == ["", "overlap", "overlap"]
    story.cancel(run)
    assert len(story.goes_on("1h")) == 1
    folds_alike(story)


def test_ticks_overlap_where_that_is_allowed() -> None:
    """`allow`: a run a tick, whatever the others do."""
    story = ScheduledStory()
    story.schedule("hourly", "0 * * * *", overlap="allow")
    assert len(story.goes_on("3h")) == 3


def test_tick_waits_for_the_end_of_the_last_run() -> None:
    """`queue`: its run is created when the last one has finished, for the tick that it was."""
    story = ScheduledStory()
    story.schedule("hourly", "0 * * * *", overlap="queue")
    (run,) = story.goes_on("1h")
    assert story.goes_on("1h30m") == []
    assert minutes(story.state.schedules["hourly"].held_us) == ["2026-11-22 10:00"]
    story.finish(run)
    (second,) = story.look()
    assert story.created(second).scheduled_at == "2026-11-22T10:00:00.000000Z"
    assert story.state.schedules["hourly"].held_us == 0
    assert minutes(story.state.schedules["hourly"].next_us) == ["2026-11-22 11:00"]
    folds_alike(story)


def test_one_tick_waits_at_most_and_it_is_the_latest() -> None:
    """`queue`: a later tick takes the place of the waiting one, which is skipped."""
    story = ScheduledStory()
    story.schedule("hourly", "0 * * * *", overlap="queue", catch_up="skip")
    (run,) = story.goes_on("1h")
    story.goes_on("3h")
    assert [(x.reason, x.passed) for x in story.fired("hourly")] == [
        ("", 0),
        ("waits", 0),
        ("waits", 1),
        ("waits", 1),
    ]
    story.claim()
    story.finish(run)
    assert len(story.look()) == 1
    assert story.ticks("hourly") == ["2026-11-22 09:00", "2026-11-22 12:00"]
    folds_alike(story)


def test_run_that_is_retried_is_unfinished_again() -> None:
    """A failed run does not hold up the next tick; one that is retried does."""
    story = ScheduledStory()
    story.schedule("hourly", "0 * * * *")
    (run,) = story.goes_on("1h")
    story.assign()
    story.fails(run)
    story.retry(run)
    assert story.goes_on("1h") == []
    story.assign()
    story.fails(run)
    assert len(story.goes_on("1h")) == 1


# --- The code ------------------------------------------------------------------------------


def test_schedule_is_recorded_once_and_when_it_changes() -> None:
    """Greetings of workers and starts of daemons record nothing; a change does."""
    story = ScheduledStory()
    story.schedule("nightly", NINE)
    story.learn()
    assert story.recorded() == []
    story.is_down("1m")
    assert story.recorded() == []
    story.schedule("nightly", NINE, payload={"x": 1})
    assert story.recorded() == ["schedule.defined"]
    story.schedule("nightly", NINE, overlap="allow", payload={"x": 1})
    assert story.recorded() == ["schedule.defined"]
    folds_alike(story)


def test_tick_that_is_due_survives_a_change_of_anything_but_its_time() -> None:
    """Another payload does not lose a missed tick; another expression begins again."""
    story = ScheduledStory()
    story.schedule("nightly", NINE)
    story.wall_us = at("2026-11-22 12:00")
    story.schedule("nightly", NINE, payload={"x": 1})
    assert minutes(story.state.schedules["nightly"].next_us) == ["2026-11-22 09:00"]
    story.schedule("nightly", "0 10 * * *", payload={"x": 1})
    assert minutes(story.state.schedules["nightly"].next_us) == ["2026-11-23 10:00"]
    assert story.look() == []
    story.schedule("nightly", "0 10 * * *", "Europe/Berlin", payload={"x": 1})
    assert minutes(story.state.schedules["nightly"].next_us) == ["2026-11-23 09:00"]


def test_tick_that_waits_survives_a_change_of_the_code() -> None:
    """Its run is created when the last one has finished, with the terms of the new code."""
    story = ScheduledStory()
    story.schedule("hourly", "0 * * * *", overlap="queue")
    (run,) = story.goes_on("1h")
    story.goes_on("1h")
    story.schedule("hourly", "30 * * * *", overlap="queue", payload={"x": 1})
    story.finish(run)
    (second,) = story.look()
    assert story.created(second).scheduled_at == "2026-11-22T10:00:00.000000Z"
    assert story.created(second).payload == Raw(b'{"x":1}')
    folds_alike(story)


def test_every_goes_on_from_first_sight_when_its_payload_changes() -> None:
    """But from the change on if its period changes."""
    story = ScheduledStory()
    story.schedule("often", "@every 1h")
    story.wall_us = at("2026-11-22 08:20")
    story.schedule("often", "@every 1h", payload={"x": 1})
    assert minutes(story.state.schedules["often"].next_us) == ["2026-11-22 09:00"]
    story.schedule("often", "@every 2h", payload={"x": 1})
    assert minutes(story.state.schedules["often"].next_us) == ["2026-11-22 10:20"]


def test_schedule_that_left_the_code_is_retired_until_it_is_back() -> None:
    """It stays visible and does not tick; ticks that it missed are not caught up."""
    story = ScheduledStory()
    story.schedule("nightly", NINE, catch_up="all", overlap="allow")
    story.goes_on("2h")
    terms = story.code.pop("nightly")
    story.learn()
    assert story.recorded() == ["schedule.retired"]
    story.learn()
    assert story.recorded() == []
    assert story.state.schedules["nightly"].retired_us == story.now_us
    assert story.goes_on("3d") == []
    story.code["nightly"] = terms
    story.learn()
    assert story.recorded() == ["schedule.defined"]
    schedule = story.state.schedules["nightly"]
    assert (schedule.retired_us, len(story.fired("nightly"))) == (0, 1)
    assert story.goes_on("1d") != []
    assert story.ticks("nightly")[1:] == ["2026-11-26 09:00"]
    folds_alike(story)


def test_job_that_lost_its_schedule_is_retired_whatever_else_is_broken() -> None:
    """Its own module imports, so there is no doubt."""
    story = ScheduledStory()
    story.schedule("nightly", NINE)
    story.schedule("broken", NINE)
    del story.code["nightly"]
    story.learn(without="broken")
    assert list(story.decision.records) == [r.ScheduleRetired("nightly")]


# --- A person ------------------------------------------------------------------------------


def test_paused_schedule_does_not_tick_and_is_not_caught_up() -> None:
    """When it is resumed, the next tick is in the future; pausing or resuming twice changes
    nothing."""
    story = ScheduledStory()
    story.schedule("hourly", "0 * * * *", catch_up="all", overlap="allow")
    assert story.pause("hourly")
    assert not story.pause("hourly")
    assert story.goes_on("5h") == []
    story.is_down("1h")
    assert story.look() == []
    assert story.resume("hourly")
    assert not story.resume("hourly")
    assert story.recorded() == []
    assert len(story.goes_on("1h")) == 1
    assert story.ticks("hourly") == ["2026-11-22 15:00"]
    folds_alike(story)


def test_pause_drops_a_tick_that_waits() -> None:
    """A paused schedule starts nothing, not even when the last run ends."""
    story = ScheduledStory()
    story.schedule("hourly", "0 * * * *", overlap="queue")
    (run,) = story.goes_on("1h")
    story.goes_on("1h")
    story.pause("hourly")
    story.finish(run)
    assert story.look() == []
    story.resume("hourly")
    assert story.look() == []
    folds_alike(story)


def test_pause_outlives_changes_of_the_code() -> None:
    """A person paused it, and only a person resumes it."""
    story = ScheduledStory()
    story.schedule("nightly", NINE)
    story.pause("nightly")
    story.schedule("nightly", "0 10 * * *")
    del story.code["nightly"]
    story.learn()
    story.schedule("nightly", "0 11 * * *")
    assert story.goes_on("3d") == []
    story.resume("nightly")
    assert story.goes_on("1d") != []
    folds_alike(story)


def test_resume_of_a_retired_schedule_takes_effect_when_it_is_back() -> None:
    """A schedule that is not in the code does not tick."""
    story = ScheduledStory()
    story.schedule("nightly", NINE)
    story.pause("nightly")
    terms = story.code.pop("nightly")
    story.learn()
    assert story.resume("nightly")
    assert story.goes_on("2d") == []
    story.code["nightly"] = terms
    story.learn()
    assert len(story.goes_on("1d")) == 1
    folds_alike(story)


@pytest.mark.parametrize("command", [c.PauseSchedule("nobody"), c.ResumeSchedule("nobody")])
def test_job_without_a_schedule_is_not_found(command: c.Command) -> None:
    """Nothing is recorded."""
    story = ScheduledStory()
    with pytest.raises(NotFound):
        story.do(command)
    assert story.entries == []


def test_zones_are_known_without_those_of_the_system() -> None:
    """A small machine or container may have no time zone database; the package includes one."""
    program = (
        "from stackshiftd.core.decide.cron.ticks import clock_of, next_after\n"
        "print(next_after(clock_of('0 9 * * *', 'Europe/Berlin', 0), 1_795_000_000_000_000))"
    )
    told = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONTZPATH": "", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.stderr == ""
    assert minutes(int(told.stdout)) == ["2026-11-19 08:00"]
