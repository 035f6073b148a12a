"""Order: priority, due time, arrival; turns between queues; no slot idle without reason."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from core.story import Story
from stackshiftd.core import commands as c
from stackshiftd.core.state.state import Status


def all_assigned(story: Story) -> list[str]:
    """The fill loop of a daemon with slots enough: the runs, in the order of their turns."""
    found = []
    while (run := story.assign()) is not None:
        found.append(run)
    return found


def test_higher_priority_goes_first_then_who_came_first() -> None:
    """Among equals it is first come, first served."""
    story = Story()
    runs = [story.start(priority=priority) for priority in (0, 5, -1, 5, 0)]
    order = [runs[1], runs[3], runs[0], runs[4], runs[2]]
    assert all_assigned(story) == order


def test_due_time_counts_before_arrival() -> None:
    """A run scheduled for nine o'clock starts before one that arrived at half past, however late
    that is decided."""
    story = Story()
    scheduled = story.start(delay="1h")
    story.wall_us += 7_200_000_000
    late = story.start()
    story.tick()
    assert all_assigned(story) == [scheduled, late]


def test_resumed_run_keeps_its_place() -> None:
    """After a wait or a loss it starts before those that arrived after it."""
    story = Story()
    first = story.start()
    story.assign()
    story.sleeps(first, "nap", "1m")
    story.suspends(first)
    others = [story.start() for _ in range(3)]
    story.tick(to="1m")
    assert story.assign() == first
    story.lose(first)
    assert all_assigned(story) == [first, *others]


def test_retried_attempt_takes_the_place_of_its_backoff() -> None:
    """Its place is that of the end of its backoff: before later arrivals, after earlier ones."""
    story = Story()
    failing = story.start()
    story.assign()
    story.fails(failing)
    before = story.start()
    story.tick(to="1s")
    story.wall_us += 1
    after = story.start()
    assert all_assigned(story) == [before, failing, after]


def test_place_of_a_retry_is_when_its_backoff_was_over_not_when_it_was_looked_at() -> None:
    """A daemon that slept past that time does not put it behind those that arrived meanwhile."""
    story = Story()
    failing = story.start()
    story.assign()
    story.fails(failing)
    story.wall_us += 5_000_000
    later = story.start()
    story.wall_us += 5_000_000
    story.tick()
    assert all_assigned(story) == [failing, later]


def test_ready_queues_take_turns() -> None:
    """A queue of a thousand does not starve a queue of one."""
    story = Story()
    long = [story.start(queue="long") for _ in range(4)]
    short = [story.start(queue="short") for _ in range(2)]
    assert all_assigned(story) == [long[0], short[0], long[1], short[1], long[2], long[3]]


def test_no_run_of_a_missing_job_blocks_those_behind_it() -> None:
    """It is held, which is recorded, and continues when its job exists again."""
    story = Story()
    gone = story.start("gone")
    run = story.start("resize")
    assert story.assign(without="gone") is None
    assert story.recorded() == ["run.held"]
    assert story.status(gone) is Status.WAITING
    assert story.assign(without="gone") == run
    story.define("resize")
    assert story.recorded() == []
    story.define("gone")
    assert story.recorded() == ["run.queued"]
    assert story.assign() == gone


def test_held_run_keeps_its_place_and_can_be_cancelled() -> None:
    """Being held costs it nothing."""
    story = Story()
    held = [story.start("gone"), story.start("gone")]
    story.assign(without="gone")
    story.assign(without="gone")
    later = story.start("resize")
    story.cancel(held[1])
    assert story.state.held == {"gone": {held[0]: None}}
    story.define("gone")
    assert all_assigned(story) == [held[0], later]


def test_cancelled_run_frees_its_slot_only_when_its_handler_has_stopped() -> None:
    """Limits hold for what executes, whatever its status."""
    story = Story()
    run = story.start()
    story.assign()
    story.cancel(run)
    assert story.state.queues["media"].executing == 1
    story.stops(run)
    assert story.state.queues["media"].executing == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(("media", "office", "mail")),
            st.integers(-1, 1),
            st.booleans(),
            st.sampled_from(("ready", "cancelled", "scheduled", "lost", "held")),
        ),
        max_size=25,
    )
)
def test_work_conserves(made: list[tuple[str, int, bool, str]]) -> None:
    """While a run is ready a free slot gets one: the fill loop ends only when none is left."""
    story = Story()
    ready = set()
    for queue, priority, _, how in made:
        job = "gone" if how == "held" else "resize"
        delay = "1h" if how == "scheduled" else None
        run = story.start(job, queue=queue, priority=priority, delay=delay)
        if how == "cancelled":
            story.cancel(run)
        elif how in ("ready", "lost"):
            ready.add(run)
    assigned = []
    while story.state.next_ready(story.now_us) is not None:
        run_or_none = story.assign(without="gone")
        if run_or_none is not None:
            assigned.append(run_or_none)
    assert sorted(assigned) == sorted(ready)
    assert story.do(c.Assign("w1", story.jobs)).records == ()
