"""Queues with workers of their own, and runs that must be tried alone: which worker gets which
run."""

from __future__ import annotations

from typing import Any

import pytest

from core.story import Story
from stackshiftd.core.records import QueueTerms
from stackshiftd.core.why import Fleet, why

OWN = QueueTerms(processes=2)


def suspected(story: Story, **start: Any) -> str:
    """A run under which three workers have died."""
    run = story.start(**start)
    pool = story.state.pool_of(story.run(run).queue)
    for _ in range(3):
        assert story.assign(pool=pool) == run
        story.lose(run)
    assert story.run(run).suspect
    return run


def test_queue_with_workers_of_its_own_is_served_by_them_alone() -> None:
    """The shared workers do not take its runs, nor do its own take those of others."""
    story = Story()
    story.declare("file", media=OWN)
    own, shared = story.start(queue="media"), story.start(queue="office")
    assert story.fill() == [shared]
    assert story.fill("media") == [own]


def test_queue_that_moves_keeps_its_order_and_its_limits() -> None:
    """To workers of its own and back: the workers it left dispatch none of its runs."""
    story = Story()
    story.limit(concurrency=4)
    runs = [story.start(priority=priority) for priority in (0, 3, 1, 2, 0)]
    assert story.assign() == runs[1]
    story.declare("file", media=OWN)
    assert story.fill() == []
    assert story.assign(pool="media") == runs[3]
    story.declare("file")
    assert story.fill("media") == []
    assert story.fill() == [runs[2], runs[0]]
    story.completes(runs[1])
    assert story.fill() == [runs[4]]


def test_queue_that_moves_while_it_has_never_been_served_leaves_nothing_behind() -> None:
    """The move does not change the number of its turn, only the line that it is in."""
    story = Story()
    runs = [story.start(), story.start()]
    story.declare("file", media=OWN)
    for state in (story.state, story.replayed(), *map(story.via_snapshot, story.ends)):
        assert state.next_ready(story.now_us) is None
        ready = state.next_ready(story.now_us, "media")
        assert ready is not None
        assert ready.id == runs[0]


def test_queue_that_moves_and_is_paused_in_one_record_is_handed_out_nowhere() -> None:
    """One section of the file may do both."""
    story = Story()
    run = story.start()
    story.declare("file", media=QueueTerms(processes=1, paused=True))
    assert story.fill() == story.fill("media") == []
    story.limit(paused=False)
    assert story.fill("media") == [run]


def test_throttled_queue_that_moves_wakes_its_own_workers() -> None:
    """Its permit is known in the line that it moved to, and in no other."""
    story = Story()
    story.limit(rate=1, rate_per_ms=1000)
    story.start()
    second = story.start()
    story.fill()
    story.declare("file", media=OWN)
    assert story.state.next_permit_us(story.now_us) == story.now_us + 1_000_000
    story.wall_us += 1_000_000
    assert story.fill() == []
    assert story.fill("media") == [second]


def test_suspect_of_a_queue_with_own_workers_is_found_after_a_restart() -> None:
    """Its pool is known although nothing else of the queue is ready."""
    story = Story()
    story.declare("file", media=OWN)
    run = suspected(story)
    for state in (story.replayed(), story.via_snapshot(story.state.seq)):
        assert "media" in state.lines
        suspect = state.next_suspect(story.now_us, "media")
        assert suspect is not None
        assert suspect.id == run
        assert state.next_suspect(story.now_us) is None


@pytest.mark.parametrize("which", ["concurrency", "key_concurrency"])
def test_suspect_obeys_limits(which: str) -> None:
    """Being tried alone gives it no slot that its queue does not have."""
    story = Story()
    run = suspected(story, concurrency_key="k")
    other = story.start(concurrency_key="k")
    assert story.assign("w1") == other
    terms: dict[str, Any] = {which: 1}
    story.limit(**terms)
    assert story.assign("w2", alone=True) is None
    story.completes(other)
    assert story.assign("w2", alone=True) == run
    third = story.start(concurrency_key="k")
    assert story.fill() == []
    story.completes(run)
    assert story.fill() == [third]


def test_suspect_of_a_paused_queue_waits() -> None:
    """And it does not hold up suspects of other queues."""
    story = Story()
    suspected(story)
    other = suspected(story, queue="office")
    story.limit(paused=True)
    assert story.assign("w2", alone=True) == other
    assert story.assign("w3", alone=True) is None


def test_suspect_does_not_keep_its_queue() -> None:
    """It is in no lane: the runs behind it start."""
    story = Story()
    story.limit(key_concurrency=1)
    suspected(story, concurrency_key="k")
    others = [story.start(concurrency_key=key) for key in ("k", "l")]
    assert story.fill() == others


def test_suspect_that_its_queue_keeps_says_so() -> None:
    """`why` names the pause, not a worker that it would not get either."""
    story = Story()
    run = suspected(story)
    fleet = Fleet(2, 8, 0)
    assert why(story.state, story.run(run), fleet, story.now_us).code == "suspect"
    story.limit(paused=True)
    assert why(story.state, story.run(run), fleet, story.now_us).code == "queue_paused"
