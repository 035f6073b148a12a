"""Messages of a real daemon (guarantee: alerts): their secrets, their own worker, and the command
line about them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from helpers import scenery
from helpers.deadline import wait_until
from helpers.project import Project, environment
from helpers.project_factory import Make
from helpers.receiver import Receiver, receiver
from stackshift_jobs.project.locate import DATA_DIR_VARIABLE

JOBS = """
@stackshift.job("import", retry=ONCE)
def imports(ctx):
    raise ConnectionError("the shop does not answer")


@stackshift.job("slow", max_runtime="300ms")
def slow(ctx):
    gate("slow")


@stackshift.job("nightly", expect="every 1s", schedule="0 3 1 1 *")
def nightly(ctx):
    pass
"""
SECRET = "s3cr3t-path-of-a-webhook"  # It is none.
HIDDEN = """
[project]
env_file = "jobs.env"

[notify.ops]
to = { "$env" = "HOOK" }
token = { "$env" = "HOOK_TOKEN" }
on = ["failed"]
"""


def target(server: Receiver, more: str = "") -> str:
    """A target on the server."""
    return f'[notify.ops]\nto = "http://127.0.0.1:{server.port}/ops"\n{more}\n'


def stackshift(project: Project, *words: str) -> subprocess.CompletedProcess[str]:
    """What a command prints."""
    return subprocess.run(
        [sys.executable, "-m", "stackshift_cli", "-C", str(project.root), "--no-start", *words],
        env={**environment(), DATA_DIR_VARIABLE: str(project.data_dir)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_secret_of_a_destination_is_recorded_nowhere(make_project: Make) -> None:
    """Neither where a message is delivered nor where it is refused, and the server says the URL."""
    with receiver() as server:
        project = make_project(JOBS, scenery.CONFIG + HIDDEN)
        url = f"http://127.0.0.1:{server.port}/{SECRET}"
        (project.root / "jobs.env").write_text(f"HOOK={url}\nHOOK_TOKEN={SECRET}-too\n")
        server.answers = [404]
        project.start()
        run = project.finish(project.begin("import"))
        [message] = project.call("run.list", parent=run["id"])["runs"]
        assert project.finish(message["id"])["status"] == "failed"
        project.call("run.retry", run=message["id"])
        assert project.finish(message["id"])["status"] == "completed"
        assert server.received[-1].headers["Authorization"] == f"Bearer {SECRET}-too"
        assert project.stop() == 0
        files = [path for path in project.data_dir.rglob("*") if path.is_file()]
        assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


def test_message_goes_out_when_every_slot_is_taken(make_project: Make) -> None:
    """That a run holds it for too long is what there is to tell; the picture is in it."""
    with receiver() as server:
        config = scenery.CONFIG.replace("slots = 16", "slots = 1") + target(server)
        project = make_project(JOBS, config)
        project.start()
        run = project.begin("slow")
        project.at("slow")
        wait_until(lambda: any("late" in each.body for each in server.received), "a message")
        late = next(
            json.loads(each.body) for each in server.received if '"alert": "late"' in each.body
        )
        if late["job"] == "slow":
            assert late["run"] == run
            assert "slow  running" in late["picture"]
        assert project.get(run)["late_at"] is not None
        assert "late" in project.get(run)["why"]
        project.open("slow")
        assert project.finish(run)["status"] == "completed"


def test_reload_puts_another_target_in_force(make_project: Make) -> None:
    """Without a restart, and what was taken out of the file is told nothing more."""
    with receiver() as server:
        project = make_project(JOBS)
        project.start()
        settings = project.root / "stackshift.toml"
        before = settings.read_text()
        settings.write_text(before + target(server, 'on = ["failed"]'))
        project.call("daemon.reload")
        run = project.finish(project.begin("import"))
        wait_until(lambda: len(server.received) == 1, "the message")
        assert run["id"] in server.received[0].body
        settings.write_text(before)
        project.call("daemon.reload")
        run = project.finish(project.begin("import"))
        assert project.call("run.list", parent=run["id"])["runs"] == []
        assert project.call("job.get", job="import")["notes"] == []  # to restart anything


def test_expectation_of_a_job_is_shown(make_project: Make) -> None:
    """As pending, missing and met; a restart does not forget it."""
    project = make_project(JOBS)
    project.start()
    shown = project.call("job.get", job="nightly")["expectation"]
    assert (shown["expect"], shown["timezone"]) == ("every 1s", "UTC")
    wait_until(lambda: status(project) == "missing", "it to be missing")
    assert project.call("daemon.status")["troubles"][0]["alert"] == "missing"
    assert project.call("schedule.list")["schedules"][0]["expected"] == "missing"
    project.kill()
    project.start()
    assert status(project) == "missing"
    run = project.finish(project.begin("nightly"))
    assert "job.recovered" in [each["kind"] for each in project.get(run["id"])["timeline"]]


def status(project: Project) -> str:
    """How the expectation stands."""
    return str(project.call("job.get", job="nightly")["expectation"]["status"])


def test_commands_about_targets(make_project: Make) -> None:
    """`notify test` says what the other side said and leaves nothing in the dead letter; `notify
    list` counts; `doctor` finds what could not be delivered."""
    with receiver() as server:
        project = make_project(JOBS, scenery.CONFIG + target(server, 'on = ["failed"]'))
        project.start()
        done = stackshift(project, "notify", "test", "ops")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "delivered to ops\n")
        server.answers = [401]
        done = stackshift(project, "notify", "test", "ops")
        assert done.returncode == 1
        assert "error[not_delivered]" in done.stderr
        assert "401" in done.stderr
        assert project.call("daemon.status")["undelivered"] == 0
        done = stackshift(project, "notify", "test", "obs")
        assert done.returncode == 4
        assert "did you mean ops?" in done.stderr
        server.answers = [404]
        project.finish(project.begin("import"))
        wait_until(lambda: project.call("daemon.status")["undelivered"] == 1, "a dead message")
        [row] = json.loads(stackshift(project, "notify", "list", "--json").stdout)
        assert (row["delivered"], row["undelivered"]) == (1, 1)
        assert row["to"] == f"http://127.0.0.1:{server.port}/…"
        assert "could not be delivered" in stackshift(project, "doctor").stdout
        assert "stackshift.notify" not in stackshift(project, "runs", "show", "@last").stdout


def test_schedules_have_expectations_limits_and_watchers_of_their_own(make_project: Make) -> None:
    """Those of the file, whose URL is recorded nowhere, and those that a command has added: shown,
    told, and kept over a kill. What else the job does is not theirs."""
    with receiver() as server:
        url = f"http://127.0.0.1:{server.port}/{SECRET}"
        section = f"""
[schedules.filed]
cron = "0 3 1 1 *"
job = "slow"
expect = "every 1s"
max_runtime = "200ms"
heartbeat = "{url}"
"""
        project = make_project(JOBS, scenery.CONFIG + section)
        project.start()
        added = stackshift(
            project,
            *("schedules", "add", "added", "--cron", "0 3 1 1 *", "--expect", "daily by 03:00"),
            *("--max-runtime", "1h", "--heartbeat", f"{url}2", "--", "true"),
        )
        assert added.returncode == 0, added.stderr
        wait_until(lambda: _of(project, "filed")["expected"] == "missing", "it to be missing")
        project.kill()
        project.start()
        filed, command = _of(project, "filed"), _of(project, "added")
        assert (filed["expectation"]["expect"], filed["max_runtime_ms"]) == ("every 1s", 200)
        assert (filed["expectation"]["status"], filed["heartbeat"]) == ("missing", True)
        assert (command["expectation"]["expect"], command["heartbeat"]) == ("daily by 03:00", True)
        assert (command["max_runtime_ms"], command["expected"]) == (3_600_000, "pending")
        [trouble] = [
            each for each in project.call("daemon.status")["troubles"] if each["job"] == "slow"
        ]
        assert (trouble["schedule"], trouble["alert"]) == ("filed", "missing")
        run = project.call("schedule.trigger", name="filed")["id"]
        wait_until(lambda: project.get(run)["late_at"], "the run to be late")
        project.open("slow")
        assert project.finish(run)["status"] == "completed"
        assert "job.recovered" in [each["kind"] for each in project.get(run)["timeline"]]
        project.finish(project.call("schedule.trigger", name="added")["id"])
        project.finish(project.begin("slow"))
        wait_until(lambda: len(server.received) == 4, "two starts and two successes")
        assert sorted(server.paths) == sorted(
            f"/{SECRET}{which}" for which in ("", "/start", "2", "2/start")
        )
        assert stackshift(project, "schedules", "rm", "added").returncode == 0
        assert project.stop() == 0
        journal = b"".join(each.read_bytes() for each in project.data_dir.rglob("*.jsonl"))
        assert journal.count(SECRET.encode()) == journal.count(f"{SECRET}2".encode()) > 0


def test_what_cannot_be_expected_of_a_schedule_is_refused(make_project: Make) -> None:
    """At once, and with what can."""
    project = make_project(JOBS)
    project.start()
    for given in (("--expect", "often"), ("--heartbeat", "ftp://x"), ("--max-runtime", "0s")):
        refused = stackshift(
            project, "schedules", "add", "x", "--cron", "@daily", *given, "--", "true"
        )
        assert refused.returncode == 2, refused.stderr


def _of(project: Project, name: str) -> dict[str, Any]:
    """A schedule as it is listed."""
    listed = project.call("schedule.list")["schedules"]
    [found] = [each for each in listed if each["name"] == name]
    return dict(found)
