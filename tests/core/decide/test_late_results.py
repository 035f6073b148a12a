"""A late result of a lost attempt changes nothing (guarantee: late results)."""

from __future__ import annotations

import pytest

from core.histories.test_histories import from_worker
from core.story import Story
from stackshiftd.core import commands as c
from stackshiftd.core.snapshot import state_hash
from stackshiftd.core.state.state import Status

NAMES = [type(command).__name__ for command in from_worker("", 0)]

ENDS = (
    "ConfirmStop",
    "CompleteRun",
    "ContinueRun",
    "FailAttempt",
    "FinishCancel",
    "FinishUndo",
)


def of(run: str, token: int, name: str) -> c.Command:
    """The command called `name` among all that a worker can give for this execution."""
    return next(found for found in from_worker(run, token) if type(found).__name__ == name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("after", ["lost", "resumed", "suspended", "failed", "completed"])
def test_command_under_an_old_token_changes_nothing(name: str, after: str) -> None:
    """Whatever a worker sends for an execution that is over: no record, no effect."""
    story = Story()
    run = story.start()
    story.assign()
    token = story.token(run)
    if after in ("lost", "resumed"):
        story.lose(run)
    elif after == "suspended":
        story.sleeps(run, "pause", "1h")
        story.suspends(run)
    elif after == "failed":
        story.fails(run)
    else:
        story.completes(run)
    if after == "resumed":
        story.assign("w2")
    before = state_hash(story.state)
    decision = story.do(of(run, token, name))
    assert (decision.records, decision.effects) == ((), ())
    assert state_hash(story.state) == before


@pytest.mark.parametrize("name", NAMES)
def test_cancelled_handler_can_only_stop(name: str) -> None:
    """Its results are ignored; its end, of whatever kind, only frees the slot."""
    story = Story()
    run = story.start()
    story.assign()
    story.cancel(run)
    story.do(of(run, story.token(run), name))
    if name in ENDS:
        assert story.recorded() == ["attempt.stopped"]
        assert story.state.runs == {}
    else:
        assert story.recorded() == []
        assert story.token(run)
    assert story.status(run) is Status.CANCELLED
    assert story.finished() == {}


@pytest.mark.parametrize("name", NAMES)
def test_handler_past_its_time_can_only_stop(name: str) -> None:
    """Whatever it sends after its timeout was recorded does not undo that."""
    story = Story()
    run = story.start(timeout="1s")
    story.assign()
    story.tick(to="1s")
    story.do(of(run, story.token(run), name))
    assert story.recorded() == (["attempt.stopped"] if name in ENDS else [])
    assert story.run(run).calls == {}
    assert story.status(run) is Status.RETRYING


def test_loss_that_is_reported_late_changes_nothing() -> None:
    """The run executes elsewhere by then."""
    story = Story()
    run = story.start()
    story.assign()
    token = story.token(run)
    story.lose(run)
    story.assign("w2")
    assert story.do(c.LoseExecution(run, token, "again", False)).records == ()
    assert story.run(run).deaths == 1


def test_new_daemon_takes_back_all_that_executed() -> None:
    """No worker outlives its daemon; the attempts resume under new tokens and use up no budget."""
    story = Story()
    runs = [story.start(), story.start(timeout="1s"), story.start()]
    for _ in runs:
        story.assign()
    story.tick(to="1s")
    story.cancel(runs[2])
    tokens = [story.token(run) for run in runs]
    story.claim()
    assert story.recorded() == ["attempt.lost", "attempt.stopped", "attempt.stopped"]
    assert story.status(runs[0]) is Status.QUEUED
    assert story.status(runs[1]) is Status.RETRYING
    assert story.status(runs[2]) is Status.CANCELLED
    assert story.assign() == runs[0]
    assert story.recorded() == ["attempt.resumed"]
    assert story.token(runs[0]) not in tokens


@pytest.mark.parametrize("name", NAMES)
def test_token_of_nothing_is_no_token(name: str) -> None:
    """A run that does not execute has the token 0; a command under it is ignored."""
    story = Story()
    run = story.start()
    assert story.do(of(run, 0, name)).records == ()
    assert story.do(c.LoseExecution(run, 0, "gone", False)).records == ()
    assert story.status(run) is Status.QUEUED
