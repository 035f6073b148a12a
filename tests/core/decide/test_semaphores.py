"""A lock that several may hold: never more than each of them allows, first come, first served."""

from __future__ import annotations

import pytest

from core.histories.state_histories import Stored
from stackshift_jobs.errors import LockHeld, NotFound
from stackshiftd.core import commands as c
from stackshiftd.core.snapshot import load, state_hash


def owners(story: Stored, key: str = "k") -> list[str]:
    """Who holds a lock, in order."""
    lock = story.state.locks.get(key)
    return [each.run or each.asker for each in lock.holdings] if lock is not None else []


def full(story: Stored, *more: str, holders: int = 2) -> list[int]:
    """Clients `a` and `b` hold the lock, and `more` wait for it; the tokens of the two."""
    held = [story.acquires(asker, "k", holders=holders)["token"] for asker in ("a", "b")]
    for asker in more:
        assert story.acquires(asker, "k", holders=holders, wait="1h") is None
    return held


def test_so_many_hold_it_and_no_more() -> None:
    """Who does not wait is refused; each has a token of its own, which grows."""
    story = Stored()
    tokens = full(story)
    assert tokens == sorted(set(tokens))
    with pytest.raises(LockHeld, match="held by a@host and 1 more"):
        story.acquires("c", "k", holders=2)
    assert owners(story) == ["a", "b"]


def test_line_is_served_in_order_as_holders_leave() -> None:
    """Each release lets one in."""
    story = Stored()
    first, second = full(story, "c", "d")
    story.releases("k", second)
    assert (owners(story), story.line("k")) == (["a", "c"], ["d"])
    story.releases("k", first)
    assert (owners(story), story.line("k")) == (["c", "d"], [])
    assert list(story.granted()) == ["d"]


def test_nobody_passes_the_first_in_line() -> None:
    """Also who asked for it among more than that one."""
    story = Stored()
    first, _ = full(story, holders=3)
    assert story.acquires("alone", "k", wait="1h") is None
    with pytest.raises(LockHeld):
        story.acquires("c", "k", holders=3)
    assert story.acquires("d", "k", holders=3, wait="1h") is None
    story.releases("k", first)
    assert (owners(story), story.line("k")) == (["b"], ["alone", "d"])


def test_smallest_number_counts() -> None:
    """Who holds it alone is alone, whatever others ask for; after that several come in at once."""
    story = Stored()
    alone = story.acquires("alone", "k")["token"]
    for asker in ("a", "b", "c"):
        assert story.acquires(asker, "k", holders=2, wait="1h") is None
    assert owners(story) == ["alone"]
    story.releases("k", alone)
    assert (owners(story), story.line("k")) == (["a", "b"], ["c"])


def test_one_that_expires_makes_room_and_the_others_stay() -> None:
    """All whose time has passed go at once, and as many come in."""
    story = Stored()
    story.acquires("a", "k", ttl="10s", holders=3)
    story.acquires("b", "k", ttl="10s", holders=3)
    story.acquires("c", "k", ttl="1h", holders=3)
    for asker in ("d", "e", "f"):
        assert story.acquires(asker, "k", ttl="1h", holders=3, wait="1h") is None
    story.tick(to="10s")
    assert (owners(story), story.line("k")) == (["c", "d", "e"], ["f"])


def test_person_takes_it_away_from_one_of_them() -> None:
    """By its token; the others are not touched."""
    story = Stored()
    first, second = full(story, "c")
    story.do(c.ReleaseLock(key="k", lock_token=second, force=True))
    assert owners(story) == ["a", "c"]
    with pytest.raises(LockHeld):
        story.do(c.ReleaseLock(key="k", lock_token=second, force=True))
    story.releases("k", first)
    assert owners(story) == ["c"]
    with pytest.raises(NotFound):
        story.do(c.ReleaseLock(key="other", lock_token=first, force=True))


def test_extension_is_that_of_the_one_who_asks() -> None:
    """The time of the others passes."""
    story = Stored()
    _, second = full(story)
    story.do(c.ExtendLock(key="k", lock_token=second, ttl_ms=3_600_000))
    story.tick(to="30s")
    assert owners(story) == ["b"]


def test_runs_and_clients_share_it_and_a_lost_worker_keeps_its_place() -> None:
    """A run that ends leaves its place to the next; its parent's end too, if both hold it."""
    story = Stored()
    runs = [story.start() for _ in range(3)]
    for _ in runs:
        story.assign()
    for run in runs[:2]:
        story.takes(run, "k", holders=2)
    assert story.takes(runs[2], "k", holders=2) is None
    story.lose(runs[0])
    story.assign()
    assert owners(story) == runs[:2]
    story.completes(runs[1])
    assert owners(story) == [runs[0], runs[2]]


def test_two_that_end_together_make_room_for_two() -> None:
    """A parent and the child that is cancelled with it, in one append."""
    story = Stored()
    parent = story.start()
    story.assign()
    child = story.calls(parent, "child")
    story.assign()
    for run in (parent, child):
        story.takes(run, "k", holders=2)
    for asker in ("a", "b"):
        assert story.acquires(asker, "k", holders=2, wait="1h") is None
    story.cancel(parent)
    for run in (parent, child):
        if story.token(run):
            story.stops(run)
    assert owners(story) == ["a", "b"]


def test_snapshot_and_replay_have_all_holders() -> None:
    """And who waits, among how many."""
    story = Stored()
    full(story, "c")
    for state in (story.replayed(), load(story.snapshot(story.state.seq)).state):
        assert state_hash(state) == state_hash(story.state)
        assert [each.asker for each in state.locks["k"].holdings] == ["a", "b"]
        assert [each.holders for each in state.locks["k"].line.values()] == [2]
