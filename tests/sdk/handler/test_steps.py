"""A step's result is recorded once and reused ever after, and so is its failure
(guarantee: recorded steps)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pytest

from sdk.handler.passes import Ended, Record, play
from stackshift_jobs import CancelRun, JobContext, NonRetryable, Retry, RetryAfter, StepFailed
from stackshift_jobs.errors import ReplayError, Usage
from stackshift_jobs.handler.failures import Failure
from stackshift_jobs.handler.ops import RecordFailure, RecordResult
from stackshift_jobs.handler.steps import Limits

Context = JobContext[Any]


def failed(record: Record) -> RecordFailure:
    """The last record, which must be a failure."""
    last = record.told[-1]
    assert isinstance(last, RecordFailure)
    return last


def failure(record: Record) -> Failure:
    """What the last record says of the error."""
    return failed(record).failure


def test_completed_step_is_not_run_again() -> None:
    """The second pass asks for nothing and calls no function."""
    record = Record()

    def handler(ctx: Context) -> Any:
        return ctx.step.run("add", lambda a, b: a + b, 1, b=2)

    assert play(handler, record) == Ended(3)
    told = list(record.told)
    assert [type(op) for op in told] == [RecordResult]
    for _ in range(2):
        assert play(handler, record) == Ended(3)
    assert record.told == told
    assert record.calls() == ["add"]


async def find() -> None: ...


@pytest.mark.parametrize(
    ("made", "shown"),
    [
        (lambda: 5, "a value of type int"),
        (lambda: None, "None"),
        (find, "the coroutine find, as the call of an `async def` function makes it,"),
    ],
    ids=["value", "nothing", "coroutine"],
)
def test_what_a_call_has_returned_is_no_function(made: Callable[[], Any], shown: str) -> None:
    """`run("find", find())` is the caller's mistake: it is said at once, in words that name it,
    and not tried again."""

    def handler(ctx: Context) -> Any:
        return ctx.step.run("find", made())

    record = Record()
    error = play(handler, record).error
    assert isinstance(error, Usage)
    assert str(error) == f"step 'find' was given {shown} instead of a function"
    assert not Failure.of(error).retryable
    assert record.told == []


def test_step_that_was_cut_off_before_its_record_runs_again() -> None:
    """It runs at least once: no record says that it ran before."""
    record = Record()

    def handler(ctx: Context) -> Any:
        return ctx.step.run("a", int)

    play(handler, record)
    del record.recorded_calls["a"]
    play(handler, record)
    assert record.calls() == ["a", "a"]


def test_steps_can_be_moved_added_and_removed_between_versions() -> None:
    """Each is identified by its name, never by its position."""
    record = Record()

    def first(ctx: Context) -> list[Any]:
        return [ctx.step.run("a", lambda: 1), ctx.step.run("b", lambda: 2)]

    def second(ctx: Context) -> list[Any]:
        return [ctx.step.run(name, lambda: 3) for name in ("c", "b", "a")]

    assert play(first, record) == Ended([1, 2])
    assert play(second, record) == Ended([3, 2, 1])
    assert record.calls() == ["a", "b", "c"]


class Size(Enum):
    """An enum, which JSON holds as its value."""

    SMALL = "small"


@dataclass
class Picture:
    """A dataclass, which JSON holds as an object."""

    name: str
    size: Size


VALUES: list[tuple[Any, Any]] = [
    ((1, 2), [1, 2]),
    ({2: "a", None: 2, True: 3}, {"2": "a", "null": 2, "true": 3}),
    (Picture("a", Size.SMALL), {"name": "a", "size": "small"}),
    (datetime(2026, 11, 22, tzinfo=UTC), "2026-11-22T00:00:00+00:00"),
    (Decimal("1.10"), "1.10"),
    (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (2**70, 2**70),
    ("Zoë \U0001f600", "Zoë \U0001f600"),
    (True, True),
    (1.0, 1.0),
    (None, None),
]


@pytest.mark.parametrize(("value", "read"), VALUES, ids=lambda value: type(value).__name__)
def test_value_is_the_one_read_back_from_json_on_the_first_pass_too(value: Any, read: Any) -> None:
    """Code cannot come to rely on what a replay would lose."""
    record = Record()
    seen = []

    def handler(ctx: Context) -> None:
        seen.append(ctx.step.run("a", lambda: value))

    play(handler, record)
    play(handler, record)
    assert seen == [read, read]
    assert [type(each) for each in seen] == [type(read)] * 2


def test_value_handed_out_is_not_the_object_the_step_returned() -> None:
    """Changing one does not change the other, as it would not on a replay."""
    made: list[int] = [1]

    def handler(ctx: Context) -> list[int]:
        got = ctx.step.run("a", lambda: made)
        made.append(2)
        return got

    assert play(handler, Record()) == Ended([1])


REFUSED: list[tuple[Any, str]] = [
    (math.nan, "$"),
    ({"sizes": [1, math.inf]}, "$.sizes[1]"),
    ({"image": b"png"}, "$.image"),
    ([{"tags": {1, 2}}], "$[0].tags"),
    ({"a": object()}, "$.a"),
    ({"a": "\ud800"}, "$.a"),
    ({1.5: 1}, "$"),
    ({1: "a", "1": "b"}, "$"),
    ([10**5000], "$[0]"),
    ("x" * (1 << 20), "$"),
]


@pytest.mark.parametrize(("value", "path"), REFUSED, ids=range(len(REFUSED)))
def test_value_that_json_cannot_hold_fails_the_step_for_good(value: Any, path: str) -> None:
    """It is not retried, whatever the step's policy, and the message names the place."""
    record = Record()

    def handler(ctx: Context) -> None:
        ctx.step.run("a", lambda: value, retry=Retry(max_attempts=5))

    ended = play(handler, record)
    assert isinstance(ended.error, StepFailed)
    assert ended.error.type == "PayloadRefused"
    assert getattr(ended.error.__cause__, "path", None) == path
    assert failure(record).retryable is False
    assert record.recorded_calls["a"].phase == "failed"


def test_limit_on_a_value_is_that_of_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    """`[limits] payload` counts the bytes of JSON."""
    monkeypatch.setattr(Limits, "value_bytes", 10)

    def handler(size: int) -> Callable[[Context], Any]:
        return lambda ctx: ctx.step.run("a", lambda: "x" * size)

    assert play(handler(8), Record()).error is None
    assert isinstance(play(handler(9), Record()).error, StepFailed)


def test_returns_decodes_the_recorded_value_to_a_type() -> None:
    """It does so on every pass."""
    record = Record()

    def handler(ctx: Context) -> str:
        picture = ctx.step.run("a", lambda: Picture("a", Size.SMALL), returns=Picture)
        assert isinstance(picture, Picture)
        return f"{picture.name}/{picture.size}"

    assert play(handler, record) == play(handler, record) == Ended("a/Size.SMALL")


# --- Failures ------------------------------------------------------------------------------


def fetch() -> None:
    """The function of a step that always fails."""
    raise OSError("no route")


def test_failure_of_a_step_is_the_same_on_every_pass() -> None:
    """Type, message and traceback replay; on the first pass, the original is the cause."""
    record = Record()

    def handler(ctx: Context) -> list[str]:
        try:
            ctx.step.run("fetch", fetch)
        except StepFailed as failed:
            causes.append(failed.__cause__)
            return [failed.step, failed.type, failed.message, failed.traceback]
        raise AssertionError("it failed")

    causes: list[BaseException | None] = []
    first, second = play(handler, record), play(handler, record)
    assert first == second
    assert first.value[:3] == ["fetch", "OSError", "no route"]
    assert 'raise OSError("no route")' in first.value[3]
    assert "stackshift_jobs" not in first.value[3]
    assert isinstance(causes[0], OSError)
    assert causes[1] is None
    assert record.calls() == ["fetch"]


def test_step_without_a_policy_has_one_try_per_attempt() -> None:
    """The run's policy decides whether there is another attempt."""
    record = Record()
    assert isinstance(play(lambda ctx: ctx.step.run("a", fetch), record).error, StepFailed)
    assert (failed(record).retry, failed(record).tried) == (None, 1)


def test_step_with_a_policy_waits_and_is_tried_again() -> None:
    """The backoff is a durable wait: the pass ends, and a later one tries again."""
    record = Record()
    answers: list[Any] = [OSError("1"), OSError("2"), "found"]

    def flaky() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def handler(ctx: Context) -> Any:
        return ctx.step.run("a", flaky, retry=Retry(max_attempts=3, backoff="5s"))

    for _ in range(2):
        assert play(handler, record) == Ended(parked=("a",))
        assert record.recorded_calls["a"].phase == "retrying"
        record.ends("a")
    assert play(handler, record) == Ended("found")
    assert [op.tried for op in record.performed] == [1, 2, 3]
    assert failure_terms(record) == Retry(max_attempts=3, backoff="5s").as_json()


def failure_terms(record: Record) -> dict[str, Any] | None:
    """The retry policy in the first recorded failure."""
    return next(op.retry for op in record.told if isinstance(op, RecordFailure))


def test_step_that_is_out_of_tries_has_failed() -> None:
    """The last failure is the one that replays."""
    record = Record()

    def handler(ctx: Context) -> Any:
        return ctx.step.run("a", fetch, retry=Retry(max_attempts=2))

    play(handler, record)
    record.ends("a")
    assert isinstance(play(handler, record).error, StepFailed)
    assert len(record.calls()) == 2


@pytest.mark.parametrize(
    ("error", "retryable", "after_ms", "at_us", "counts"),
    [
        (ValueError("x"), True, None, None, True),
        (NonRetryable("declined"), False, None, None, True),
        (CancelRun("not needed"), False, None, None, True),
        (RetryAfter("30s"), True, 30_000, None, True),
        (RetryAfter("30s", counts=False), True, 30_000, None, False),
        (RetryAfter(at="1970-01-01T00:00:02Z"), True, None, 2_000_000, True),
        (
            ExceptionGroup("", [RetryAfter("1s", counts=False), ValueError()]),
            True,
            1000,
            None,
            True,
        ),
        (ExceptionGroup("", [RetryAfter("1s", counts=False)] * 2), True, 1000, None, False),
    ],
)
def test_function_says_whether_and_when_it_is_tried_again(
    error: Exception, retryable: bool, after_ms: int | None, at_us: int | None, counts: bool
) -> None:
    """The failure is recorded with what the exception says; of a group, what its parts say."""

    def act() -> None:
        raise error

    record = Record()
    play(lambda ctx: ctx.step.run("a", act, retry=Retry()), record)
    said = failure(record)
    assert (said.retryable, said.retry_after_ms) == (retryable, after_ms)
    assert (said.retry_at_us, said.counts) == (at_us, counts)


def test_policy_is_told_the_classes_of_an_error() -> None:
    """All of them, the most derived first; none of what asks for its next try itself."""

    class Late(TimeoutError):
        pass

    def kinds(error: BaseException) -> list[list[str]]:
        return [[name.rpartition(".")[2] for name in part] for part in Failure.of(error).kinds]

    late = ["Late", "TimeoutError", "OSError", "Exception", "BaseException"]
    assert kinds(Late()) == [late]
    assert Failure.of(Late()).kinds[0][1] == "builtins.TimeoutError"
    group = ExceptionGroup("", [Late(), RetryAfter("1s"), StepFailed("a", "E", "m"), KeyError()])
    assert kinds(group) == [late, ["KeyError", "LookupError", "Exception", "BaseException"]]


def test_only_what_cancels_as_a_whole_cancels() -> None:
    """A group in which another part failed is a failure."""
    cancels = CancelRun("enough")
    assert Failure.of(cancels).cancels
    assert Failure.of(ExceptionGroup("", [cancels, CancelRun()])).cancels
    mixed = Failure.of(ExceptionGroup("", [cancels, ValueError()]))
    assert (mixed.cancels, mixed.retryable) == (False, False)


def test_step_that_cancelled_the_run_cancels_it_on_every_pass() -> None:
    """Also where only the record of the step is left of what it raised."""

    def act() -> None:
        raise CancelRun("not needed")

    record = Record()
    for _ in range(2):
        raised = play(lambda ctx: ctx.step.run("a", act), record).error
        assert isinstance(raised, StepFailed)
        assert Failure.of(raised).cancels
    assert len(record.calls()) == 1


def test_long_errors_are_bounded() -> None:
    """A message of megabytes is not written to the journal."""

    def act() -> None:
        raise ValueError("x" * 1_000_000)

    record = Record()
    play(lambda ctx: ctx.step.run("a", act), record)
    assert len(failure(record).message) <= 4096
    assert len(failure(record).traceback) <= 8192


def test_interrupted_step_has_not_failed() -> None:
    """What is not an `Exception` propagates, and nothing is recorded."""

    def act() -> None:
        raise KeyboardInterrupt

    record = Record()
    with pytest.raises(KeyboardInterrupt):
        play(lambda ctx: ctx.step.run("a", act), record)
    assert record.told == []


# --- Reads ---------------------------------------------------------------------------------


def test_time_and_uuids_are_those_of_the_first_pass() -> None:
    """Each call is a read of its own, and replays as such."""
    record = Record()

    def handler(ctx: Context) -> Any:
        return [ctx.now(), ctx.now(), ctx.uuid(), ctx.uuid()]

    first, second = play(handler, record), play(handler, record)
    assert first == second
    assert first.value[0].tzinfo is UTC
    assert first.value[2] != first.value[3]
    assert list(record.recorded_calls) == ["[now]", "[now]#2", "[uuid]", "[uuid]#2"]
    assert record.kinds() == ["RecordValue"] * 4


def test_key_of_a_step_is_stable_and_its_own() -> None:
    """It is an idempotency key for other systems, made from run and step, and not recorded."""
    record = Record()
    ended = play(lambda ctx: [ctx.step.key("charge"), ctx.step.key("refund")], record)
    assert ended == Ended(["run_1/charge", "run_1/refund"])
    assert record.told == []


def test_progress_is_reported_once() -> None:
    """A replay does not repeat what an earlier pass reported; after a map it reports again."""
    record = Record()

    def handler(ctx: Context) -> None:
        ctx.progress(0)
        ctx.step.map("resize", lambda size: size, [1, 2, 3])
        ctx.progress(1)
        ctx.step.sleep("nap", "1h")
        ctx.progress(2)

    assert play(handler, record).parked == ("nap",)
    assert record.progress == [0, 1]
    record.ends("nap")
    play(handler, record)
    assert record.progress == [0, 1, 2]


@pytest.mark.parametrize(
    ("done", "total", "told"),
    [
        (math.nan, None, "done is nan"),
        (1, math.inf, "total is inf"),
        (-math.inf, 2, "done is -inf"),
    ],
)
def test_progress_that_json_has_no_number_for_is_refused(
    done: float, total: float | None, told: str
) -> None:
    """It could not be read from the journal again."""
    record = Record()
    ended = play(lambda ctx: ctx.progress(done, total), record)
    assert isinstance(ended.error, Usage)
    assert ended.error.message == told
    assert record.progress == []


def test_step_inside_a_step_is_refused() -> None:
    """A step is recorded as a whole; the error names the step, and is not retryable."""
    record = Record()

    def handler(ctx: Context) -> Any:
        return ctx.step.run("outer", lambda: ctx.step.run("inner", int))

    ended = play(handler, record)
    assert isinstance(ended.error, StepFailed)
    assert isinstance(ended.error.__cause__, ReplayError)
    assert "'outer'" in ended.error.message
    assert failure(record).retryable is False
    assert record.calls() == ["outer"]
