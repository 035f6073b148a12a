"""A run begins after others have ended, and fails with them."""

from __future__ import annotations

import pytest

from core.story import ONCE, Story
from stackshiftd.core import records as r
from stackshiftd.core.snapshot import state_hash
from stackshiftd.core.state.state import Status
from stackshiftd.core.why import Fleet, why


def ends(story: Story, run: str, how: str) -> None:
    """The run, which may start, ends so."""
    assert story.assign() == run
    if how == "completed":
        story.completes(run)
    elif how == "failed":
        story.fails(run, retryable=False)
    else:
        story.cancel(run)
        story.stops(run)


def test_run_begins_when_all_before_it_have_completed() -> None:
    """Until then it waits, and says for which; each end is on its record."""
    story = Story()
    first, second = story.start(), story.start()
    last = story.start(after=[first, second])
    assert story.status(last) is Status.WAITING
    reason = why(story.state, story.run(last), Fleet(1, 8, 0), story.now_us)
    assert (reason.code, reason.run) == ("waiting_run", first)
    assert reason.text == f"begins after {first} (queued) (and 1 more)"
    ends(story, first, "completed")
    story.tick()
    assert story.status(last) is Status.WAITING
    ends(story, second, "completed")
    assert story.status(last) is Status.WAITING
    story.tick()
    assert story.assign() == last
    assert story.kinds(last)[1:4] == ["run.preceded", "run.preceded", "run.queued"]


@pytest.mark.parametrize("how", ["failed", "cancelled"])
def test_run_fails_with_the_first_that_did_not_complete(how: str) -> None:
    """Without waiting for the others; and what begins after it fails too, one append each."""
    story = Story()
    first, other = story.start(), story.start(delay="1h")
    behind = story.start(after=[first, other])
    last = story.start(after=[behind])
    ends(story, first, how)
    story.tick()
    for run in (behind, last):
        error = story.run(run).error
        assert error is not None
        assert error.type == "PredecessorFailed"
    assert first in str(story.run(behind).error)
    assert behind in str(story.run(last).error)
    assert story.status(other) is Status.SCHEDULED


def test_even_if_failed_only_waits_for_the_end() -> None:
    """Cleaning up, for example."""
    story = Story()
    first, second = story.start(), story.start()
    last = story.start(after=[first, second], even_if_failed=True)
    ends(story, first, "failed")
    ends(story, second, "cancelled")
    story.tick()
    assert story.assign() == last


@pytest.mark.parametrize(("how", "status"), [("completed", "queued"), ("failed", "failed")])
def test_run_that_has_ended_before_the_start_counts(how: str, status: str) -> None:
    """The race between the end of one and the start of the next has one outcome."""
    story = Story()
    first = story.start()
    ends(story, first, how)
    last = story.start(after=[first])
    assert story.recorded() == ["run.created", "run.preceded"]
    story.tick()
    assert story.status(last).value == status


def test_run_that_waits_for_others_can_be_cancelled_and_retried() -> None:
    """Cancelled, it waits for nobody; retried by a person, it begins at once."""
    story = Story()
    first = story.start(delay="1h")
    last = story.start(after=[first])
    story.cancel(last)
    assert first not in story.state.awaited
    story.retry(last)
    assert story.assign() == last


def test_both_ends_in_one_append_are_noted_once_each() -> None:
    """A parent is cancelled with its child, and a run begins after both."""
    story = Story()
    parent = story.start()
    story.assign()
    child = story.calls(parent, "child")
    last = story.start(after=[parent, child])
    story.cancel(parent)
    noted = [x for x in story.decision.records if isinstance(x, r.RunPreceded)]
    assert sorted(x.after for x in noted) == sorted([parent, child])
    story.tick()
    assert story.status(last) is Status.FAILED


def test_waiting_survives_restarts_and_snapshots_also_when_those_before_have_left() -> None:
    """A snapshot does not know a run that has completed; the run behind it does."""
    story = Story()
    first, second = story.start(), story.start(delay="1h")
    last = story.start(after=[first, second])
    ends(story, first, "completed")
    story.claim()
    for state in (story.replayed(), story.via_snapshot(story.state.seq)):
        assert state_hash(state) == state_hash(story.state)
        assert state.runs[last].after == [second]
    story.state = story.via_snapshot(story.state.seq)
    story.tick(to="1h")
    ends(story, second, "completed")
    story.tick()
    assert story.assign() == last


def test_unique_key_is_taken_while_a_run_waits_for_others() -> None:
    """It is unfinished; but it is not due, so it keeps no other from its turn."""
    story = Story()
    first = story.start(retry=ONCE)
    last = story.start(after=[first], unique="k")
    waits = story.start(unique="k", on_duplicate="queue")
    ends(story, first, "completed")
    assert story.assign() == waits
    story.tick()
    assert story.assign() is None
    story.completes(waits)
    assert story.assign() == last
