"""Locks over attempts, retries and forks: which are acquired again, and which are not."""

from __future__ import annotations

import pytest

from core.histories.state_histories import Stored
from core.story import ONCE
from stackshift_jobs.errors import LockHeld, LockLost
from stackshiftd.core.state.state import Phase, Status


def begun(story: Stored, many: int = 1, **options: object) -> list[str]:
    """Runs whose handlers execute."""
    runs = [story.start("index", **options) for _ in range(many)]  # type: ignore[arg-type]
    assert story.fill() == runs
    return runs


def phase(story: Stored, run: str, step: str = "[lock k]") -> Phase | None:
    """The phase of the call by which the run acquired the lock; None if it is not recorded."""
    found = story.run(run).calls.get(step)
    return found.phase if found is not None else None


def test_next_attempt_acquires_again_a_lock_whose_block_raised() -> None:
    """Blocks of lost locks are entered again; blocks that were left in good order are not."""
    story = Stored()
    (run,) = begun(story)
    story.takes(run, "left")
    story.leaves(run, "left")
    story.takes(run, "k")
    story.step_done(run, "a")
    story.leaves(run, "k", raised=True)
    assert phase(story, run) is Phase.GONE
    story.fails(run)
    story.tick(to="1s")
    story.assign()
    assert list(story.run(run).calls) == ["[lock left]", "a"]
    assert story.takes(run, "k") is not None
    story.folds_alike()


def test_next_attempt_acquires_again_a_lock_that_expired_before_it_began() -> None:
    """It expired while the run waited for its retry: that is no failure of the new attempt."""
    story = Stored()
    (run,) = begun(story, timeout="10s")
    story.takes(run, "k", ttl="11s")
    story.tick(to="10s")
    story.stops(run)
    assert story.status(run) is Status.RETRYING
    story.tick(to="2s")
    assert story.owner("k") == ""
    story.assign()
    assert story.recorded() == ["attempt.started"]
    assert phase(story, run) is None
    assert story.takes(run, "k") is not None
    story.folds_alike()


def test_resumed_attempt_knows_that_its_lock_ran_out() -> None:
    """It is the same attempt, in the middle of the block: its next call is refused."""
    story = Stored()
    (run,) = begun(story)
    story.takes(run, "k", ttl="10s")
    story.lose(run)
    story.tick(to="10s")
    story.assign()
    assert phase(story, run) is Phase.GONE
    with pytest.raises(LockLost):
        story.checks(run, "k", "write")


def test_retry_of_an_ended_run_acquires_its_locks_again() -> None:
    """Except for blocks that were left; locks that it waited for are waited for again."""
    story = Stored()
    first, second = begun(story, 2, retry=ONCE)
    story.takes(first, "left")
    story.leaves(first, "left")
    story.takes(first, "k")
    story.takes(second, "mine")
    story.takes(second, "k")
    story.suspends(second)
    story.cancel(second)
    story.fails(first)
    assert story.retry(first).reused == ["[lock left]"]
    assert story.retry(second).repeated == ["[lock mine]", "[lock k]"]
    assert story.state.locks == {}
    story.folds_alike()


def test_retry_from_a_step_within_a_block_takes_the_lock_of_the_block() -> None:
    """The step is repeated under the lock, although its block had been left."""
    story = Stored()
    (run,) = begun(story)
    story.step_done(run, "before")
    story.takes(run, "k")
    story.step_done(run, "a")
    story.step_done(run, "b")
    story.leaves(run, "k")
    story.step_done(run, "after")
    story.completes(run)
    assert story.fork(run, from_step="after").repeated == ["after"]
    sent = story.fork(run, from_step="b")
    assert sorted(sent.repeated) == ["[lock k]", "after", "b"]
    assert sent.reused == ["before", "a"]
    sent = story.fork(run, from_step="[lock k]")
    assert sent.reused == ["before"]
    story.retry(run, from_step="b")
    assert list(story.run(run).calls) == ["before", "a"]
    story.folds_alike()


def test_retry_reuses_a_refusal_that_was_caught() -> None:
    """The handler took a branch because of it; what is recorded after it belongs to that branch."""
    story = Stored()
    first, second, third = begun(story, 3, retry=ONCE)
    story.takes(first, "k")
    story.takes(second, "k", wait="1s")
    with pytest.raises(LockHeld):
        story.takes(third, "k", wait="0s")
    story.tick(to="1s")
    for run in (second, third):
        story.step_done(run, "otherwise")
        story.fails(run)
        assert story.retry(run).reused == ["[lock k]", "otherwise"]
    story.folds_alike()


def test_retry_repeats_the_refused_call_that_ended_the_run() -> None:
    """Uncaught, it is the step that failed."""
    story = Stored()
    first, second = begun(story, 2, retry=ONCE)
    story.takes(first, "k")
    story.takes(second, "k", wait="1s")
    story.tick(to="1s")
    story.fails(second, step="[lock k]")
    assert story.retry(second).repeated == ["[lock k]"]
    story.completes(first)
    story.assign()
    assert story.takes(second, "k", wait="1s") is not None


def test_run_retried_while_its_handler_executes_releases_its_locks_first() -> None:
    """It acquires them again like everyone else, behind those who wait."""
    story = Stored()
    first, second = begun(story, 2)
    story.takes(first, "k")
    story.takes(second, "k")
    story.cancel(first)
    story.retry(first)
    assert story.owner("k") == first, "the handler of the cancelled attempt still executes"
    story.stops(first)
    assert story.owner("k") == second
    assert story.run(first).locks == ()
    story.assign()
    assert story.takes(first, "k") is None
    story.folds_alike()


def test_fork_holds_nothing_of_its_source() -> None:
    """Neither the source's locks nor its place in a line."""
    story = Stored()
    first, second = begun(story, 2)
    story.takes(first, "k")
    story.takes(second, "k")
    for source in (first, second):
        fork = story.fork(source).run
        assert (story.run(fork).locks, story.run(fork).calls) == ((), {})
    assert (story.owner("k"), story.line("k")) == (first, [second])
    story.folds_alike()


def test_run_that_left_memory_is_rebuilt_with_all_its_locks() -> None:
    """Acquired, extended, lost, left, refused, waited for: its records alone are enough."""
    story = Stored()
    first, run = begun(story, 2)
    story.takes(first, "busy")
    story.takes(run, "a", ttl="10s")
    story.extends(run, "a", "1h")
    story.leaves(run, "a")
    story.lose(run)
    story.assign()
    story.takes(run, "b", ttl="10s")
    story.tick(to="10s")
    story.takes(run, "busy", wait="1s")
    story.tick(to="1s")
    with pytest.raises(LockHeld):
        story.takes(run, "busy", wait="0s")
    story.takes(run, "c")
    story.completes(run)
    sent = story.fork(run)
    assert sent.repeated == ["[lock b]", "[lock c]"]
    assert sent.reused == ["[lock a]", "[lock.extend a]", "[lock busy]", "[lock busy]#2"]
    story.retry(run, from_step="[lock c]")
    assert story.run(run).locks == ()
    story.folds_alike()
