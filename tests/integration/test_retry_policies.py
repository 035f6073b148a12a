"""Whose word counts on how often and how soon something is tried again: project, job, start, step,
and the error itself."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from helpers import scenery
from helpers.project import Json, Project, steps
from stackshift_jobs.values.durations import from_rfc3339

JOBS = """
def fails(*words):
    note(*words)
    raise ConnectionError("again")


@stackshift.job("byProject")
def by_project(ctx):
    fails("project", ctx.run_id)


@stackshift.job("byJob", retry=Retry(max_attempts=4, backoff="5ms", factor=1.0, jitter=0))
def by_job(ctx):
    fails("job", ctx.run_id)


@stackshift.job("byStep", retry=Retry(max_attempts=2, backoff="5ms", jitter=0))
def by_step(ctx):
    terms = Retry(max_attempts=3, backoff="20ms", factor=2.0, jitter=0)
    ctx.step.run("own", fails, "own", ctx.run_id, retry=terms)


@stackshift.job("stepWithout", retry=Retry(max_attempts=2, backoff="5ms", jitter=0))
def step_without(ctx):
    ctx.step.run("plain", fails, "plain", ctx.run_id)


@stackshift.job("heals")
def heals(ctx):
    terms = Retry(max_attempts=5, backoff="5ms", jitter=0)
    return ctx.step.run("flaky", heal, ctx.run_id, retry=terms)


def heal(run):
    note("heal", run)
    if noted("heal", run) < 3:
        raise ConnectionError(f"try {noted('heal', run)}")
    return "healed"


@stackshift.job("asksLater", retry=Retry(max_attempts=2, backoff="1h"))
def asks_later(ctx):
    note("later", ctx.run_id)
    raise RetryAfter("30ms")


@stackshift.job("stepAsksLater", retry=ONCE)
def step_asks_later(ctx):
    ctx.step.run("later", later, ctx.run_id, retry=Retry(max_attempts=2, backoff="1h"))


def later(run):
    note("stepLater", run)
    raise RetryAfter("30ms")


@stackshift.job("hopeless", retry=Retry(max_attempts=9, backoff="5ms"))
def hopeless(ctx):
    note("hopeless", ctx.run_id)
    raise NonRetryable("no use")


@stackshift.job("hopelessStep", retry=Retry(max_attempts=9, backoff="5ms"))
def hopeless_step(ctx):
    ctx.step.run("never", never, ctx.run_id, retry=Retry(max_attempts=9, backoff="5ms"))


def never(run):
    note("never", run)
    raise NonRetryable("no use")


class Declined(Exception):
    pass


class NotYet(ConnectionError):
    pass


@stackshift.job("picky", retry=Retry(max_attempts=9, backoff="5ms", jitter=0, not_on=Declined))
def picky(ctx):
    note("picky", ctx.run_id)
    raise NotYet() if noted("picky", ctx.run_id) < 3 else Declined("by the bank")


@stackshift.job("pickyStep", retry=Retry(max_attempts=9, backoff="5ms"))
async def picky_step(ctx):
    only = Retry(max_attempts=9, backoff="5ms", jitter=0, on=(ConnectionError, TimeoutError))
    await ctx.step.run("pay", pay, ctx.run_id, retry=only)


def pay(run):
    note("pay", run)
    raise NotYet() if noted("pay", run) < 3 else Declined("by the bank")


@stackshift.job("lookup")
def lookup(ctx):
    note("lookup", ctx.run_id)
    {}["missing"]


@stackshift.job("snoozes", retry=Retry(max_attempts=2, backoff="7ms", jitter=0))
def snoozes(ctx):
    note("snooze", ctx.run_id)
    if noted("snooze", ctx.run_id) <= 4:
        raise RetryAfter("2ms", "not yet", counts=False)
    raise ConnectionError("down")


@stackshift.job("stepSnoozes", retry=ONCE)
async def step_snoozes(ctx):
    return await ctx.step.run("poll", poll, ctx.run_id, retry=Retry(max_attempts=1))


def poll(run):
    note("poll", run)
    if noted("poll", run) <= 4:
        raise RetryAfter("2ms", "not yet", counts=False)
    return noted("poll", run)


@stackshift.job("atTime", retry=Retry(max_attempts=2, backoff="1h"))
def at_time(ctx):
    raise RetryAfter(at=ctx.payload["at"])


@stackshift.job("notNeeded", retry=FAST)
def not_needed(ctx):
    ctx.step.run("look", lambda: note("look", ctx.run_id))
    raise CancelRun("the order is gone")


@stackshift.job("notNeededStep", retry=FAST)
async def not_needed_step(ctx):
    await ctx.step.run("look", look, retry=FAST)


def look():
    note("looked")
    raise CancelRun("the order is gone")


@stackshift.job("waitsLong", retry=Retry(max_attempts=3, backoff="1h", jitter=0.1))
def waits_long(ctx):
    raise ConnectionError("later")


@stackshift.job("stepWaitsLong", retry=ONCE)
def step_waits_long(ctx):
    ctx.step.run("slow", fails, "slow", retry=Retry(max_attempts=3, backoff="1h"))
"""
CONFIG = (
    scenery.CONFIG + '[retry]\nmax_attempts = 3\nbackoff = "10ms"\nfactor = 3.0\njitter = 0.0\n'
    'not_on = ["KeyError"]\n'
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """One daemon for all of these."""
    made = Project(tmp_path_factory.mktemp("policies") / "p", {"story": JOBS}, CONFIG)
    made.start()
    yield made
    made.close()


def backoffs_ms(run: Json, kind: str) -> list[int]:
    """The delays that the records of failures promise."""
    return [
        (from_rfc3339(record["retry_at"]) - from_rfc3339(record["at"])) // 1000
        for record in run["timeline"]
        if record["kind"] == kind and record.get("retry_at")
    ]


@pytest.mark.parametrize(
    ("job", "options", "attempts", "delays"),
    [
        ("byProject", {}, 3, [10, 30]),
        ("byProject", {"max_attempts": 2}, 2, [10]),
        ("byJob", {}, 4, [5, 5, 5]),
        ("byJob", {"max_attempts": 1}, 1, []),
        ("byJob", {"max_attempts": 6}, 6, [5] * 5),
        ("stepWithout", {}, 2, [5]),
    ],
)
def test_start_outranks_job_and_job_outranks_project(
    project: Project, job: str, options: dict[str, Any], attempts: int, delays: list[int]
) -> None:
    """In how often; how soon is the job's, else the project's. A step without terms of its own is
    tried once an attempt."""
    run = project.finish(project.begin(job, **options))
    assert (run["status"], run["attempt"], run["max_attempts"]) == ("failed", attempts, attempts)
    assert backoffs_ms(run, "attempt.failed") == delays
    assert sum(line.endswith(run["id"]) for line in project.witness()) == attempts


def test_step_with_terms_is_tried_by_them_in_each_attempt(project: Project) -> None:
    """Its tries are not attempts of the run, and the job's terms do not count for it."""
    run = project.finish(project.begin("byStep"))
    assert (run["status"], run["attempt"]) == ("failed", 2)
    assert backoffs_ms(run, "step.failed") == [20, 40] * 2
    assert backoffs_ms(run, "attempt.failed") == [5]
    tries = [r.get("tried", 1) for r in run["timeline"] if r["kind"] == "step.failed"]
    assert tries == [1, 2, 3] * 2


def test_tries_of_a_step_are_shown_as_its_own(project: Project) -> None:
    """`steps[]` counts them, the timeline has each with its error, and the run has one attempt."""
    run = project.finish(project.begin("heals"))
    assert (run["status"], run["attempt"], len(run["attempts"])) == ("completed", 1, 1)
    step = steps(run)["flaky"]
    assert (step["status"], step["attempts"], step["error"]) == ("completed", 3, None)
    failures = [r["error"]["message"] for r in run["timeline"] if r["kind"] == "step.failed"]
    assert failures == ["try 1", "try 2"]


@pytest.mark.parametrize(
    ("job", "kind", "word"),
    [
        ("asksLater", "attempt.failed", "later"),
        ("stepAsksLater", "step.failed", "stepLater"),
    ],
)
def test_retry_after_sets_the_next_delay_and_not_the_number_of_tries(
    project: Project, job: str, kind: str, word: str
) -> None:
    """Of a run and of a step: what the error asks for instead of the backoff, exactly."""
    run = project.finish(project.begin(job))
    assert run["status"] == "failed"
    assert backoffs_ms(run, kind) == [30]
    assert project.witness().count(f"{word} {run['id']}") == 2


@pytest.mark.parametrize(("job", "word"), [("hopeless", "hopeless"), ("hopelessStep", "never")])
def test_what_is_not_retryable_is_tried_once(project: Project, job: str, word: str) -> None:
    """Whoever's terms would allow more."""
    run = project.finish(project.begin(job))
    assert (run["status"], run["attempt"], run["dead"]) == ("failed", 1, True)
    assert run["error"]["type"] == "NonRetryable"
    assert project.witness().count(f"{word} {run['id']}") == 1


@pytest.mark.parametrize(("job", "word"), [("picky", "picky"), ("pickyStep", "pay")])
def test_error_of_a_class_that_is_not_retried_fails_at_once(
    project: Project, job: str, word: str
) -> None:
    """Of a job and of a step, `on` and `not_on`: two errors of other classes are retried, then the
    run has failed, long before its attempts are used up."""
    run = project.finish(project.begin(job))
    assert (run["status"], run["error"]["type"], run["dead"]) == ("failed", "Declined", True)
    assert project.witness().count(f"{word} {run['id']}") == 3


def test_project_names_types_that_are_not_retried(project: Project) -> None:
    """`[retry] not_on`, for jobs without a policy of their own."""
    run = project.finish(project.begin("lookup"))
    assert (run["status"], run["attempt"], run["error"]["type"]) == ("failed", 1, "KeyError")
    assert project.finish(project.begin("byProject"))["attempt"] == 3


def test_snooze_uses_up_no_attempt(project: Project) -> None:
    """Four snoozes, then the two attempts that the run has, a whole backoff apart."""
    run = project.finish(project.begin("snoozes"))
    assert (run["status"], run["attempt"], run["max_attempts"]) == ("failed", 6, 2)
    assert backoffs_ms(run, "attempt.failed") == [2, 2, 2, 2, 7]
    assert [each["outcome"] for each in run["attempts"]] == ["snoozed"] * 4 + ["failed"] * 2
    run = project.finish(project.begin("stepSnoozes"))
    assert (run["status"], run["result"], run["attempt"]) == ("completed", 5, 1)
    assert steps(run)["poll"]["attempts"] == 5


def test_retry_after_a_time(project: Project) -> None:
    """The next attempt comes at that very time."""
    run = project.begin("atTime", {"at": "2199-01-01T00:00:00Z"})
    seen = project.until_status(run, "retrying")
    assert "2199-01-01T00:00:00Z" in seen["why"]
    project.call("run.cancel", run=run)


@pytest.mark.parametrize("job", ["notNeeded", "notNeededStep"])
def test_handler_cancels_its_own_run(project: Project, job: str) -> None:
    """It is cancelled, for the reason that it gave, and no failure: neither retried, nor in the
    dead letter."""
    run = project.finish(project.begin(job))
    assert (run["status"], run["attempt"], run["dead"]) == ("cancelled", 1, False)
    assert (run["why"], run["why_code"]) == ("cancelled: the order is gone", "cancelled")
    assert (run["error"], run["result"]) == (None, None)
    assert [each["outcome"] for each in run["attempts"]] == ["cancelled"]
    project.call("run.retry", run=run["id"])
    assert project.finish(run["id"])["status"] == "cancelled"


def test_backoff_is_the_reason_why_a_run_waits(project: Project) -> None:
    """`retrying`, with which attempt comes when; for a step's backoff, with the step."""
    run = project.begin("waitsLong")
    seen = project.until_status(run, "retrying")
    told = project.call("run.why", run=run)
    assert told["why_code"] == "retrying" == seen["why_code"]
    assert told["why"].startswith("retry 2/3 at ")
    by_step = project.begin("stepWaitsLong")
    project.until_status(by_step, "retrying")
    told = project.call("run.why", run=by_step)
    assert told["why_code"] == "retrying"
    assert told["why"].startswith("step slow is tried again at ")
    assert (told["waiting_for"]["kind"], told["waiting_for"]["step"]) == ("retry", "slow")
    for each in (run, by_step):
        project.call("run.cancel", run=each)


def test_jitter_is_kept_by_a_restart(project: Project) -> None:
    """The time of the next attempt is on record: a daemon that reads the journal waits for that
    very time, and runs that failed together do not come back together."""
    runs = [project.begin("waitsLong") for _ in range(5)]
    for run in runs:
        project.until_status(run, "retrying")
    before = [backoffs_ms(project.get(run), "attempt.failed")[0] for run in runs]

    def told() -> list[str]:
        return [project.call("run.why", run=run)["why"].partition(" (")[0] for run in runs]

    why = told()
    assert all(3_240_000 <= each <= 3_960_000 for each in before)
    assert all(a != b for a, b in pairwise(sorted(before)))
    project.kill()
    project.start()
    assert told() == why
    for run in runs:
        project.call("run.cancel", run=run)
