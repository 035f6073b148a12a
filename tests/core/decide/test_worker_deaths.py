"""Runs under which workers die: queued again, suspected, tried alone, and finally failed."""

from __future__ import annotations

from core.story import ONCE, Story
from stackshiftd.core import records as r
from stackshiftd.core.snapshot import state_hash
from stackshiftd.core.state.state import CLEARED_US, Status
from stackshiftd.core.why import Fleet, why


def dies(story: Story, run: str, times: int) -> None:
    """A worker takes the run and dies, again and again."""
    for _ in range(times):
        if not story.token(run):
            assert story.assign("w1") == run
        story.lose(run)


def test_worker_that_dies_fails_nothing_by_itself() -> None:
    """The run resumes, as the same attempt, from what it has recorded."""
    story = Story()
    run = story.start(retry=ONCE)
    story.assign()
    story.step_done(run, "a", 1)
    story.lose(run)
    assert story.recorded() == ["attempt.lost"]
    assert story.assign("w2") == run
    assert story.recorded() == ["attempt.resumed"]
    assert story.run(run).attempt == 1
    assert story.steps(run) == {"a": 1}


def test_run_that_killed_three_workers_is_tried_alone() -> None:
    """It is ready, but gets no slot beside other runs."""
    story = Story()
    run = story.start()
    dies(story, run, 3)
    assert story.run(run).suspect
    assert story.status(run) is Status.QUEUED
    other = story.start()
    assert story.assign("w1") == other
    assert story.assign("w1") is None
    assert story.assign("w2", alone=True) == run


def test_run_that_kills_a_worker_of_its_own_is_poisonous() -> None:
    """The fourth death, alone, ends it for good."""
    story = Story()
    run = story.start()
    dies(story, run, 3)
    story.assign("w2", alone=True)
    story.lose(run)
    assert story.recorded() == ["attempt.lost", "run.failed"]
    assert story.finished() == {run: "failed"}
    last = story.entries[-1].record
    assert isinstance(last, r.RunFailed)
    assert last.reason == "poisonous"
    assert "4 workers in a row died" in last.error.message


def test_suspect_that_records_something_is_none_any_more() -> None:
    """Deaths count in a row, and only with nothing new recorded between them."""
    story = Story()
    run = story.start()
    dies(story, run, 3)
    story.assign("w2", alone=True)
    story.step_done(run, "a")
    story.lose(run)
    assert story.recorded() == ["attempt.lost"]
    assert story.run(run).deaths == 1
    assert story.assign("w1") == run


def test_deaths_that_we_caused_do_not_count() -> None:
    """A drained, replaced or restarted worker says nothing about the run."""
    story = Story()
    run = story.start()
    for _ in range(10):
        assert story.assign() == run
        story.lose(run, ours=True)
    story.assign()
    story.claim()
    assert story.run(run).deaths == 0
    dies(story, run, 3)
    story.assign("w2", alone=True)
    story.lose(run, ours=True)
    assert story.recorded() == ["attempt.lost"]
    assert story.run(run).suspect


def test_handler_that_ends_its_attempt_or_waits_clears_the_suspicion() -> None:
    """It came that far without its worker dying."""
    story = Story()
    run = story.start()
    dies(story, run, 2)
    story.assign()
    story.fails(run)
    assert story.run(run).deaths == 0


def test_suspect_can_be_cancelled_and_held() -> None:
    """It is in no queue but the one for suspects, and leaves that one too."""
    story = Story()
    run = story.start()
    dies(story, run, 3)
    assert story.assign("w1", alone=True, without="resize") is None
    assert story.recorded() == ["run.held"]
    assert not story.state.suspects
    story.define("resize")
    assert list(story.state.suspects) == [run]
    story.cancel(run)
    assert not story.state.suspects


def test_suspicion_survives_a_restart() -> None:
    """A run that kills the daemon's workers does so after a restart too."""
    story = Story()
    run = story.start()
    dies(story, run, 3)
    for state in (story.replayed(), story.via_snapshot(story.state.seq)):
        assert list(state.suspects) == [run]
        assert state_hash(state) == state_hash(story.state)


def test_poisonous_child_fails_its_parents_wait() -> None:
    """The waiting parent learns of it in the same append."""
    story = Story()
    parent = story.start()
    story.assign("w0")
    child = story.calls(parent, "child")
    dies(story, child, 3)
    story.assign("w2", alone=True)
    story.lose(child)
    assert story.recorded() == ["attempt.lost", "run.failed", "wait.ended"]


def test_suspect_that_executes_alone_for_long_is_cleared() -> None:
    """It was the victim of another run: handed back, it goes on among the others."""
    story = Story()
    run = story.start()
    dies(story, run, 3)
    story.assign("w2", alone=True)
    story.wall_us += CLEARED_US - 1
    story.lose(run, ours=True)
    assert story.run(run).suspect
    story.assign("w3", alone=True)
    story.wall_us += CLEARED_US
    story.lose(run, ours=True)
    assert story.run(run).deaths == 0
    assert story.assign("w1") == run
    assert state_hash(story.replayed()) == state_hash(story.state)


def test_suspect_whose_worker_dies_late_is_tried_alone_again() -> None:
    """Somebody may have killed the worker; but a run that kills one after the other ends."""
    story = Story()
    run = story.start()
    dies(story, run, 3)
    for _ in range(2):
        assert story.assign("w2", alone=True) == run
        story.wall_us += CLEARED_US
        story.lose(run)
        assert story.recorded() == ["attempt.lost"]
        assert story.run(run).suspect
    story.assign("w2", alone=True)
    story.wall_us += CLEARED_US
    story.lose(run)
    assert story.recorded() == ["attempt.lost", "run.failed"]


def test_suspect_that_executes_says_that_it_is_alone() -> None:
    """Until it is cleared, or has recorded something."""
    story = Story()
    run = story.start()
    dies(story, run, 3)
    story.assign("w2", alone=True)
    fleet = Fleet(1, 1, 0)
    reason = why(story.state, story.run(run), fleet, story.now_us)
    assert reason.code == "running_alone"
    assert "in worker w2, which executes nothing else: 3 workers died" in reason.text
    later = why(story.state, story.run(run), fleet, story.now_us + CLEARED_US)
    assert later.code == "running"
    story.step_done(run, "a")
    assert why(story.state, story.run(run), fleet, story.now_us).code == "running"
