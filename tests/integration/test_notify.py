"""Messages of a real daemon (guarantee: alerts): their secrets, their own worker, and the command
line about them."""

from __future__ import annotations

import json
import subprocess
import sys

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
