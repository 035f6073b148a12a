"""`daemon.metrics`: what a real daemon counts."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from helpers.project import Project
from helpers.project_factory import Make
from stackshiftd.shell.methods import metrics
from stackshiftd.shell.methods.metrics import Metrics

JOBS = """
@stackshift.job("works", queue="media")
def works(ctx):
    for name in ("first", "second"):
        ctx.step.run(name, lambda: 1)


@stackshift.job("naps")
def naps(ctx):
    ctx.step.sleep("nap", "1h")


@stackshift.job("breaks")
def breaks(ctx):
    ctx.step.run("broken", lambda: 1 / 0, retry=stackshift.Retry(max_attempts=1))
"""

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
def project(make_project: Make) -> Iterator[Project]:
    """A project whose daemon runs."""
    made = make_project(JOBS, "[retry]\nmax_attempts = 1\n[workers]\nslots = 3\nprocesses = 1\n")
    made.start()
    yield made


def sampled(project: Project) -> Samples:
    """The value of each sample of `daemon.metrics`, by name and labels."""
    return {
        (family["name"], tuple(sorted(sample["labels"].items()))): sample["value"]
        for family in project.call("daemon.metrics")["metrics"]
        for sample in family["samples"]
    }


def test_what_has_happened_is_counted(project: Project) -> None:
    """Starts, ends by job and outcome, steps, and what is left."""
    for _ in range(3):
        project.finish(project.begin("works"))
    project.finish(project.begin("breaks"))
    project.until_status(project.begin("naps"), "waiting")
    project.begin("naps", delay_ms=3_600_000)
    found = sampled(project)
    ended = "stackshift_runs_finished_total"
    assert found["stackshift_runs_started_total", ()] == 6
    assert found[ended, (("job", "works"), ("outcome", "completed"))] == 3
    assert found[ended, (("job", "breaks"), ("outcome", "failed"))] == 1
    assert found["stackshift_steps_total", (("outcome", "completed"),)] == 6
    assert found["stackshift_steps_total", (("outcome", "failed"),)] == 1
    assert found["stackshift_runs", (("status", "waiting"),)] == 1
    assert found["stackshift_runs", (("status", "scheduled"),)] == 1
    assert found["stackshift_dead_letter_runs", ()] == 1
    assert found["stackshift_queue_depth", (("queue", "media"),)] == 0
    assert (found["stackshift_slots", ()], found["stackshift_slots_used", ()]) == (3, 0)
    assert found["stackshift_workers", (("status", "serving"),)] == 1
    assert found["stackshift_leads", ()] == 1


def test_commits_are_counted_with_their_records(project: Project) -> None:
    """Every durable record was part of one commit."""
    project.finish(project.begin("works"))
    found = sampled(project)
    status = project.call("daemon.status")
    commits = found["stackshift_commit_seconds", (("le", "+Inf"),)]
    assert commits == found["stackshift_commit_records", (("le", "+Inf"),)] > 0
    assert status["commits"]["count"] >= commits
    assert 0 < status["commits"]["p50_ms"] <= status["commits"]["p99_ms"]
    assert status["loop_lag_ms"] >= 0
    families = {family["name"]: family for family in project.call("daemon.metrics")["metrics"]}
    written = families["stackshift_commit_records"]["sum"]
    stats = project.call("journal.stats")
    assert 0 < written <= stats["durable_seq"]


def test_counters_begin_again_with_the_daemon_and_gauges_do_not(project: Project) -> None:
    """After a kill, what is there is still there."""
    project.finish(project.begin("works"))
    project.until_status(project.begin("naps"), "waiting")
    project.kill()
    project.start()
    found = sampled(project)
    assert found["stackshift_runs_started_total", ()] == 0
    assert found["stackshift_runs", (("status", "waiting"),)] == 1
    assert found["stackshift_journal_records_total", ()] > 0


def test_jobs_beyond_the_bound_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A project that makes up job names does not fill memory."""
    monkeypatch.setattr(metrics, "MAX_JOBS", 2)
    made = Metrics(*cast(Any, (None,) * 6))
    for job in ("a", "b", "c", "d", "a"):
        made.ended(cast(Any, SimpleNamespace(job=job, status="completed")))
    assert dict(made._ended) == {
        ("a", "completed"): 2,
        ("b", "completed"): 1,
        ("", "completed"): 2,
    }
