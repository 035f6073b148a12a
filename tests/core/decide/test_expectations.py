"""Whether jobs are found to be late or missing when they were expected (guarantee: alerts)."""

from __future__ import annotations

from core.decide.test_alerts import ALL, kinds, replays, told, works
from core.story import START_US, Story
from stackshift_jobs.values.durations import from_rfc3339, rfc3339
from stackshiftd.core import commands as c
from stackshiftd.core import records as r

TODAY_9 = from_rfc3339(rfc3339(START_US)[:11] + "09:00:00Z")
"""Two hours before the story begins."""


def story_with(expect: str, **succeeded: int) -> Story:
    """A story in which `import` is expected so, and `ops` wants to know."""
    story = Story()
    story.notify(ops=r.NotifyTerms(on=ALL))
    story.expect({"import": expect}, succeeded)
    return story


def due(story: Story) -> str:
    """When the next success is due."""
    return rfc3339(story.state.alerts.expectations["import"].due_us)


def test_job_that_has_completed_in_time_is_as_expected() -> None:
    """That is recorded, and the next one is due; nobody is told."""
    story = story_with("daily by 09:00")
    assert due(story) == "2026-11-19T09:00:00.000000Z"
    works(story)
    story.tick(to="24h")
    assert "expectation.met" in story.recorded()
    assert due(story) == "2026-11-20T09:00:00.000000Z"
    assert told(story) == []
    replays(story)


def test_job_of_which_no_run_has_completed_is_missing() -> None:
    """One success is not enough for two days. The first one after it is a recovery."""
    story = story_with("daily by 09:00")
    works(story)
    story.tick(to="48h")
    assert kinds(story) == [("missing", "import", 1)]
    assert told(story)[0]["detail"]["due_at"] == "2026-11-20T09:00:00.000000Z"
    assert story.state.alerts.expectations["import"].missed == "missing"
    works(story)
    assert kinds(story)[1:] == [("recovered", "import", 1)]
    assert story.state.alerts.expectations["import"].missed == ""
    replays(story)


def test_job_that_is_under_way_is_late() -> None:
    """Its run is named, in whatever status it is since it began."""
    story = story_with("daily by 09:00")
    run = story.start("import")
    assert story.assign() == run
    story.tick(to="24h")
    assert kinds(story) == [("late", "import", 1)]
    assert told(story)[0]["run"] == run


def test_run_that_has_not_begun_does_not_count_as_under_way() -> None:
    """It waits in its queue, and so the job is missing."""
    story = story_with("daily by 09:00")
    story.start("import")
    story.tick(to="24h")
    assert kinds(story) == [("missing", "import", 1)]


def test_every_counts_from_the_last_success() -> None:
    """What was missed is told once, until there is a success."""
    story = story_with("every 6h")
    story.tick(to="5h")
    works(story)
    story.tick(to="5h")
    assert told(story) == []
    story.tick(to="1h")
    assert kinds(story) == [("missing", "import", 1)]
    story.tick(to="100h")
    assert len(told(story)) == 1
    works(story)
    story.tick(to="6h")
    assert kinds(story) == [
        ("missing", "import", 1),
        ("recovered", "import", 1),
        ("missing", "import", 1),
    ]
    replays(story)


def test_times_that_passed_without_a_daemon_are_judged_as_one() -> None:
    """The last of them: a success before that does not count for it."""
    story = story_with("daily by 09:00")
    works(story)
    story.wall_us += 5 * 86_400_000_000
    story.claim()
    story.do(c.Tick())
    assert [kind for kind, *_ in kinds(story)] == ["missing"]
    assert told(story)[0]["detail"]["due_at"] == "2026-11-23T09:00:00.000000Z"
    assert due(story) == "2026-11-24T09:00:00.000000Z"


def test_success_before_it_was_expected_counts() -> None:
    """If it came after the time before: who adds `expect` in the afternoon is not told of a job
    that has run this morning. One from before that time does not count."""
    story = story_with("daily by 09:00", **{"import": TODAY_9 + 60_000_000})
    story.tick(to="24h")
    assert told(story) == []
    story = story_with("daily by 09:00", **{"import": TODAY_9 - 60_000_000})
    story.tick(to="24h")
    assert kinds(story) == [("missing", "import", 1)]


def test_expectation_is_recorded_again_only_when_it_changes() -> None:
    """A restart does not move what is due; a job that is gone is expected no more."""
    story = story_with("every 6h")
    before = due(story)
    story.tick(to="1h")
    story.expect({"import": "every 6h"})
    assert (story.decision.records, due(story)) == ((), before)
    story.expect({"import": "every 7h"})
    assert story.recorded() == ["expectation.defined"]
    story.do(c.DefineExpectations({}, frozenset(), False))
    assert story.decision.records == (), "its module may only have failed to import"
    story.expect({})
    assert story.recorded() == ["expectation.retired"]
    story.tick(to="24h")
    assert told(story) == []
    replays(story)


def test_expectations_are_recorded_where_nobody_is_told() -> None:
    """They are shown, too."""
    story = Story()
    story.expect({"import": "every 1h"})
    story.tick(to="1h")
    assert story.recorded() == ["expectation.missed"]
    run = works(story)
    assert any(isinstance(e.record, r.JobRecovered) for e in story.entries_of(run))
