"""`runs retry` and `runs fork`: what is reused, what happens again, and from where."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from core.story import ONCE, Story
from stackshift_jobs.errors import Conflict, NotFound, Usage
from stackshiftd.core import commands as c
from stackshiftd.core.effects import Rerun
from stackshiftd.core.snapshot import state_hash
from stackshiftd.core.state.state import Status


def failed(story: Story, *, payload: object = None) -> str:
    """A run that recorded a, b and c, in this order, and then failed for good."""
    run = story.start("resize", payload, retry=ONCE)
    story.assign()
    for step in ("a", "b", "c"):
        story.step_done(run, step, f"{step}1")
    story.fails(run)
    return run


def cancelled(story: Story) -> str:
    """The same run, cancelled: it has left memory."""
    run = story.start("resize")
    story.assign()
    for step in ("a", "b", "c"):
        story.step_done(run, step, f"{step}1")
    story.cancel(run)
    story.stops(run)
    assert run not in story.state.runs
    return run


Begin = Callable[[Story], str]
both = pytest.mark.parametrize("begin", [failed, cancelled])


@both
def test_retry_continues_from_what_is_recorded_with_a_new_budget(begin: Begin) -> None:
    """Whether the run was still in memory or not; `attempt` keeps counting."""
    story = Story()
    run = begin(story)
    assert story.retry(run) == Rerun(run, ["a", "b", "c"], [])
    assert story.assign() == run
    assert story.recorded() == ["attempt.started"]
    assert (story.run(run).attempt, story.run(run).attempts_used) == (2, 1)
    assert story.steps(run) == {"a": "a1", "b": "b1", "c": "c1"}
    assert (story.run(run).error, story.run(run).finished_us, story.state.dead) == (None, 0, 0)


@both
def test_retry_from_a_step_repeats_it_and_all_recorded_after_it(begin: Begin) -> None:
    """After it in the journal, not in the alphabet."""
    story = Story()
    run = begin(story)
    assert story.retry(run, from_step="b") == Rerun(run, ["a"], ["b", "c"])
    assert story.steps(run) == {"a": "a1"}


def test_order_of_a_step_is_when_it_was_last_recorded() -> None:
    """A sleep that ended late comes after what was recorded meanwhile."""
    story = Story()
    run = story.start(retry=ONCE)
    story.assign()
    story.sleeps(run, "nap", "1s")
    story.step_done(run, "a")
    story.tick(to="1s")
    story.fails(run)
    assert story.retry(run, from_step="a") == Rerun(run, [], ["a", "nap"])


@both
def test_replaced_step_has_the_result_that_was_given(begin: Begin) -> None:
    """It counts neither as reused nor as repeated."""
    story = Story()
    run = begin(story)
    sent = story.retry(run, from_step="b", replaced={"b": {"by": "hand"}, "d": 4})
    assert sent == Rerun(run, ["a"], ["c"])
    assert story.steps(run) == {"a": "a1", "b": {"by": "hand"}, "d": 4}


def test_only_the_result_of_a_step_can_be_replaced() -> None:
    """A sleep, a wait or a read would not recognize its record; nothing is changed."""
    story = Story()
    run = story.start(retry=ONCE)
    story.assign()
    story.sleeps(run, "nap", "1h")
    story.calls(run, "child")
    story.reads(run, "[now]", 1)
    story.fails(run)
    seq = story.state.seq
    for name in ("nap", "child", "[now]"):
        with pytest.raises(Usage, match="cannot be replaced"):
            story.retry(run, replaced={name: 1})
    assert story.state.seq == seq


def test_step_whose_failure_ended_the_run_is_tried_again() -> None:
    """It was forgotten when the attempt failed, and is listed as repeated."""
    story = Story()
    run = story.start(retry=ONCE)
    story.assign()
    story.step_done(run, "a", 1)
    story.step_fails(run, "b")
    story.fails(run, step="b")
    assert story.retry(run) == Rerun(run, ["a"], ["b"])
    assert story.steps(run) == {"a": 1}


def test_step_that_was_executing_when_its_run_ended_happens_again() -> None:
    """It has no result."""
    story = Story()
    run = story.start()
    story.assign()
    story.step_opens(run, "a")
    story.cancel(run)
    story.stops(run)
    assert story.retry(run) == Rerun(run, [], ["a"])


def test_sleep_under_way_goes_on_after_a_retry() -> None:
    """It ends when it would have ended."""
    story = Story()
    run = story.start(retry=ONCE)
    story.assign()
    story.sleeps(run, "nap", "1h")
    story.fails(run)
    story.tick(to="30m")
    assert story.retry(run) == Rerun(run, ["nap"], [])
    story.assign()
    assert story.tick(to="29m") == 0
    assert story.tick(to="1m") == 1
    assert story.recorded() == ["wait.ended"]


def test_wait_for_a_child_that_was_cancelled_with_its_parent_begins_again() -> None:
    """A child that is still under way is waited for; one that is not is started again."""
    story = Story()
    run = story.start()
    story.assign()
    child = story.calls(run, "child")
    other = story.start()
    story.assign()
    story.awaits(run, "other", other)
    story.cancel(run)
    story.stops(run)
    assert story.status(child) is Status.CANCELLED
    assert story.retry(run) == Rerun(run, ["other"], ["child"])
    story.assign("w2")
    story.assign("w2")
    story.completes(other, 5)
    assert story.steps(run) == {"other": 5}


def test_completed_run_is_retried_only_with_something_to_repeat() -> None:
    """Otherwise it is refused, with a hint that says what to write."""
    story = Story()
    run = story.start()
    story.assign()
    story.step_done(run, "a", 1)
    story.completes(run)
    with pytest.raises(Conflict, match="has completed"):
        story.retry(run)
    assert story.retry(run, from_step="a") == Rerun(run, [], ["a"])
    assert story.status(run) is Status.QUEUED


def test_unfinished_run_cannot_be_retried() -> None:
    """Nor one that never existed, nor from a step that is not recorded."""
    story = Story()
    dead = failed(story)
    run = story.start()
    with pytest.raises(Conflict, match="only a finished run"):
        story.retry(run)
    with pytest.raises(NotFound):
        story.do(c.RetryRun("run_none"))
    with pytest.raises(NotFound, match="no recorded step 'z'"):
        story.retry(dead, from_step="z")


def mapped(story: Story) -> str:
    """A run that recorded `a` and the items of `total`, the last of them first, then failed in
    `price`."""
    run = story.start(retry=ONCE)
    story.assign()
    for step in ("a", "total[1]", "total[0]"):
        story.step_done(run, step)
    story.step_fails(run, "price")
    story.fails(run, step="price")
    return run


def test_name_of_a_map_stands_for_its_first_item_on_record() -> None:
    """So all its items are repeated, in whatever order they were recorded."""
    story = Story()
    run = mapped(story)
    assert story.retry(run, from_step="total") == Rerun(
        run, ["a"], ["total[1]", "total[0]", "price"]
    )


def test_name_of_a_map_stands_for_the_item_that_ended_the_run() -> None:
    """It alone is not among the recorded steps."""
    story = Story()
    run = story.start(retry=ONCE)
    story.assign()
    story.step_fails(run, "total[0]")
    story.fails(run, step="total[0]")
    assert story.retry(run, from_step="total") == Rerun(run, [], ["total[0]"])


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("prise", "did you mean price?"),
        ("totl", "did you mean total?"),
        ("total[2]", "did you mean total[1] or total[0]?"),
        ("nothing-like-it", "its steps: a, total, price"),
    ],
)
def test_refused_step_is_told_what_there_is(name: str, hint: str) -> None:
    """Those like it, or all: a map once, and the step that ended the run too."""
    story = Story()
    run = mapped(story)
    with pytest.raises(NotFound) as refused:
        story.retry(run, from_step=name)
    assert refused.value.hint == hint


def test_names_of_steps_in_a_hint_are_bounded() -> None:
    """A run may have recorded ten thousand."""
    story = Story()
    run = story.start(retry=ONCE)
    story.assign()
    for number in range(25):
        story.step_done(run, f"s{number}")
    story.fails(run)
    with pytest.raises(NotFound) as refused:
        story.retry(run, from_step="zzz")
    assert refused.value.hint.endswith("s18, s19 and 5 more")


def test_run_that_left_memory_twice_keeps_what_its_second_life_recorded() -> None:
    """Each life continues from everything that was recorded before it."""
    story = Story()
    run = cancelled(story)
    for life in (2, 3, 4):
        story.retry(run)
        story.assign()
        story.step_done(run, f"life-{life}", life)
        story.cancel(run)
        story.stops(run)
        assert run not in story.state.runs
    assert story.retry(run).reused == ["a", "b", "c", "life-2", "life-3", "life-4"]
    assert story.steps(run)["life-3"] == 3
    assert story.run(run).attempt == 4
    assert state_hash(story.via_snapshot(story.state.seq)) == state_hash(story.state)


def test_records_of_a_run_grow_with_what_happened_not_with_how_often_it_was_retried() -> None:
    """A retry contains each earlier record once, however many retries there were."""
    story = Story()
    run = cancelled(story)
    sizes = []
    for _ in range(8):
        story.retry(run)
        sizes.append(sum(map(len, story.lines(run)[-1:])))
        story.cancel(run)
    growth = [after - before for before, after in pairwise(sizes)]
    assert max(growth) < 2 * min(growth)


def test_run_retried_while_its_old_handler_stops_waits_for_that() -> None:
    """Two handlers of one run never execute side by side."""
    story = Story()
    run = story.start()
    story.assign()
    story.cancel(run)
    story.retry(run)
    assert story.assign() is None
    story.stops(run)
    assert story.assign() == run


def test_retry_of_a_large_payload_is_whole() -> None:
    """What memory does not keep is restored from the records."""
    story = Story()
    run = story.start("resize", "x" * 5000)
    story.cancel(run)
    story.retry(run)
    assert story.run(run).payload == b'"' + b"x" * 5000 + b'"'


# --- Forks ---------------------------------------------------------------------------------


@both
def test_fork_is_a_new_run_with_the_steps_of_another(begin: Begin) -> None:
    """The source stays as it is; the fork names it."""
    story = Story()
    source = begin(story)
    before = story.status(source)
    fork = story.fork(source, from_step="c")
    assert (fork.reused, fork.repeated) == (["a", "b"], ["c"])
    assert story.steps(fork.run) == {"a": "a1", "b": "b1"}
    assert story.run(fork.run).forked_from == source
    assert story.run(fork.run).attempt == 0
    assert story.assign() == fork.run
    assert story.status(source) is before


def test_fork_with_another_payload_keeps_the_steps() -> None:
    """Only what was asked to change changes."""
    story = Story()
    source = failed(story, payload={"n": 1})
    assert story.run(story.fork(source).run).payload == b'{"n":1}'
    assert story.run(story.fork(source, payload={"n": 2}).run).payload == b'{"n":2}'


def test_fork_of_a_run_under_way_begins_its_own_waits() -> None:
    """A wait belongs to the run that waits: neither sleep nor child is shared."""
    story = Story()
    source = story.start()
    story.assign()
    story.step_done(source, "a", 1)
    story.sleeps(source, "nap", "1h")
    story.calls(source, "child")
    story.step_opens(source, "b")
    fork = story.fork(source)
    assert fork.reused == ["a"]
    assert sorted(fork.repeated) == ["b", "child", "nap"]
    assert story.steps(fork.run) == {"a": 1}
    assert story.state.awaited.values()


def test_fork_of_a_fork_carries_what_both_recorded() -> None:
    """Also through snapshots."""
    story = Story()
    first = story.fork(failed(story)).run
    story.assign()
    story.step_done(first, "d", 4)
    second = story.fork(first).run
    assert list(story.steps(second)) == ["a", "b", "c", "d"]
    for at in story.ends:
        assert state_hash(story.via_snapshot(at)) == state_hash(story.state)


# --- Removing ------------------------------------------------------------------------------


def test_only_a_finished_run_whose_handler_has_stopped_can_be_removed() -> None:
    """What still executes stays."""
    story = Story()
    run = story.start()
    story.assign()
    with pytest.raises(Conflict, match="only a finished run"):
        story.remove(run)
    story.cancel(run)
    with pytest.raises(Conflict):
        story.remove(run)
    story.stops(run)
    story.remove(run)
    assert story.recorded() == ["run.removed"]
