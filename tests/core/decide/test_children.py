"""Parents and children: started once, waited for, and cancelled together
(guarantee: child starts)."""

from __future__ import annotations

import pytest

from core.histories.state_histories import Stored
from core.story import ONCE, STEADY, Story, error
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.effects import Acknowledge, Resolve, Stop
from stackshiftd.core.fold.fold import fold
from stackshiftd.core.snapshot import state_hash
from stackshiftd.core.state.state import Phase, Status


def parent_and_child(story: Story) -> tuple[str, str]:
    """A parent in w1 that has called a child, which executes in w2."""
    parent = story.start("report", retry=ONCE)
    story.assign("w1")
    child = story.calls(parent, "child")
    story.assign("w2")
    return parent, child


def test_child_and_the_record_of_its_start_are_one_append() -> None:
    """So a crash never leaves one without the other."""
    story = Story()
    parent = story.start()
    story.assign()
    child = story.starts(parent, "mail")
    assert story.recorded() == ["run.created", "child.started"]
    assert story.effects(Acknowledge) == [Acknowledge(7, 0, child)]
    assert (story.run(child).parent, story.run(child).parent_step) == (parent, "mail")
    assert story.run(parent).calls["mail"].child == child


def test_start_and_call_are_recorded_with_their_job() -> None:
    """So that a later pass can tell that it asks for another one. Early journals do not say it of a
    call, and are read."""
    story = Story()
    parent = story.start()
    story.assign()
    story.starts(parent, "mail", "sendMail")
    story.calls(parent, "page", "makePage")
    calls = story.run(parent).calls
    assert {name: calls[name].job for name in calls} == {"mail": "sendMail", "page": "makePage"}
    early = (
        b'{"seq":7,"at":"2036-01-05T09:00:00.000000Z","kind":"wait.started","run":"%s",'
        b'"attempt":1,"step":"early","wait":"child","child":"run_9"}' % parent.encode()
    )
    fold(story.state, r.entry_from_json(early))
    assert (calls["early"].child, calls["early"].job) == ("run_9", "")


def test_parent_learns_of_the_end_of_its_child_in_the_same_append() -> None:
    """With its result, and with an effect for the handler if it is in memory."""
    story = Story()
    parent, child = parent_and_child(story)
    story.completes(child, {"pages": 3})
    assert story.recorded() == ["run.completed", "wait.ended"]
    assert story.effects(Resolve) == [Resolve(parent, story.token(parent), "child")]
    assert story.steps(parent) == {"child": {"pages": 3}}
    assert story.run(parent).calls["child"].child_status == "completed"


def test_suspended_parent_is_queued_by_the_end_of_its_child() -> None:
    """The child's failure arrives as an outcome, its error with it."""
    story = Story()
    parent, child = parent_and_child(story)
    story.suspends(parent)
    story.fails(child)
    assert story.recorded() == ["attempt.failed", "run.failed", "wait.ended"]
    assert story.effects(Resolve) == []
    step = story.run(parent).calls["child"]
    assert (step.phase, step.child_status, step.error) == (Phase.COMPLETED, "failed", error())
    assert story.assign("w1") == parent


def test_all_who_wait_for_a_run_learn_of_its_end() -> None:
    """A parent and two unrelated runs, each once."""
    story = Story()
    parent, child = parent_and_child(story)
    strangers = [story.start(), story.start()]
    for stranger in strangers:
        story.assign()
        story.awaits(stranger, "result", child)
    story.completes(child, 1)
    assert story.recorded().count("wait.ended") == 3
    for run in (parent, *strangers):
        assert list(story.steps(run).values()) == [1]
    assert story.state.awaited == {}


def test_cancelling_a_parent_cancels_what_it_called_and_what_is_tied_to_it() -> None:
    """Down to the grandchildren; a run that it only started continues."""
    story = Story()
    parent, child = parent_and_child(story)
    free = story.starts(parent, "free")
    tied = story.starts(parent, "tied", with_parent=True)
    grandchild = story.calls(child, "grandchild")
    assert story.cancel(parent)
    cancelled = [rec.run for rec in story.decision.records if isinstance(rec, r.RunCancelled)]
    assert sorted(cancelled) == sorted([parent, child, tied, grandchild])
    assert story.recorded() == ["run.cancelled"] * 4, "nobody among them needs word of another"
    assert {effect.run for effect in story.effects(Stop)} == {parent, child}
    assert story.finished() == dict.fromkeys(cancelled, "cancelled")
    assert story.status(free) is Status.QUEUED


def test_cancelled_child_fails_its_parents_wait_and_not_its_parent() -> None:
    """The parent's wait ends with `cancelled`; the handler decides what to make of it."""
    story = Story()
    parent, child = parent_and_child(story)
    story.cancel(child)
    assert story.recorded() == ["run.cancelled", "wait.ended"]
    assert story.status(parent) is Status.RUNNING
    assert story.run(parent).calls["child"].child_status == "cancelled"


def test_finished_child_is_not_cancelled_with_its_parent() -> None:
    """What has completed stays completed."""
    story = Story()
    parent, child = parent_and_child(story)
    story.completes(child)
    story.cancel(parent)
    assert story.recorded() == ["run.cancelled"]
    assert story.status(child) is Status.COMPLETED


def test_snapshot_taken_after_a_child_has_left_is_the_state_it_was_taken_of() -> None:
    """Nothing in the parent's memory depends on records other than its own."""
    story = Story()
    parent, child = parent_and_child(story)
    story.completes(child)
    assert state_hash(story.via_snapshot(story.state.seq)) == state_hash(story.state)
    assert story.run(parent).children == []


def test_wait_for_a_run_that_has_ended_is_over_at_once() -> None:
    """Whether that run has left memory, is in the dead letter, or its handler is still stopping."""
    story = Story()
    done, dead, stopping = story.start(), story.start(retry=ONCE), story.start()
    for _ in range(3):
        story.assign()
    story.completes(done, 42)
    story.fails(dead)
    story.cancel(stopping)
    run = story.start()
    story.assign()
    for step, other in (("done", done), ("dead", dead), ("stopping", stopping)):
        story.awaits(run, step, other)
        assert story.recorded() == ["wait.started", "wait.ended"]
        assert story.effects(Resolve) == [Resolve(run, story.token(run), step)]
    steps = story.run(run).calls
    told = [steps[name].child_status for name in ("done", "dead", "stopping")]
    assert told == ["completed", "failed", "cancelled"]
    assert steps["done"].body == b"42"
    assert steps["dead"].error == error()
    assert story.state.awaited == {}


def test_wait_for_a_run_that_never_was_fails() -> None:
    """It does not wait forever."""
    story = Story()
    run = story.start()
    story.assign()
    story.do(c.AwaitRun(run, story.token(run), 7, "result", "run_none"))
    step = story.run(run).calls["result"]
    assert step.child_status == "failed"
    assert step.error is not None
    assert step.error.type == "NotFound"


@pytest.mark.parametrize("restarted", [False, True])
def test_wait_that_is_over_ignores_a_later_end(restarted: bool) -> None:
    """A child that a person retries ends again; its parent has its answer already."""
    story = Story()
    parent, child = parent_and_child(story)
    story.step_done(child, "a")
    story.completes(child, 1)
    if restarted:
        story.state = story.via_snapshot(story.state.seq)
    story.retry(child, from_step="a")
    story.assign("w2")
    story.completes(child, 2)
    assert story.recorded() == ["run.completed"]
    assert story.steps(parent) == {"child": 1}


def test_retried_parent_is_still_cancelled_with_the_child_it_waits_for() -> None:
    """The child outlived the parent's failure; the wait continues, and the tie with it."""
    story = Story()
    parent, child = parent_and_child(story)
    story.fails(parent)
    assert story.status(child) is Status.RUNNING
    assert story.retry(parent).reused == ["child"]
    story.cancel(parent)
    assert story.finished() == {parent: "cancelled", child: "cancelled"}


# --- Calls that take too long -----------------------------------------------------------------


def late_call(on_timeout: str, *, suspended: bool = True) -> tuple[Story, str, str]:
    """A parent whose call has just timed out, and the child, which executes."""
    story = Story()
    parent = story.start("report", retry=STEADY)
    story.assign("w1")
    child = story.calls(parent, "child", timeout="1m", on_timeout=on_timeout)
    story.assign("w2")
    if suspended:
        story.suspends(parent)
    assert story.tick(to="59s") == 0
    assert story.tick(to="1s") == 1
    return story, parent, child


@pytest.mark.parametrize("suspended", [True, False])
def test_late_child_fails_its_parent(suspended: bool) -> None:
    """For good, and the child is cancelled: nobody waits for it. A retry calls it again."""
    story, parent, child = late_call("fail", suspended=suspended)
    assert story.finished() == {parent: "failed", child: "cancelled"}
    error = story.run(parent).error
    assert error is not None
    assert error.type == "TimeoutError"
    assert error.message == f"'child' waited for {child}, which had not ended in time"
    assert [stop.run for stop in story.effects(Stop)][:1] == [child]
    assert [stop.run for stop in story.effects(Stop)][1:] == ([] if suspended else [parent])
    if not suspended:
        story.stops(parent)
    assert story.retry(parent).repeated == ["child"]
    story.via_snapshot(story.state.seq)


def test_parent_of_a_late_child_may_go_on() -> None:
    """With nothing as the result; the child is cancelled, and its end does not reach the call."""
    story, parent, child = late_call("continue")
    assert story.recorded() == ["wait.ended", "run.cancelled"]
    call = story.run(parent).calls["child"]
    assert (call.phase, call.child_status, call.body) == (Phase.COMPLETED, "timed_out", b"null")
    assert (story.status(parent), story.finished()) == (Status.QUEUED, {child: "cancelled"})


def test_late_child_may_cancel_its_parent() -> None:
    """Which takes the child with it; a retry calls it again."""
    story, parent, child = late_call("cancel")
    assert story.finished() == {parent: "cancelled", child: "cancelled"}
    assert story.retry(parent).repeated == ["child"]


def test_call_that_is_answered_in_time_does_not_time_out() -> None:
    """Its timer is over with it."""
    story = Story()
    parent = story.start("report")
    story.assign()
    child = story.calls(parent, "child", timeout="1m")
    story.assign()
    story.completes(child, 1)
    assert story.tick(to="1h") == 0
    assert story.steps(parent) == {"child": 1}


def test_run_that_is_waited_for_goes_on_after_the_wait() -> None:
    """`step.result` has not started it, so it does not end it."""
    story = Story()
    waiter, other = story.start(), story.start("other")
    for _ in range(2):
        story.assign()
    story.awaits(waiter, "result", other, timeout="1m", on_timeout="continue")
    story.tick(to="1m")
    assert story.run(waiter).calls["result"].child_status == "timed_out"
    assert story.status(other) is Status.RUNNING
    story.completes(other)
    assert story.recorded() == ["run.completed"]


# --- Children that end with their parent ------------------------------------------------------


@pytest.mark.parametrize("how", ["completes", "fails", "is cancelled", "continues"])
def test_child_ends_when_its_parent_ends(how: str) -> None:
    """However that is, and in the same append; one that is to be left goes on."""
    story = Story()
    parent = story.start("report", retry=ONCE)
    story.assign()
    child = story.starts(parent, "helper", ends_with_parent=True)
    grandchild_of = story.assign()
    assert grandchild_of == child
    grandchild = story.calls(child, "below")
    left = story.starts(parent, "left")
    for _ in range(2):
        story.assign()
    if how == "completes":
        story.completes(parent)
    elif how == "fails":
        story.fails(parent)
    elif how == "is cancelled":
        story.cancel(parent)
    else:
        story.continues(parent)
    ended = story.finished()
    assert (ended[child], ended[grandchild]) == ("cancelled", "cancelled")
    assert left not in ended
    assert {child, grandchild} <= {stop.run for stop in story.effects(Stop)}
    story.via_snapshot(story.state.seq)


def test_attempt_that_fails_is_not_the_end_of_the_parent() -> None:
    """Its children go on while it is tried again."""
    story = Story()
    parent = story.start("report", retry=STEADY)
    story.assign()
    child = story.starts(parent, "helper", ends_with_parent=True)
    story.fails(parent)
    assert story.status(child) is Status.QUEUED


def test_lock_of_a_parent_is_not_given_to_a_child_that_ends_with_it() -> None:
    """Nor the child's lock to the parent: whoever comes after them in the line gets both."""
    story = Stored()
    parent = story.start("report")
    story.assign()
    child = story.starts(parent, "helper", ends_with_parent=True)
    other = story.start("other")
    for _ in range(2):
        story.assign()
    story.takes(parent, "a")
    story.takes(child, "b")
    story.takes(child, "a")
    story.takes(parent, "b")
    story.takes(other, "a")
    story.takes(other, "b")
    story.completes(parent)
    story.stops(child)
    assert (story.owner("a"), story.owner("b")) == (other, other)


def test_parent_that_waits_for_a_child_that_ends_with_it_has_no_answer_of_it() -> None:
    """The wait is over with the parent."""
    story = Story()
    parent = story.start("report")
    story.assign()
    child = story.starts(parent, "helper", ends_with_parent=True)
    story.awaits(parent, "result", child)
    story.completes(parent)
    assert story.recorded() == ["run.completed", "run.cancelled"]
