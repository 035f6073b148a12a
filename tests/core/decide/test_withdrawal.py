"""What a handler gives up takes nothing (guarantee: withdrawal)."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Raw

from core.histories.state_histories import Stored
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.snapshot import load, state_hash
from stackshiftd.core.state.state import Phase, Status

EVENT = "paid"


def begun(story: Stored, many: int = 1) -> list[str]:
    """Runs whose handlers execute."""
    runs = [story.start("order") for _ in range(many)]
    assert set(runs) <= set(story.fill())
    return runs


def withdraw(story: Stored, run: str, step: str) -> None:
    """The handler gives up the call `step`; with the event that it has received, if it has."""
    call = story.run(run).calls.get(step)
    seen = call.body if call is not None and call.phase is Phase.COMPLETED else None
    body = Raw(seen) if isinstance(seen, bytes) else r.NULL
    story.do(c.WithdrawCall(run, story.token(run), step, body))


def phase(story: Stored, run: str, step: str) -> Phase:
    """How far the call has come."""
    return story.run(run).calls[step].phase


def test_withdrawn_wait_gets_no_event(story: Stored) -> None:
    """It is kept for the next wait."""
    (run,) = begun(story)
    story.waits(run, EVENT, timeout="10s")
    withdraw(story, run, EVENT)
    assert phase(story, run, EVENT) is Phase.WITHDRAWN
    assert story.send(EVENT, "1")["resumed"] == []
    story.tick(to="20s")
    assert story.status(run) is Status.RUNNING
    assert story.waits(run, EVENT, named="again")["payload"] == "1"


def test_event_that_was_not_seen_is_kept_again_in_its_place(story: Stored) -> None:
    """Before those that were received after it."""
    (run,) = begun(story)
    story.waits(run, EVENT)
    first = story.send(EVENT, "1")["id"]
    second = story.send(EVENT, "2")["id"]
    withdraw(story, run, EVENT)
    assert story.kept() == [first, second]
    replayed = load(story.snapshot(len(story.entries))).state
    assert state_hash(replayed) == state_hash(story.state)
    assert list(replayed.events.kept) == [first, second]
    got = [story.waits(run, EVENT, named=name)["payload"] for name in ("a", "b")]
    assert got == ["1", "2"]


def test_event_that_was_not_seen_goes_to_whoever_waits(story: Stored) -> None:
    """And is not kept then."""
    one, other = begun(story, 2)
    story.waits(one, EVENT)
    story.send(EVENT, "1")
    story.waits(other, EVENT)
    withdraw(story, one, EVENT)
    assert story.got(other, EVENT)["payload"] == "1"
    assert story.kept() == []


def test_event_that_others_have_received_too_is_not_given_back(story: Stored) -> None:
    """It was consumed, and would be consumed twice."""
    one, other = begun(story, 2)
    for run in (one, other):
        story.waits(run, EVENT)
    story.send(EVENT, "1")
    withdraw(story, one, EVENT)
    assert story.kept() == []
    assert phase(story, one, EVENT) is Phase.WITHDRAWN


def test_timeout_is_no_event(story: Stored) -> None:
    """A wait that has timed out has nothing to give back."""
    (run,) = begun(story)
    story.waits(run, EVENT, timeout="1s", on_timeout="continue")
    story.tick(to="2s")
    withdraw(story, run, EVENT)
    assert story.kept() == []


def test_withdrawn_call_cancels_the_child_that_it_started(story: Stored) -> None:
    """A run that it only waits for goes on."""
    (run,) = begun(story)
    child = story.calls(run, "child", "order")
    other = story.start("order")
    story.awaits(run, "result", other)
    for step in ("child", "result"):
        withdraw(story, run, step)
    assert story.status(child) is Status.CANCELLED
    assert not story.run(other).finished
    assert phase(story, run, "child") is phase(story, run, "result") is Phase.WITHDRAWN


def test_what_is_recorded_stays(story: Stored) -> None:
    """A step that has completed is not undone; one that has not is withdrawn."""
    (run,) = begun(story)
    story.step_done(run, "done", "1")
    story.step_opens(run, "open")
    for step in ("done", "open", "never"):
        withdraw(story, run, step)
    assert phase(story, run, "done") is Phase.COMPLETED
    assert phase(story, run, "open") is phase(story, run, "never") is Phase.WITHDRAWN


def test_withdrawn_call_is_made_anew(story: Stored) -> None:
    """To the next pass it is as if it had never been made."""
    (run,) = begun(story)
    story.sleeps(run, "nap", "10s")
    withdraw(story, run, "nap")
    story.tick(to="20s")
    assert phase(story, run, "nap") is Phase.WITHDRAWN
    story.sleeps(run, "nap", "10s")
    assert phase(story, run, "nap") is Phase.WAITING
    story.tick(to="40s")
    assert phase(story, run, "nap") is Phase.COMPLETED


@pytest.fixture
def story() -> Any:
    """Runs, events and locks, decided and folded."""
    return Stored()
