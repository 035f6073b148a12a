"""Schedules without code, and several of one job: with real workers, restarts and a clock that the
test sets."""

from __future__ import annotations

import pytest

from helpers import scenery
from helpers.clock import WallClock
from helpers.deadline import wait_until
from helpers.project import Json, Project
from helpers.project_factory import Make
from integration.test_schedules import PLAIN, nightly, serving
from stackshift_jobs.errors import BadConfiguration, Conflict, NotFound, PayloadRefused, Usage
from stackshift_jobs.programs import processes
from stackshift_jobs.project.config import load_config
from stackshift_jobs.values.durations import parse_time
from stackshiftd.worker.loading.file_schedules import file_schedules

SEVERAL = """
from stackshift_jobs import Schedule

@stackshift.job("report", overlap="allow", schedules={
    "often": "0 * * * *",
    "weekend": Schedule("30 2 * * 0,6", timezone="Europe/Berlin", payload={"full": True}),
})
def report(ctx):
    note(ctx.scheduled_at.isoformat())
    return ctx.payload
"""
IN_FILE = """
[schedules.cleanup]
cron = "0 9 * * *"
command = "echo clean"

[schedules.report]
cron = "0 10 * * *"
job = "nightly"
payload = {all = false}
"""


@pytest.fixture
def clock() -> WallClock:
    """Eight in the morning of a Sunday."""
    return WallClock(parse_time("2026-11-22T08:00:00Z"))


def runs(project: Project, count: int) -> list[Json]:
    """The first `count` runs, once they have ended, oldest first."""

    def ended() -> list[Json]:
        found: list[Json] = project.call("run.list")["runs"]
        return found if len([run for run in found if run["finished_at"]]) >= count else []

    return sorted(wait_until(ended, f"{count} runs"), key=lambda run: str(run["scheduled_at"]))


def names(project: Project) -> dict[str, Json]:
    """All schedules by name."""
    return {each["name"]: each for each in project.call("schedule.list")["schedules"]}


def test_added_command_runs_at_its_tick_across_restarts(
    make_project: Make, clock: WallClock
) -> None:
    """The answer is the promise: a daemon that is killed afterwards has the schedule."""
    project = make_project(PLAIN)
    with serving(project, clock):
        told = project.call(
            "schedule.add",
            name="greet",
            job="exec",
            schedule="0 9 * * *",
            payload={
                "command": ["sh", "-c", "echo $WHO; cat"],
                "env": {"WHO": "me"},
                "stdin": "in",
            },
            options={"labels": {"name": "sh"}},
        )
        assert told == {"name": "greet", "changed": True, "next_at": "2026-11-22T09:00:00.000000Z"}
        again = {"name": "noon", "job": "nightly", "schedule": "0 12 * * *"}
        first = project.call("schedule.add", **again)
        assert project.call("schedule.add", **again) == first | {"changed": False}
        with pytest.raises(Conflict):
            project.call("schedule.add", **again | {"timezone": "Asia/Tokyo"})
        assert project.call("schedule.add", **again | {"jitter_ms": 60_000, "replace": True})
        project.call("schedule.remove", name="noon")
    clock.jump("61m")
    with serving(project, clock):
        (run,) = runs(project, 1)
        assert (run["job"], run["status"], run["labels"]) == ("exec", "completed", {"name": "sh"})
        assert run["idempotency_key"] == "schedule:greet:2026-11-22T09:00:00Z"
        lines = project.call("run.logs", run=run["id"])["lines"]
        assert [line["message"] for line in lines] == ["me", "in"]
        shown = names(project)["greet"]
        assert (shown["source"], shown["last_status"], shown["skipped"]) == (
            "command",
            "completed",
            0,
        )
        assert project.call("schedule.remove", name="greet") == {"name": "greet"}
        with pytest.raises(NotFound):
            project.call("schedule.remove", name="greet")
    with serving(project, clock):
        assert names(project) == {}


def test_what_its_runs_would_be_refused_for_is_refused_at_once(
    make_project: Make, clock: WallClock
) -> None:
    """Nothing is stored."""
    project = make_project(nightly())
    with serving(project, clock):
        for wrong, error in (
            ({"schedule": "0 9 * *"}, Usage),
            ({"schedule": "0 0 30 2 *"}, Usage),
            ({"timezone": "Mars/Olympus"}, Usage),
            ({"job": "nobody"}, NotFound),
            ({"job": "exec", "payload": {}}, PayloadRefused),
            ({"job": "nightly", "payload": "x" * 70_000}, PayloadRefused),
            ({"name": "nightly"}, Conflict),
            ({"name": "a\n"}, Usage),
            ({"overlap": "never"}, Usage),
            ({"catch_up": "skip", "catch_up_for_ms": 1000}, Usage),
            ({"jitter_ms": 86_400_001}, Usage),
            ({"options": {"queue": "a\n"}}, Usage),
            ({"options": {"unknown": 1}}, Usage),
            ({"source": "code"}, Usage),
        ):
            given = {"name": "x", "job": "nightly", "schedule": "@daily"} | wrong
            with pytest.raises(error):
                project.call("schedule.add", **given)
        assert list(names(project)) == ["nightly"]


def test_job_has_several_schedules(make_project: Make, clock: WallClock) -> None:
    """Each with its own zone and payload; `jobs show` tells them all."""
    project = make_project(SEVERAL)
    with serving(project, clock):
        assert list(names(project)) == ["report/often", "report/weekend"]
        assert list(project.call("job.get", job="report")["schedules"]) == [
            "report/often",
            "report/weekend",
        ]
        with pytest.raises(NotFound) as refused:
            project.call("schedule.pause", name="report")
        assert refused.value.fields["near"] == ["report/often", "report/weekend"]
        project.call("schedule.pause", name="report/often")
        clock.jump("6d")
        found = runs(project, 1)
        assert [run["payload"] for run in found] == [{"full": True}]
        assert found[0]["scheduled_at"] == "2026-11-28T01:30:00.000000Z"


def test_backfill_starts_a_run_for_each_tick_once(make_project: Make, clock: WallClock) -> None:
    """Repeated, or after the tick itself had a run, it starts nothing again."""
    project = make_project(nightly())
    with serving(project, clock):
        clock.jump("61m")
        runs(project, 1)
        given = {"name": "nightly", "since": "2026-11-19T09:00:00Z", "limit": 2}
        planned = project.call("schedule.past", **given)
        assert [(run["id"], run["reused"]) for run in planned["runs"]] == [(None, False)] * 2
        page = project.call("schedule.backfill", **given)
        more = {"since": page["next"], "until": page["until"]}
        rest = project.call("schedule.backfill", **given | more)
        assert [run["reused"] for run in page["runs"] + rest["runs"]] == [False] * 3 + [True]
        assert page["runs"][0]["tick"] == "2026-11-19T09:00:00.000000Z", "`since` is included"
        again = project.call("schedule.backfill", **given | {"limit": 100})
        assert [run["id"] for run in again["runs"]] == [
            run["id"] for run in page["runs"] + rest["runs"]
        ]
        assert all(run["reused"] for run in again["runs"])
        assert [run["scheduled_at"][:10] for run in runs(project, 4)] == [
            "2026-11-19",
            "2026-11-20",
            "2026-11-21",
            "2026-11-22",
        ]
        for wrong in ({"until": "2027-01-01T00:00:00Z"}, {"since": "2026-11-23T00:00:00Z"}):
            with pytest.raises(Usage):
                project.call("schedule.backfill", **given | wrong)


def test_file_declares_schedules(make_project: Make, clock: WallClock) -> None:
    """Of commands and of jobs; what it no longer says is retired."""
    project = make_project(PLAIN, scenery.CONFIG + IN_FILE)
    with serving(project, clock):
        assert {name: each["source"] for name, each in names(project).items()} == {
            "cleanup": "file",
            "report": "file",
        }
        with pytest.raises(Conflict, match=r"stackshift\.toml"):
            project.call("schedule.remove", name="cleanup")
        clock.jump("1h")
        runs(project, 1)
        clock.jump("1h")
        first, second = runs(project, 2)
        assert (first["job"], first["labels"]) == ("exec", {"name": "cleanup"})
        assert (second["job"], second["payload"]) == ("nightly", {"all": False})
    (project.root / "stackshift.toml").write_text(scenery.CONFIG)
    with serving(project, clock):
        assert all(each["retired"] for each in names(project).values())
        project.call("schedule.remove", name="cleanup")
        assert list(names(project)) == ["report"]


def test_reload_reads_the_schedules_of_the_file(make_project: Make) -> None:
    """Without a restart, and without one of the worker's jobs. A file that is not valid changes
    nothing; the settings that need a restart still say so."""
    project = make_project(PLAIN, scenery.CONFIG + IN_FILE)
    file = project.root / "stackshift.toml"
    project.start()
    changed = IN_FILE.replace("0 9", "0 8").replace("schedules.report", "schedules.other")
    file.write_text(scenery.CONFIG + changed)
    assert project.call("daemon.reload")["schedules"] == {
        "added": ["other"],
        "changed": ["cleanup"],
        "removed": ["report"],
    }
    now = names(project)
    assert now["cleanup"]["schedule"] == "0 8 * * *"
    assert (now["other"]["retired"], now["report"]["retired"]) == (False, True)
    assert project.call("job.list")["notes"] == []
    file.write_text(scenery.CONFIG + changed + "[schedules.x]\ncron = 1\n")
    with pytest.raises(BadConfiguration, match=r"schedules\.x\.cron"):
        project.call("daemon.reload")
    assert names(project) == now
    file.write_text(scenery.CONFIG.replace("16", "8") + changed)
    project.call("daemon.reload")
    assert "stackshift daemon restart" in project.call("job.list")["notes"][0]


def test_watched_file_has_its_schedules_read_when_it_is_saved(make_project: Make) -> None:
    """As job modules are; one that is not valid leaves the schedules of before."""
    watched = "[project]\nwatch = true\n" + scenery.CONFIG
    project = make_project(PLAIN, watched)
    project.start()
    file = project.root / "stackshift.toml"
    file.write_text(watched + IN_FILE)
    wait_until(lambda: list(names(project)) == ["cleanup", "report"], "the schedules")
    file.write_text(watched + "[schedules.x]\ncron = 1\n")
    wait_until(lambda: "schedules.x.cron" in project.log(), "the log to say what is wrong")
    assert not names(project)["cleanup"]["retired"]
    file.write_text(watched)
    wait_until(lambda: names(project)["cleanup"]["retired"], "the schedules to be gone")


def test_bad_schedule_in_the_file_is_named_with_the_file(make_project: Make) -> None:
    """As other settings are that cannot be."""
    project = make_project(PLAIN, scenery.CONFIG + '[schedules.x]\ncron = "0 9"\njob = "nightly"')
    with pytest.raises(BadConfiguration, match=r"stackshift\.toml: schedules\.x: '0 9' is not"):
        file_schedules(load_config(project.root))


def test_code_gets_its_name_when_the_added_schedule_is_removed(
    make_project: Make, clock: WallClock
) -> None:
    """Until then the list says what is in the way, and the added one ticks."""
    project = make_project(PLAIN)
    with serving(project, clock):
        project.call("schedule.add", name="nightly", job="nightly", schedule="@hourly")
    project.write_module("story", "from jobs._scenery import *\n\n" + nightly())
    with serving(project, clock):
        shown = names(project)["nightly"]
        assert (shown["source"], shown["schedule"]) == ("command", "@hourly")
        assert "stackshift schedules rm nightly" in shown["problem"]
        project.call("schedule.remove", name="nightly")
        shown = names(project)["nightly"]
        assert (shown["source"], shown["schedule"], shown["problem"]) == ("code", "0 9 * * *", None)


@pytest.mark.not_via(why="@reboot is refused where machines share the journal")
def test_reboot_ticks_once_for_each_start_of_the_machine(
    make_project: Make, clock: WallClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for a start of the daemon."""
    project = make_project(PLAIN)
    with serving(project, clock):
        project.call("schedule.add", name="warm", job="nightly", schedule="@reboot")
    with serving(project, clock):
        assert names(project)["warm"]["last_run"] is None
    monkeypatch.setattr(processes, "boot", lambda: "another")
    for _ in range(2):
        with serving(project, clock):
            (run,) = runs(project, 1)
            assert names(project)["warm"]["last_run"] == run["id"]


def test_lint_tells_what_may_surprise(make_project: Make, clock: WallClock) -> None:
    """Of what there is, and of an expression that nothing has."""
    project = make_project(SEVERAL)
    with serving(project, clock):
        told = project.call("schedule.lint")["findings"]
        assert {(each["name"], each["code"]) for each in told} == {
            ("report/weekend", "clock_change")
        }
        assert [each["message"] for each in told] == [
            "2027-03-28 02:30 does not exist in Europe/Berlin, whose clocks go forward: "
            "it ticks at 03:00",
            "2027-10-31 02:30 comes twice in Europe/Berlin, whose clocks go back: "
            "it ticks once, the first time",
        ]
        told = project.call("schedule.lint", schedule="0 0 29,30 2 *")["findings"]
        assert [each["message"] for each in told] == [
            "February has a day 29 in leap years only",
            "February has no day 30",
        ]
        with pytest.raises(Usage, match="never ticks"):
            project.call("schedule.lint", schedule="0 0 30 2 *")
