"""What is told of alerts, at once or together, and what is not (guarantee: alerts)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from core.story import ONCE, Story
from stackshift_jobs.values.names import NOTIFY_JOB, NOTIFY_QUEUE
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.snapshot import state_hash
from stackshiftd.core.state.state import Status

ALL = ["failed", "late", "missing", "recovered", "daemon_stopped"]
OPS = r.NotifyTerms(on=ALL)


def told(story: Story) -> list[dict[str, Any]]:
    """The payloads of all messages so far."""
    return [
        json.loads(bytes(entry.record.payload))
        for entry in story.entries
        if isinstance(entry.record, r.RunCreated) and entry.record.job == NOTIFY_JOB
    ]


def kinds(story: Story) -> list[tuple[str, str, int]]:
    """Alert, job and count of all messages so far."""
    return [(each["alert"], each["job"], each["count"]) for each in told(story)]


def fails(story: Story, job: str = "import", message: str = "boom", **options: Any) -> str:
    """A run of `job` fails for good with this message."""
    run = story.start(job, retry=ONCE, **options)
    while story.state.runs[run].status is not Status.RUNNING:
        assert story.assign() is not None
    story.do(c.FailAttempt(run, story.token(run), r.Error("OSError", message)))
    return run


def works(story: Story, job: str = "import") -> str:
    """A run of `job` completes."""
    run = story.start(job)
    while story.state.runs[run].status is not Status.RUNNING:
        assert story.assign() is not None
    story.completes(run)
    return run


def replays(story: Story) -> None:
    """Whatever was told, a daemon that reads the journal or a snapshot knows the same."""
    assert state_hash(story.replayed()) == state_hash(story.state)


def test_failure_is_told_in_the_append_that_records_it() -> None:
    """The message is a run of the built-in job, whose parent is the run that failed."""
    story = Story()
    story.notify(ops=OPS)
    run = fails(story, message="row 14 has no price")
    message = story.decision.records[-1]
    assert isinstance(message, r.RunCreated)
    assert (message.job, message.queue, message.parent) == (NOTIFY_JOB, NOTIFY_QUEUE, run)
    assert message.retry.max_attempts == OPS.max_attempts
    assert {type(record) for record in story.decision.records} >= {r.RunFailed, r.AlertTold}
    [payload] = told(story)
    assert payload["error"]["message"] == "row 14 has no price"
    assert (payload["notify"], payload["run"], payload["count"]) == ("ops", run, 1)
    replays(story)


def test_what_is_tried_again_or_cancelled_is_not_told() -> None:
    """A failed attempt is no failure of the run, and who cancels a run knows it."""
    story = Story()
    story.notify(ops=OPS)
    run = story.start("import")
    story.assign()
    story.fails(run)
    story.cancel(run)
    assert told(story) == []


def test_nobody_is_told_where_nobody_wants_to_be() -> None:
    """By alert, by job and by queue, each by name or pattern."""
    story = Story()
    story.notify(
        calm=r.NotifyTerms(on=["late"]),
        other=r.NotifyTerms(on=ALL, jobs=["export", "shop.*"]),
        far=r.NotifyTerms(on=ALL, queues=["mail*"]),
    )
    fails(story, "import")
    assert told(story) == []
    fails(story, "shop.orders", queue="mail")
    assert sorted(each["notify"] for each in told(story)) == ["far", "other"]


def test_the_same_is_told_once_and_then_together() -> None:
    """Numbers and what is quoted differ from run to run, not from error to error. As long as it
    goes on, each message comes after twice the time."""
    story = Story()
    story.notify(ops=OPS)
    for number in range(15):
        last = fails(story, message=f"row {number} of 'orders-{number}.csv' has no price")
    assert kinds(story) == [("failed", "import", 1)]
    story.tick(to="5m")
    assert kinds(story)[1:] == [("failed", "import", 14)]
    assert told(story)[1]["run"] == last
    assert told(story)[1]["error"]["type"] == "OSError"
    fails(story, message="row 99 of 'x' has no price")
    story.tick(to="9m")
    assert len(told(story)) == 2
    story.tick(to="1m")
    assert kinds(story)[2:] == [("failed", "import", 1)]
    replays(story)


def test_group_that_was_quiet_is_closed() -> None:
    """After that the same is told at once again, and nothing of it is kept."""
    story = Story()
    story.notify(ops=OPS)
    fails(story)
    story.tick(to="5m")
    assert story.recorded() == ["alert.closed"]
    assert story.state.alerts.groups == {}
    fails(story)
    assert len(told(story)) == 2


def test_another_error_is_told_at_once() -> None:
    """So is the same one of another job."""
    story = Story()
    story.notify(ops=OPS)
    fails(story, message="no price")
    fails(story, message="no name")
    fails(story, "export", message="no price")
    assert len(told(story)) == 3


def test_more_than_the_rate_is_told_in_one_message() -> None:
    """It says what happened to which job, and how often; then the count begins again."""
    story = Story()
    story.notify(ops=r.NotifyTerms(on=ALL, most=2, per_ms=3_600_000))
    for number in range(9):
        fails(story, f"job-{number % 3}", message="abcdefghi"[number])
    assert len(told(story)) == 2
    story.tick(to="1h")
    *_, summary = told(story)
    assert len(told(story)) == 3
    assert (summary["alert"], summary["count"]) == ("failed", 7) or summary["alert"] == ""
    assert summary["detail"]["named"] == {
        "failed job-0": 2,
        "failed job-1": 2,
        "failed job-2": 3,
    }
    fails(story, "job-9")
    assert len(told(story)) == 4
    replays(story)


def test_rate_holds_for_what_goes_on_too() -> None:
    """What a group holds is told when there is room for it; nothing is dropped."""
    story = Story()
    story.notify(ops=r.NotifyTerms(on=ALL, most=3, per_ms=3_600_000, quiet_ms=60_000))
    for _ in range(10):
        before = len(told(story))
        for job in ("a", "b", "c", "d"):
            fails(story, job)
        story.tick(to="59m")
        assert len(told(story)) - before <= 3
        story.tick(to="1m")
    story.tick(to="20h")
    assert sum(count for _, _, count in kinds(story)) == 40
    replays(story)


def test_jobs_in_trouble_are_forgotten_if_nobody_wants_to_know() -> None:
    """That they have recovered, that is."""
    story = Story()
    story.notify(ops=r.NotifyTerms(on=["recovered"]))
    for number in range(5):
        fails(story, f"job-{number}")
    assert list(story.state.alerts.troubles) == [f"job-{number}" for number in range(5)]
    story.notify(ops=r.NotifyTerms(on=["failed"]))
    assert story.state.alerts.troubles == {}
    replays(story)


def test_message_names_a_bounded_number_of_jobs() -> None:
    """The others are counted together, and none is lost."""
    story = Story()
    story.notify(ops=r.NotifyTerms(on=ALL, most=1))
    for number in range(31):
        fails(story, f"job-{number}")
    story.tick(to="1h")
    named = told(story)[-1]["detail"]["named"]
    assert len(named) == 21
    assert sum(named.values()) == 30


def test_first_success_after_a_failure_is_a_recovery() -> None:
    """Once, with what was held; it is part of the timeline of its run. A failure after it is told
    at once."""
    story = Story()
    story.notify(ops=OPS)
    fails(story)
    fails(story)
    run = works(story)
    assert story.recorded()[:2] == ["job.recovered", "run.completed"]
    assert kinds(story)[-1] == ("recovered", "import", 1)
    detail = told(story)[-1]["detail"]
    assert (detail["after"], detail["held"]) == ("failed", 1)
    assert any(isinstance(e.record, r.JobRecovered) for e in story.entries_of(run))
    works(story)
    assert len(told(story)) == 2
    fails(story)
    assert kinds(story)[-1] == ("failed", "import", 1)
    replays(story)


def test_success_of_a_job_that_was_well_records_nothing() -> None:
    """Nor does any where nobody wants to know."""
    story = Story()
    works(story)
    fails(story)
    works(story)
    story.notify(ops=OPS)
    works(story)
    assert "job.recovered" not in [r.kind_of(entry.record) for entry in story.entries]
    assert told(story) == []


def test_messages_are_never_told_of_themselves() -> None:
    """One that cannot be delivered is in the dead letter and counted; that is all."""
    story = Story()
    story.notify(ops=r.NotifyTerms(on=ALL, max_attempts=1))
    fails(story)
    message = story.assign()
    assert message is not None
    assert story.run(message).job == NOTIFY_JOB
    story.fails(message)
    assert story.run(message).status is Status.FAILED
    assert len(told(story)) == 1
    assert story.state.undelivered == 1
    story.discard(message)
    assert story.state.undelivered == 0
    replays(story)


def test_failure_of_a_called_run_is_told_by_its_caller() -> None:
    """Which may catch it; a run that was only started is told itself."""
    story = Story()
    story.notify(ops=OPS)
    parent = story.start("parent", retry=ONCE)
    story.assign()
    called = story.calls(parent, "child", "called")
    started = story.starts(parent, "other", "started")
    while {called, started} - {run.id for run in story.state.runs.values() if run.token}:
        assert story.assign()
    story.fails(called)
    assert told(story) == []
    story.fails(started)
    assert kinds(story) == [("failed", "started", 1)]
    story.fails(parent)
    assert kinds(story)[1:] == [("failed", "parent", 1)]


def test_run_that_takes_too_long_is_late_once_and_goes_on() -> None:
    """From when it first began, waits and retries included; a retry by a person begins again."""
    story = Story()
    story.notify(ops=OPS)
    run = story.start("import", max_runtime="20m", delay="1h")
    story.tick(to="1h")
    story.assign()
    story.sleeps(run, "nap", "15m")
    story.suspends(run, "nap")
    story.tick(to="15m")
    assert told(story) == []
    story.assign()
    story.tick(to="5m")
    assert kinds(story) == [("late", "import", 1)]
    assert story.run(run).status is Status.RUNNING
    assert story.run(run).late_us
    story.tick(to="10h")
    assert len(told(story)) == 1
    story.completes(run)
    assert kinds(story)[1:] == [("recovered", "import", 1)]
    replays(story)


def test_daemon_that_was_cut_off_is_told_by_the_next_one() -> None:
    """With how many runs it executed. One that stopped in good order is not, unless it says so
    itself."""
    story = Story()
    story.claim()
    story.notify(ops=OPS)
    story.start()
    story.assign()
    story.claim()
    assert kinds(story) == [("daemon_stopped", "", 1)]
    assert told(story)[0]["detail"]["interrupted"] == 1
    story.do(c.NoteStopping())
    story.do(c.Close())
    story.claim()
    assert len(told(story)) == 1, "the same is told once in a while"
    story.tick(to="5m")
    assert kinds(story)[1:] == [("daemon_stopped", "", 1)]
    replays(story)


def test_target_that_is_gone_from_the_file_is_told_nothing_more() -> None:
    """What was held for it is dropped; one that has changed keeps what was held."""
    story = Story()
    story.notify(ops=OPS, mail=OPS)
    fails(story)
    fails(story)
    story.notify(ops=r.NotifyTerms(on=["failed"], quiet_ms=1000))
    assert story.recorded() == ["notify.defined", "notify.retired"]
    story.tick(to="5m")
    assert [each["notify"] for each in told(story)] == ["mail", "ops", "ops"]
    story.notify(ops=r.NotifyTerms(on=["failed"], quiet_ms=1000))
    assert story.decision.records == ()


@pytest.mark.parametrize("hours", [1, 24 * 365])
def test_nothing_waits_for_a_clock_that_was_ahead(hours: int) -> None:
    """What is held is told in its time after daemon time was set back, not in that of before."""
    story = Story()
    story.notify(ops=r.NotifyTerms(on=ALL, most=1))
    story.wall_us += hours * 3_600_000_000
    fails(story, message="a")
    fails(story, message="b")
    story.wall_us -= hours * 3_600_000_000
    assert story.set_clock_back()
    fails(story, message="c")
    story.tick(to="1h")
    assert sum(each["count"] for each in told(story)) == 3
