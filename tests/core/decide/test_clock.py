"""Daemon time that a clock which was ahead has carried off, and how a person sets it back."""

from __future__ import annotations

import pytest

from core.story import START_US, Story
from stackshift_jobs.errors import Busy, Conflict
from stackshiftd.core import commands as c
from stackshiftd.core.effects import Answered
from stackshiftd.core.records import QueueTerms
from stackshiftd.core.snapshot import state_hash
from stackshiftd.core.state.state import Status

DAY_US = 86_400_000_000
HOUR_US = 3_600_000_000
REMEMBER_MS = 3_600_000


def write(story: Story, key: str, ttl_ms: int | None = None) -> int:
    """Write an entry; its version."""
    set_value = c.SetState(key=key, value=b"1", ttl_ms=ttl_ms, if_version=None, if_absent=False)
    story.do(set_value)
    value = story.state.values.get(key, story.now_us)
    assert value is not None
    return value.version


def tick(story: Story) -> None:
    """Act on all that is due."""
    while (due_us := story.state.next_due_us()) is not None and due_us <= story.now_us:
        story.do(c.Tick(REMEMBER_MS))


def ahead(story: Story, by_us: int = DAY_US) -> None:
    """One record is made with the clock ahead by so long; then the clock is right again."""
    story.wall_us += by_us
    tick(story)
    story.start("noticed", queue="noticed")
    story.wall_us -= by_us


def same(story: Story) -> None:
    """State, replay and every snapshot agree."""
    expected = state_hash(story.state)
    assert state_hash(story.replayed()) == expected
    for at in story.ends:
        assert state_hash(story.via_snapshot(at)) == expected, f"snapshot at {at}"


def test_time_that_is_set_back_is_the_wall_clocks() -> None:
    """Without it, time stands still; with it, timers that are set from then on fire at their
    time, and not before. (guarantee: timers)"""
    story = Story()
    ahead(story)
    assert story.now_us == START_US + DAY_US
    assert story.set_clock_back()
    assert story.now_us == story.state.now_us == START_US
    run = story.start(delay="10m")
    story.wall_us += HOUR_US // 6 - 1
    tick(story)
    assert story.run(run).status is Status.SCHEDULED
    story.wall_us += 1
    tick(story)
    assert story.run(run).status is Status.QUEUED
    same(story)


def test_what_is_not_due_stays_due_at_its_time() -> None:
    """A timer that was set before or while the clock was ahead fires when the clock gets there, and
    once. (guarantee: timers)"""
    story = Story()
    before = story.start(delay="2d")
    story.wall_us += DAY_US
    during = story.start(delay="1h")
    story.wall_us -= DAY_US
    assert story.set_clock_back()
    story.wall_us = START_US + DAY_US + HOUR_US - 1
    tick(story)
    assert story.run(during).status is Status.SCHEDULED
    story.wall_us += 1
    tick(story)
    assert story.run(during).status is Status.QUEUED
    assert story.run(before).status is Status.SCHEDULED
    story.wall_us = START_US + 2 * DAY_US
    tick(story)
    assert story.run(before).status is Status.QUEUED
    same(story)


def test_what_had_passed_stays_passed() -> None:
    """Entries and their remembered versions, and the keys of runs and events, whether or not they
    were removed from memory by then. (guarantee: locks)"""
    story = Story()
    write(story, "expires", ttl_ms=60_000)
    write(story, "deleted")
    story.do(c.DeleteState(key="deleted", remember_ms=REMEMBER_MS, if_version=None))
    kept = write(story, "kept")
    run = story.start(key="k", key_ttl="1h")
    story.assign()
    story.completes(run)
    sent = c.SendEvent(
        event="evt_1",
        name="paid",
        payload=b"{}",
        correlation_key="",
        ttl_ms=60_000,
        key="e",
        key_ttl_ms=3_600_000,
        digest="d",
    )
    story.do(sent)
    ahead(story)
    assert story.set_clock_back()
    now_us = story.now_us
    assert story.state.values.get("expires", now_us) is None
    assert story.state.values.version("deleted", now_us) == 0
    assert story.state.values.version("kept", now_us) == kept
    assert story.state.key_owner("k", now_us) is None
    assert story.state.events.owner("e", now_us) is None
    assert not story.state.events.kept
    assert story.start("other", key="k", payload={"another": 1}) != run
    with pytest.raises(Conflict):
        story.start("other", key="k", payload={"a third": 1})
    same(story)


def test_rate_holds_across_it() -> None:
    """A queue whose tokens were spent by the clock that was ahead goes on at its rate: not a day
    later, and with no start too many. (guarantee: limits and work)"""
    story = Story()
    story.declare("file", media=QueueTerms(rate=10, rate_per_ms=1000, rate_burst=3))
    for _ in range(12):
        story.start()
    assert len(story.fill()) == 3
    story.wall_us += DAY_US
    assert len(story.fill()) == 3
    story.wall_us -= DAY_US
    assert story.set_clock_back()
    assert story.fill() == []
    permits = []
    for _ in range(4):
        permit_us = story.state.next_permit_us(story.now_us)
        assert permit_us is not None
        story.wall_us = permit_us
        permits.append((permit_us - START_US, len(story.fill())))
    assert permits == [(100_000, 1), (200_000, 1), (300_000, 1), (400_000, 1)]
    same(story)


def test_attempt_is_not_younger_for_it() -> None:
    """The time that an execution took is never less than nothing."""
    story = Story()
    run = story.start(timeout="1h")
    story.assign()
    story.wall_us += DAY_US // 48
    story.start("noticed", queue="noticed")
    story.wall_us -= DAY_US // 48
    assert story.set_clock_back()
    story.lose(run)
    assert story.run(run).spent_us == 0
    same(story)


def test_run_that_has_seen_both_times_is_retried_from_its_records() -> None:
    """Its records are folded again, though they are not in order of time."""
    story = Story()
    story.wall_us += DAY_US
    run = story.start()
    story.assign()
    story.wall_us -= DAY_US
    assert story.set_clock_back()
    story.cancel(run)
    story.do(c.ConfirmStop(run, story.run(run).token))
    assert run not in story.state.runs
    story.retry(run)
    assert story.fork(run).run in story.state.runs
    same(story)


def test_time_that_is_not_ahead_is_not_set_back() -> None:
    """Nothing is recorded."""
    story = Story()
    story.start()
    before = len(story.entries)
    assert not story.set_clock_back()
    story.wall_us += 1
    assert not story.set_clock_back()
    assert len(story.entries) == before


def test_time_is_not_set_back_before_all_that_is_due_has_happened() -> None:
    """Or it would be due a second time."""
    story = Story()
    run = story.start(delay="1h")
    story.wall_us += DAY_US
    story.start("noticed", queue="noticed")
    story.wall_us -= DAY_US
    with pytest.raises(Busy):
        story.set_clock_back()
    tick(story)
    assert story.set_clock_back()
    assert story.run(run).status is Status.QUEUED


def test_lock_is_held_as_long_as_it_was_promised() -> None:
    """By the clock that was ahead; nobody else gets it before."""
    story = Story()
    story.wall_us += DAY_US
    asked = c.AcquireLock(key="k", ttl_ms=60_000, wait_ms=0, asker="a", holder="")
    assert isinstance(story.do(asked).reply, Answered)
    story.wall_us -= DAY_US
    assert story.set_clock_back()
    lock = story.state.locks["k"]
    assert lock.held(story.now_us) is not None
    story.wall_us = START_US + DAY_US + 60_000_000
    tick(story)
    assert "k" not in story.state.locks or story.state.locks["k"].held(story.now_us) is None
    same(story)
