"""One idempotency key, one event, for as long as the key lives; separate from the keys of
starts."""

from __future__ import annotations

from typing import Any

import pytest

from core.histories.state_histories import Stored
from core.story import START_US
from stackshift_jobs.errors import Conflict
from stackshift_jobs.values.durations import rfc3339
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.snapshot import load, state_hash
from stackshiftd.core.state.state import Status


def waiting(story: Stored, *events: Any, **options: Any) -> str:
    """A run that waits for one of `events`, out of memory."""
    run = story.start("onboard")
    assert story.assign() == run
    assert story.waits(run, *events, **options) is None
    story.suspends(run)
    return run


def test_same_key_name_and_payload_is_the_same_event() -> None:
    """The second send records nothing, resumes no run, and says what happened to the first."""
    story = Stored()
    first = story.send("paid", {"a": 1, "b": 2}, "o:1", once="k")
    seq = story.state.seq
    again = story.send("paid", {"b": 2.0, "a": 1}, "o:1", once="k", ttl="1s")
    assert again == first | {"reused": True}
    assert story.state.seq == seq
    assert story.kept() == [first["id"]]


def test_event_that_was_consumed_is_not_sent_again() -> None:
    """The repeated send is answered with the run it resumed: at once, or later."""
    story = Stored()
    first = waiting(story, "a")
    sent = story.send("a", 1, once="k1")
    assert story.send("a", 1, once="k1") == sent | {"reused": True}
    assert sent["resumed"] == [first]
    kept = story.send("b", 1, once="k2")
    assert story.assign() == first
    story.waits(first, "b")
    again = story.send("b", 1, once="k2")
    assert again == kept | {"resumed": [first], "kept_until": None, "reused": True}
    assert story.waits(first, "b") is None
    assert story.send("b", 1, once="k2")["resumed"] == [first]
    assert story.run(first).calls["b#2"].body is None, "the second wait waits on"
    story.folds_alike()


def test_event_that_expired_is_not_sent_again_while_its_key_lives() -> None:
    """It was sent, and no run waited: sending it again would duplicate it."""
    story = Stored()
    sent = story.send("a", 1, once="k", ttl="1h", once_ttl="2h")
    story.tick(to="1h")
    again = story.send("a", 1, once="k", ttl="1h", once_ttl="2h")
    assert again == sent | {"kept_until": None, "reused": True}
    assert story.kept() == []
    story.tick(to="1h")
    new = story.send("a", 1, once="k")
    assert (new["reused"], story.kept()) == (False, [new["id"]])
    story.folds_alike()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"payload": {"n": 2}}, "$.n"),
        ({"name": "refunded"}, "name: paid → refunded"),
        ({"key": "o:2"}, "correlation key: o:1 → o:2"),
        ({"key": ""}, "correlation key: o:1 → none"),
        ({"payload": {"n": True}}, "$.n"),
    ],
)
def test_same_key_with_something_else_is_a_conflict_that_shows_the_difference(
    change: dict[str, Any], told: str
) -> None:
    """Naming the event that owns the key; nothing is recorded."""
    story = Stored()
    first: dict[str, Any] = {"name": "paid", "payload": {"n": 1}, "key": "o:1"}
    sent = story.send(**first, once="k")
    seq = story.state.seq
    with pytest.raises(Conflict) as refused:
        story.send(**(first | change), once="k")
    assert refused.value.owner == sent["id"]
    assert any(told in line for line in refused.value.difference), refused.value.difference
    assert story.state.seq == seq


def test_large_payload_with_the_same_key_is_known_by_its_digest() -> None:
    """No difference is shown, but it is still a conflict."""
    story = Stored()
    story.send("a", "x" * 5000, once="k")
    assert story.send("a", "x" * 5000, once="k")["reused"]
    with pytest.raises(Conflict) as refused:
        story.send("a", "y" * 5000, once="k")
    assert refused.value.difference == []


def test_refused_send_of_a_handler_replays_as_that_refusal() -> None:
    """And the answer for an event that was sent before is recorded too."""
    story = Stored()
    story.send("a", 1, once="k")
    run = story.start("sender")
    story.assign()
    assert story.send("a", 1, run=run, once="k")["reused"]
    assert story.recorded() == ["value.recorded"]
    with pytest.raises(Conflict):
        story.send("a", 2, run=run, once="k")
    assert story.recorded() == ["call.refused"]
    assert story.steps(run)["[event.send a]"]["reused"]
    assert story.steps(run)["[event.send a]#2"]["code"] == "conflict"
    assert len(story.kept()) == 1
    story.folds_alike()


def test_key_lives_to_the_microsecond_from_when_the_event_came() -> None:
    """Sending the event again does not prolong it."""
    story = Stored()
    story.send("a", 1, once="k", once_ttl="1h")
    story.wall_us += 1_800_000_000
    story.send("a", 1, once="k", once_ttl="9h")
    story.wall_us = START_US + 3_599_999_999
    with pytest.raises(Conflict):
        story.send("a", 2, once="k")
    story.wall_us += 1
    assert not story.send("a", 2, once="k")["reused"]
    story.folds_alike()


def test_key_without_a_time_is_no_key_for_long() -> None:
    """It is over as it begins."""
    story = Stored()
    story.send("a", 1, once="k", once_ttl="0s")
    assert not story.send("a", 2, once="k", once_ttl="0s")["reused"]
    assert len(story.kept()) == 2
    story.folds_alike()


def test_keys_of_events_and_of_starts_are_apart() -> None:
    """The same text is the key of one run and of one event."""
    story = Stored()
    run = story.start("a", 1, key="k")
    sent = story.send("a", 1, once="k")
    assert story.start("a", 1, key="k") == run
    assert story.send("a", 1, once="k")["id"] == sent["id"]
    assert not sent["reused"]


@pytest.mark.parametrize("at_once", [True, False])
def test_key_survives_the_run_that_sent_and_the_run_that_got_it(at_once: bool) -> None:
    """Removed both, and after a restart from a snapshot."""
    story = Stored()
    sender = story.start("sender")
    story.assign()
    if at_once:
        getter = waiting(story, "a")
        sent = story.send("a", 1, run=sender, once="k")
    else:
        sent = story.send("a", 1, run=sender, once="k")
        getter = story.start("getter")
        story.assign()
        story.waits(getter, "a")
        story.suspends(getter, "a")
    story.completes(sender)
    assert story.assign() == getter
    story.completes(getter)
    story.remove(sender)
    story.remove(getter)
    story.state = story.via_snapshot(story.state.seq)
    assert story.state.runs == {}
    again = story.send("a", 1, once="k")
    assert (again["id"], again["reused"], again["resumed"]) == (sent["id"], True, [getter])
    assert story.kept() == []
    story.folds_alike()


def test_keys_of_starts_survive_removal_until_their_time_has_passed() -> None:
    """Another payload is a conflict with a run that nobody can look at any more."""
    story = Stored()
    run = story.start("a", 1, key="k", key_ttl="1h")
    story.assign()
    story.completes(run)
    story.remove(run)
    story.state = story.via_snapshot(story.state.seq)
    assert story.start("a", 1, key="k") == run
    with pytest.raises(Conflict):
        story.start("a", 2, key="k")
    story.wall_us = START_US + 3_600_000_000
    assert story.start("a", 2, key="k") != run
    story.folds_alike()


def test_keys_whose_time_has_passed_leave_memory_and_snapshots() -> None:
    """New keys displace them; how soon is not observable."""
    story = Stored()
    for at in range(30):
        story.send("a", at, once=f"k{at}", once_ttl="1h", ttl="0s")
    story.wall_us += 3_600_000_000
    live = [story.send("a", at, once=f"new{at}", ttl="0s") for at in range(15)]
    assert len(story.state.events.keys) == 15
    assert all(not sent["reused"] for sent in live)
    lines = story.snapshot(story.state.seq)
    assert sum(b'"line":"event_key"' in line for line in lines) == 15
    assert state_hash(load(lines).state) == state_hash(story.state)
    story.folds_alike()


def test_key_taken_again_is_not_forgotten_at_its_first_time() -> None:
    """Its first expiry no longer applies."""
    story = Stored()
    story.send("a", 1, once="k", once_ttl="1h")
    story.wall_us += 3_600_000_000
    second = story.send("a", 1, once="k", once_ttl="10h")
    for at in range(5):
        story.send("other", at, once=f"k{at}")
    assert story.send("a", 1, once="k")["id"] == second["id"]
    story.folds_alike()


def test_event_sent_again_by_a_retry_from_before_it_is_the_same_event() -> None:
    """The send is repeated; its key makes it the same event."""
    story = Stored()
    run = story.start("sender")
    story.assign()
    sent = story.send("a", 1, run=run, once="k")
    story.completes(run)
    story.retry(run, from_step="[event.send a]")
    story.assign()
    again = story.send("a", 1, run=run, once="k")
    assert (again["id"], again["reused"]) == (sent["id"], True)
    assert len(story.records(r.EventReceived)) == 1
    assert story.status(run) is Status.RUNNING
    story.folds_alike()


def test_event_whose_time_has_passed_is_no_longer_reported_as_kept() -> None:
    """Whether the expiry is recorded yet or not."""
    story = Stored()
    sent = story.send("a", 1, once="k", ttl="1h")
    assert sent["kept_until"] == rfc3339(START_US + 3_600_000_000)
    story.wall_us += 3_600_000_000
    assert story.send("a", 1, once="k")["kept_until"] is None, "nobody gets it any more"
    assert story.do(c.Tick()).records
    assert story.send("a", 1, once="k")["kept_until"] is None
