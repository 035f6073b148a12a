"""How far the function of a step has come is known to its next try, whatever comes in between."""

from __future__ import annotations

from core.story import ONCE, STEADY, Story, raw
from stackshiftd.core import commands as c
from stackshiftd.core.snapshot import load, state_hash
from stackshiftd.core.state.state import Spilled, Tries


def running(**terms: object) -> tuple[Story, str]:
    """A story with a run that executes."""
    story = Story()
    run = story.start(**terms)  # type: ignore[arg-type]
    assert story.assign() == run
    return story, run


def last(story: Story, run: str, step: str = "load") -> object:
    """The last checkpoint of a step: its JSON text; None if there is none."""
    checkpoint = story.run(run).tries.get(step, Tries()).checkpoint
    return checkpoint.body if checkpoint is not None else None


def test_last_checkpoint_counts_for_every_reader() -> None:
    """Also for a daemon that reads the journal, or a snapshot of it."""
    story, run = running()
    story.checkpoints(run, "load", 1)
    story.checkpoints(run, "load", 2)
    assert last(story, run) == b"2"
    for state in (story.replayed(), load(story.snapshot(story.state.seq)).state):
        assert state.runs[run].tries == story.run(run).tries
        assert state_hash(state) == state_hash(story.state)


def test_checkpoint_outlives_tries_attempts_and_losses() -> None:
    """It is dropped when the step has a result."""
    story, run = running(retry=STEADY)
    story.checkpoints(run, "load", 1)
    story.step_fails(run, "load", retry=STEADY)
    story.tick(to="1s")
    assert last(story, run) == b"1"
    story.step_fails(run, "load")
    story.fails(run, step="load")
    assert "load" not in story.run(run).calls
    story.tick(to="1s")
    assert story.assign() == run
    story.checkpoints(run, "load", 2)
    story.lose(run)
    assert story.assign() == run
    assert last(story, run) == b"2"
    story.step_done(run, "load")
    assert story.run(run).tries == {}


def test_tries_are_counted_over_attempts_with_those_that_were_lost() -> None:
    """One that was not recorded as started cannot be counted."""
    story, run = running(retry=STEADY)
    story.step_fails(run, "load")
    story.fails(run, step="load")
    story.tick(to="1s")
    story.assign()
    story.step_opens(run, "load")
    story.lose(run)
    story.assign()
    assert story.run(run).tries["load"].ended == 2
    story.lose(run)
    story.assign()
    assert story.run(run).tries["load"].ended == 2


def test_checkpoint_of_an_execution_that_is_over_does_not_count() -> None:
    """Nor one that is overtaken by the outcome of its step."""
    story, run = running()
    former = story.token(run)
    story.checkpoints(run, "load", 1)
    story.lose(run)
    story.assign()
    story.do(c.CheckpointStep(run, former, 7, "load", raw(9)))
    assert story.decision.records == ()
    story.step_done(run, "load")
    story.checkpoints(run, "load", 3)
    assert story.decision.records == ()
    assert story.run(run).tries == {}


def test_retry_goes_on_from_the_checkpoint_unless_the_step_is_named() -> None:
    """`runs retry` repeats what failed from where it was; `--from` and `--set` begin afresh."""
    story, run = running(retry=ONCE)
    story.step_done(run, "fetch", 1)
    story.checkpoints(run, "load", 5)
    story.step_fails(run, "load")
    story.fails(run, step="load")
    story.retry(run)
    assert last(story, run) == b"5"
    story.assign()
    story.step_fails(run, "load")
    story.fails(run, step="load")
    for name in ("load", "fetch"):
        assert story.retry(run, from_step=name).repeated[-1] == "load"
        assert last(story, run) is None
        story.assign()
        if name == "fetch":
            story.step_done(run, "fetch", 1)
        story.checkpoints(run, "load", 6)
        story.step_fails(run, "load")
        story.fails(run, step="load")
    story.retry(run, replaced={"load": 9})
    assert last(story, run) is None


def test_fork_takes_the_checkpoint_of_its_source_and_only_the_last() -> None:
    """A retry of a run that has left memory brings no more along either."""
    story, run = running(retry=ONCE)
    for at in range(20):
        story.checkpoints(run, "load", at)
    story.cancel(run)
    story.stops(run)
    fork = story.fork(run).run
    assert last(story, fork) == b"19"
    kept = [line for line in story.created(fork).restored if b"step.checkpointed" in bytes(line)]
    assert len(kept) == 1
    assert last(story, story.fork(run, payload={"n": 1}).run) is None
    story.retry(run)
    assert last(story, run) == b"19"
    story.assign()
    assert story.run(run).tries["load"].ended == 0


def test_snapshot_has_no_checkpoint_that_was_replaced() -> None:
    """A step of many hours must not make each snapshot larger than the last."""
    story, run = running()
    for at in range(50):
        story.checkpoints(run, "load", at)
        story.checkpoints(run, "count", at)
    story.step_done(run, "count")
    lines = [line for line in story.snapshot(story.state.seq) if b"step.checkpointed" in line]
    assert len(lines) == 1
    assert state_hash(story.via_snapshot(story.state.seq)) == state_hash(story.state)


def test_large_checkpoint_is_left_in_the_journal() -> None:
    """Memory has where it is."""
    story, run = running()
    story.checkpoints(run, "load", "x" * 5000)
    assert isinstance(last(story, run), Spilled)


def test_same_checkpoint_again_is_no_progress() -> None:
    """A function that dies each time at the same place must not be tried for ever."""
    story, run = running()
    story.checkpoints(run, "load", 1)
    assert story.run(run).progressed
    story.lose(run)
    story.assign()
    story.checkpoints(run, "load", 1)
    assert not story.run(run).progressed
    story.checkpoints(run, "load", 2)
    assert story.run(run).progressed


def test_replaced_checkpoint_leaves_no_trace() -> None:
    """Whether a run has progressed is the same where the records of those were dropped."""
    story, run = running()
    story.checkpoints(run, "load", 1)
    story.lose(run)
    story.assign()
    story.checkpoints(run, "load", 1)
    story.fails(run, retryable=False, step="load")
    story.retry(run, from_step="load")
    for at in story.ends:
        assert state_hash(story.via_snapshot(at)) == state_hash(story.state)
