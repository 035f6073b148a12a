"""A history with every kind of record: what `freeze` writes into a frozen journal.

It is told by commands, so that each record is one that a daemon would write. It ends with runs in
most statuses, entries, a lock, a kept event, keys and schedules, so that the state has all of its
parts too.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import Raw

from core.schedule_story import ScheduledStory
from core.story import ONCE, STEADY
from stackshift_jobs.values.names import NOTIFY_JOB
from stackshift_jobs.values.strict_json import dumps
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.state.state import Status

DAY_MS: Final = 86_400_000


def story() -> ScheduledStory:
    """The whole history."""
    made = ScheduledStory("2026-11-22 08:00")
    made.claim()
    made.do(c.NoteRecovery(1, 131, "quarantine/00000000000000000001-4711-0123456789ab.tail"))
    made.wall_us -= 60_000_000
    assert made.set_clock_back()
    _queues(made)
    _one_run(made)
    _failures(made)
    _cancelled(made)
    _by_kind(made)
    _followed(made)
    _continued(made)
    _held(made)
    _state(made)
    _locks(made)
    _events(made)
    _withdrawn(made)
    _schedules(made)
    _alerts(made)
    _unfinished(made)
    made.do(c.NoteSnapshot(40, "0" * 64))
    made.do(c.NoteWatermark())
    made.do(c.Close())
    return made


def _queues(made: ScheduledStory) -> None:
    made.declare("file", media=r.QueueTerms(concurrency=100, rate_burst=100))
    made.declare("code", media=r.QueueTerms(rate=600, rate_per_ms=60_000, key_concurrency=9))
    made.limit("mail", paused=True, concurrency=3)


def _running(made: ScheduledStory, job: str = "resize", value: object = None) -> str:
    run = made.start(job, value)
    assert made.assign() == run
    return run


def _one_run(made: ScheduledStory) -> None:
    payload = {"name": "Größe 😀", "big": 2**70, "nested": [[1.5, None, True], {}]}
    run = made.start("resize", payload, key="order-7", concurrency_key="customer:1", priority=2)
    assert made.assign() == run
    token = made.token
    made.step_done(run, "download", {"bytes": 48213, "text": "a\nb\u2028"})
    made.do(c.OpenStep(run, token(run), "convert", 1, r.Program(4711, "boot:99")))
    made.checkpoints(run, "convert", {"page": 7})
    made.step_fails(run, "convert", retry=r.RetryTerms(3, 1000, jitter=0.0))
    made.tick(to="1s")
    made.do(c.CompleteStep(run, token(run), 3, "convert", Raw(b'"x"'), 5, 2, "d1"))
    made.reads(run, "[now]", "2026-11-22T08:00:00Z")
    made.labels(run, "[label customer]", customer="c_1")
    made.do(c.ReportProgress(run, token(run), 1.5, 3.0, "half"))
    child = made.calls(run, "child")
    assert made.assign() == child
    made.suspends(run)
    made.completes(child, [1, 2])
    assert made.assign() == run
    made.starts(run, "other", "mailed")
    made.sleeps(run, "cool-down", "2h")
    made.suspends(run)
    made.tick(to="2h")
    for _ in range(2):
        made.assign()
    refusal = dumps({"code": "conflict", "message": "it has version 3", "hint": ""})
    made.do(c.RefuseCall(run, token(run), 5, "[state set a]", Raw(refusal)))
    made.lose(run)
    assert made.assign() == run
    made.completes(run, {"sizes": [64, 256]})


def _failures(made: ScheduledStory) -> None:
    run = _running(made)
    made.step_done(run, "a", 1)
    made.step_fails(run, "b", retryable=False)
    made.fails(run, step="b")
    made.tick(to="1s")
    assert made.assign() == run
    made.fails(run, retryable=False)
    made.retry(run, replaced={"b": "by hand"})
    assert made.assign() == run
    made.fails(run, retryable=False)
    fork = made.fork(run, from_step="b")
    assert fork.run
    assert made.assign() == fork.run
    made.completes(fork.run)
    made.discard(run)
    made.retry(run)
    assert made.assign() == run
    made.fails(run, retryable=False)
    gone = _running(made)
    made.completes(gone)
    made.remove(gone)


def _cancelled(made: ScheduledStory) -> None:
    run = _running(made)
    made.cancel(run)
    made.stops(run)
    made.start("resize", unique="one", delay="1h")
    made.start("resize", unique="one", on_duplicate="attach", key="attached")
    made.start("resize", unique="one", on_duplicate="replace", delay="2h")
    moved = made.start("resize", delay="2h", ttl="1d", deadline="2d")
    made.move(moved, delay="3h", priority=2, queue="mail")
    done = _running(made)
    made.completes(done)
    made.start("resize", queue="mail", after=[done, moved], even_if_failed=True)
    made.start("resize", queue="mail", ttl="1ms")
    made.tick(to="1ms")
    gentle = _running(made)
    made.calls(gentle, "child")
    (child,) = (each for each in made.state.runs.values() if each.parent == gentle)
    assert made.assign() == child.id
    made.cancel(gentle, gently=True, grace="1m")
    made.suspends(gentle)
    assert made.told(child.id, "look")
    made.ends_told(child.id)
    assert made.assign() == gentle
    assert made.told(gentle)
    made.ends_told(gentle)
    saga = _running(made)
    made.do(c.OpenStep(saga, made.token(saga), "charge", undo=True))
    made.step_done(saga, "charge", undo=True)
    made.fails(saga, retryable=False)
    assert made.assign() == saga
    made.undoes(saga)
    made.ends_undone(saga)
    made.discard(saga)
    own = _running(made)
    made.step_fails(own, "look", retryable=False)
    made.fails(own, step="look", cancels=True)


def _followed(made: ScheduledStory) -> None:
    terms = r.FollowUp("clean", "mail", STEADY, 1000, 1, 60_000, 120_000)
    for fails in (False, True):
        run = made.start("resize", on_failure=terms, on_success=r.FollowUp("clean"))
        assert made.assign() == run
        if fails:
            made.fails(run, retryable=False)
        else:
            made.completes(run)
        (created,) = (x for x in made.decision.records if isinstance(x, r.RunCreated))
        made.cancel(created.run)


def _continued(made: ScheduledStory) -> None:
    parent = _running(made, "report")
    first = made.calls(parent, "loop")
    assert made.assign() == first
    second = made.continues(first, {"turn": 2})
    assert made.assign() == second
    waiter = _running(made)
    made.awaits(waiter, "result", second)
    third = made.continues(second, {"turn": 3})
    assert made.assign() == third
    late = made.calls(waiter, "late", timeout="1m", on_timeout="continue")
    assert made.assign() == late
    made.tick(to="1m")
    made.stops(late)
    made.starts(waiter, "helper", ends_with_parent=True)
    made.completes(waiter)


def _by_kind(made: ScheduledStory) -> None:
    terms = r.RetryTerms(2, on=["OSError"], not_on=["jobs.pay.Declined"])
    run = made.start("pay", retry=terms)
    assert made.assign() == run
    made.step_fails(run, "poll", retry=STEADY, after="1s", counts=False)
    made.tick(to="1s")
    made.fails(run, after="1s", counts=False, kinds=[["builtins.OSError"]])
    made.tick(to="1s")
    assert made.assign() == run
    made.fails(run, kinds=[["jobs.pay.Declined", "builtins.Exception"]])


def _held(made: ScheduledStory) -> None:
    run = made.start("missing")
    made.assign(without="missing")
    made.define("missing")
    assert made.assign() == run
    made.completes(run)


def _state(made: ScheduledStory) -> None:
    run = _running(made)
    at: dict[str, Any] = {"run": run, "token": made.token(run), "call": 4}
    made.do(c.SetState(**at, step="[state set a]", key="a", value=b'{"b":[1]}'))
    made.do(c.SetState(key="short", value=b"1", ttl_ms=60_000))
    made.do(c.SetState(key="gone", value=b'"x"'))
    made.do(c.DeleteState(key="gone", remember_ms=DAY_MS))
    made.do(c.IncrementState(key="n", by=b"2.5"))
    made.tick(to="2m")
    made.completes(run)


def _locks(made: ScheduledStory) -> None:
    run = _running(made)
    at: dict[str, Any] = {"run": run, "token": made.token(run), "call": 4}
    made.do(c.AcquireLock(**at, step="[lock k]", key="k", ttl_ms=60_000))
    made.do(c.AcquireLock(key="k", ttl_ms=30_000, wait_ms=60_000, asker="c1", holder="sync.sh"))
    made.do(c.AcquireLock(key="k", ttl_ms=30_000, wait_ms=60_000, asker="c2"))
    made.do(c.WithdrawLock("k", "c2"))
    made.do(c.ExtendLock(**at, step="[extend k]", key="k", ttl_ms=90_000))
    made.do(c.ReleaseLock(**at, lock="[lock k]"))
    made.completes(run)


def _events(made: ScheduledStory) -> None:
    run = _running(made)
    at: dict[str, Any] = {"run": run, "token": made.token(run), "call": 4}
    wanted = [("approved", "img_1"), ("declined", "")]
    made.do(
        c.AwaitEvent(**at, step="decision", events=wanted, timeout_ms=DAY_MS, on_timeout="continue")
    )
    made.do(
        c.SendEvent(
            event="evt_1",
            name="approved",
            correlation_key="img_1",
            payload=b'{"by":"ada"}',
            key="mail-1",
            digest="d1",
        )
    )
    made.do(c.SendEvent(**at, step="[send x]", event="evt_2", name="x", payload=b"{}", ttl_ms=1000))
    made.tick(to="2s")
    made.do(c.SendEvent(event="evt_3", name="kept", payload=b'"later"'))
    made.completes(run)


def _withdrawn(made: ScheduledStory) -> None:
    run = _running(made)
    made.sleeps(run, "long", "1h")
    made.do(c.WithdrawCall(run, made.token(run), "long"))
    made.do(
        c.AwaitEvent(run=run, token=made.token(run), call=3, step="again", events=[("kept", "")])
    )
    body = made.run(run).calls["again"].body
    assert isinstance(body, bytes)
    made.do(c.WithdrawCall(run, made.token(run), "again", Raw(body)))
    made.completes(run)


def _schedules(made: ScheduledStory) -> None:
    made.schedule("nightly", "0 9 * * *", "Europe/Berlin", overlap="queue", payload={"n": 1})
    made.schedule("hourly", "@hourly")
    made.schedule("nightly", "@every 2h", name="nightly/often", jitter="1h", overlap="cancel")
    made.schedule("warm", "@reboot", catch_up_for="6h")
    made.add("added", "0 4 * * *", job="nightly", note="# backups")
    made.add("removed", "0 5 * * *", job="nightly")
    made.rm("removed")
    made.boot = "boot-2"
    made.learn()
    made.schedule("former", "@daily")
    for run in made.goes_on("2h"):
        made.assign()
        made.completes(run)
    made.pause("nightly")
    made.resume("nightly")
    made.pause("nightly")
    del made.code["former"]
    made.learn()


def _taken(made: ScheduledStory, run: str) -> str:
    """The run, which a worker has taken, with those before it."""
    while made.run(run).status is not Status.RUNNING:
        assert made.assign() is not None
    return run


def _alerts(made: ScheduledStory) -> None:
    terms = r.NotifyTerms(["failed", "late", "missing", "recovered"], ["bad*"], most=2)
    made.notify(ops=terms, former=r.NotifyTerms())
    made.notify(ops=terms)
    made.expect({"bad": "every 1h", "former": "daily by 03:00"}, {"bad": made.now_us})
    made.expect({"bad": "every 1h"})
    for times in range(4):
        run = _taken(made, made.start("bad", retry=ONCE, max_runtime="1m"))
        if times == 1:
            made.tick(to="1m")  # Late.
        if times < 3:
            made.fails(run)
        else:
            made.completes(run)
    made.tick(to="1h")
    made.expect({"bad": "hourly by :30"})
    made.completes(_taken(made, made.start("bad")))
    made.tick(to="1h")
    for message in [run for run in made.state.runs.values() if run.job == NOTIFY_JOB]:
        made.cancel(message.id)


def _unfinished(made: ScheduledStory) -> None:
    """Runs that a snapshot has to keep."""
    made.start("resize", delay="30d", key="later")
    made.start("resize", queue="mail")
    waiting = _running(made)
    made.do(
        c.AwaitEvent(
            run=waiting, token=made.token(waiting), call=1, step="e", events=[("never", "k")]
        )
    )
    made.suspends(waiting)
    holder = _running(made)
    made.do(c.AcquireLock(run=holder, token=made.token(holder), call=1, step="[l]", key="l"))
    made.do(c.AcquireLock(key="l", ttl_ms=1000, wait_ms=DAY_MS, asker="c9", holder="cron"))
    failed = made.start("resize", retry=ONCE)
    assert made.assign() == failed
    made.fails(failed)
    retrying = _running(made)
    made.fails(retrying)
