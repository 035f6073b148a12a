"""Logs are bounded in time and size without anybody's help."""

from __future__ import annotations

import json
import os
import subprocess

from helpers.deadline import SECONDS, wait_until
from helpers.project import Project, environment
from helpers.project_factory import Make
from stackshiftd.shell.background.daemon_log import MAX_BYTES

JOBS = """
@stackshift.job("prints")
def prints(ctx):
    print("something")


@stackshift.job("naps")
def naps(ctx):
    print("before")
    ctx.step.sleep("nap", "1h")


@stackshift.job("fails", retry=ONCE)
def fails(ctx):
    print("why")
    raise ValueError("no good")
"""
CONFIG = """\
[journal]
retention = "1s"
[workers]
processes = 1
grace = "1s"
inherit_env = ["PYTHONPATH"]
"""


def test_logs_of_finished_runs_follow_retention(make_project: Make) -> None:
    """No segment is sealed, nothing is compacted. Runs that wait, and those in the dead letter,
    keep their logs."""
    project = make_project(JOBS, CONFIG)
    project.start()
    logs = project.data_dir / "logs"
    dead = project.finish(project.begin("fails"))["id"]
    naps = project.begin("naps")
    project.until_status(naps, "waiting")
    over = project.finish(project.begin("prints"))["id"]
    wait_until(
        lambda: {each.stem for each in logs.iterdir()} == {dead, naps}, "the log to be removed"
    )
    assert project.get(over)["status"] == "completed"
    assert project.call("journal.stats")["snapshot"] is None


def test_log_of_a_daemon_that_does_not_start_is_bounded(make_project: Make) -> None:
    """Each try of cron's adds to it, though no daemon comes to serve."""
    project = make_project(JOBS, "")
    project.data_dir.mkdir(mode=0o700)
    log = project.data_dir / "daemon.log"
    log.write_bytes(b"x" * 99 + b"\n")
    os.truncate(log, MAX_BYTES + 1)
    log.chmod(0o600)
    (project.data_dir / "journal").write_text("not a directory")
    with log.open("ab") as stderr:
        assert failed_start(project, stderr.fileno()) == 78
    assert 0 < log.stat().st_size < 10_000
    assert log.with_name("daemon.log.1").stat().st_size <= MAX_BYTES


def failed_start(project: Project, stderr: int) -> int:
    """Start a daemon that reports an error; its exit status."""
    done = subprocess.run(
        project.command("--ready-fd", "1"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=environment(),
        timeout=SECONDS,
        check=False,
    )
    assert "error" in json.loads(done.stdout)
    return done.returncode
