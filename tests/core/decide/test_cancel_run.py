"""`CancelRun`: a handler ends its own run as cancelled."""

from __future__ import annotations

from core.histories.state_histories import Stored
from core.story import STEADY, Story
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.effects import Stop
from stackshiftd.core.state.state import Status


def test_handler_cancels_its_own_run() -> None:
    """In one append: the run is cancelled, with the reason, and its slot and locks are free; a run
    that it called is cancelled too. Nothing of it is in the dead letter."""
    story = Stored()
    run = story.start(retry=STEADY)
    story.assign()
    story.takes(run, "a")
    child = story.calls(run, "child")
    story.assign()
    story.fails(run, cancels=True, retryable=False)
    assert story.recorded() == [
        "lock.released",
        "run.cancelled",
        "run.cancelled",
    ]
    ends = [entry.record for entry in story.entries_of(run)]
    (cancelled,) = (record for record in ends if isinstance(record, r.RunCancelled))
    assert (cancelled.reason, cancelled.message) == ("handler", "boom")
    assert run not in story.state.runs
    assert [effect.run for effect in story.effects(Stop)] == [child]
    assert story.finished() == {run: "cancelled", child: "cancelled"}
    assert story.state.dead == 0


def test_run_that_cancelled_itself_can_be_retried() -> None:
    """The step that raised is run again; the one before it is reused."""
    story = Story()
    run = story.start(retry=STEADY)
    story.assign()
    story.step_done(run, "a")
    story.step_fails(run, "b", retryable=False)
    story.fails(run, cancels=True, retryable=False, step="b")
    story.retry(run)
    assert story.assign() == run
    assert list(story.run(run).calls) == ["a"]


def test_late_wish_to_cancel_changes_nothing() -> None:
    """Of an execution that was given up: its run goes on in another (guarantee: late results)."""
    story = Story()
    run = story.start(retry=STEADY)
    story.assign()
    old = story.token(run)
    story.lose(run)
    story.assign()
    late = c.FailAttempt(run, old, r.Error("CancelRun", ""), c.Verdict(cancels=True))
    assert story.do(late).records == ()
    assert story.status(run) is Status.RUNNING
