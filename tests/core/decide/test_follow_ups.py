"""What a run starts by its end: `on_failure` and `on_success` (guarantee: follow-ups)."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from core.story import ONCE, Story
from stackshift_jobs.values.names import RUN_ID
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.decide.follow_ups import MOST_TEXT
from stackshiftd.core.snapshot import state_hash
from stackshiftd.core.state.state import Status

CLEAN = r.FollowUp("clean", "office", ONCE, 1000, 3, 60_000, 120_000)
TELL = r.FollowUp("tell")


def followed(story: Story, run: str) -> r.RunCreated:
    """What the run has started by its end, in the append that ended it."""
    records = story.decision.records
    end = next(x for x in records if isinstance(x, r.RunCompleted | r.RunFailed) and x.run == run)
    (created,) = (each for each in records if isinstance(each, r.RunCreated))
    assert end.follow_up == created.run
    if run in story.state.runs:
        assert story.run(run).follow_up == created.run
    assert created.parent == run
    return created


def payload(created: r.RunCreated) -> dict[str, Any]:
    """What the follow-up is given."""
    value: dict[str, Any] = json.loads(bytes(created.payload))
    return value


def raises(story: Story, run: str, message: str) -> None:
    """The handler raises an error that is final, with this message."""
    final = c.Verdict(retryable=False)
    story.do(c.FailAttempt(run, story.token(run), r.Error("OSError", message), final))


def begun(story: Story, **options: Any) -> str:
    """A run that executes and has both follow-ups."""
    run = story.start(on_failure=CLEAN, on_success=TELL, **options)
    assert story.assign() == run
    return run


def test_run_that_fails_for_good_starts_its_follow_up() -> None:
    """It has the terms that were recorded, and the run object. An attempt starts none."""
    story = Story()
    run = begun(story, payload={"größe": 1.0}, retry=r.RetryTerms(2, 1000, jitter=0.0))
    story.fails(run)
    assert story.run(run).follow_up is None
    story.tick(to="1s")
    assert story.assign() == run
    raises(story, run, "größer")
    created = followed(story, run)
    assert re.fullmatch(RUN_ID, created.run)
    assert (created.job, created.queue, created.retry) == ("clean", "office", ONCE)
    assert (created.timeout_ms, created.priority) == (1000, 3)
    assert created.expires_at is not None
    assert created.deadline_at is not None
    given = payload(created)
    assert given.pop("error")["message"] == "größer"
    assert given.pop("created_at") < given.pop("finished_at")
    assert given == {
        "id": run,
        "job": "resize",
        "queue": "media",
        "status": "failed",
        "attempt": 2,
        "payload": {"größe": 1.0},
        "result": None,
        "labels": {},
        "omitted": [],
    }
    assert state_hash(story.replayed()) == state_hash(story.state)


def test_run_that_completes_starts_its_other_follow_up() -> None:
    """With its result."""
    story = Story()
    run = begun(story)
    story.completes(run, [1, 2])
    created = followed(story, run)
    assert (created.job, created.queue) == ("tell", "default")
    assert payload(created)["result"] == [1, 2]
    assert payload(created)["error"] is None


@pytest.mark.parametrize("how", ["deadline", "worker", "predecessor"])
def test_whatever_fails_a_run_starts_it(how: str) -> None:
    """Not its handler alone."""
    story = Story()
    if how == "deadline":
        run = begun(story, deadline="1s")
        story.tick(to="1s")
    elif how == "worker":
        run = begun(story)
        while story.status(run) is not Status.FAILED:
            story.lose(run)
            story.assign(alone=True)
    else:
        before = story.start()
        run = story.start(on_failure=CLEAN, after=[before])
        story.cancel(before)
        story.tick()
    assert story.status(run) is Status.FAILED
    assert story.run(run).follow_up is not None
    created = [e.record for e in story.entries if isinstance(e.record, r.RunCreated)]
    assert [each.parent for each in created if each.job == "clean"] == [run]


def test_cancelled_run_starts_nothing() -> None:
    """Neither of them."""
    story = Story()
    run = begun(story)
    story.cancel(run)
    story.stops(run)
    assert not [e for e in story.entries if isinstance(e.record, r.RunCreated)][1:]


def test_follow_up_is_not_followed_itself() -> None:
    """Also where it continues as another run."""
    story = Story()
    run = begun(story)
    story.fails(run, retryable=False)
    created = followed(story, run)
    assert (created.on_failure, created.on_success) == (None, None)
    story.define("clean")
    story.jobs["clean"] = "code-1"
    assert story.assign() == created.run
    later = story.continues(created.run, {})
    assert story.assign() == later
    story.fails(later, retryable=False)
    assert story.run(later).follow_up is None


def test_loop_is_followed_when_it_ends() -> None:
    """A link of a chain starts nothing; its last run does."""
    story = Story()
    first = begun(story)
    second = story.continues(first, {})
    assert not [each for each in story.decision.records if getattr(each, "follow_up", None)]
    assert story.assign() == second
    story.completes(second)
    assert followed(story, second).job == "tell"


def test_retry_that_fails_again_starts_another() -> None:
    """Also if the run never began an attempt; and a fork is followed like its source."""
    story = Story()
    run = story.start(on_failure=CLEAN, deadline="1s", queue="stopped")
    story.limit("stopped", paused=True)
    story.tick(to="1s")
    first = story.run(run).follow_up
    story.retry(run)
    assert story.run(run).follow_up is None
    story.tick(to="1s")
    second = story.run(run).follow_up
    assert first is not None
    assert second is not None
    assert second != first
    fork = story.fork(run).run
    assert story.run(fork).on_failure == CLEAN


@pytest.mark.parametrize(
    ("body", "is_told"), [("x" * 4094, True), ("x" * 4095, False), ([[[]]], True)]
)
def test_large_bodies_are_omitted(body: Any, is_told: bool) -> None:
    """They are named; the whole payload stays bounded."""
    story = Story()
    run = begun(story, payload=body)
    story.completes(run, body)
    given = payload(followed(story, run))
    assert given["omitted"] == ([] if is_told else ["payload", "result"])
    assert given["payload"] == given["result"] == (body if is_told else None)


def test_deep_bodies_are_omitted() -> None:
    """One level more would be too deep."""
    story = Story()
    body: Any = 1
    for _ in range(63):
        body = [body]
    run = begun(story, payload=body)
    story.completes(run)
    assert payload(followed(story, run))["omitted"] == []
    story = Story()
    run = begun(story, payload=[body])
    story.completes(run)
    assert payload(followed(story, run))["omitted"] == ["payload"]


def test_long_errors_are_cut() -> None:
    """The message keeps its beginning."""
    story = Story()
    run = begun(story)
    raises(story, run, "m" * 100_000)
    assert payload(followed(story, run))["error"]["message"] == "m" * MOST_TEXT
