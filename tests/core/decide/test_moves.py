"""A run that is not executing can be moved: to another time, to another queue, in its order."""

from __future__ import annotations

import pytest

from core.story import STEADY, Story
from stackshift_jobs.errors import Conflict, NotFound
from stackshiftd.core.snapshot import state_hash
from stackshiftd.core.state.state import Status
from stackshiftd.core.why import Fleet, why


def test_scheduled_run_is_moved_to_another_time_and_to_now() -> None:
    """Its old time means nothing any more; moved to now, it is queued in the same append."""
    story = Story()
    run = story.start(delay="1h")
    assert story.move(run, delay="2h")
    story.tick(to="1h")
    assert story.status(run) is Status.SCHEDULED
    assert story.move(run, delay="0s")
    assert story.recorded() == ["run.moved", "run.queued"]
    assert story.assign() == run


def test_queued_run_is_put_off() -> None:
    """It is scheduled, and another one goes first."""
    story = Story()
    first, second = story.start(), story.start()
    assert story.move(first, delay="1h")
    assert story.fill() == [second]
    story.tick(to="1h")
    assert story.fill() == [first]


def test_retrying_run_is_tried_at_another_time() -> None:
    """Sooner or later than its backoff; its attempts are counted as ever."""
    story = Story()
    run = story.start(retry=STEADY)
    story.assign()
    story.fails(run)
    story.move(run, delay="1h")
    assert "retry 2/3" in why(story.state, story.run(run), Fleet(1, 8, 0), story.now_us).text
    story.tick(to="59m")
    assert story.status(run) is Status.RETRYING
    story.move(run, delay="0s")
    assert story.assign() == run


def test_step_that_waits_for_its_next_try_is_tried_now() -> None:
    """People see such a run as retrying, so they can move it."""
    story = Story()
    run = story.start()
    story.assign()
    story.step_fails(run, "upload", retry=STEADY)
    story.suspends(run)
    story.move(run, delay="0s")
    story.tick()
    assert story.assign() == run


def test_priority_and_queue_change_the_order() -> None:
    """At once, for runs that are queued; where they were before they are no longer counted."""
    story = Story()
    first, second, third = story.start(), story.start(), story.start()
    story.move(third, priority=5)
    story.move(first, queue="office")
    assert story.state.queues["media"].depth == 2
    assert story.state.queues["office"].depth == 1
    assert story.fill() == [third, first, second]
    story.completes(first)
    assert story.state.queues["office"].executing == 0


def test_what_is_there_already_is_not_moved() -> None:
    """No record, and the answer says so."""
    story = Story()
    run = story.start(priority=3)
    seq = story.state.seq
    assert not story.move(run, delay="0s", priority=3, queue="media")
    assert story.state.seq == seq


def test_run_that_executes_or_waits_or_has_ended_cannot_be_moved() -> None:
    """The error says what it is doing."""
    story = Story()
    run = story.start()
    story.assign()
    with pytest.raises(Conflict, match="is running; only a scheduled"):
        story.move(run, delay="1h")
    story.sleeps(run, "nap", "1h")
    story.suspends(run)
    with pytest.raises(Conflict, match="is waiting"):
        story.move(run, priority=1)
    story.cancel(run)
    with pytest.raises(NotFound):
        story.move(run, priority=1)


def test_attempt_that_is_under_way_cannot_be_put_off() -> None:
    """A run whose worker was lost goes on as soon as it can; its order can be changed."""
    story = Story()
    run = story.start()
    story.assign()
    story.lose(run, ours=True)
    with pytest.raises(Conflict, match="attempt 1 of run_0001 is queued already"):
        story.move(run, delay="1h")
    assert story.move(run, priority=5)


def test_limits_move_with_the_time() -> None:
    """A run that has not begun has its ttl and its deadline from its new time on."""
    story = Story()
    run = story.start(delay="1h", ttl="10m", deadline="20m")
    before = story.run(run).expires_us, story.run(run).deadline_us
    story.move(run, delay="2h")
    after = story.run(run).expires_us, story.run(run).deadline_us
    assert [new - old for new, old in zip(after, before, strict=True)] == [3_600_000_000] * 2
    story.tick(to="119m")
    assert story.status(run) is Status.SCHEDULED
    story.tick(to="11m")
    assert story.status(run) is Status.CANCELLED


def test_run_that_is_put_off_gives_its_turn_away() -> None:
    """The next with its unique key goes, and it has to wait when it is due again."""
    story = Story()
    first = story.start(unique="k")
    second = story.start(unique="k", on_duplicate="queue")
    story.move(first, delay="1h")
    assert story.assign() == second
    story.tick(to="1h")
    assert story.assign() is None
    story.completes(second)
    assert story.assign() == first


def test_moves_survive_restarts_and_snapshots() -> None:
    """They are records like all others."""
    story = Story()
    run = story.start(delay="1h")
    story.move(run, delay="2h", priority=4, queue="office")
    for state in (story.replayed(), story.via_snapshot(story.state.seq)):
        assert state_hash(state) == state_hash(story.state)
        assert (state.runs[run].queue, state.runs[run].priority) == ("office", 4)
