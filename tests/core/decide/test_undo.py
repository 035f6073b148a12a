"""What a run has done is undone before it ends badly (guarantee: undone steps)."""

from __future__ import annotations

import pytest

from core.story import ONCE, Story
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.effects import Stop
from stackshiftd.core.snapshot import state_hash
from stackshiftd.core.state.state import Status


def saga(story: Story, deadline: str | None = None) -> str:
    """A run that executes and has done `flight` and `hotel`, which can be undone."""
    run = story.start(retry=ONCE, deadline=deadline)
    story.assign()
    story.step_done(run, "flight", undo=True)
    story.step_done(run, "look")
    story.step_done(run, "hotel", undo=True)
    return run


def test_run_that_fails_is_queued_to_be_undone() -> None:
    """In the append of its last attempt; it has not failed yet, and nobody is told that it has."""
    story = Story()
    parent = story.start("report")
    story.assign()
    child = story.calls(parent, "child")
    story.assign()
    story.step_done(child, "charge", undo=True)
    story.fails(child)
    assert story.recorded() == ["attempt.failed", "undo.started"]
    assert story.assign() == child
    assert story.recorded() == ["attempt.resumed"]
    assert story.undoes(child) == "charge"
    story.ends_undone(child)
    assert story.recorded() == ["run.failed", "wait.ended"]
    assert story.status(child) is Status.FAILED
    assert state_hash(story.replayed()) == state_hash(story.state)


def test_last_step_is_undone_first_and_each_once() -> None:
    """What is undone is on record, so a crash repeats none of it."""
    story = Story()
    run = saga(story)
    story.fails(run, retryable=False)
    story.assign()
    assert story.run(run).still_done == ["hotel", "flight"]
    assert story.undoes(run) == "hotel"
    story.lose(run)
    story.assign()
    assert story.run(run).still_done == ["flight"]
    story.undoes(run)
    story.ends_undone(run)
    assert story.run(run).still_done == []
    assert not story.run(run).token


@pytest.mark.parametrize("at", range(12))
def test_state_is_the_same_from_a_snapshot_at_any_record(at: int) -> None:
    """Of all that belongs to an undo."""
    story = Story()
    run = saga(story)
    story.cancel(run, gently=True)
    story.told(run)
    story.ends_told(run)
    assert story.recorded() == ["undo.started"]
    story.assign()
    story.undoes(run)
    story.lose(run)
    story.assign()
    story.undoes(run)
    ends = [end for end in story.ends if end < story.state.seq]
    live = state_hash(story.state)
    assert state_hash(story.via_snapshot(ends[min(at, len(ends) - 1)])) == live
    story.ends_undone(run)
    assert story.status(run) is Status.CANCELLED


def test_run_without_undo_ends_as_ever() -> None:
    """There is nothing to undo."""
    story = Story()
    run = story.start(retry=ONCE)
    story.assign()
    story.step_done(run, "look")
    story.fails(run)
    assert story.recorded() == ["attempt.failed", "run.failed"]


def test_undo_is_not_limited_by_deadline_and_grace() -> None:
    """They have ended the run; what is done has to be undone."""
    story = Story()
    run = saga(story, deadline="1m")
    token = story.token(run)
    story.cancel(run, gently=True, grace="30s")
    story.tick(to="30s")
    assert story.effects(Stop) == [Stop(run, token, "cancelled")]
    assert story.run(run).status is Status.QUEUED
    assert story.assign() is None
    story.do(c.ConfirmStop(run, token))
    assert story.assign() == run
    story.tick(to="1h")
    assert story.run(run).status is Status.RUNNING
    story.undoes(run)
    story.undoes(run)
    story.ends_undone(run)
    (ended,) = (e.record for e in story.entries if isinstance(e.record, r.RunCancelled))
    assert ended.reason == "grace"


def test_wait_that_times_out_has_the_run_undone() -> None:
    """The wait is forgotten as ever, and tried again by a retry."""
    story = Story()
    run = saga(story)
    other = story.start("slow", delay="1d")
    story.awaits(run, "paid", other, timeout="1m")
    story.suspends(run)
    story.tick(to="1m")
    assert story.recorded() == ["wait.ended", "undo.started"]
    assert "paid" not in story.run(run).calls
    story.assign()
    story.undoes(run)
    story.undoes(run)
    story.ends_undone(run)
    assert story.status(run) is Status.FAILED


def test_failed_undo_names_what_is_still_done_and_is_retried() -> None:
    """A retry goes on undoing; with a step to begin from, it goes forward."""
    story = Story()
    run = saga(story)
    story.fails(run, retryable=False)
    story.assign()
    story.undoes(run)
    story.step_fails(run, "undo flight")
    story.fails(run, step="undo flight")
    error = story.run(run).error
    assert error is not None
    assert error.type == "UndoFailed"
    assert "still done: flight" in error.message
    assert story.status(run) is Status.FAILED
    story.retry(run)
    assert story.run(run).undoing is not None
    story.assign()
    assert story.undoes(run) == "flight"
    story.ends_undone(run)
    sent = story.retry(run)
    assert (sent.reused, sent.repeated) == (["look"], ["flight", "hotel"])
    assert story.run(run).undoing is None
    assert list(story.run(run).calls) == ["look"]


def test_fork_has_nothing_to_undo_of_its_source() -> None:
    """What was undone is not reused."""
    story = Story()
    run = saga(story)
    story.fails(run, retryable=False)
    story.assign()
    story.undoes(run)
    fork = story.fork(run)
    calls = story.run(fork.run).calls
    assert list(calls) == ["flight", "look"]
    assert story.run(fork.run).still_done == []


def test_limits_of_a_run_do_not_keep_it_from_being_undone() -> None:
    """They may be what has ended it."""
    story = Story()
    run = story.start(retry=ONCE, limits=r.RunLimits(steps=1))
    story.assign()
    story.step_done(run, "flight", undo=True)
    token = story.token(run)
    story.step_done(run, "more")
    assert story.recorded() == ["attempt.failed", "undo.started"]
    story.do(c.ConfirmStop(run, token))
    assert story.assign() == run
    story.undoes(run)
    story.ends_undone(run)
    assert story.status(run) is Status.FAILED


def test_run_that_is_undone_is_told_of_the_ends_of_its_children() -> None:
    """They are cancelled when it begins to be undone, and it is not over: its wait for them is."""
    story = Story()
    run = saga(story)
    child = story.calls(run, "child")
    story.fails(run, cancels=True)
    assert story.recorded() == ["undo.started", "run.cancelled", "wait.ended"]
    assert story.status(child) is Status.CANCELLED
    assert story.run(run).undoing is not None


def test_retry_that_goes_on_undoing_waits_for_nothing_that_has_ended() -> None:
    """A child that ended while its parent was in the dead letter wakes nobody."""
    story = Story()
    run = saga(story)
    child = story.calls(run, "child")
    story.fails(run, retryable=False)
    assert story.assign() == run
    assert story.assign() == child
    story.fails(run)
    assert story.status(run) is Status.FAILED
    story.completes(child)
    story.retry(run)
    assert "child" not in story.run(run).calls
    assert story.assign() == run
    assert story.undoes(run) == "hotel"


def test_grace_that_is_over_for_parent_and_child_queues_the_parent_once() -> None:
    """To be undone: the end of the child has nothing to tell it any more."""
    story = Story()
    parent = story.start("report")
    story.assign()
    story.step_done(parent, "flight", undo=True)
    child = story.calls(parent, "child")
    story.suspends(parent)
    story.assign()
    story.cancel(parent, gently=True, grace="10s", children=True)
    story.tick(to="10s")
    assert story.status(parent) is Status.QUEUED
    assert story.status(child) in (None, Status.CANCELLED)
    assert story.recorded().count("run.queued") == 0
    assert state_hash(story.replayed()) == state_hash(story.state)
