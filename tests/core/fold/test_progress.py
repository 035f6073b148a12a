"""The progress that a handler has reported is that of its run, until the run reports more."""

from __future__ import annotations

from core.story import ONCE, Story
from stackshiftd.core import commands as c
from stackshiftd.core.snapshot import load
from stackshiftd.core.state.state import Progress


def reports(story: Story, run: str, done: float, message: str = "") -> Progress:
    """The handler of `run` reports that it is at `done` of 3."""
    story.do(c.ReportProgress(run, story.token(run), done, 3.0, message))
    return Progress(done, 3.0, message, story.now_us)


def test_last_report_counts() -> None:
    """Also for a daemon that reads the journal, or a snapshot of it."""
    story = Story()
    run = story.start()
    story.assign()
    assert story.run(run).progress is None
    reports(story, run, 1.0, "one")
    last = reports(story, run, 2.0)
    assert story.run(run).progress == last
    assert story.replayed().runs[run].progress == last
    assert load(story.snapshot(story.state.seq)).state.runs[run].progress == last


def test_report_of_an_execution_that_is_over_does_not_count() -> None:
    """The next one has begun again, and may have come further."""
    story = Story()
    run = story.start()
    story.assign()
    former = story.token(run)
    last = reports(story, run, 2.0)
    story.lose(run)
    story.assign()
    story.do(c.ReportProgress(run, former, 1.0))
    assert story.decision.records == ()
    assert story.run(run).progress == last


def test_retry_keeps_what_was_reported_and_a_fork_begins_without() -> None:
    """A retried run goes on from its steps; a fork has reported nothing yet."""
    story = Story()
    run = story.start(retry=ONCE)
    story.assign()
    last = reports(story, run, 2.0)
    story.fails(run)
    fork = story.fork(run).run
    story.retry(run)
    assert story.run(run).progress == last
    assert story.run(fork).progress is None
