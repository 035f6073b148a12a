"""A gentle cancel: the handler is told, children first, and the run ends with it or with its grace
(guarantee: gentle cancels)."""

from __future__ import annotations

from core.story import Story
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.effects import Acknowledge, Interrupt, Stop
from stackshiftd.core.snapshot import state_hash
from stackshiftd.core.state.state import Phase, Status


def waiting(story: Story) -> str:
    """A run that is suspended at an event."""
    run = story.start()
    story.assign()
    story.sleeps(run, "nap", "1d")
    story.suspends(run)
    return run


def test_suspended_run_is_queued_so_that_its_handler_can_be_told() -> None:
    """In the append of the request; the run is not cancelled yet."""
    story = Story()
    run = waiting(story)
    assert story.cancel(run, gently=True, grace="1m")
    assert story.recorded() == ["cancel.requested", "run.queued"]
    assert story.assign() == run
    assert story.told(run, "nap")
    assert story.recorded() == ["cancel.raised"]
    story.do(c.WithdrawCall(run, story.token(run), "nap"))
    story.step_done(run, "clean")
    story.ends_told(run)
    assert story.recorded() == ["run.cancelled"]
    assert story.status(run) is Status.CANCELLED
    assert not story.effects(Stop)
    assert state_hash(story.replayed()) == state_hash(story.state)


def test_executing_run_is_interrupted_and_asks_by_itself() -> None:
    """It is told when it is at rest."""
    story = Story()
    run = story.start()
    story.assign()
    story.cancel(run, gently=True)
    assert story.recorded() == ["cancel.requested"]
    assert story.effects(Interrupt) == [Interrupt(run, story.token(run))]
    story.step_done(run, "charge")
    assert story.told(run, "ship")


def test_handler_is_told_once() -> None:
    """A pass after a crash asks for nothing that is on record."""
    story = Story()
    run = story.start()
    story.assign()
    story.cancel(run, gently=True)
    assert story.told(run, "ship")
    assert story.told(run, "ship")
    assert story.recorded() == []


def test_handler_that_returns_before_it_is_told_has_completed() -> None:
    """Its result is what it did."""
    story = Story()
    run = story.start()
    story.assign()
    story.cancel(run, gently=True)
    story.completes(run, "done")
    assert story.status(run) is Status.COMPLETED


def test_grace_ends_the_run_for_good() -> None:
    """What executes for it is stopped as by any cancel."""
    story = Story()
    run = story.start()
    story.assign()
    token = story.token(run)
    story.cancel(run, gently=True, grace="1m")
    story.tick(to="1m")
    assert story.effects(Stop) == [Stop(run, token, "cancelled")]
    assert story.status(run) is Status.CANCELLED
    (record,) = (e.record for e in story.entries if isinstance(e.record, r.RunCancelled))
    assert record.reason == "grace"


def test_parent_is_told_when_its_children_have_ended() -> None:
    """Until then it is suspended, so that it holds no slot that they need."""
    story = Story()
    parent = story.start("report")
    story.assign()
    child = story.calls(parent, "child")
    story.suspends(parent)
    story.assign()
    story.cancel(parent, gently=True)
    assert story.recorded() == ["cancel.requested", "cancel.requested"]
    requested = [e.record for e in story.entries if isinstance(e.record, r.CancelRequested)]
    assert [(each.run, each.reason, each.first) for each in requested] == [
        (parent, "requested", [child]),
        (child, "parent", []),
    ]
    assert story.told(child)
    story.ends_told(child)
    # The wait does not end: its handler is told there, and sees no `ChildFailed`.
    assert story.recorded() == ["run.cancelled", "call.withdrawn", "run.queued"]
    assert story.run(parent).calls["child"].phase is Phase.WITHDRAWN
    assert story.assign() == parent
    assert story.told(parent, "child")


def test_parent_that_executes_is_told_to_come_back() -> None:
    """The answer is no, and it is suspended; if they end meanwhile it is queued at once."""
    story = Story()
    parent = story.start("report")
    story.assign()
    child = story.calls(parent, "child")
    story.assign()
    story.cancel(parent, gently=True)
    assert not story.told(parent)
    assert story.recorded() == []
    story.told(child)
    story.ends_told(child)
    assert story.recorded() == ["run.cancelled", "call.withdrawn"]
    story.suspends(parent)
    assert story.recorded() == ["attempt.suspended", "run.queued"]


def test_child_that_completes_gives_its_parent_the_result() -> None:
    """It was faster; the parent is told at its next call."""
    story = Story()
    parent = story.start("report")
    story.assign()
    child = story.calls(parent, "child")
    story.suspends(parent)
    story.assign()
    story.cancel(parent, gently=True)
    story.completes(child, 42)
    assert story.recorded() == ["run.completed", "wait.ended"]
    assert story.run(parent).status is Status.QUEUED
    assert story.run(parent).calls["child"].phase is Phase.COMPLETED


def test_child_that_has_not_begun_is_cancelled_with_the_request() -> None:
    """It has nothing to clean up, and its parent waits for it no more."""
    story = Story()
    parent = story.start("report")
    story.assign()
    story.calls(parent, "child")
    story.suspends(parent)
    story.cancel(parent, gently=True)
    assert story.recorded() == [
        "cancel.requested",
        "run.queued",
        "run.cancelled",
        "call.withdrawn",
    ]


def test_attempt_that_fails_untold_is_tried_again_at_once() -> None:
    """Its backoff would use up the grace."""
    story = Story()
    run = story.start()
    story.assign()
    story.cancel(run, gently=True)
    story.fails(run)
    assert story.recorded() == ["attempt.failed", "run.queued"]
    assert story.assign() == run
    assert story.told(run)


def test_second_cancel_moves_the_grace() -> None:
    """The first timer has nothing to end any more."""
    story = Story()
    run = story.start()
    story.assign()
    story.cancel(run, gently=True, grace="1m")
    assert not story.cancel(run, gently=True)
    assert story.cancel(run, gently=True, grace="1h")
    assert story.recorded() == ["cancel.requested"]
    assert not story.effects(Interrupt)
    story.tick(to="1m")
    assert not story.run(run).finished
    story.tick(to="1h")
    assert story.status(run) is Status.CANCELLED


def test_answer_of_no_is_not_recorded() -> None:
    """It is an answer of the moment."""
    story = Story()
    parent = story.start("report")
    story.assign()
    story.calls(parent, "child")
    story.assign()
    story.cancel(parent, gently=True)
    story.told(parent)
    (answer,) = story.effects(Acknowledge)
    assert bytes(answer.body) == b"false"
