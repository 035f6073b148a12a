"""Queues of real daemons: what is limited stays limited, also over restarts and deaths."""

from __future__ import annotations

from typing import Any

import pytest

from helpers import scenery
from helpers.deadline import wait_until
from helpers.project import Project
from helpers.project_factory import Make
from stackshift_jobs.errors import NotFound, PayloadRefused, Usage
from stackshift_jobs.values.durations import from_rfc3339

JOBS = """
stackshift.queue("crm", key_concurrency=1, concurrency=9)

@stackshift.job("held", queue="media")
def held(ctx):
    ctx.step.run("held", gate, ctx.payload["gate"])

@stackshift.job("synced", queue="crm", concurrency_key="customer:{customer}")
async def synced(ctx):
    await ctx.step.run("held", agate, ctx.payload["gate"])

@stackshift.job("quick", queue="mail")
async def quick(ctx):
    return 1
"""
CONFIG = scenery.CONFIG + "\n[queues.media]\nconcurrency = 2\n"


def queue(project: Project, name: str) -> dict[str, Any]:
    found: dict[str, Any] = project.call("queue.show", queue=name)
    return found


@pytest.fixture
def project(make_project: Make) -> Project:
    """A project with two in `media` at a time, one a customer in `crm`."""
    made = make_project(JOBS, CONFIG)
    made.start()
    return made


def test_concurrency_of_the_file_holds_and_the_run_behind_says_why(project: Project) -> None:
    """The third waits for one of the two, and names the one that has been there longest."""
    first, second, third = [project.begin("held", {"gate": f"g{i}"}) for i in range(3)]
    project.at("g0")
    project.at("g1")
    told = project.call("run.why", run=third)
    assert told["why_code"] == "queue_busy"
    assert f"media 2/2 busy, oldest {first}" in told["why"]
    assert queue(project, "media")["running"] == 2
    project.open("g1")
    project.finish(second)
    project.at("g2")
    project.open("g0")
    project.open("g2")
    project.finish(third)


def test_one_run_of_a_key_at_a_time_and_no_other_key_waits(project: Project) -> None:
    """The declaration of the job module is in force; the payload gives the key."""
    first = project.begin("synced", {"customer": 1, "gate": "a"})
    second = project.begin("synced", {"customer": 1, "gate": "b"})
    project.begin("synced", {"customer": 2, "gate": "c"})
    project.at("a")
    project.at("c")
    told = project.call("run.why", run=second)
    assert told["why_code"] == "key_busy"
    assert f"customer:1 1/1 busy in crm, oldest {first}" in told["why"]
    shown = queue(project, "crm")
    assert shown["sources"]["key_concurrency"] == "code"
    assert {each["key"] for each in shown["busy_keys"]} == {"customer:1", "customer:2"}
    for gate in "abc":
        project.open(gate)
    project.finish(second)
    for customer in ({}, {"customer": "x" * 600}, {"customer": None}):
        with pytest.raises(PayloadRefused):
            project.begin("synced", {"gate": "a"} | customer)


def test_pause_holds_over_a_kill_until_it_is_resumed(project: Project) -> None:
    """It is durable when it answers, and says since when."""
    before = project.call("queue.pause", queue="mail")
    assert before["changed"]
    assert not project.call("queue.pause", queue="mail")["changed"]
    run = project.begin("quick")
    project.kill()
    project.start()
    assert queue(project, "mail")["paused_since"] == before["paused_since"]
    assert queue(project, "mail")["sources"]["paused"] == "queues pause, resume"
    told = project.call("run.why", run=run)
    assert told["why_code"] == "queue_paused"
    assert before["paused_since"][:19] in told["why"]
    assert project.call("queue.resume", queue="mail")["changed"]
    assert project.finish(run)["status"] == "completed"


def test_limit_at_run_time_outranks_the_file_over_a_restart_until_reset(project: Project) -> None:
    """`none` takes the file's limit away; reset brings it back."""
    project.call("queue.limit", queue="media", concurrency=0, rate="60/m", rate_burst=2)
    project.stop()
    project.start()
    shown = queue(project, "media")
    assert (shown["concurrency"], shown["rate"], shown["rate_burst"]) == (None, "60/m", 2)
    assert shown["sources"]["concurrency"] == "queues limit"
    reset = project.call("queue.limit", queue="media", reset=True)
    assert (reset["concurrency"], reset["rate"]) == (2, None)
    assert queue(project, "media")["sources"]["concurrency"] == "stackshift.toml"


def test_what_the_file_says_no_more_is_withdrawn(project: Project) -> None:
    """The next daemon reads it again."""
    project.stop()
    (project.root / "stackshift.toml").write_text(scenery.CONFIG)
    project.start()
    assert queue(project, "media")["concurrency"] is None


def test_rate_holds_between_the_runs_and_over_a_kill(project: Project) -> None:
    """At most burst + rate·t starts in any time, by the times in the journal."""
    project.call("queue.limit", queue="mail", rate="20/s", rate_burst=3)
    runs = [project.begin("quick") for _ in range(6)]
    project.finish(runs[3])
    project.kill()
    project.start()
    runs += [project.begin("quick") for _ in range(6)]
    starts = sorted(from_rfc3339(project.finish(run)["started_at"]) for run in runs)
    for i, begin in enumerate(starts):
        for j in range(i, len(starts)):
            assert j - i + 1 <= 3 + (starts[j] - begin) * 20 / 1e6, (i, j)


def test_drain_answers_when_the_last_has_left_and_stays_paused(project: Project) -> None:
    """What executes ends; what waits stays queued."""
    run = project.begin("held", {"gate": "go"})
    project.at("go")
    with project.connect() as other:
        number = other.send("queue.drain", {"queue": "media"})
        wait_until(lambda: queue(project, "media")["paused"], "the drain to pause the queue")
        later = project.begin("held", {"gate": "go"})
        assert queue(project, "media")["running"] == 1
        project.open("go")
        reply = other.receive(60)
        assert reply.id == number
        assert (reply.value()["running"], reply.value()["depth"]) == (0, 1)
    project.finish(run)
    assert project.call("run.why", run=later)["why_code"] == "queue_paused"


def test_purge_cancels_what_waits_and_nothing_that_executes(project: Project) -> None:
    """Queued and scheduled runs, each by a record of its own; more than one slice of them."""
    running = [project.begin("held", {"gate": f"g{i}"}) for i in range(2)]
    project.at("g0")
    project.at("g1")
    starts = [{"job": "held", "payload": {"gate": "x"}} for _ in range(600)]
    waiting = [each["id"] for each in project.call("run.start_many", runs=starts)["results"]]
    waiting.append(project.begin("held", {"gate": "x"}, delay_ms=3_600_000))
    assert project.call("queue.purge", queue="media", dry_run=True)["cancelled"] == 601
    assert project.call("queue.purge", queue="media")["cancelled"] == 601
    assert project.get(waiting[0])["timeline"][-1]["kind"] == "run.cancelled"
    assert project.get(waiting[-1])["status"] == "cancelled"
    assert queue(project, "media")["depth"] == 0
    for number, run in enumerate(running):
        project.open(f"g{number}")
        assert project.finish(run)["status"] == "completed"


def test_queue_with_workers_of_its_own_runs_there_and_only_there(make_project: Make) -> None:
    """`processes` workers serve it alone; a full one keeps no other queue waiting."""
    config = scenery.CONFIG.replace("slots = 16", "slots = 1") + "\n[queues.media]\nprocesses = 1\n"
    project = make_project(JOBS, config)
    project.start()
    held = project.begin("held", {"gate": "go"})
    project.at("go")
    behind = project.begin("held", {"gate": "go"})
    quick = project.finish(project.begin("quick"))
    own = project.get(held)["timeline"][-1]["worker"]
    assert next(each for each in quick["timeline"] if "worker" in each)["worker"] != own
    assert project.call("run.why", run=behind)["why_code"] == "slots_busy"
    project.open("go")
    after = project.finish(behind)
    assert next(each for each in after["timeline"] if "worker" in each)["worker"] == own


def test_bad_limits_and_names_are_refused(project: Project) -> None:
    """Nothing changes; a name that is misspelt is told the near ones."""
    with pytest.raises(NotFound) as missing:
        project.call("queue.pause", queue="medai")
    assert missing.value.fields["near"][0] == "media"
    bad: list[dict[str, Any]] = [{"concurrency": -1}, {"rate": "fast"}, {"rate_burst": 10**9}]
    for params in bad:
        with pytest.raises(Usage):
            project.call("queue.limit", queue="media", **params)
    assert queue(project, "media")["concurrency"] == 2


def test_queue_is_limited_before_its_first_run(project: Project) -> None:
    """So the first two runs do not both begin; the limit outlives the daemon. A name that is
    probably misspelt makes no queue, nor does a reset, or a limit or name that is not valid."""
    limited = project.call("queue.limit", queue="disk", concurrency=1)
    assert (limited["concurrency"], limited["depth"], limited["changed"]) == (1, 0, True)
    project.stop()
    project.start()
    assert queue(project, "disk")["concurrency"] == 1
    before = project.call("queue.list")
    with pytest.raises(NotFound) as missing:
        project.call("queue.limit", queue="medai", concurrency=1)
    assert missing.value.fields["near"][0] == "media"
    with pytest.raises(NotFound):
        project.call("queue.limit", queue="tapes", reset=True)
    for name, rate in (("", "1/s"), ("a\nb", "1/s"), ("tapes", "fast")):
        with pytest.raises(Usage):
            project.call("queue.limit", queue=name, rate=rate)
    assert project.call("queue.list") == before


def test_start_in_a_new_queue_says_which_name_was_probably_meant(project: Project) -> None:
    """Only the start that makes the queue, and not where only digits differ."""

    def near(name: str, **more: Any) -> Any:
        told = project.call("run.start", job="held", queue=name, delay_ms=3_600_000, **more)
        return told.get("near_queues")

    assert near("medai", dry_run=True) == ["media"]
    assert near("medai") == ["media"]
    assert [near(name) for name in ("medai", "media", "tenant-17", "tenant-18")] == [None] * 4


def test_drain_of_a_client_that_is_gone_is_forgotten(project: Project) -> None:
    """The queue stays paused, and the daemon goes on."""
    run = project.begin("held", {"gate": "go"})
    project.at("go")
    with project.connect() as other:
        other.send("queue.drain", {"queue": "media"})
        wait_until(lambda: queue(project, "media")["paused"], "the drain to pause the queue")
    project.open("go")
    project.finish(run)
    assert project.call("queue.resume", queue="media")["changed"]


def test_module_that_does_not_import_takes_no_limit_back(make_project: Make) -> None:
    """What it declared holds for the runs of other modules, until it imports and says otherwise."""
    limits = 'stackshift.queue("mail", concurrency=3)\n'
    project = make_project(JOBS, CONFIG, limits=limits)
    project.start()
    assert queue(project, "mail")["concurrency"] == 3
    module = project.root / "jobs" / "limits.py"
    text = module.read_text()
    project.stop()
    module.write_text(text + "raise RuntimeError('broken')\n")
    project.start()
    assert project.call("job.list")["failed_modules"]
    assert queue(project, "mail")["concurrency"] == 3
    project.stop()
    module.write_text(text.replace("3", "4"))
    project.start()
    assert queue(project, "mail")["concurrency"] == 4


def test_job_shows_what_bounds_its_runs(project: Project) -> None:
    """Its concurrency key is the template, and its keys live as long as it or the default says."""
    told = project.call("job.get", job="synced")
    assert (told["queue"], told["concurrency_key"]) == ("crm", "customer:{customer}")
    assert told["idempotency_ttl_ms"] == 30 * 86_400_000
    assert project.call("job.get", job="quick")["concurrency_key"] is None
