"""What may be done, although nobody knows, is undone too (guarantee: undone steps)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from core.story import ONCE, Story
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.effects import Acknowledge
from stackshiftd.core.snapshot import state_hash
from stackshiftd.core.state.state import FINISHED, Status
from stackshiftd.shell.workers.orders import execute

AGAIN = r.RetryTerms(max_attempts=9, backoff_ms=1000)


def paying(story: Story) -> str:
    """A run that has packed, and executes `pay`; both can be undone."""
    run = story.start(retry=ONCE, deadline="1h")
    story.assign()
    story.step_done(run, "pack", undo=True)
    story.step_opens(run, "pay", undo=True)
    return run


def stopped(story: Story, run: str) -> None:
    """The worker has stopped what it executed of the run."""
    story.do(c.ConfirmStop(run, story.token(run)))


def by_deadline(story: Story, run: str) -> None:
    """The run is over while the step executes."""
    story.tick(to="2h")
    stopped(story, run)


def by_grace(story: Story, run: str) -> None:
    """A gentle cancel is over while the step executes."""
    story.cancel(run, gently=True, grace="1m")
    story.tick(to="1m")
    stopped(story, run)


def lost(story: Story, run: str) -> None:
    """Its worker is lost, and its deadline comes before it is executed again."""
    story.lose(run)
    story.tick(to="2h")


def fails_after_a_loss(story: Story, run: str) -> None:
    """The second try says that it has failed, which tells nothing of the first."""
    story.lose(run)
    story.assign()
    story.step_opens(run, "pay", undo=True)
    story.step_fails(run, "pay")
    story.fails(run, step="pay")


def times_out(story: Story, run: str) -> None:
    """Its function is stopped by its timeout, which fails the run."""
    story.step_fails(run, "pay", undo=True)
    story.fails(run, step="pay")


def times_out_and_waits(story: Story, run: str) -> None:
    """It waits for its next try when the run is over."""
    story.step_fails(run, "pay", undo=True, retry=AGAIN)
    story.suspends(run)
    story.cancel(run, gently=True)
    story.assign()
    story.told(run)
    story.ends_told(run)


def is_given_up(story: Story, run: str) -> None:
    """The handler has cancelled the task that waits for it."""
    story.do(c.WithdrawCall(run, story.token(run), "pay"))
    story.fails(run)


ENDS = pytest.mark.parametrize(
    "ends",
    [
        by_deadline,
        by_grace,
        lost,
        fails_after_a_loss,
        times_out,
        times_out_and_waits,
        is_given_up,
    ],
)


@ENDS
def test_step_that_may_be_done_is_undone_at_its_place(ends: Callable[[Story, str], None]) -> None:
    """The worker is told which steps these are."""
    story = Story()
    run = paying(story)
    ends(story, run)
    assert story.run(run).still_done == ["pay", "pack"]
    story.assign()
    assert list(execute(story.run(run), lambda _body: b"null").unsure) == ["pay"]
    assert story.undoes(run) == "pay"
    assert story.undoes(run) == "pack"
    story.ends_undone(run)
    assert story.status(run) in FINISHED
    assert state_hash(story.replayed()) == state_hash(story.state)


@ENDS
@pytest.mark.parametrize("at", range(8))
def test_state_with_it_is_the_same_from_a_snapshot(
    ends: Callable[[Story, str], None], at: int
) -> None:
    """At any record."""
    story = Story()
    run = paying(story)
    ends(story, run)
    story.assign()
    story.undoes(run)
    taken = [end for end in story.ends if end < story.state.seq]
    from_snapshot = story.via_snapshot(taken[max(-len(taken), at - 8)])
    assert state_hash(from_snapshot) == state_hash(story.state)


def test_begin_is_answered_also_for_a_later_try() -> None:
    """The function begins when it is durable."""
    story = Story()
    run = paying(story)
    story.step_fails(run, "pay", retry=AGAIN)
    assert story.run(run).still_done == ["pack"]
    opened = story.step_opens(run, "pay", undo=True)
    assert opened.effects == (Acknowledge(7),)
    assert story.recorded() == ["step.started"]
    assert story.run(run).still_done == ["pay", "pack"]


def test_result_makes_it_certain() -> None:
    """What may have been done is done; it is undone once, with its result."""
    story = Story()
    run = paying(story)
    story.lose(run)
    story.assign()
    story.step_opens(run, "pay", undo=True)
    story.step_done(run, "pay", undo=True)
    story.fails(run)
    story.assign()
    assert execute(story.run(run), lambda _body: b"null").unsure == {}
    assert story.run(run).still_done == ["pay", "pack"]


def test_step_that_fails_is_not_done() -> None:
    """Its function says so itself."""
    story = Story()
    run = paying(story)
    story.step_fails(run, "pay")
    story.fails(run, step="pay")
    assert story.run(run).still_done == ["pack"]


def test_retry_keeps_what_may_be_done_and_a_fork_does_not() -> None:
    """Also a retry from before the step, if what it did was not undone."""
    story = Story()
    run = paying(story)
    times_out(story, run)
    story.assign()
    story.step_fails(run, "undo pay", retryable=False)
    story.fails(run, step="undo pay", retryable=False)
    assert story.status(run) is Status.FAILED
    fork = story.fork(run).run
    story.retry(run, from_step="pack")
    assert story.run(run).still_done == ["pay"]
    assert story.run(fork).still_done == []


def test_failed_undo_says_that_it_is_not_certain() -> None:
    """A person has to look."""
    story = Story()
    run = paying(story)
    times_out(story, run)
    story.assign()
    story.step_fails(run, "undo pay", retryable=False)
    story.fails(run, step="undo pay", retryable=False)
    error = story.run(run).error
    assert error is not None
    assert "still done: pay (perhaps), pack (the run was" in error.message
