"""A handler labels its run: recorded once, the same on every pass, within the limit of a start."""

from __future__ import annotations

from msgspec.json import decode

from core.story import ONCE, Story
from stackshift_jobs.values.labels import MAX_LABELS
from stackshiftd.core import commands as c
from stackshiftd.core.effects import Acknowledge
from stackshiftd.core.snapshot import load, state_hash
from stackshiftd.shell.workers.orders import execute


def running() -> tuple[Story, str]:
    """A story with a run that executes."""
    story = Story()
    run = story.start(retry=ONCE)
    assert story.assign() == run
    return story, run


def first(story: Story, run: str) -> dict[str, str]:
    """The labels that the next pass of the handler begins with."""
    return execute(story.run(run), lambda body: body if isinstance(body, bytes) else b"").labels


def test_labels_are_added_and_a_later_one_counts() -> None:
    """For every reader of the journal; a pass begins with those of the start all the same."""
    story, run = running()
    story.labels(run, "[label a]", a="1", b="2")
    story.labels(run, "[label a]#2", a="3")
    assert story.run(run).labels == {"a": "3", "b": "2"}
    assert first(story, run) == {}
    for state in (story.replayed(), load(story.snapshot(story.state.seq)).state):
        assert state_hash(state) == state_hash(story.state)


def test_label_is_a_recorded_call_of_the_handler_but_not_in_a_step() -> None:
    """So a later pass does not give it again."""
    story, run = running()
    story.labels(run, "", a="1")
    assert story.run(run).calls == {}
    story.labels(run, "[label a]", a="2")
    assert list(story.run(run).calls) == ["[label a]"]


def test_too_many_labels_are_refused_and_none_is_given() -> None:
    """Together with those that it has; the refusal is on record."""
    story, run = running()
    story.labels(run, "", **{f"n{number}": "" for number in range(MAX_LABELS)})
    story.labels(run, "[label n1]", n1="again")
    [answer] = [
        e for e in story.labels(run, "[label x]", x="1").effects if isinstance(e, Acknowledge)
    ]
    assert decode(answer.error)["code"] == "usage"
    assert story.recorded() == ["call.refused"]
    assert len(story.run(run).labels) == MAX_LABELS


def test_fork_that_reuses_calls_begins_as_its_source_did() -> None:
    """One that reuses none has only the labels of the start; a successor has all of them."""
    story, run = running()
    story.labels(run, "[label a]", a="1")
    story.step_done(run, "load")
    story.fails(run)
    fork = story.fork(run).run
    assert (story.run(fork).labels, first(story, fork)) == ({"a": "1"}, {})
    new = story.fork(run, payload={"n": 1}).run
    assert story.run(new).labels == first(story, new) == {}
    story.retry(run)
    story.assign()
    later = story.continues(run)
    assert story.run(later).labels == first(story, later) == {"a": "1"}


def test_late_label_of_a_lost_execution_changes_nothing() -> None:
    """Its token is not the current one."""
    story, run = running()
    former = story.token(run)
    story.lose(run)
    story.assign()
    story.do(c.LabelRun(run=run, token=former, call=1, step="", labels={"a": "1"}))
    assert story.decision.records == ()
    assert story.run(run).labels == {}
