"""The rate of a queue: a bucket of tokens, exact to the microsecond, that no change can trick."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import pytest

from core.story import Story
from stackshiftd.core.records import QueueTerms

HOUR_US = 3_600_000_000


def rated(rate: int, per_ms: int, burst: int | None = None) -> Story:
    """A story whose queue `media` has a rate."""
    story = Story()
    story.declare("file", media=QueueTerms(rate=rate, rate_per_ms=per_ms, rate_burst=burst))
    return story


def starts(story: Story, count: int) -> list[int]:
    """When each of `count` waiting runs starts, in µs from now: the clock goes from permit to
    permit, as an alarm does."""
    since_us = story.now_us
    found = [0 for _ in story.fill()]
    while len(found) < count:
        permit_us = story.state.next_permit_us(story.now_us)
        assert permit_us is not None, "nobody wakes who waits for the rate"
        story.wall_us = permit_us - 1
        assert story.fill() == [], "it goes before its time"
        story.wall_us = permit_us
        went = story.fill()
        assert went, "it was woken and may not go"
        found += [permit_us - since_us for _ in went]
    return found


ODD = pytest.mark.parametrize(
    ("rate", "per_ms"), [(7, 3000), (3, 1), (11, 13_000), (100, 60_000), (1, 86_400_000), (999, 1)]
)


@ODD
def test_odd_rates_are_never_early_nor_late_by_a_microsecond(rate: int, per_ms: int) -> None:
    """7 in 3 s is one each 428571 3/7 µs: no two are closer, and the second is not a µs later."""
    story = rated(rate, per_ms)
    for _ in range(30):
        story.start()
    gap_us = ceil(Fraction(per_ms * 1000, rate))
    assert starts(story, 30) == [n * gap_us for n in range(30)]


@ODD
def test_fractions_of_a_microsecond_do_not_add_up(rate: int, per_ms: int) -> None:
    """Where the bucket has room for what is left over: the hundredth is as exact as the first."""
    story = rated(rate, per_ms, burst=2)
    for _ in range(100):
        story.start()
    exact = [Fraction(max(0, n - 1) * per_ms * 1000, rate) for n in range(100)]
    assert starts(story, 100) == [ceil(each) for each in exact]


def test_burst_after_a_lull_is_no_more_than_the_burst() -> None:
    """A day without work saves up one full bucket, not a day's worth."""
    story = rated(2, 1000, burst=3)
    story.start()
    story.fill()
    story.wall_us += 86_400_000_000
    for _ in range(6):
        story.start()
    assert starts(story, 6) == [0, 0, 0, 500_000, 1_000_000, 1_500_000]


def test_resumed_run_passes_when_the_bucket_is_empty() -> None:
    """The rate counts attempts, neither the waits within them nor resuming after a loss."""
    story = rated(1, HOUR_US // 1000)
    run = story.start()
    story.start()
    assert story.fill() == [run]
    story.sleeps(run, "nap", "1s")
    story.suspends(run)
    story.tick(to="1s")
    assert story.fill() == [run]
    story.lose(run)
    assert story.fill() == [run]
    assert story.state.next_permit_us(story.now_us) == story.run(run).started_us + HOUR_US


def test_retried_attempt_takes_a_token() -> None:
    """A job that fails again and again does not bypass the rate."""
    story = rated(1, 60_000)
    run = story.start()
    started_us = story.now_us
    story.fill()
    story.fails(run)
    story.tick(to="1s")
    assert story.fill() == []
    assert story.state.next_permit_us(story.now_us) == started_us + 60_000_000


def test_change_of_the_rate_gives_no_extra_starts() -> None:
    """Up and down as often as one likes, no token is created by it."""
    story = rated(1, 1000, burst=2)
    for _ in range(50):
        story.start()
    assert len(story.fill()) == 2
    for rate, per_ms, burst in [(7, 3000, 1), (1, 1000, 9), (100, 1000, 2), (3, 7, 4)] * 10:
        story.limit(rate=rate, rate_per_ms=per_ms, rate_burst=burst)
        assert story.fill() == []
    story.limit(rate=1, rate_per_ms=1000, rate_burst=1)
    permit_us = story.state.next_permit_us(story.now_us)
    assert permit_us is not None
    # Each change rounded what was missing up, by less than a microsecond.
    assert 1_000_000 <= permit_us - story.now_us < 1_000_000 + 41


def test_raised_rate_wakes_those_who_wait() -> None:
    """A queue limited to one an hour and then to one a second waits a second, not an hour."""
    story = rated(1, 3_600_000)
    story.start()
    story.start()
    story.fill()
    story.limit(rate=1, rate_per_ms=1000)
    assert story.state.next_permit_us(story.now_us) == story.now_us + 1_000_000
    story.wall_us += 1_000_000
    assert len(story.fill()) == 1


def test_lowered_rate_does_not_let_a_bucket_fill_at_the_old_one() -> None:
    """Nine starts that were used up under a fast rate come back at the slow one."""
    story = rated(10, 1000, burst=9)
    for _ in range(20):
        story.start()
    assert len(story.fill()) == 9
    story.limit(rate=1, rate_per_ms=3_600_000, rate_burst=9)
    assert starts(story, 2) == [HOUR_US, 2 * HOUR_US]


def test_lowered_burst_keeps_nobody_longer_than_one_period() -> None:
    """What a larger bucket allowed is not held against a smaller one."""
    story = rated(1, 1000, burst=50)
    for _ in range(53):
        story.start()
    story.fill()
    story.limit(rate_burst=1)
    assert starts(story, 3) == [1_000_000, 2_000_000, 3_000_000]


def test_other_limits_leave_the_bucket_alone() -> None:
    """Concurrency, keys and a pause may change freely: not even a fraction of a µs changes."""
    story = rated(7, 3000)
    story.start()
    story.start()
    story.fill()
    full_at = story.state.queues["media"].full_at
    for concurrency in range(1, 20):
        story.wall_us += 1
        story.limit(concurrency=concurrency, key_concurrency=concurrency)
        story.limit(paused=bool(concurrency % 2))
    assert story.state.queues["media"].full_at == full_at


def test_rate_that_appears_has_a_full_bucket() -> None:
    """Starts before there was a rate do not count."""
    story = Story()
    for _ in range(5):
        story.start()
    story.fill()
    for _ in range(4):
        story.start()
    story.limit(rate=1, rate_per_ms=1000, rate_burst=2)
    assert starts(story, 4) == [0, 0, 1_000_000, 2_000_000]


def test_empty_bucket_is_empty_after_a_restart() -> None:
    """From the journal and from a snapshot alike, at the same microsecond."""
    story = rated(7, 3000)
    story.start()
    story.start()
    story.fill()
    permit_us = story.state.next_permit_us(story.now_us)
    for state in (story.replayed(), story.via_snapshot(story.state.seq)):
        assert state.next_ready(story.now_us) is None
        assert state.next_permit_us(story.now_us) == permit_us


def test_clock_that_jumps_gives_no_extra_starts() -> None:
    """Forward it fills the bucket once; back it does not fill it again."""
    story = rated(1, 60_000)
    for _ in range(9):
        story.start()
    story.fill()
    for _ in range(5):
        story.wall_us += HOUR_US
        story.fill()
        story.wall_us -= HOUR_US
        story.fill()
    assert story.state.queues["media"].executing == 2


def test_least_recently_served_of_those_whose_time_has_come_goes_first() -> None:
    """Whatever the times at which their rates allow them to start, and whichever came due first."""
    story = Story()
    for queue in ("a", "b", "c"):
        story.limit(queue, rate=1, rate_per_ms=1000)
        story.start(queue=queue)
    # Served in the order a, b, c; their buckets are full again in the order c, b, a.
    for queue, per_ms in (("a", 3000), ("b", 2000), ("c", 1000)):
        story.limit(queue, rate=1, rate_per_ms=per_ms)
    story.fill()
    for queue in ("c", "b", "a"):
        story.start(queue=queue)
    story.wall_us += 10_000_000
    assert [story.run(run).queue for run in story.fill()] == ["a", "b", "c"]


def test_busy_queues_do_not_starve_one_that_came_due() -> None:
    """Queues that are always ready come after it, once each was served."""
    story = Story()
    story.limit("slow", rate=1, rate_per_ms=1000)
    for _ in range(30):
        for queue in ("a", "b", "slow"):
            story.start(queue=queue)
    for _ in range(8):
        story.wall_us += 1_000_000
        turns = [story.assign() for _ in range(3)]
        assert sorted(story.run(run or "").queue for run in turns) == ["a", "b", "slow"]


def test_nobody_is_woken_for_a_queue_that_may_not_go() -> None:
    """A queue that was paused while it waited for its rate is in no line, even behind another
    queue's permit that has passed unused."""
    story = Story()
    for queue, per_ms in (("a", 1000), ("b", 2000), ("c", 3000)):
        story.limit(queue, rate=1, rate_per_ms=per_ms)
        story.start(queue=queue)
        story.start(queue=queue)
    story.fill()
    since_us = story.now_us
    story.limit("b", paused=True)
    permits = [story.state.next_permit_us(since_us + n * 500_000) for n in range(7)]
    assert permits == [since_us + us for us in (1_000_000, 1_000_000)] + [
        since_us + 3_000_000
    ] * 4 + [None]
