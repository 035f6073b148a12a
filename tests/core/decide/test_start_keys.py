"""One idempotency key, one run, whatever comes between (guarantee: one key, one run)."""

from __future__ import annotations

from typing import Any

import pytest

from core.story import ONCE, Story
from stackshift_jobs.errors import Conflict
from stackshiftd.core.effects import Started
from stackshiftd.core.snapshot import state_hash
from stackshiftd.core.state.state import Status


def test_same_key_job_and_payload_is_the_same_run() -> None:
    """The second start records nothing and says that it found a run; its other options are
    ignored."""
    story = Story()
    run = story.start("resize", {"id": 1}, key="k")
    assert story.start("resize", {"id": 1}, key="k", queue="other", priority=9) == run
    assert story.decision.reply == Started(run, True)
    assert story.decision.records == ()


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED, Status.CANCELLED])
def test_key_finds_its_run_whatever_became_of_it(status: Status) -> None:
    """A finished run is found too: the same work is not done twice."""
    story = Story()
    run = story.start(key="k", retry=ONCE)
    story.assign()
    if status is Status.COMPLETED:
        story.completes(run)
    elif status is Status.FAILED:
        story.fails(run)
    else:
        story.cancel(run)
        story.stops(run)
    assert story.start(key="k") == run
    assert story.status(run) is status


SAME: list[tuple[Any, Any]] = [
    ({"a": 1, "b": [1, {"c": 2, "d": 3}]}, {"b": [1, {"d": 3, "c": 2}], "a": 1}),
    ({"n": 1}, {"n": 1.0}),
    ({"n": 100}, {"n": 1e2}),
    ({"n": 0}, {"n": -0.0}),
    ({"n": 2**70}, {"n": float(2**70)}),
]
OTHER: list[tuple[Any, Any]] = [
    ({"n": 1}, {"n": True}),
    ({"n": 0}, {"n": False}),
    ({"n": 1}, {"n": "1"}),
    ({"n": None}, {}),
    ({"n": [1, 2]}, {"n": [2, 1]}),
    ({"n": 2**53 + 1}, {"n": float(2**53)}),
    ([], {}),
]


@pytest.mark.parametrize(("first", "second"), SAME)
def test_payloads_that_are_equal_as_json_are_one_piece_of_work(first: Any, second: Any) -> None:
    """The order of keys and the spelling of a number do not matter."""
    story = Story()
    assert story.start("resize", first, key="k") == story.start("resize", second, key="k")


@pytest.mark.parametrize(("first", "second"), OTHER)
def test_payloads_that_differ_as_json_are_a_conflict(first: Any, second: Any) -> None:
    """The owner is named, and nothing is recorded."""
    story = Story()
    run = story.start("resize", first, key="k")
    seq = story.state.seq
    with pytest.raises(Conflict, match="a different payload") as refused:
        story.start("resize", second, key="k")
    assert refused.value.owner == run
    assert story.state.seq == seq


def test_key_of_another_job_is_a_conflict() -> None:
    """Keys are per project: the same key for another job is a mistake, and is refused as one."""
    story = Story()
    run = story.start("resize", key="k")
    with pytest.raises(Conflict, match="a different job") as refused:
        story.start("report", key="k")
    assert refused.value.owner == run


def finished(story: Story, ttl: str) -> str:
    """A completed run that owns the key `k` for `ttl`."""
    run = story.start(key="k", key_ttl=ttl)
    story.assign()
    story.completes(run)
    return run


def test_key_expires_only_when_its_time_has_passed() -> None:
    """To the microsecond: its last moment still finds the run."""
    story = Story()
    run = finished(story, "1h")
    story.wall_us += 3_600_000_000 - 1
    assert story.start(key="k") == run
    story.wall_us += 1
    other = story.start(key="k")
    assert other != run
    assert story.start(key="k") == other


def test_key_outlives_its_time_while_its_run_is_not_finished() -> None:
    """However long that takes."""
    story = Story()
    run = story.start(key="k", key_ttl="1s", delay="60d")
    story.tick(to="59d")
    assert story.start(key="k") == run
    story.tick(to="1d")
    story.assign()
    assert story.start(key="k") == run
    story.completes(run)
    assert story.start(key="k") != run


def test_keys_that_have_expired_are_forgotten_and_those_in_use_are_not() -> None:
    """Memory does not grow by keys that expired long ago."""
    story = Story()
    waiting = story.start(key="waiting", key_ttl="1s", delay="60d")
    for n in range(50):
        run = story.start(key=f"old-{n}", key_ttl="1s")
        story.assign()
        story.completes(run)
    story.wall_us += 60_000_000
    for n in range(50):
        story.start(key=f"new-{n}")
    assert len(story.state.keys) <= 52
    assert story.start(key="waiting") == waiting


def test_key_survives_compaction_removal_and_restart() -> None:
    """It outlives its run in memory and in lists."""
    story = Story()
    run = finished(story, "30d")
    story.remove(run)
    for state in (story.replayed(), story.via_snapshot(story.state.seq)):
        story.state = state
        assert story.start(key="k") == run


def test_key_of_a_large_payload_still_detects_a_conflict() -> None:
    """The payload is not kept for the difference; its digest is."""
    story = Story()
    story.start("resize", "x" * 5000, key="k")
    assert story.state.keys["k"].payload == b""
    assert story.start("resize", "x" * 5000, key="k")
    with pytest.raises(Conflict):
        story.start("resize", "y" * 5000, key="k")


def test_key_that_has_lapsed_does_not_come_back_with_its_run() -> None:
    """Whether it was forgotten already makes no difference: a snapshot leaves it out."""
    story = Story()
    run = story.start(key="k", key_ttl="1s", retry=ONCE)
    story.assign()
    story.fails(run)
    story.wall_us += 60_000_000
    story.start()
    at = story.state.seq
    story.retry(run)
    assert state_hash(story.via_snapshot(at)) == state_hash(story.state)
    assert story.start(key="k") != run


def test_child_with_a_key_that_is_in_use_is_the_run_that_owns_it() -> None:
    """Nothing is created; the parent waits for the owner, and does not cancel it."""
    story = Story()
    first, second = story.start(), story.start()
    story.assign()
    story.assign()
    owner = story.calls(first, "child", key="k")
    assert story.calls(second, "child", key="k") == owner
    assert story.recorded() == ["wait.started"]
    story.cancel(second)
    assert story.status(owner) is Status.QUEUED
    story.assign()
    story.completes(owner, 5)
    assert story.steps(first) == {"child": 5}
