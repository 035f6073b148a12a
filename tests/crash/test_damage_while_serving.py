"""Damage of the journal that comes under a running daemon (guarantee: reported damage)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.project import Project
from helpers.project_factory import Make
from stackshift_jobs.errors import JournalDamaged

JOBS = """
@stackshift.job("quick")
def quick(ctx):
    return ctx.step.run("one", lambda: "x" * 500)
"""


def segments(project: Project) -> list[Path]:
    """The segments, oldest first."""
    return sorted((project.data_dir / "journal").glob("*.jsonl"))


def damage(path: Path) -> None:
    """Overwrite some bytes in the middle of a segment."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 8] = b"\0" * 8
    path.write_bytes(bytes(data))


def test_damage_that_a_compaction_meets_is_in_the_status(make_project: Make) -> None:
    """The compaction fails with the place of the damage, `daemon status` keeps telling, and work
    goes on: the state in memory is sound."""
    project = make_project(JOBS)
    project.start()
    for _ in range(5):
        project.finish(project.begin("quick"))
    assert project.call("daemon.status")["damage"] is None
    damage(segments(project)[0])
    with pytest.raises(JournalDamaged) as refused:
        project.call("journal.compact")
    assert refused.value.fields["file"].endswith("00000000000000000001.jsonl")
    told = project.call("daemon.status")["damage"]
    assert told["message"] == refused.value.message
    assert (told["file"], told["offset"]) == (
        refused.value.fields["file"],
        refused.value.fields["offset"],
    )
    assert project.call("run.wait", run=project.begin("quick"))["status"] == "completed"
    assert project.log().count("the journal is damaged") == 1
    assert "Traceback" not in project.log()


def test_damage_that_a_follower_meets_ends_its_feed_with_the_error(make_project: Make) -> None:
    """It neither hangs nor leaves anything out; the status tells of it too."""
    project = make_project(JOBS)
    project.start()
    for _ in range(10):
        project.finish(project.begin("quick"))
    damage(segments(project)[0])
    with project.connect() as connection:
        connection.call("feed.open", {"since_seq": 0}, timeout=60)
        notifications = connection.notifications(60)
        error = next(params for method, params in notifications if method == "feed.end")["error"]
    assert error["code"] == "journal_damaged"
    assert project.call("daemon.status")["damage"]["message"] == error["message"]


def test_compaction_ends_with_its_daemon(make_project: Make) -> None:
    """A daemon that is killed leaves no process that could write into the journal of the next; nor
    a traceback."""
    project = make_project(JOBS)
    project.start()
    for _ in range(5):
        project.finish(project.begin("quick"))
    upto = project.call("journal.stats")["durable_seq"]
    assert project.stop() == 0
    ours, its = os.pipe()
    command = [sys.executable, "-P", "-m", "stackshiftd", "compact"]
    more = ["--data-dir", str(project.data_dir), "--upto-seq", str(upto)]
    child = subprocess.Popen(
        [*command, *more], stdin=ours, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    os.close(ours)
    os.kill(child.pid, signal.SIGSTOP)
    os.close(its)  # Its daemon dies, at a moment when it is still starting.
    os.kill(child.pid, signal.SIGCONT)
    out, errors = child.communicate(timeout=60)
    assert child.returncode == 0
    assert (out, errors) == (b"", b"")
    assert list((project.data_dir / "snapshots").glob("*.jsonl")) == []


def test_compaction_of_a_journal_that_is_too_short_says_so(make_project: Make) -> None:
    """Its answer is the error, as one line of JSON, and not a traceback."""
    project = make_project(JOBS)
    project.start()
    project.finish(project.begin("quick"))
    assert project.stop() == 0
    command = [sys.executable, "-P", "-m", "stackshiftd", "compact"]
    more = ["--data-dir", str(project.data_dir), "--upto-seq", "999"]
    child = subprocess.Popen(
        [*command, *more],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None and child.stderr is not None
    error = json.loads(child.stdout.readline())["error"]
    assert child.wait(60) == 78
    assert child.stderr.read() == b""
    assert "records up to 999 were on disk" in error["message"]
    for pipe in (child.stdin, child.stdout, child.stderr):
        assert pipe is not None
        pipe.close()
