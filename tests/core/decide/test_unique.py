"""At most one unfinished run has a unique key, and never do two with one key execute at once."""

from __future__ import annotations

import pytest

from core.schedule_story import ScheduledStory
from core.story import ONCE, Story
from stackshift_jobs.errors import Conflict
from stackshiftd.core import records as r
from stackshiftd.core.effects import Stop
from stackshiftd.core.snapshot import state_hash
from stackshiftd.core.state.state import Status
from stackshiftd.core.why import Fleet, why

FLEET = Fleet(1, 8, 0)


def test_duplicate_is_refused_and_nothing_is_recorded() -> None:
    """The owner is named, whatever its job and status, and the key too."""
    story = Story()
    run = story.start(unique="backup", delay="1h")
    seq = story.state.seq
    with pytest.raises(Conflict, match="unique key 'backup' belongs to") as refused:
        story.start("report", unique="backup")
    assert refused.value.owner == run
    assert refused.value.fields["unique"] == "backup"
    assert story.state.seq == seq
    assert story.start(unique="other") != run


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED, Status.CANCELLED])
def test_key_is_free_when_its_run_has_ended(status: Status) -> None:
    """However it ends; a run in the dead letter does not keep its key."""
    story = Story()
    run = story.start(unique="backup", retry=ONCE)
    story.assign()
    if status is Status.COMPLETED:
        story.completes(run)
    elif status is Status.FAILED:
        story.fails(run)
    else:
        story.cancel(run)
        story.stops(run)
    assert story.start(unique="backup") != run
    assert story.assign() is not None


def test_key_survives_restarts_and_snapshots() -> None:
    """The run that has it is still there, so it still has it."""
    story = Story()
    run = story.start(unique="backup")
    story.claim()
    for state in (story.replayed(), story.via_snapshot(story.state.seq)):
        assert state.unique.runs("backup") == [run]
        assert state_hash(state) == state_hash(story.state)


def test_attached_start_is_given_the_owner() -> None:
    """Nothing is recorded, since nothing has changed; another payload does not matter."""
    story = Story()
    run = story.start(payload={"n": 1}, unique="backup")
    seq = story.state.seq
    assert story.start(payload={"n": 2}, unique="backup", on_duplicate="attach") == run
    assert story.state.seq == seq


def test_start_is_not_attached_to_a_run_of_another_job() -> None:
    """Its result would be something else."""
    story = Story()
    run = story.start("resize", unique="backup")
    with pytest.raises(Conflict) as refused:
        story.start("report", unique="backup", on_duplicate="attach")
    assert refused.value.owner == run


def test_idempotency_key_of_an_attached_start_finds_that_run_for_good() -> None:
    """Asked again after the run has ended, the start is the same start: it starts nothing."""
    story = Story()
    run = story.start(unique="backup")
    assert story.start(unique="backup", on_duplicate="attach", key="k") == run
    assert story.recorded() == ["run.attached"]
    story.assign()
    story.completes(run)
    for _ in range(2):
        assert story.start(unique="backup", on_duplicate="attach", key="k") == run
        story.state = story.via_snapshot(story.state.seq)
    with pytest.raises(Conflict, match="a different payload"):
        story.start(payload={"n": 1}, key="k")


def test_replaced_run_is_cancelled_in_the_same_append() -> None:
    """One that is only due later ends at once, and the new one starts."""
    story = Story()
    old = story.start(unique="backup", delay="1h")
    new = story.start(unique="backup", on_duplicate="replace")
    assert story.decision.records[0] == r.RunCancelled(old, "replaced", by=new)
    assert isinstance(story.decision.records[1], r.RunCreated)
    assert story.status(old) is Status.CANCELLED
    assert story.assign() == new


def test_replacement_does_not_start_before_the_handler_has_stopped() -> None:
    """Two copies of one program would be what the key is to prevent; the reason is told."""
    story = Story()
    old = story.start(unique="backup")
    story.assign()
    token = story.token(old)
    new = story.start(unique="backup", on_duplicate="replace")
    assert story.decision.effects == (Stop(old, token, "cancelled"),)
    assert story.assign() is None
    reason = why(story.state, story.run(new), FLEET, story.now_us)
    assert (reason.code, reason.run) == ("unique_busy", old)
    assert "has not stopped yet" in reason.text
    story.stops(old)
    assert story.assign() == new


def test_replacement_cancels_all_that_are_unfinished() -> None:
    """Also those that wait for their turn: afterwards it is the only one."""
    story = Story()
    old = story.start(unique="backup", delay="1s")
    waits = story.start(unique="backup", delay="2s", on_duplicate="queue")
    new = story.start(unique="backup", on_duplicate="replace")
    assert story.decision.records[:2] == (
        r.RunCancelled(old, "replaced", by=new),
        r.RunCancelled(waits, "replaced", by=new),
    )
    assert story.state.unique.runs("backup") == [new]


def test_queued_duplicates_take_turns_in_order() -> None:
    """Each waits for the end of the one before, whatever its priority and queue."""
    story = Story()
    first = story.start(unique="backup")
    second = story.start(unique="backup", on_duplicate="queue", queue="other")
    third = story.start(unique="backup", on_duplicate="queue", priority=9)
    assert story.assign() == first
    assert story.assign() is None
    reason = why(story.state, story.run(second), FLEET, story.now_us)
    assert reason.text.endswith(f"unique key backup belongs to {first} (running)")
    assert (reason.code, reason.kind, reason.run) == ("unique_busy", "unique", first)
    story.completes(first)
    assert story.assign() == second
    story.sleeps(second, "nap", "1h")
    story.suspends(second)
    assert story.assign() is None
    story.cancel(third)
    story.tick(to="1h")
    assert story.assign() == second


def test_run_that_is_due_later_does_not_keep_others_from_their_turn() -> None:
    """The line is in the order in which runs became due."""
    story = Story()
    first = story.start(unique="backup")
    later = story.start(unique="backup", on_duplicate="queue", delay="1h")
    second = story.start(unique="backup", on_duplicate="queue")
    story.assign()
    story.completes(first)
    assert story.assign() == second
    story.tick(to="1h")
    assert story.assign() is None
    story.completes(second)
    assert story.assign() == later


def test_retry_is_refused_while_another_run_has_the_key() -> None:
    """The person is told which; once that has ended, the run is retried and has the key again."""
    story = Story()
    failed = story.start(unique="backup", retry=ONCE)
    story.assign()
    story.fails(failed)
    other = story.start(unique="backup")
    with pytest.raises(Conflict) as refused:
        story.retry(failed)
    assert refused.value.owner == other
    with pytest.raises(Conflict) as refused:
        story.fork(failed)
    assert refused.value.owner == other
    story.assign()
    story.completes(other)
    story.retry(failed)
    with pytest.raises(Conflict) as refused:
        story.start(unique="backup")
    assert refused.value.owner == failed


def test_handler_cannot_replace_or_wait_for_itself() -> None:
    """A start that would cancel the run that makes it, or one that called it, or that would wait
    for it for ever, is refused; the handler learns by whom the key is held."""
    story = Story()
    parent = story.start(unique="backup")
    story.assign()
    for name, wait, mode in (
        ("a", False, "replace"),
        ("b", True, "queue"),
        ("c", True, "attach"),
    ):
        start = story.calls if wait else story.starts
        assert start(parent, name, unique="backup", on_duplicate=mode) == ""
        assert story.run(parent).calls[name].phase.value == "failed"
    child = story.calls(parent, "child")
    assert story.assign() == child
    assert story.starts(child, "d", unique="backup", on_duplicate="replace") == ""
    successor = story.starts(child, "e", unique="backup", on_duplicate="queue")
    assert successor
    assert story.status(parent) is Status.RUNNING


def test_handler_that_replaces_a_run_it_waits_for_learns_of_its_end() -> None:
    """The wait ends in the same append as the run."""
    story = Story()
    parent = story.start()
    story.assign()
    child = story.calls(parent, "old", unique="backup")
    story.starts(parent, "new", unique="backup", on_duplicate="replace")
    assert story.status(child) is Status.CANCELLED
    assert story.run(parent).calls["old"].child_status == "cancelled"


def test_tick_of_a_job_whose_key_is_taken_starts_nothing_and_says_so() -> None:
    """A tick that was held is not held any longer: it would never be decided otherwise."""
    story = ScheduledStory("2026-11-22 08:00")
    story.schedule("nightly", "@hourly", overlap="queue")
    story.unique["nightly"] = "backup"
    [first] = story.goes_on("1h")
    assert story.goes_on("1h") == []
    assert story.fired("nightly")[-1].reason == "waits"
    story.cancel(first)
    other = story.start("resize", unique="backup")
    assert story.look() == []
    assert story.fired("nightly")[-1].reason == "unique"
    assert not story.state.schedules["nightly"].held_us
    story.cancel(other)
    assert len(story.goes_on("1h")) == 1
