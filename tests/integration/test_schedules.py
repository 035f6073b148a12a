"""Schedules, from a job's code to its runs, with real workers and a clock that the test sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from helpers.clock import WallClock
from helpers.deadline import wait_until
from helpers.inner_daemon import InsideDaemon
from helpers.project import Json, Project
from helpers.project_factory import Make
from stackshift_jobs.errors import BadConfiguration, Conflict, NotFound, Usage
from stackshift_jobs.values.durations import parse_time

NIGHTLY = """
@stackshift.job("nightly", schedule="0 9 * * *", schedule_payload={"all": True}{options})
def nightly(ctx):
    note(ctx.scheduled_at and ctx.scheduled_at.isoformat())
    if ctx.payload.get("gate"):
        gate(ctx.payload["gate"])
    return ctx.payload
"""
PLAIN = """
@stackshift.job("nightly")
def nightly(ctx):
    return "no schedule"
"""
OTHER = """

@stackshift.job("weekly", schedule="@weekly", timezone="Europe/Berlin")
def weekly(ctx):
    return None
"""


def nightly(options: str = "") -> str:
    """The module of a job that is due at nine (UTC)."""
    return NIGHTLY.replace("{options}", options)


@pytest.fixture
def clock() -> WallClock:
    """Eight in the morning of a Sunday."""
    return WallClock(parse_time("2026-11-22T08:00:00Z"))


@contextmanager
def serving(project: Project, clock: Callable[[], int]) -> Iterator[None]:
    """A daemon of the project with this clock, inside the test."""
    daemon = InsideDaemon(project, clock=clock)
    try:
        yield
    finally:
        project._forget()
        problem = daemon.close()
        assert problem is None, problem


def schedule(project: Project, job: str = "nightly") -> Json:
    """What `schedule.list` says of a job's."""
    told = project.call("schedule.list")["schedules"]
    [found] = [each for each in told if each["job"] == job]
    return dict(found)


def runs(project: Project, job: str = "nightly") -> list[Json]:
    """The runs of a job, oldest first."""
    found: list[Json] = project.call("run.list", job=job)["runs"]
    return found[::-1]


def until_runs(project: Project, count: int) -> list[str]:
    """The ticks of the completed runs that have one, once there are so many."""

    def there() -> list[str]:
        found = [
            run["scheduled_at"][:16]
            for run in runs(project)
            if run["status"] == "completed" and run["scheduled_at"]
        ]
        return found if len(found) >= count else []

    return wait_until(there, f"{count} runs of the schedule")


def test_tick_starts_a_run_with_its_time_and_payload(make_project: Make, clock: WallClock) -> None:
    """`ctx.scheduled_at` is the tick; the run tells it, and the list tells the run."""
    project = make_project(nightly())
    with serving(project, clock):
        assert schedule(project)["next_at"] == "2026-11-22T09:00:00.000000Z"
        clock.jump("1h")
        assert until_runs(project, 1) == ["2026-11-22T09:00"]
        [run] = runs(project)
        assert run["result"] == {"all": True}
        assert run["idempotency_key"] == "schedule:nightly:2026-11-22T09:00:00Z"
        assert project.witness() == ["2026-11-22T09:00:00+00:00"]
        told = schedule(project)
        assert told["last_at"] == run["scheduled_at"]
        assert told["last_run"] == run["id"]
        assert told["next_at"] == "2026-11-23T09:00:00.000000Z"


def test_clock_that_jumps_fires_each_tick_once(make_project: Make, clock: WallClock) -> None:
    """Forward over days: one run, for the latest tick; back and forward again: none."""
    project = make_project(nightly())
    with serving(project, clock):
        clock.jump("3d")
        assert until_runs(project, 1) == ["2026-11-24T09:00"]
        clock.jump("2d", back=True)
        project.finish(project.begin("nightly"))
        clock.jump("2d")
        clock.jump("1d")
        assert until_runs(project, 2)[-1] == "2026-11-25T09:00"
    ticks = [run["tick"] for run in project.journal() if run["kind"] == "schedule.fired"]
    assert ticks == ["2026-11-24T09:00:00.000000Z", "2026-11-25T09:00:00.000000Z"]


@pytest.mark.parametrize(
    ("catch_up", "ticks"), [("skip", []), ("once", [24]), ("all", [22, 23, 24])]
)
def test_ticks_missed_while_the_daemon_was_down_are_caught_up(
    make_project: Make, clock: WallClock, catch_up: str, ticks: list[int]
) -> None:
    """As the job says; `all` one after another, since they may not overlap."""
    project = make_project(nightly(f", catch_up={catch_up!r}"))
    with serving(project, clock):
        schedule(project)
    clock.jump("3d")
    with serving(project, clock):
        wait_until(
            lambda: schedule(project)["next_at"] == "2026-11-25T09:00:00.000000Z", "all decided"
        )
        wanted = [f"2026-11-{day}T09:00" for day in ticks]
        assert until_runs(project, len(wanted)) == wanted if wanted else runs(project) == []


def test_tick_waits_for_the_end_of_the_last_run(make_project: Make, clock: WallClock) -> None:
    """`overlap="queue"`, also over a restart in between."""
    project = make_project(nightly(', overlap="queue"').replace("True", '1, "gate": "g"'))
    with serving(project, clock):
        clock.jump("1h")
        project.at("g")
        clock.jump("1d")
        wait_until(lambda: schedule(project)["waiting_tick"], "a tick to wait")
    with serving(project, clock):
        assert len(runs(project)) == 1
        project.open("g")
        assert until_runs(project, 2) == ["2026-11-22T09:00", "2026-11-23T09:00"]
        assert schedule(project)["waiting_tick"] is None


def test_schedule_that_left_the_code_is_retired_until_it_is_back(
    make_project: Make, clock: WallClock
) -> None:
    """Visible in the list; it cannot be triggered, and nothing is due."""
    project = make_project(nightly())
    head = "from jobs._scenery import *\n\n"
    with serving(project, clock):
        assert not schedule(project)["retired"]
    project.write_module("story", head + PLAIN)
    with serving(project, clock):
        told = schedule(project)
        assert (told["retired"], told["next_at"]) == (True, None)
        with pytest.raises(Conflict, match="no longer in the code"):
            project.call("schedule.trigger", name="nightly")
        assert project.call("schedule.next")["ticks"] == []
    project.write_module("story", head + nightly())
    with serving(project, clock):
        assert not schedule(project)["retired"]


def test_module_that_does_not_import_leaves_its_ticks_due(
    make_project: Make, clock: WallClock
) -> None:
    """Its schedule is not retired, says why it does not tick, and is caught up when it is back."""
    project = make_project(nightly())
    with serving(project, clock):
        schedule(project)
    clock.jump("2h")
    project.write_module("story", "raise RuntimeError('half written')\n")
    with serving(project, clock):
        told = schedule(project)
        assert (told["retired"], told["problem"]) == (False, "no worker has the job")
        assert told["next_at"] == "2026-11-22T09:00:00.000000Z"
        with pytest.raises(BadConfiguration, match="half written"):
            project.call("schedule.trigger", name="nightly")
    project.write_module("story", "from jobs._scenery import *\n\n" + nightly())
    with serving(project, clock):
        assert until_runs(project, 1) == ["2026-11-22T09:00"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ('schedule="61 * * * *"', "'61 * * * *' is not a valid schedule: bad minute"),
        ('schedule="@every now"', "'now' is not a duration"),
        ('schedule="@daily", timezone="Mars/Olympus"', "'Mars/Olympus' is not a known time zone"),
        ('schedule="@daily", catch_up="twice"', "catch_up must be skip, once or all, not 'twice'"),
        (
            'schedule="@daily", overlap="no"',
            "overlap must be allow, skip, queue or cancel, not 'no'",
        ),
        ('schedule="@daily", schedule_payload={1}', "schedule_payload: "),
        ('schedule="@daily", schedule_payload="x" * 70000', "schedule_payload: "),
        ('schedule="@daily", payload=dict[str, int], schedule_payload={"a": "b"}', "at $[...]"),
        ("schedule=5", "schedule must be text, not 5"),
        ('timezone="UTC"', "timezone is given without a schedule"),
        ('overlap="skip"', "overlap is given without a schedule"),
    ],
)
def test_bad_schedule_makes_a_failed_module(make_project: Make, options: str, told: str) -> None:
    """With a message that says what is wrong; the other modules' jobs are there."""
    bad = f'@stackshift.job("bad", {options})\ndef bad(ctx):\n    return None\n'
    project = make_project(nightly(), bad=bad)
    project.start()
    listed = project.call("job.list")
    assert [job["name"] for job in listed["jobs"]] == ["nightly"]
    [failed] = listed["failed_modules"]
    assert failed["module"] == "jobs.bad"
    assert told in failed["message"]


def test_next_ticks_of_one_job_and_of_all(make_project: Make, clock: WallClock) -> None:
    """In order, in UTC and in the job's zone; a paused one has none."""
    project = make_project(nightly(), other=OTHER)
    with serving(project, clock):
        told = project.call("schedule.next", name="weekly", count=2)["ticks"]
        assert told == [
            {
                "at": "2026-11-28T23:00:00.000000Z",
                "job": "weekly",
                "local": "2026-11-29T00:00:00+01:00",
                "name": "weekly",
                "tick": "2026-11-28T23:00:00.000000Z",
            },
            {
                "at": "2026-12-05T23:00:00.000000Z",
                "job": "weekly",
                "local": "2026-12-06T00:00:00+01:00",
                "name": "weekly",
                "tick": "2026-12-05T23:00:00.000000Z",
            },
        ]
        told = project.call("schedule.next", count=8)["ticks"]
        assert [tick["job"] for tick in told] == ["nightly"] * 7 + ["weekly"]
        project.call("schedule.pause", name="nightly")
        assert project.call("schedule.next", name="nightly")["ticks"] == []
        for count in (0, 1001):
            with pytest.raises(Usage):
                project.call("schedule.next", count=count)


def test_pause_holds_over_a_restart_and_resume_goes_on_from_then(
    make_project: Make, clock: WallClock
) -> None:
    """The time that it was paused is not caught up; said twice nothing changes."""
    project = make_project(nightly())
    with serving(project, clock):
        told = project.call("schedule.pause", name="nightly")
        assert told == {
            "name": "nightly",
            "job": "nightly",
            "paused": True,
            "next_at": None,
            "changed": True,
        }
        assert not project.call("schedule.pause", name="nightly")["changed"]
    clock.jump("2d")
    with serving(project, clock):
        assert schedule(project)["paused"]
        told = project.call("schedule.resume", name="nightly")
        assert (told["changed"], told["next_at"]) == (True, "2026-11-24T09:00:00.000000Z")
        assert not project.call("schedule.resume", name="nightly")["changed"]
        clock.jump("1h")
        assert until_runs(project, 1) == ["2026-11-24T09:00"]


def test_trigger_starts_a_run_and_uses_up_no_tick(make_project: Make, clock: WallClock) -> None:
    """With the schedule's payload, without a tick's time or key, also while it is paused."""
    project = make_project(nightly())
    with serving(project, clock):
        project.call("schedule.pause", name="nightly")
        run = project.finish(project.call("schedule.trigger", name="nightly")["id"])
        assert (run["result"], run["scheduled_at"]) == ({"all": True}, None)
        assert run["idempotency_key"] is None
        assert schedule(project)["last_at"] is None


def test_job_without_a_schedule_is_not_found(make_project: Make, clock: WallClock) -> None:
    """With near names where it is a slip, and without where the job is known."""
    project = make_project(nightly(), other=PLAIN.replace("nightly", "plain"))
    with serving(project, clock):
        for method in ("next", "pause", "resume", "trigger"):
            with pytest.raises(NotFound) as refused:
                project.call(f"schedule.{method}", name="nightli")
            assert refused.value.fields["near"] == ["nightly"]
        with pytest.raises(NotFound, match="'plain' has no schedule"):
            project.call("schedule.trigger", name="plain")


def test_job_tells_its_schedule(make_project: Make, clock: WallClock) -> None:
    """As the code says it, defaults included."""
    project = make_project(nightly())
    with serving(project, clock):
        assert project.call("job.get", job="nightly")["schedule"] == {
            "schedule": "0 9 * * *",
            "timezone": "UTC",
            "catch_up": "once",
            "overlap": "skip",
            "payload": {"all": True},
            "catch_up_for_ms": 0,
            "jitter_ms": 0,
        }


def test_ticks_are_shown_in_pages_without_gap_or_repeat(
    make_project: Make, clock: WallClock
) -> None:
    """A page begins after the last tick of the one before, also between schedules that tick at the
    same moment."""
    two = nightly() + NIGHTLY.replace("nightly", "also").replace("{options}", "")
    project = make_project(two)
    with serving(project, clock):
        whole = project.call("schedule.next", count=100)["ticks"]
        assert [tick["job"] for tick in whole[:4]] == ["also", "nightly"] * 2
        assert whole[0]["at"] == whole[1]["at"]
        pages: list[dict[str, str]] = []
        more: dict[str, str] = {}
        while len(pages) < 99:
            pages += project.call("schedule.next", count=9, **more)["ticks"]
            more = {"after_at": pages[-1]["at"], "after_name": pages[-1]["job"]}
        assert pages == whole[:99]
        with pytest.raises(Usage):
            project.call("schedule.next", after_at="yesterday")
