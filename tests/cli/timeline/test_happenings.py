"""Records in words: what `runs tail` says of each kind on a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from cli.fake_daemon import record, run_id
from stackshift_cli.output.clock import Clock
from stackshift_cli.timeline.happenings import KINDS, Facts, Happenings, names_its_step
from stackshift_jobs.values.durations import from_rfc3339
from stackshiftd.core.records import BY_KIND

T0 = "2026-05-06T09:00:00.000000Z"
CHILD = run_id(7)
ERROR = '"error": {"type": "TimeoutError", "message": "PUT timed out"}'

# A record as it is in the journal, then its mark and what is said of it.
NOT_YET = '{"type": "RetryAfter", "message": "not yet"}'
WORDS = f"""
run.created {{"job": "a", "queue": "media"}}
  queued: created in queue media
run.created {{"job": "a", "queue": "media", "scheduled_at": "{T0}", "parent": "{CHILD}"}}
  scheduled: created in queue media due 09:00:00 by 000007
run.queued {{"reason": "retry"}}
  queued: queued for its next attempt
run.failed {{{ERROR}, "reason": "attempts"}}
  failed: run failed: TimeoutError: PUT timed out
run.cancelled {{"reason": "parent"}}
  cancelled: run cancelled with its parent
run.retried {{"forgotten": ["a", "b"]}}
  queued: retried by a person; again: a, b
attempt.started {{"attempt": 2, "worker": "w1"}}
  running: attempt 2 started in worker w1
attempt.failed {{"attempt": 2, {ERROR}, "retry_at": "{T0}"}}
  retrying: attempt 2 failed: TimeoutError: PUT timed out; next attempt at 09:00:00
attempt.failed {{"attempt": 2, {ERROR}}}
  failed: attempt 2 failed: TimeoutError: PUT timed out
step.failed {{{ERROR}, "retry_at": "{T0}"}}
  retrying: TimeoutError: PUT timed out; tried again at 09:00:00
step.failed {{{ERROR}}}
  failed: failed: TimeoutError: PUT timed out
step.completed {{"tried": 3}}
  completed: completed at try 3
wait.started {{"wait": "event", "events": [["paid", "o:1"], ["gone", null]], "until": "{T0}"}}
  waiting: waits for event paid [o:1] or event gone until 09:00:00
wait.started {{"wait": "child", "job": "hello", "child": "{CHILD}"}}
  waiting: waits for hello 000007
wait.started {{"wait": "sleep", "until": "{T0}"}}
  waiting: sleeps until 09:00:00
wait.ended {{"status": "timed_out"}}
  cancelled: timed out
wait.ended {{"status": "failed", {ERROR}}}
  failed: the run it waited for failed: TimeoutError: PUT timed out
wait.ended {{"name": "paid", "correlation_key": "o:1", "result": {{"a": 1}}}}
  completed: got event paid [o:1] {{"a":1}}
call.refused {{"error": {{"code": "conflict", "message": "version 3"}}}}
  failed: refused: conflict: version 3
attempt.failed {{"attempt": 1, "error": {NOT_YET}, "retry_at": "{T0}", "counts": false}}
  retrying: attempt 1 snoozed: RetryAfter: not yet; next attempt at 09:00:00
step.failed {{"error": {NOT_YET}, "retry_at": "{T0}", "counts": false}}
  retrying: snoozed: RetryAfter: not yet; tried again at 09:00:00
run.cancelled {{"reason": "handler", "message": "the order is gone"}}
  cancelled: run cancelled by its handler: the order is gone
run.cancelled {{"reason": "parent"}}
  cancelled: run cancelled with its parent
run.completed {{"result": null, "continued_as": "{CHILD}"}}
  completed: run completed; it continues as 000007
run.completed {{"result": null, "follow_up": "{CHILD}"}}
  completed: run completed null; it started 000007
run.failed {{{ERROR}, "reason": "attempts", "follow_up": "{CHILD}"}}
  failed: run failed: TimeoutError: PUT timed out; it started 000007
run.created {{"queue": "media", "continues": "{CHILD}"}}
  queued: created in queue media; it continues 000007
progress.reported {{"done": 3.0, "total": 10.0, "message": "pages"}}
  running: progress 3/10 pages
state.set {{"key": "n", "value": 5, "op": "increment"}}
  completed: state n incremented to 5
lock.acquired {{"key": "index", "holder": "sync", "expires_at": "{T0}"}}
  running: lock index acquired by sync until 09:00:00
lock.released {{"key": "index", "reason": "expired"}}
  cancelled: lock index expired
event.received {{"name": "paid", "correlation_key": "o:1", "resumed": ["{CHILD}"]}}
  completed: event paid [o:1] received; resumed 000007
event.received {{"name": "paid", "correlation_key": null}}
  queued: event paid received; no run was waiting for it
queue.changed {{"queue": "media", "terms": {{"concurrency": 2}}}}
  : queue media changed: concurrency 2
schedule.fired {{"job": "a", "tick": "{T0}", "reason": "overlap"}}
  cancelled: tick 09:00:00 started nothing: the last run is still going on
clock.set_back {{"before": "{T0}"}}
  : daemon time set back; it was 09:00:00
journal.melted {{"why": "heat"}}
  : journal.melted why="heat"
"""


def cases() -> Iterator[Any]:
    """The pairs of lines above."""
    lines = WORDS.strip().splitlines()
    for given, words in zip(lines[::2], lines[1::2], strict=True):
        kind, _, body = given.partition(" ")
        yield pytest.param(kind, json.loads(body), words.strip(), id=words.strip())


def clock() -> Clock:
    """The clock at the beginning of the tests' records."""
    return Clock(from_rfc3339(T0))


@pytest.mark.parametrize(("kind", "body", "words"), list(cases()))
def test_record_is_put_into_words(kind: str, body: dict[str, Any], words: str) -> None:
    """Short ids, local times, and no field names; an unknown kind is shown as it is."""
    told = Happenings(lambda _: None).happening(record(1, kind, **body), clock())
    assert f"{told.mark}: {told.words}".replace("None", "") == words


def test_each_kind_of_record_has_words() -> None:
    """A kind that is added to the journal is added to the words."""
    assert frozenset(BY_KIND) == KINDS


def test_what_ended_says_how_long_it_took() -> None:
    """A step by its record, a wait and an attempt since they began, a run since it was created."""
    asked: list[str] = []

    def look_up(run: str) -> Facts | None:
        asked.append(run)
        return Facts("old", T0) if run == run_id(2) else Facts("", "")

    told = Happenings(look_up)
    run = run_id(1)
    records = [
        record(0, "run.created", run, job="a", queue="q"),
        record(1, "attempt.started", run, attempt=1, worker="w"),
        record(2, "step.completed", run, step="s", duration_ms=250),
        record(3, "wait.started", run, step="p", wait="sleep"),
        record(9, "wait.ended", run, step="p"),
        record(10, "attempt.failed", run, attempt=1, error={}),
        record(11, "run.failed", run, error={}),
        record(12, "run.completed", run_id(2)),
        record(13, "run.completed", run_id(3)),
        record(14, "state.set", key="k", value=1),
    ]
    facts = [told.facts(each) for each in records]
    took = [told.happening(each, clock()).took_ms for each in records]
    assert took == [None, None, 250, None, 6000, 9000, 11_000, 12_000, None, None]
    jobs = [known.job if known is not None else None for known in facts[-4:]]
    assert jobs == ["a", "old", "", None]
    assert asked == [run_id(2), run_id(3)]


def test_run_that_could_not_be_looked_up_is_looked_up_again() -> None:
    """The daemon was gone for a moment; what it says then is remembered."""
    found = [None, Facts("a", T0)]
    told = Happenings(lambda _: found.pop(0))
    records = [record(n, "step.completed", run_id(1), step="s") for n in (1, 2, 3)]
    assert [told.facts(each) for each in records] == [None, Facts("a", T0), Facts("a", T0)]


@pytest.mark.parametrize(
    ("kind", "body", "named"),
    [
        ("state.set", {"key": "n", "value": 1, "step": "[state.set n]"}, True),
        ("wait.started", {"wait": "sleep", "step": "pause"}, False),
        ("wait.started", {"wait": "lock", "lock": "index", "step": "[lock index]"}, True),
        ("step.completed", {"step": "completed"}, False),
    ],
)
def test_step_is_not_named_twice(kind: str, body: dict[str, Any], named: bool) -> None:
    """A call that is named after its key or event is named by the words alone."""
    given = record(1, kind, run_id(1), **body)
    assert names_its_step(given, Happenings(lambda _: None).happening(given, clock())) is named
