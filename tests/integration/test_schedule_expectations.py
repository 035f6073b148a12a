"""What the code expects of one of several schedules of a job."""

from __future__ import annotations

import pytest

from helpers.project_factory import Make
from stackshift_jobs import Schedule, registry
from stackshift_jobs.errors import Usage

JOBS = """
from stackshift_jobs import Schedule

@stackshift.job("report", expect="every 9h", schedules={
    "often": "0 * * * *",
    "weekend": Schedule(
        "30 2 * * 0,6",
        timezone="Europe/Berlin",
        expect="daily by 06:00",
        max_runtime="20m",
        heartbeat="http://127.0.0.1:9/ping",
    ),
})
def report(ctx):
    return ctx.payload
"""


def test_schedule_in_the_code_has_expectations_of_its_own(make_project: Make) -> None:
    """They are not those of the job, nor of its other schedule."""
    project = make_project(JOBS)
    project.start()
    found = {each["name"]: each for each in project.call("schedule.list")["schedules"]}
    weekend, often = found["report/weekend"], found["report/often"]
    assert weekend["expectation"]["expect"] == "daily by 06:00"
    assert weekend["expectation"]["timezone"] == "Europe/Berlin"
    assert (weekend["max_runtime_ms"], weekend["heartbeat"]) == (1_200_000, True)
    assert (often["expectation"], often["max_runtime_ms"], often["heartbeat"]) == (
        None,
        None,
        False,
    )


@pytest.mark.parametrize(
    ("schedule", "why"),
    [
        (Schedule("@daily", expect="sometimes"), "sometimes"),
        (Schedule("@daily", max_runtime=0), "cannot be 0"),
        (Schedule("@daily", heartbeat="ftp://example.com"), "heartbeat"),
    ],
)
def test_what_cannot_be_expected_is_refused(schedule: Schedule, why: str) -> None:
    """When the module is imported, as for the options of a job."""
    with pytest.raises(Usage, match=why):
        registry.job("wrong", schedules={"one": schedule})(lambda ctx: ctx)
    assert "wrong" not in registry.registry
