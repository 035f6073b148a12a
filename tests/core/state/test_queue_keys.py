"""Concurrency of a queue, and of the runs with one key; a run without room keeps no other
waiting."""

from __future__ import annotations

from typing import Any

import pytest

from core.story import Story
from stackshiftd.core.state.heap import FEW


def bound(story: Story, which: str, limit: int) -> None:
    """Limit the queue by one term."""
    terms: dict[str, Any] = {which: limit}
    story.limit(**terms)


def keyed(limit: int = 1) -> Story:
    """A story whose queue `media` has a `key_concurrency`."""
    story = Story()
    story.limit(key_concurrency=limit)
    return story


def test_runs_of_a_key_go_in_the_order_of_their_queue() -> None:
    """Priority, due time, arrival: one after another, each when the one before has ended."""
    story = keyed()
    runs = [story.start(priority=n, concurrency_key="k") for n in (0, 2, 1, 2, 0)]
    order = [runs[1], runs[3], runs[2], runs[0], runs[4]]
    for run in order:
        assert story.fill() == [run]
        story.completes(run)
    assert story.fill() == []


def test_full_key_keeps_nobody_of_another() -> None:
    """Runs behind it in the queue start, with another key or none."""
    story = keyed()
    first, second = (story.start(concurrency_key="k", priority=5) for _ in range(2))
    others = [story.start(concurrency_key=key) for key in ("l", "", "")]
    assert story.fill() == [first, *others]
    story.completes(first)
    assert story.fill() == [second]


def test_urgent_run_takes_the_head_of_its_line_while_the_key_is_full() -> None:
    """And leaves it again, if it is cancelled."""
    story = keyed()
    running, waiting = (story.start(concurrency_key="k") for _ in range(2))
    story.assign()
    urgent = story.start(concurrency_key="k", priority=9)
    gone = story.start(concurrency_key="k", priority=10)
    story.cancel(gone)
    story.completes(running)
    assert story.fill() == [urgent]
    story.completes(urgent)
    assert story.fill() == [waiting]


def test_keys_of_two_queues_are_not_one() -> None:
    """The limit applies to each queue separately."""
    story = keyed()
    story.limit("office", key_concurrency=1)
    runs = [story.start(queue=queue, concurrency_key="k") for queue in ("media", "office")]
    assert story.fill() == runs


def test_suspended_run_gives_its_key_up_and_waits_for_it_again() -> None:
    """While it sleeps another run starts; when it wakes it has the first claim."""
    story = keyed()
    first, second, third = (story.start(concurrency_key="k") for _ in range(3))
    assert story.fill() == [first]
    story.sleeps(first, "nap", "1s")
    story.suspends(first)
    assert story.fill() == [second]
    story.tick(to="1s")
    assert story.fill() == []
    story.completes(second)
    assert story.fill() == [first]
    story.completes(first)
    assert story.fill() == [third]


@pytest.mark.parametrize("which", ["concurrency", "key_concurrency"])
def test_cancelled_run_counts_until_its_handler_has_stopped(which: str) -> None:
    """A limit is about what executes, not about what was requested."""
    story = Story()
    bound(story, which, 1)
    first, second = (story.start(concurrency_key="k") for _ in range(2))
    story.fill()
    story.cancel(first)
    assert story.fill() == []
    story.stops(first)
    assert story.fill() == [second]


@pytest.mark.parametrize("which", ["concurrency", "key_concurrency"])
def test_limit_lowered_below_what_executes_stops_nothing_and_starts_nothing(which: str) -> None:
    """Nothing starts until enough runs have ended that there is room again."""
    story = Story()
    bound(story, which, 3)
    runs = [story.start(concurrency_key="k") for _ in range(5)]
    assert story.fill() == runs[:3]
    bound(story, which, 1)
    for run in runs[:3]:
        assert story.fill() == []
        story.completes(run)
    assert story.fill() == [runs[3]]


@pytest.mark.parametrize("which", ["concurrency", "key_concurrency"])
@pytest.mark.parametrize(("raised", "go"), [(3, 2), (0, 4)])
def test_raised_limit_wakes_the_parked(which: str, raised: int, go: int) -> None:
    """At once, as many as there is room for; all of them if the limit is removed."""
    story = Story()
    bound(story, which, 1)
    runs = [story.start(concurrency_key="k") for _ in range(5)]
    story.fill()
    bound(story, which, raised)
    assert story.fill() == runs[1 : 1 + go]


@pytest.mark.parametrize("which", ["concurrency", "key_concurrency"])
def test_limits_hold_across_a_restart(which: str) -> None:
    """Lost executions resume first, and no more of them than before."""
    story = Story()
    bound(story, which, 2)
    runs = [story.start(concurrency_key="k") for _ in range(4)]
    story.fill()
    story.claim()
    for state in (story.replayed(), story.via_snapshot(story.state.seq)):
        story.state = state
        assert story.fill() == runs[:2]
        story.claim()


def test_run_retried_in_the_microsecond_in_which_it_arrived_is_not_lost() -> None:
    """Daemon time stands still while the clock is behind it: a place can come back as it was."""
    story = keyed()
    woken = story.start(concurrency_key="k")
    story.fill()
    story.sleeps(woken, "nap", "1s")
    story.suspends(woken)
    story.tick(to="1s")
    # An empty bucket: of what is ready now only the one that goes on may go.
    story.limit(rate=1, rate_per_ms=3_600_000)
    others = [story.start(priority=9), story.start(priority=9)]
    assert story.assign() == others[0]
    run, behind = (story.start(concurrency_key="k", priority=n) for n in (0, -1))
    run_us = story.run(run).place_us
    assert story.fill() == [woken]
    story.cancel(run)
    others += [story.start(priority=9) for _ in range(2 * FEW)]
    story.retry(run)
    assert story.run(run).place_us == run_us
    story.completes(woken)
    story.limit(rate=0)
    assert story.fill() == [*others[1:], run]
    story.completes(run)
    assert story.fill() == [behind]
