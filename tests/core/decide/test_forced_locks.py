"""A person takes a lock away from its holder: the next has it, and the holder learns of that."""

from __future__ import annotations

import pytest
from msgspec import Raw
from msgspec.json import decode

from core.story import Story
from stackshift_jobs.errors import LockHeld, NotFound
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.effects import Acknowledge, Granted, Resolve
from stackshiftd.core.snapshot import state_hash
from stackshiftd.core.state.state import Phase


def holder(story: Story, ttl_ms: int = 0) -> str:
    """A run that executes and holds the lock `k` by its call `[lock k]`."""
    run = story.start()
    story.assign()
    story.do(
        c.AcquireLock(
            run=run, token=story.token(run), call=4, step="[lock k]", key="k", ttl_ms=ttl_ms
        )
    )
    return run


def take_away(story: Story) -> None:
    """A person has looked who holds the lock, and takes it away."""
    holding = story.state.locks["k"].holding
    assert holding is not None
    story.do(c.ReleaseLock(key="k", lock_token=holding.token, force=True))


@pytest.mark.parametrize("ttl_ms", [0, 60_000])
def test_run_loses_its_lock_to_the_next_and_is_told(ttl_ms: int) -> None:
    """At its next call, whether the lock would have expired or not; the error says how."""
    story = Story()
    run = holder(story, ttl_ms)
    story.do(c.AcquireLock(key="k", ttl_ms=30_000, wait_ms=60_000, asker="c1"))
    take_away(story)
    assert story.recorded() == ["lock.released", "lock.acquired"]
    assert story.decision.records[0] == r.LockReleased("k", "forced", run, "[lock k]")
    assert len(story.effects(Resolve)) == len(story.effects(Granted)) == 1
    assert story.run(run).calls["[lock k]"].phase is Phase.GONE
    check = c.CheckLock(run=run, token=story.token(run), call=5, step="next", lock="[lock k]")
    [answer] = [e for e in story.do(check).effects if isinstance(e, Acknowledge)]
    error = decode(answer.error)
    assert error["code"] == "lock_lost"
    assert error["message"] == "lock 'k' was taken away before this call"
    assert answer.body == Raw(b"null")


def test_lock_that_has_changed_hands_is_not_taken_away() -> None:
    """Who saw one holder means no other."""
    story = Story()
    run = holder(story)
    seen = story.state.locks["k"].holding
    assert seen is not None
    token = seen.token
    story.do(c.AcquireLock(key="k", ttl_ms=30_000, wait_ms=60_000, asker="c1"))
    story.completes(run)
    seq = story.state.seq
    with pytest.raises(LockHeld):
        story.do(c.ReleaseLock(key="k", lock_token=token, force=True))
    with pytest.raises(NotFound):
        story.do(c.ReleaseLock(key="other", lock_token=token, force=True))
    assert story.state.seq == seq


def test_without_force_a_run_keeps_its_lock() -> None:
    """A client that knows the token of a run cannot release it by mistake."""
    story = Story()
    holder(story)
    holding = story.state.locks["k"].holding
    assert holding is not None
    with pytest.raises(LockHeld):
        story.do(c.ReleaseLock(key="k", lock_token=holding.token))


def test_lock_that_was_taken_away_stays_so_after_a_restart() -> None:
    """It is a record like all others."""
    story = Story()
    holder(story)
    take_away(story)
    for state in (story.replayed(), story.via_snapshot(story.state.seq)):
        assert state_hash(state) == state_hash(story.state)
        assert "k" not in state.locks
