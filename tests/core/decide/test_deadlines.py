"""A run begins within its ttl and ends by its deadline, or is over; to the microsecond."""

from __future__ import annotations

from core.story import ONCE, Story
from stackshiftd.core import records as r
from stackshiftd.core.effects import Stop
from stackshiftd.core.snapshot import state_hash
from stackshiftd.core.state.state import Run, Status
from stackshiftd.core.why import Fleet, why

FLEET = Fleet(1, 8, 0)


def error_type(run: Run) -> str:
    """The type of the run's error."""
    assert run.error is not None
    return run.error.type


def test_run_that_has_not_begun_in_time_is_cancelled() -> None:
    """The reason is on record; the dead letter is for what failed."""
    story = Story()
    run = story.start(ttl="10m")
    assert "expires at" in why(story.state, story.run(run), FLEET, story.now_us).text
    story.tick(to="599s")
    assert story.status(run) is Status.QUEUED
    story.tick(to="1s")
    assert story.decision.records == (r.RunCancelled(run, "expired"),)
    assert (story.status(run), story.state.dead) == (Status.CANCELLED, 0)


def test_run_that_has_begun_does_not_expire() -> None:
    """Neither while it executes, nor while it waits, nor before a second attempt."""
    story = Story()
    run = story.start(ttl="1s")
    story.assign()
    story.lose(run)
    story.tick(to="1h")
    story.assign()
    story.fails(run)
    story.tick(to="1h")
    assert story.assign() == run


def test_ttl_counts_from_when_the_run_is_due() -> None:
    """A run for tomorrow with a ttl of ten minutes has ten minutes tomorrow."""
    story = Story()
    run = story.start(delay="24h", ttl="10m")
    story.tick(to="24h")
    assert story.status(run) is Status.QUEUED
    story.tick(to="10m")
    assert story.status(run) is Status.CANCELLED


def test_run_whose_time_has_passed_is_never_dispatched() -> None:
    """Also if a slot is free before the timer is looked at: what is due counts before it is on
    record."""
    story = Story()
    run = story.start(ttl="1s")
    story.wall_us += 1_000_000
    assert story.assign() is None
    assert story.status(run) is Status.CANCELLED


def test_run_that_waits_for_a_unique_key_expires_too() -> None:
    """So a line of duplicates does not grow for ever."""
    story = Story()
    story.start(unique="k")
    story.assign()
    waits = story.start(unique="k", on_duplicate="queue", ttl="1s")
    story.tick(to="1s")
    assert story.status(waits) is Status.CANCELLED


def test_deadline_ends_a_run_wherever_it_is() -> None:
    """Queued, executing, waiting or between attempts: it fails for good, whatever attempts are
    left."""
    story = Story()
    runs = {name: story.start(name, deadline="1h") for name in ("waits", "works", "backs off")}
    for _ in runs:
        story.assign()
    story.sleeps(runs["waits"], "nap", "2h")
    story.suspends(runs["waits"])
    story.tick(to="59m")
    story.fails(runs["backs off"], after="10m")
    runs["queued"] = story.start("queued", deadline="1m")
    story.tick(to="1m")
    for run in runs.values():
        assert story.status(run) is Status.FAILED
        assert error_type(story.run(run)) == "DeadlineExceeded"
    assert story.state.dead == 4
    story.stops(runs["works"])
    assert not story.state.timers


def test_executing_handler_is_stopped_at_the_deadline() -> None:
    """Its slot and locks are free when it has stopped; what it says after that changes nothing."""
    story = Story()
    run = story.start(deadline="1m")
    story.assign()
    token = story.token(run)
    story.tick(to="1m")
    assert story.recorded() == ["attempt.failed", "run.failed"]
    assert story.decision.effects == (Stop(run, token, "timeout"),)
    story.stops(run)
    assert not story.run(run).token


def test_children_inherit_what_is_left() -> None:
    """A child that is called has until the deadline of its parent, or its own if that is earlier; a
    run that is merely started has its own time."""
    story = Story()
    parent = story.start(deadline="1h")
    story.assign()
    story.tick(to="20m")
    called = story.calls(parent, "called")
    started = story.starts(parent, "started")
    deadline_us = story.run(parent).deadline_us
    assert story.run(called).deadline_us == deadline_us
    assert story.run(started).deadline_us == 0
    story.tick(to="40m")
    assert story.status(parent) is Status.FAILED
    assert story.status(called) is Status.FAILED
    assert story.status(started) is Status.QUEUED


def test_retry_by_a_person_gives_the_deadline_again_and_no_ttl() -> None:
    """From the moment of the retry: what was missed by then is not held against it."""
    story = Story()
    run = story.start(deadline="1h", ttl="1m", retry=ONCE)
    story.tick(to="1m")
    assert story.status(run) is Status.CANCELLED
    story.retry(run)
    story.tick(to="59m")
    assert story.status(run) is Status.QUEUED
    story.tick(to="1m")
    assert error_type(story.run(run)) == "DeadlineExceeded"


def test_limits_survive_restarts_and_snapshots() -> None:
    """They are times on record."""
    story = Story()
    story.start(deadline="1h", ttl="1m")
    story.claim()
    for state in (story.replayed(), story.via_snapshot(story.state.seq)):
        assert state.next_due_us() == story.state.next_due_us()
        assert state_hash(state) == state_hash(story.state)


def test_fork_has_the_deadline_of_its_source_from_its_own_start() -> None:
    """It is a run of its own."""
    story = Story()
    run = story.start(deadline="1h")
    story.tick(to="30m")
    fork = story.run(story.fork(run).run)
    assert fork.deadline_us == story.run(run).deadline_us + 1_800_000_000
