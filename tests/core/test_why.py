"""Why a run is not progressing: what a clock that was ahead has to do with it."""

from __future__ import annotations

from core.story import Story
from stackshiftd.core.why import NOTICED_US, Fleet, Why, standing_still, why

FLEET = Fleet(1, 4, 0)


def reason(story: Story, run: str, ahead_us: int) -> Why:
    """The reason, if daemon time is ahead by so much."""
    return standing_still(why(story.state, story.run(run), FLEET, story.now_us), ahead_us)


def test_time_that_stands_still_is_part_of_why_a_run_waits_for_it() -> None:
    """For a delay, a sleep, a backoff; not for what no time ends, and not for a correction by a
    time server."""
    story = Story()
    delayed = story.start(delay="1h")
    sleeper = story.start()
    story.assign()
    story.sleeps(sleeper, "nap", "1h")
    story.suspends(sleeper, "nap")
    for run in (delayed, sleeper):
        told = reason(story, run, 86_400_000_000)
        assert "daemon time stands still for 1d0h" in told.text
        assert "stackshift daemon clock" in told.text
        assert "still" not in reason(story, run, NOTICED_US - 1).text
    queued = story.start()
    assert "still" not in reason(story, queued, 86_400_000_000).text
