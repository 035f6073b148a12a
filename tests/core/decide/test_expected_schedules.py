"""What is expected of the runs of a schedule, beside what is expected of its job (guarantee:
alerts)."""

from __future__ import annotations

from msgspec import Raw

from core.decide.test_alerts import ALL, kinds, replays, told
from core.schedule_story import ScheduledStory
from stackshift_jobs.values.durations import rfc3339
from stackshiftd.core import records as r
from stackshiftd.core.state.alerts import Expectation, subject_id
from stackshiftd.core.state.state import Status


def story_with(expect: str = "daily by 09:00") -> ScheduledStory:
    """A story in which a person has added the schedule `nightly` of `import`."""
    story = ScheduledStory()
    story.notify(ops=r.NotifyTerms(on=ALL))
    story.add("nightly", "30 8 * * *", job="import", expect=expect)
    return story


def expected(story: ScheduledStory) -> Expectation | None:
    """What is expected of `nightly`."""
    return story.state.alerts.expectations.get(subject_id("import", "nightly"))


def ends(story: ScheduledStory, run: str) -> None:
    """The run gets a slot, as do messages that were created before it, and completes."""
    while story.state.runs[run].status is not Status.RUNNING:
        assert story.assign() is not None
    story.completes(run)


def test_run_of_the_schedule_meets_what_is_expected_of_it() -> None:
    """The run knows the schedule that started it."""
    story = story_with()
    [run] = story.goes_on("30m")
    assert story.state.runs[run].schedule == "nightly"
    ends(story, run)
    story.tick(to="2h")
    assert "expectation.met" in story.recorded()
    assert told(story) == []
    replays(story)


def test_run_that_somebody_else_started_does_not() -> None:
    """The job has completed, but not by this schedule: it is missing, until a run of it
    completes."""
    story = story_with()
    story.jobs.setdefault("import", "code-1")
    other = story.start("import")
    ends(story, other)
    story.tick(to="2h")
    assert kinds(story) == [("missing", "import", 1)]
    assert told(story)[0]["detail"]["schedule"] == "nightly"
    [run] = story.look()
    ends(story, run)
    assert kinds(story)[1:] == [("recovered", "import", 1)]
    assert told(story)[1]["detail"]["schedule"] == "nightly"
    assert story.state.alerts.troubles == {}
    replays(story)


def test_run_of_the_schedule_that_is_under_way_makes_it_late() -> None:
    """That run is the one which the message names."""
    story = story_with()
    [run] = story.goes_on("30m")
    assert story.assign() == run
    story.tick(to="2h")
    assert kinds(story) == [("late", "import", 1)]
    assert told(story)[0]["run"] == run


def test_job_and_schedule_that_recover_together_are_told_once() -> None:
    """Both are recorded."""
    story = story_with()
    story.expect({"import": "daily by 09:00"})
    story.tick(to="2h")
    assert [alert for alert, _, _ in kinds(story)] == ["missing", "missing"]
    [run] = story.look()
    ends(story, run)
    assert story.recorded().count("job.recovered") == 2
    assert [alert for alert, _, _ in kinds(story)].count("recovered") == 1
    assert story.state.alerts.troubles == {}
    replays(story)


def test_greeting_of_a_worker_leaves_it_alone() -> None:
    """What code expects of jobs, and what is expected of schedules, are two things."""
    story = story_with()
    story.expect({})
    assert expected(story) is not None


def test_paused_schedule_is_not_expected_to_do_anything() -> None:
    """After it is resumed it is, from the next time on."""
    story = story_with()
    assert story.pause("nightly")
    assert expected(story) is None
    story.tick(to="26h")
    assert told(story) == []
    assert story.resume("nightly")
    again = expected(story)
    assert again is not None
    assert rfc3339(again.due_us) == "2026-11-24T09:00:00.000000Z"
    replays(story)


def test_change_while_it_is_paused_counts_once_it_is_resumed() -> None:
    """Not before."""
    story = story_with()
    story.pause("nightly")
    story.add("nightly", "30 8 * * *", job="import", expect="every 6h", replace=True)
    assert expected(story) is None
    story.resume("nightly")
    again = expected(story)
    assert again is not None
    assert again.expect == "every 6h"


def test_schedule_that_is_removed_leaves_no_expectation() -> None:
    """Nor a trouble that nothing could end."""
    story = story_with()
    story.tick(to="2h")
    assert story.state.alerts.troubles != {}
    assert story.rm("nightly")
    assert expected(story) is None
    assert story.state.alerts.troubles == {}
    replays(story)


def test_success_before_the_expectation_counts_for_it() -> None:
    """Whoever says at 08:40 what is expected by 09:00 is not told that the run of 08:30 is
    missing."""
    story = ScheduledStory()
    story.notify(ops=r.NotifyTerms(on=ALL))
    story.add("nightly", "30 8 * * *", job="import")
    [run] = story.goes_on("30m")
    ends(story, run)
    story.goes_on("10m")
    story.add("nightly", "30 8 * * *", job="import", expect="daily by 09:00", replace=True)
    story.tick(to="30m")
    assert told(story) == []
    replays(story)


def test_command_is_called_by_its_name() -> None:
    """What a person calls the schedule of a program is what alerts call its runs."""
    story = ScheduledStory()
    story.notify(ops=r.NotifyTerms(on=ALL))
    start = Raw(b'{"labels":{"name":"dump"}}')
    story.add("dump", "30 8 * * *", job="exec", start=start, expect="daily by 09:10")
    story.tick(to="2h")
    assert [job for _, job, _ in kinds(story)] == ["dump"]
