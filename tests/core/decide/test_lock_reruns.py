"""Blocks of locks and repeated steps: code that runs again inside a block holds its lock again."""

from __future__ import annotations

from core.story import ONCE, Story
from stackshiftd.core import commands as c
from stackshiftd.core.effects import Rerun
from stackshiftd.core.snapshot import state_hash
from stackshiftd.core.state.state import Phase

LOCK = "[lock k]"


def takes(story: Story, run: str, step: str = LOCK, *, wait_ms: int | None = None) -> None:
    """The run's handler acquires the lock `k` by the call `step`."""
    story.do(
        c.AcquireLock(run=run, token=story.token(run), call=1, step=step, key="k", wait_ms=wait_ms)
    )


def leaves(story: Story, run: str, step: str = LOCK, *, raised: bool = False) -> None:
    """The run's handler leaves the block of the lock, by an exception if `raised`."""
    story.do(c.ReleaseLock(run=run, token=story.token(run), call=2, lock=step, raised=raised))


def begin(story: Story) -> str:
    """A run that has recorded a before a block, b and c within it, and d after it."""
    run = story.start(retry=ONCE)
    story.assign()
    story.step_done(run, "a")
    takes(story, run)
    story.step_done(run, "b")
    story.step_done(run, "c")
    leaves(story, run)
    story.step_done(run, "d")
    return run


def same_from_the_journal(story: Story) -> None:
    """The replayed state is the live state."""
    assert state_hash(story.replayed()) == state_hash(story.state)


def test_retry_from_within_a_block_acquires_its_lock_again() -> None:
    """What is repeated there must not run without the lock."""
    story = Story()
    run = begin(story)
    story.fails(run)
    assert story.retry(run, from_step="c") == Rerun(run, ["a", "b"], [LOCK, "c", "d"])
    same_from_the_journal(story)


def test_retry_from_behind_a_block_does_not_take_its_lock_again() -> None:
    """The block is answered from the record; another run may hold the lock by now."""
    story = Story()
    run = begin(story)
    story.fails(run)
    assert story.retry(run, from_step="d") == Rerun(run, ["a", LOCK, "b", "c"], ["d"])
    assert story.run(run).calls[LOCK].phase is Phase.RELEASED
    same_from_the_journal(story)


def test_replaced_result_within_a_block_acquires_its_lock_again() -> None:
    """The code may take another path from there, and make calls that are not recorded."""
    story = Story()
    run = begin(story)
    story.fails(run)
    assert story.retry(run, replaced={"b": 7}) == Rerun(run, ["a", "c", "d"], [LOCK])
    assert LOCK not in story.run(run).calls
    same_from_the_journal(story)


def test_failure_of_a_step_in_a_block_that_was_left_acquires_its_lock_again() -> None:
    """A handler may catch the failure in the block and raise it again after it: the next attempt
    runs the step again."""
    story = Story()
    run = story.start()
    story.assign()
    takes(story, run)
    story.step_done(run, "b")
    story.step_fails(run, "c")
    leaves(story, run)
    story.step_done(run, "d")
    story.fails(run, step="c")
    assert set(story.run(run).calls) == {"b", "d"}
    same_from_the_journal(story)


def test_failure_of_a_step_behind_a_block_leaves_the_block_as_it_was() -> None:
    """Its lock is not needed again."""
    story = Story()
    run = story.start()
    story.assign()
    takes(story, run)
    story.step_done(run, "b")
    leaves(story, run)
    story.step_fails(run, "d")
    story.fails(run, step="d")
    assert set(story.run(run).calls) == {LOCK, "b"}
    same_from_the_journal(story)


def test_fork_from_within_a_block_acquires_its_lock() -> None:
    """The fork itself never held it."""
    story = Story()
    run = begin(story)
    story.completes(run)
    assert story.fork(run, from_step="b").repeated == [LOCK, "b", "c", "d"]
    assert story.fork(run, from_step="d").repeated == ["d"]
    same_from_the_journal(story)
