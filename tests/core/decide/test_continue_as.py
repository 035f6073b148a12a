"""A run that continues as a new one: `ctx.continue_as` (guarantee: continued runs)."""

from __future__ import annotations

import pytest

from core.histories.state_histories import Stored
from core.story import ONCE, STEADY, Story
from stackshift_jobs.errors import Conflict
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.effects import Resolve, Started, Stop
from stackshiftd.core.state.state import Phase


def looping(story: Story, **options: object) -> str:
    """A run whose handler executes."""
    run = story.start("loop", **options)  # type: ignore[arg-type]
    assert story.assign() == run
    return run


def test_end_and_beginning_are_one_append() -> None:
    """So a crash leaves either the old run as it was, or the new one: never both, never neither.
    Each names the other, and the old one leaves memory."""
    story = Story()
    run = looping(story, retry=STEADY, priority=3)
    story.step_done(run, "page", 7)
    new = story.continues(run, {"page": 8})
    assert story.recorded() == ["run.created", "run.completed"]
    last = story.entries_of(run)[-1].record
    assert isinstance(last, r.RunCompleted)
    assert (last.continued_as, bytes(last.result)) == (new, b"null")
    made = story.run(new)
    assert (made.continues, made.chain, made.calls) == (run, run, {})
    assert (made.queue, made.priority, made.payload) == ("media", 3, b'{"page":8}')
    assert run not in story.state.runs
    assert story.assign() == new
    story.replayed()


def test_chain_of_any_length_takes_the_memory_of_one_run() -> None:
    """Only the run of now is in memory, and one entry that leads from the first run to it."""
    story = Story()
    first = run = looping(story)
    for _ in range(100):
        run = story.continues(run)
        assert story.assign() == run
    state = story.state
    assert (list(state.runs), state.chains) == ([run], {first: run})
    assert state.latest(first) is story.run(run)
    story.completes(run)
    assert (state.runs, state.chains, state.awaited) == ({}, {}, {})


def test_locks_are_free_and_waits_are_over() -> None:
    """A lock goes to the next in its line, and an event that was awaited in another branch is kept
    for the new run."""
    story = Stored()
    run = looping(story)
    other = story.start("other")
    assert story.assign() == other
    story.takes(run, "k")
    story.takes(other, "k")
    story.waits(run, "go")
    new = story.continues(run)
    assert story.recorded() == ["lock.released", "lock.acquired", "run.created", "run.completed"]
    assert story.owner("k") == other
    assert story.send("go")["resumed"] == []
    assert story.assign() == new
    story.waits(new, "go")
    assert story.run(new).calls["go"].phase is Phase.COMPLETED


def test_parent_waits_for_the_end_of_the_chain() -> None:
    """A call is answered by the last run, however many there are, also across a snapshot."""
    story = Story()
    parent = story.start("report", retry=ONCE)
    story.assign()
    child = run = story.calls(parent, "child")
    for _ in range(3):
        assert story.assign() == run
        run = story.continues(run)
        assert story.run(parent).calls["child"].phase is Phase.WAITING
    story.via_snapshot(story.state.seq)
    assert story.run(run).parent == parent
    assert story.assign() == run
    story.completes(run, "sum")
    assert story.recorded() == ["run.completed", "wait.ended"]
    assert story.effects(Resolve) == [Resolve(parent, story.token(parent), "child")]
    call = story.run(parent).calls["child"]
    assert (call.child, call.child_status, call.body) == (child, "completed", b'"sum"')


@pytest.mark.parametrize("which", ["first", "latest"])
def test_run_of_a_chain_can_be_waited_for(which: str) -> None:
    """By the id of the run that began the chain, or of the one that it is now."""
    story = Story()
    run = looping(story)
    new = story.continues(run)
    waiter = story.start("waiter")
    for _ in range(2):
        story.assign()
    story.awaits(waiter, "result", run if which == "first" else new)
    newest = story.continues(new)
    assert story.run(waiter).calls["result"].phase is Phase.WAITING
    assert story.assign() == newest
    story.fails(newest, retryable=False)
    call = story.run(waiter).calls["result"]
    assert (call.phase, call.child_status) == (Phase.COMPLETED, "failed")


def test_cancelled_parent_takes_the_run_of_now_with_it() -> None:
    """Not the one that it has called, which has ended."""
    story = Story()
    parent = story.start("report")
    story.assign()
    child = story.calls(parent, "child")
    story.assign()
    new = story.continues(child)
    story.assign()
    assert story.cancel(parent)
    assert {effect.run for effect in story.effects(Stop)} == {parent, new}
    assert story.finished() == {parent: "cancelled", new: "cancelled"}


def test_call_that_is_given_up_takes_the_run_of_now_with_it() -> None:
    """As it would the run that it has called."""
    story = Story()
    parent = story.start("report")
    story.assign()
    child = story.calls(parent, "child")
    story.assign()
    new = story.continues(child)
    story.assign()
    story.do(c.WithdrawCall(parent, story.token(parent), "child"))
    assert story.recorded() == ["call.withdrawn", "run.cancelled"]
    assert [effect.run for effect in story.effects(Stop)] == [new]


def test_idempotency_key_stays_with_the_run_that_began_the_chain() -> None:
    """A start with it is that run, for as long as the chain goes on, even after the key's time."""
    story = Story()
    run = looping(story, key="loop")
    new = story.continues(run)
    assert story.run(new).key is None
    story.tick(to="60d")
    again = story.start("loop", key="loop")
    assert again == run
    assert story.decision.reply == Started(run, True)
    assert story.assign() == new
    story.completes(new)
    story.tick(to="60d")
    assert story.start("loop", key="loop") != run


def test_unique_key_stays_with_the_chain() -> None:
    """Whoever waits for it gets its turn when the chain has ended, however long that is; a daemon
    that reads a snapshot agrees."""
    story = Story()
    run = looping(story, unique="loop")
    waiting = story.start("loop", unique="loop", on_duplicate="queue")
    for _ in range(3):
        with pytest.raises(Conflict, match=run):
            story.start("loop", unique="loop")
        run = story.continues(run)
        assert story.run(run).unique == "loop"
        story.via_snapshot(story.state.seq)
        assert story.assign() == run
        assert story.assign() is None
    story.completes(run)
    assert story.assign() == waiting


def test_run_that_has_continued_is_not_retried() -> None:
    """There would be two loops. The last one can be, and the chain goes on with it."""
    story = Story()
    run = looping(story)
    new = story.continues(run)
    with pytest.raises(Conflict, match=f"continued as {new}"):
        story.retry(run, from_step="page")
    story.assign()
    story.fails(new, retryable=False)
    assert story.state.chains == {}
    story.retry(new)
    assert story.state.chains == {run: new}
    assert story.assign() == new


def test_wish_of_a_lost_execution_starts_nothing() -> None:
    """Nor that of a run that was cancelled meanwhile (guarantee: late results)."""
    story = Story()
    run = looping(story)
    old = story.token(run)
    story.lose(run)
    story.assign()
    start = c.StartRun("run_late", "loop", "media", b"{}")
    assert story.do(c.ContinueRun(run, old, start)).records == ()
    token = story.token(run)
    story.cancel(run)
    assert story.do(c.ContinueRun(run, token, start)).records == (r.AttemptStopped(run, 1),)
    assert story.state.runs == {}
