"""What is due by daemon time: it fires once, never early, also across restarts and clock jumps
(guarantee: timers)."""

from __future__ import annotations

import pytest

from core.story import ONCE, START_US, STEADY, Story
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.effects import Resolve, Stop
from stackshiftd.core.snapshot import state_hash
from stackshiftd.core.state.state import Status


def running(story: Story, timeout: str | None = None, retry: r.RetryTerms = STEADY) -> str:
    """A run that executes in w1."""
    run = story.start(timeout=timeout, retry=retry)
    story.assign()
    return run


def test_scheduled_run_starts_once_and_never_early() -> None:
    """It is queued at its time, not a millisecond before, and then its timer is gone."""
    story = Story()
    run = story.start(delay="10m")
    assert story.status(run) is Status.SCHEDULED
    assert story.tick(to=599.999) == 0
    assert story.assign() is None
    assert story.tick(to="1ms") == 1
    assert story.recorded() == ["run.queued"]
    assert story.assign() == run
    assert story.tick(to="10w") == 0


def test_tick_before_its_time_does_nothing() -> None:
    """Whoever asks: the core checks the time itself, to the microsecond."""
    story = Story()
    run = story.start(delay="1s")
    story.wall_us += 1_000_000 - 1
    assert story.do(c.Tick()).records == ()
    story.wall_us += 1
    assert story.do(c.Tick()).records == (r.RunQueued(run, "due"),)
    assert story.do(c.Tick()).records == ()


def test_time_that_has_passed_is_due_at_once() -> None:
    """A run that is scheduled for now, or for a time in the past, is queued when it is created."""
    story = Story()
    story.do(c.StartRun("run_1", "resize", "media", b"{}", due_us=story.now_us))
    story.do(c.StartRun("run_2", "resize", "media", b"{}", due_us=START_US - 5))
    assert [story.status(run) for run in ("run_1", "run_2")] == [Status.QUEUED] * 2
    assert story.state.next_due_us() is None


def test_sleep_ends_once_and_is_reported_to_a_handler_in_memory() -> None:
    """The end of the wait is one record, and one effect for the execution."""
    story = Story()
    run = running(story)
    story.sleeps(run, "nap", "10s")
    assert story.tick(to=9.999) == 0
    assert story.tick(to="1ms") == 1
    assert story.recorded() == ["wait.ended"]
    assert story.decision.effects == (Resolve(run, story.token(run), "nap"),)
    assert story.tick(to="1h") == 0


def test_sleep_of_a_suspended_run_puts_it_in_the_queue() -> None:
    """Nothing of it was in memory; it resumes the same attempt."""
    story = Story()
    run = running(story)
    story.sleeps(run, "nap", "60d")
    story.suspends(run)
    assert story.status(run) is Status.WAITING
    story.tick(to="60d")
    assert story.decision.effects == ()
    assert story.assign() == run
    assert story.recorded() == ["attempt.resumed"]
    assert story.run(run).attempt == 1


def test_first_of_several_waits_resumes_the_run() -> None:
    """The others stay, and end when they end."""
    story = Story()
    run = running(story)
    story.sleeps(run, "short", "1m")
    story.sleeps(run, "long", "1h")
    story.suspends(run)
    assert story.tick(to="1m") == 1
    assert story.status(run) is Status.QUEUED
    assert story.tick(to="1h") == 1
    assert story.steps(run) == {"short": None, "long": None}
    assert story.status(run) is Status.QUEUED


def test_wait_that_ends_while_the_handler_leaves_is_not_missed() -> None:
    """Suspended and queued again in one append: nothing would wake it later."""
    story = Story()
    run = running(story)
    story.sleeps(run, "nap", "1s")
    story.tick(to="1s")
    story.suspends(run, "nap")
    assert story.recorded() == ["attempt.suspended", "run.queued"]
    assert story.assign() == run


def test_sleep_until_a_time_gone_by_ends_at_the_next_tick() -> None:
    """It goes through the same timer as all others, and its recorded time is not in the past."""
    story = Story()
    run = running(story)
    story.do(c.BeginSleep(run, story.token(run), 7, "nap", None, START_US - 1_000_000))
    assert story.run(run).calls["nap"].due_us == story.now_us
    assert story.tick() == 1


def test_clock_that_jumps_back_fires_nothing_twice() -> None:
    """Daemon time stands still until the wall clock has caught up."""
    story = Story()
    run = story.start(delay="10m")
    story.tick(to="10m")
    story.wall_us -= 3_600_000_000
    now_us = story.now_us
    assert story.tick() == 0
    assert story.now_us == now_us
    assert story.assign() == run
    story.sleeps(run, "nap", "1m")
    assert story.run(run).calls["nap"].due_us == now_us + 60_000_000
    assert story.tick(to="59m") == 0
    assert story.tick(to="2m") == 1


def test_clock_that_jumps_ahead_fires_each_timer_once() -> None:
    """Everything that is overdue fires in the order in which it was due."""
    story = Story()
    second = story.start(delay="2h")
    first = story.start(delay="1h")
    story.wall_us += 86_400_000_000
    assert story.tick() == 2
    assert [story.assign(), story.assign()] == [first, second]


def test_timers_survive_a_restart() -> None:
    """A restarted daemon finds exactly those timers due that were due."""
    story = Story()
    gone = story.start(delay="1h")
    story.cancel(gone)
    run = running(story, timeout="5m")
    story.completes(run)
    story.start(delay="2h")
    for state in (story.replayed(), story.via_snapshot(story.ends[2])):
        assert state.next_due_us() == story.state.next_due_us() == START_US + 7_200_000_000
        assert state_hash(state) == state_hash(story.state)


@pytest.mark.parametrize("how", ["cancelled", "completed", "failed"])
def test_nothing_is_due_of_a_finished_run(how: str) -> None:
    """Its sleeps, tries and timeouts end with it."""
    story = Story()
    run = running(story, timeout="1h", retry=ONCE)
    story.sleeps(run, "nap", "10s")
    story.step_fails(run, "a", retry=STEADY, after="20s")
    if how == "cancelled":
        story.cancel(run)
    elif how == "completed":
        story.completes(run)
    else:
        story.fails(run)
    assert story.state.next_due_us() is None
    assert story.do(c.Tick()).records == ()


# --- Timeouts of attempts ------------------------------------------------------------------


def test_attempt_that_runs_too_long_is_stopped_and_tried_again() -> None:
    """The failure is recorded at once; the next attempt waits until the handler has stopped."""
    story = Story()
    run = running(story, timeout="10s")
    token = story.token(run)
    assert story.tick(to="10s") == 1
    assert story.recorded() == ["attempt.failed"]
    assert story.effects(Stop) == [Stop(run, token, "timeout")]
    assert story.status(run) is Status.RETRYING
    assert story.token(run) == token, "its handler still executes"
    assert story.state.executions["w1"] == {run: token}
    story.tick(to="1s")
    assert story.status(run) is Status.QUEUED
    assert story.assign() is None, "not before the handler has stopped"
    story.stops(run)
    assert story.recorded() == ["attempt.stopped"]
    assert story.assign() == run
    assert story.run(run).attempt == 2


def test_handler_that_stops_before_its_backoff_is_over_gives_its_slot_back() -> None:
    """The slot is free at once; the run waits for its time."""
    story = Story()
    run = running(story, timeout="10s")
    story.tick(to="10s")
    story.stops(run)
    assert story.state.queues["media"].executing == 0
    assert story.assign() is None
    story.tick(to="1s")
    assert story.assign() == run


def test_last_attempt_that_runs_too_long_fails_the_run() -> None:
    """It is in the dead letter although its handler still executes, and stays there."""
    story = Story()
    run = running(story, timeout="10s", retry=ONCE)
    story.tick(to="10s")
    assert story.recorded() == ["attempt.failed", "run.failed"]
    assert story.status(run) is Status.FAILED
    story.stops(run)
    assert story.status(run) is Status.FAILED


def test_timeout_counts_running_time_and_no_waits() -> None:
    """6 s of work, an hour of sleep and 4 s of work count as 10 s."""
    story = Story()
    run = running(story, timeout="10s")
    story.tick(to="6s")
    story.sleeps(run, "nap", "1h")
    story.suspends(run)
    story.tick(to="1h")
    story.assign()
    assert story.tick(to=3.999) == 0
    assert story.status(run) is Status.RUNNING
    assert story.tick(to="1ms") == 1
    assert story.recorded() == ["attempt.failed"]


def test_timeout_continues_after_a_lost_worker_and_begins_again_with_an_attempt() -> None:
    """A loss is the same attempt; a failure is not."""
    story = Story()
    run = running(story, timeout="10s")
    story.tick(to="6s")
    story.lose(run)
    story.assign("w2")
    assert story.state.next_due_us() == story.now_us + 4_000_000
    story.fails(run)
    story.tick(to="1s")
    story.assign()
    assert story.state.next_due_us() == story.now_us + 10_000_000
