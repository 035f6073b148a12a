"""The dead letter: which runs are in it, and the ways out of it."""

from __future__ import annotations

import json

import pytest

from core.story import ONCE, Story
from stackshift_jobs.errors import Conflict
from stackshiftd.core import commands as c
from stackshiftd.core.decide.dead_letter import is_dead
from stackshiftd.core.effects import Rerun
from stackshiftd.core.snapshot import state_hash
from stackshiftd.core.state.state import Status
from stackshiftd.core.why import Fleet, why


def dead(story: Story, *, key: str | None = None, timeout: str | None = None) -> str:
    """A run that recorded a and b, and then failed for good."""
    run = story.start(retry=ONCE, key=key, timeout=timeout)
    story.assign()
    story.step_done(run, "a", 1)
    story.step_done(run, "b", 2)
    story.fails(run)
    return run


def test_discarded_run_leaves_the_dead_letter_and_memory() -> None:
    """One record and no effect; the other runs stay."""
    story = Story()
    run, other = dead(story), dead(story)
    story.discard(run)
    assert story.recorded() == ["run.discarded"]
    assert story.decision.effects == ()
    assert list(story.state.runs) == [other]
    assert story.state.dead == 1


def test_discard_folds_to_the_same_state_again() -> None:
    """Replayed, and from a snapshot before and after it; the snapshot after it has no line of the
    run."""
    story = Story()
    kept = dead(story)
    run = dead(story, key="k")
    before = story.state.seq
    story.discard(run)
    for state in (
        story.replayed(),
        story.via_snapshot(before),
        story.via_snapshot(story.state.seq),
    ):
        assert state_hash(state) == state_hash(story.state)
    lines = [json.loads(line) for line in story.snapshot(story.state.seq)]
    assert {line["entry"]["run"] for line in lines if line["line"] == "entry"} == {kept}


def test_key_of_a_discarded_run_stays() -> None:
    """A start with it finds the discarded run until the key has expired."""
    story = Story()
    run = dead(story, key="k")
    story.discard(run)
    assert story.start(key="k") == run
    story.tick(to="31d")
    assert story.start(key="k") != run


def test_discarded_run_is_retried_from_what_it_recorded() -> None:
    """It continues like a run that was never discarded, and can be discarded again."""
    story = Story()
    run = dead(story)
    story.discard(run)
    assert story.retry(run) == Rerun(run, ["a", "b"], [])
    assert story.assign() == run
    assert story.steps(run) == {"a": 1, "b": 2}
    assert (story.run(run).attempt, story.run(run).attempts_used) == (2, 1)
    story.fails(run)
    assert story.state.dead == 1
    story.discard(run)
    assert story.retry(run, from_step="b") == Rerun(run, ["a"], ["b"])
    assert story.steps(run) == {"a": 1}
    assert state_hash(story.replayed()) == state_hash(story.state)
    assert state_hash(story.via_snapshot(story.state.seq)) == state_hash(story.state)


def test_discarded_run_is_forked() -> None:
    """Its records are still complete."""
    story = Story()
    run = dead(story)
    story.discard(run)
    assert story.fork(run).reused == ["a", "b"]


def test_only_what_is_in_the_dead_letter_is_discarded() -> None:
    """A run that is unfinished, completed, cancelled or discarded already: a conflict that says so,
    and nothing is recorded."""
    story = Story()
    done = story.start(retry=ONCE)
    story.assign()
    story.completes(done)
    twice = dead(story)
    story.discard(twice)
    queued, cancelled = story.start(), story.start()
    story.cancel(cancelled)
    before = story.state.seq
    for run, status in ((queued, "queued"), (done, "finished"), (cancelled, "finished")):
        with pytest.raises(Conflict, match=f"{run} is .*{status}.* not in the dead letter"):
            story.discard(run)
    with pytest.raises(Conflict):
        story.discard(twice)
    assert story.state.seq == before


def test_run_is_not_discarded_before_its_handler_has_stopped() -> None:
    """There would be no run for the record of the stop."""
    story = Story()
    run = story.start(retry=ONCE, timeout="1s")
    story.assign()
    story.tick(to="2s")
    assert story.status(run) is Status.FAILED
    with pytest.raises(Conflict, match="has not stopped yet"):
        story.discard(run)
    story.stops(run)
    story.discard(run)
    assert story.state.dead == 0


def test_discard_wakes_nobody_and_what_comes_late_changes_nothing() -> None:
    """A parent learned of the failure when the run failed; late commands of a worker are
    ignored."""
    story = Story()
    parent = story.start()
    story.assign()
    child = story.calls(parent, "child")
    story.assign()
    token = story.token(child)
    story.fails(child)
    assert story.run(parent).calls["child"].child_status == "failed"
    story.discard(child)
    assert story.recorded() == ["run.discarded"]
    assert not story.do(c.ConfirmStop(child, token)).records
    story.awaits(parent, "again", child)
    assert story.run(parent).calls["again"].phase.value == "completed"


def test_why_names_the_dead_letter_only_for_runs_in_it() -> None:
    """Also at the moment when the run has left the state and can still be queried."""
    story = Story()
    run = dead(story)
    found = story.run(run)
    fleet = Fleet(1, 1, 0)
    assert is_dead(story.state, found)
    assert "in the dead letter of queue media" in why(story.state, found, fleet, 0).text
    story.discard(run)
    assert not is_dead(story.state, found)
    assert why(story.state, found, fleet, 0).text == "failed: ValueError: boom"
