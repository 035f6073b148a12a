"""Durable waits of a `def` handler: the pass ends, and the handler cannot prevent it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sdk.handler.passes import Ended, Record, play
from stackshift_jobs import ChildFailed, JobContext
from stackshift_jobs.errors import NonRetryable, Usage
from stackshift_jobs.handler.ops import AwaitRun, Sleep, StartChild
from stackshift_jobs.handler.replay import Unwinding

Context = JobContext[Any]


def test_sleep_ends_the_pass_and_a_later_one_continues_after_it() -> None:
    """What was done before it is not repeated."""
    record = Record()

    def handler(ctx: Context) -> str:
        ctx.step.run("a", int)
        ctx.step.sleep("nap", "24h")
        ctx.step.run("b", int)
        return "done"

    assert play(handler, record) == Ended(parked=("nap",))
    assert record.told[-1] == Sleep("nap", 86_400_000, None)
    assert play(handler, record) == Ended(parked=("nap",)), "not over yet"
    record.ends("nap")
    assert play(handler, record) == Ended("done")
    assert record.calls() == ["a", "b"]
    assert record.kinds() == ["RecordResult", "Sleep", "RecordResult"]


@pytest.mark.parametrize(
    "when",
    [
        "2027-01-01T09:00:00+01:00",
        datetime(2027, 1, 1, 8, tzinfo=UTC),
        datetime(2027, 1, 1, 8, tzinfo=UTC).astimezone().replace(tzinfo=None),
    ],
)
def test_sleep_until_takes_text_and_times_with_and_without_offset(when: Any) -> None:
    """A time without an offset is local."""
    record = Record()
    play(lambda ctx: ctx.step.sleep_until("nap", when), record)
    due = datetime(2027, 1, 1, 8, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    assert record.told == [Sleep("nap", None, due // timedelta(microseconds=1))]


def test_bad_duration_of_a_sleep_is_refused() -> None:
    """Nothing is recorded."""
    record = Record()
    assert isinstance(play(lambda ctx: ctx.step.sleep("nap", "-1s"), record).error, Usage)
    assert record.told == []


def test_except_exception_does_not_swallow_a_wait() -> None:
    """Unwinding is not an `Exception`."""
    record = Record()

    def handler(ctx: Context) -> str:
        try:
            ctx.step.sleep("nap", 1)
        except Exception:
            return "swallowed"
        return "slept"

    assert not issubclass(Unwinding, Exception)
    assert play(handler, record) == Ended(parked=("nap",))
    record.ends("nap")
    assert play(handler, record) == Ended("slept")


CALLS: dict[str, Callable[[Context], object]] = {
    "run": lambda ctx: ctx.step.run("other", int),
    "map": lambda ctx: ctx.step.map("other", int, [1]),
    "sleep": lambda ctx: ctx.step.sleep("other", 1),
    "start": lambda ctx: ctx.step.start("job"),
    "call": lambda ctx: ctx.step.call("job"),
    "result": lambda ctx: ctx.step.result("run_2"),
    "now": lambda ctx: ctx.now(),
    "uuid": lambda ctx: ctx.uuid(),
    "progress": lambda ctx: ctx.progress(1),
    "command": lambda ctx: ctx.step.command("other", ["true"]),
    "event": lambda ctx: ctx.step.wait_for_event("other"),
    "any": lambda ctx: ctx.step.wait_for_any([("other", None)], name="any"),
    "get": lambda ctx: ctx.state.get("other"),
    "set": lambda ctx: ctx.state.set("other", 1),
    "delete": lambda ctx: ctx.state.delete("other"),
    "increment": lambda ctx: ctx.state.increment("other"),
    "list": lambda ctx: ctx.state.list("other"),
    "history": lambda ctx: ctx.state.history("other"),
    "lock": lambda ctx: ctx.state.lock("other"),
    "send": lambda ctx: ctx.events.send("other"),
}


@pytest.mark.parametrize("call", CALLS)
def test_every_call_unwinds_again_while_the_pass_is_unwound(call: str) -> None:
    """A `finally` that uses `ctx` records nothing and runs nothing."""
    record = Record()
    again: list[bool] = []

    def handler(ctx: Context) -> None:
        try:
            ctx.step.sleep("nap", 1)
        finally:
            try:
                CALLS[call](ctx)
            except Unwinding:
                again.append(True)
                raise

    assert play(handler, record) == Ended(parked=("nap",))
    assert again == [True]
    assert record.kinds() == ["Sleep"]
    assert record.performed == []
    assert record.progress == []


def test_recorded_call_unwinds_too_while_the_pass_is_unwound() -> None:
    """A `finally` must not act on an answer as if the handler continued."""
    record = Record()
    went_on: list[Any] = []

    def handler(ctx: Context) -> None:
        try:
            ctx.step.sleep("nap", 1)
        finally:
            went_on.append(ctx.step.run("recorded", lambda: 1))

    play(lambda ctx: ctx.step.run("recorded", lambda: 1), record)
    assert play(handler, record) == Ended(parked=("nap",))
    assert went_on == []


# --- Children ------------------------------------------------------------------------------


def test_run_is_started_once_and_its_id_replays() -> None:
    """The options of the start are as on the wire."""
    record = Record()

    def handler(ctx: Context) -> str:
        return ctx.step.start("mail", {"to": "zoe"}, delay="10m", priority=5, queue=None)

    assert play(handler, record) == play(handler, record) == Ended("run_of_mail")
    options = b'{"delay_ms":600000,"priority":5}'
    assert record.told == [StartChild("mail", "mail", b'{"to":"zoe"}', False, False, options)]


def test_no_payload_means_an_empty_object() -> None:
    """As for any other start."""
    record = Record()
    play(lambda ctx: ctx.step.start("mail"), record)
    assert record.told == [StartChild("mail", "mail", b"{}", False, False, b"{}")]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"dealy": "10m"}, "start has no option 'dealy'"),
        ({"idempotency_key": ""}, "idempotency key"),
        ({"queue": "a\nb"}, "is not a valid queue name"),
        ({"delay": "1m", "scheduled_at": "2026-05-06T09:00:00Z"}, "both given"),
    ],
)
def test_child_is_started_by_the_rules_of_any_start(options: dict[str, Any], error: str) -> None:
    """A handler had rules of its own: some mistakes went unnoticed until the daemon refused them,
    and a time without an offset was sent as it was."""
    record = Record()
    ended = play(lambda ctx: ctx.step.start("mail", **options), record)
    assert isinstance(ended.error, Usage)
    assert error in str(ended.error)
    assert record.told == []


def test_call_waits_for_the_result_of_its_child() -> None:
    """The child is cancelled when this run is."""
    record = Record()

    def handler(ctx: Context) -> Any:
        return ctx.step.call("resize", {"id": 1}, name="small")

    assert play(handler, record) == Ended(parked=("small",))
    assert record.told == [StartChild("small", "resize", b'{"id":1}', True, True, b"{}")]
    assert play(handler, record) == Ended(parked=("small",))
    record.ends("small", {"pages": 3})
    assert play(handler, record) == play(handler, record) == Ended({"pages": 3})
    assert len(record.told) == 1


@pytest.mark.parametrize(("status", "error"), [("failed", "boom"), ("cancelled", "")])
def test_child_that_did_not_complete_raises_the_same_on_every_pass(status: str, error: str) -> None:
    """It is not retried if uncaught, and names its call, so that a retry makes the call again."""
    record = Record()

    def handler(ctx: Context) -> Any:
        return ctx.step.call("resize")

    play(handler, record)
    record.ends("resize", status=status, error=error)
    for _ in range(2):
        failed = play(handler, record).error
        assert isinstance(failed, ChildFailed)
        assert isinstance(failed, NonRetryable)
        assert (failed.run_id, failed.status) == ("run_of_resize", status)
        assert failed.fields["step"] == "resize"
        assert (failed.error or {}).get("message", "") == error


def test_result_waits_for_any_run() -> None:
    """Each wait has a name, and a second one is another call."""
    record = Record()

    def handler(ctx: Context) -> list[Any]:
        return [ctx.step.result("run_a"), ctx.step.result("run_b")]

    assert play(handler, record) == Ended(parked=("result",))
    record.ends("result", 1)
    assert play(handler, record) == Ended(parked=("result#2",))
    record.ends("result#2", 2)
    assert play(handler, record) == Ended([1, 2])
    assert record.told == [AwaitRun("result", "run_a"), AwaitRun("result#2", "run_b")]
