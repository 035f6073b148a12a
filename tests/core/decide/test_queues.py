"""The terms of a queue, who sets them, and which are in force; pausing."""

from __future__ import annotations

from core.story import Story
from stackshiftd.core.records import QueueTerms
from stackshiftd.core.state.queues import Limits, origin_of


def limits(story: Story) -> Limits:
    """The limits in force for the queue `media`."""
    return story.state.queues["media"].limits


def origins(story: Story) -> dict[str, str]:
    """Term → the layer that it comes from, for the queue `media`."""
    said = story.state.queues["media"].said
    return {name: origin_of(said, name) for name in ("concurrency", "key_concurrency", "rate")}


def test_a_person_outranks_the_file_and_the_file_the_code() -> None:
    """Term by term: a layer that does not set a term leaves it to the next."""
    story = Story()
    story.declare("code", media=QueueTerms(concurrency=1, key_concurrency=1, rate_burst=7))
    story.declare("file", media=QueueTerms(concurrency=2, rate=5, rate_per_ms=1000))
    story.limit(concurrency=3)
    assert limits(story) == Limits(3, 1, 5, 1_000_000, 7)
    assert origins(story) == {"concurrency": "person", "key_concurrency": "code", "rate": "file"}


def test_reset_leaves_what_file_and_code_say() -> None:
    """But a paused queue stays paused: removing limits starts nothing."""
    story = Story()
    story.declare("file", media=QueueTerms(concurrency=2))
    story.limit(concurrency=9, rate=1, rate_per_ms=1000)
    story.limit(paused=True)
    assert story.limit(reset=True)
    assert limits(story) == Limits(concurrency=2, paused=True)
    assert origins(story)["concurrency"] == "file"


def test_reset_can_set_at_once() -> None:
    """`limit --reset --concurrency 4`: that, and nothing else."""
    story = Story()
    story.limit(concurrency=9, key_concurrency=9)
    story.limit(reset=True, concurrency=4)
    assert limits(story) == Limits(concurrency=4)


def test_nought_lifts_a_bound_that_another_set() -> None:
    """And it is a term of its own: `show` names the layer that set it."""
    story = Story()
    story.declare(
        "file", media=QueueTerms(concurrency=1, key_concurrency=1, rate=1, rate_per_ms=1000)
    )
    story.limit(concurrency=0, key_concurrency=0, rate=0, rate_burst=0)
    assert limits(story) == Limits()
    assert set(origins(story).values()) == {"person"}
    runs = [story.start(concurrency_key="k") for _ in range(4)]
    assert story.fill() == runs


def test_period_of_a_rate_is_of_who_said_the_rate() -> None:
    """A person's 5 a minute does not become 5 a second through a file that says 9 a second."""
    story = Story()
    story.limit(rate=5, rate_per_ms=60_000)
    story.declare("file", media=QueueTerms(rate=9, rate_per_ms=1000))
    assert (limits(story).rate, limits(story).per_us) == (5, 60_000_000)
    story.limit(concurrency=1)
    assert (limits(story).rate, limits(story).per_us) == (5, 60_000_000)


def test_definition_that_disappears_is_withdrawn() -> None:
    """A term that is no longer in the file is no longer in force; a person's term is."""
    story = Story()
    story.declare(
        "file", media=QueueTerms(concurrency=1, paused=True), office=QueueTerms(concurrency=1)
    )
    story.limit("office", concurrency=2)
    story.declare("file")
    assert limits(story) == Limits()
    assert story.state.queues["office"].limits == Limits(concurrency=2)


def test_definition_that_has_not_changed_is_no_record() -> None:
    """A daemon that starts a hundred times does not record the same terms a hundred times."""
    story = Story()
    story.declare("file", media=QueueTerms(concurrency=1), office=QueueTerms())
    assert story.recorded() == ["queue.changed", "queue.changed"]
    story.declare("file", media=QueueTerms(concurrency=1), office=QueueTerms())
    assert story.recorded() == []
    assert not story.limit(reset=True)
    assert story.recorded() == []


def test_pause_and_resume_keep_the_order() -> None:
    """What arrived during the pause has the place that it would have had anyway."""
    story = Story()
    before = [story.start(priority=priority) for priority in (0, 1)]
    story.limit(paused=True)
    assert story.fill() == []
    during = [story.start(priority=priority) for priority in (2, 0)]
    story.limit(paused=False)
    assert story.fill() == [during[0], before[1], before[0], during[1]]


def test_paused_queue_stays_paused_after_a_restart() -> None:
    """None of its runs is dispatched, whether the pause is read from journal or snapshot."""
    story = Story()
    run = story.start()
    story.limit(paused=True)
    for state in (story.replayed(), story.via_snapshot(story.state.seq)):
        assert state.next_ready(story.now_us) is None
    story.state = story.via_snapshot(story.state.seq)
    story.limit(paused=False)
    assert story.fill() == [run]


def test_since_of_a_pause_survives_replay_and_snapshot() -> None:
    """It is the time of the first pause, even if it is paused again or another limit is changed."""
    story = Story()
    story.limit(concurrency=1)
    since_us = story.wall_us = story.wall_us + 5_000_000
    story.limit(paused=True)
    story.wall_us += 7_000_000
    story.limit(paused=True)
    story.declare("file", media=QueueTerms(paused=True, key_concurrency=2))
    story.limit(concurrency=2)
    states = [story.state, story.replayed()]
    states += [story.via_snapshot(at) for at in story.ends]
    assert [state.queues["media"].paused_us for state in states] == [since_us] * len(states)
    story.limit(paused=False)
    assert story.state.queues["media"].paused_us == 0


def test_person_resumes_what_the_file_pauses() -> None:
    """And it stays resumed when the file says the same again."""
    story = Story()
    run = story.start()
    story.declare("file", media=QueueTerms(paused=True))
    assert story.fill() == []
    story.limit(paused=False)
    story.declare("file", media=QueueTerms(paused=True, concurrency=5))
    assert story.fill() == [run]
