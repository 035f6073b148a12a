"""`returns=T`: what calls on `ctx` give back as a type, in `def` and `async def` handlers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pydantic
import pytest

from sdk.handler.passes import Ended, Record, play_either
from stackshift_jobs.errors import PayloadRefused, ReplayError, StepFailed, Usage
from stackshift_jobs.handler.ops import RecordFailure
from stackshift_jobs.values.strict_json import plain

EITHER = pytest.mark.parametrize("kind", ["def", "async def"])


class Line(pydantic.BaseModel):
    sku: str


@dataclass
class Shift:
    begins: datetime
    lasts: timedelta
    lines: list[Line]


EIGHT = Shift(datetime(2026, 1, 5, 8, tzinfo=UTC), timedelta(hours=8), [Line(sku="x")])
BAD = plain(EIGHT) | {"lasts": "long"}


class Thing:
    """Nothing can be made of JSON as this."""


@EITHER
def test_step_returns_its_type_on_every_pass(kind: str) -> None:
    """On the first pass from what was written, on later ones from the record."""
    record = Record()
    call: Callable[[Any], Any] = lambda ctx: ctx.step.run("a", lambda: EIGHT, returns=Shift)  # noqa: E731
    assert [play_either(kind, call, record) for _ in range(3)] == [Ended(EIGHT)] * 3
    assert record.calls() == ["a"]


@EITHER
def test_result_that_does_not_fit_fails_the_step_before_it_is_recorded(kind: str) -> None:
    """For good: trying again would not help. Nothing is recorded as completed."""
    record = Record()

    def call(ctx: Any) -> Any:
        return ctx.step.run("a", lambda: BAD, returns=Shift)

    ended = play_either(kind, call, record)
    assert isinstance(ended.error, StepFailed)
    assert not ended.error.retryable
    assert isinstance(ended.error.__cause__, PayloadRefused)
    assert ended.error.__cause__.path == "$.lasts"
    assert "the result of step 'a' does not fit its type at $.lasts: " in ended.error.message
    assert [type(op) for op in record.told] == [RecordFailure]


@EITHER
def test_record_that_no_longer_fits_is_an_error_that_names_step_and_path(kind: str) -> None:
    """The type has changed since: a retry would not help, and the step does not run again."""
    record = Record()
    play_either(kind, lambda ctx: ctx.step.run("a", lambda: BAD), record)
    before = list(record.told)
    ended = play_either(kind, lambda ctx: ctx.step.run("a", lambda: BAD, returns=Shift), record)
    assert isinstance(ended.error, ReplayError)
    assert ended.error.fields == {"path": "$.lasts"}
    assert "result of step 'a' does not fit its type at $.lasts: " in str(ended.error)
    assert "--from 'a'" in ended.error.hint
    assert (record.told, record.calls()) == (before, ["a"])


@EITHER
def test_type_of_which_nothing_can_be_made_is_refused_before_the_step_runs(kind: str) -> None:
    """A mistake in the code: the function has not acted yet."""
    record = Record()
    calls: list[Callable[[Any], Any]] = [
        lambda ctx: ctx.step.run("a", lambda: 1, returns=Thing),
        lambda ctx: ctx.step.map("b", str, [1], returns=Thing),
        lambda ctx: ctx.step.call("job", returns=list[Thing]),
        lambda ctx: ctx.step.result("run_1", returns=Thing),
        lambda ctx: ctx.step.wait_for_event("e", returns=Thing),
    ]
    for call in calls:
        ended = play_either(kind, call, record)
        assert isinstance(ended.error, Usage), ended
        assert "Thing has no JSON form" in str(ended.error)
    assert record.told == []


@EITHER
def test_map_gives_each_result_its_type(kind: str) -> None:
    """An item whose result does not fit fails; the others finish."""
    record = Record()

    def call(ctx: Any) -> Any:
        return ctx.step.map("m", lambda n: timedelta(hours=n), [1, 2], returns=timedelta)

    hours = [timedelta(hours=1), timedelta(hours=2)]
    assert [play_either(kind, call, record) for _ in range(2)] == [Ended(hours)] * 2
    ended = play_either(kind, lambda ctx: ctx.step.map("n", str, [1, 2], returns=int), record)
    assert isinstance(ended.error, StepFailed)
    assert ended.error.step == "n[0]"
    assert record.calls() == ["m[0]", "m[1]", "n[0]", "n[1]"]


@EITHER
def test_result_of_a_run_has_its_type(kind: str) -> None:
    """Whether this run called it or was given its id."""
    calls: dict[str, Callable[[Any], Any]] = {
        "sub": lambda ctx: ctx.step.call("job", EIGHT, name="sub", returns=Shift),
        "of": lambda ctx: ctx.step.result("run_2", name="of", returns=Shift),
    }
    for step, call in calls.items():
        record = Record()
        assert play_either(kind, call, record) == Ended(parked=(step,))
        record.ends(step, EIGHT)
        assert play_either(kind, call, record) == Ended(EIGHT)
        record.recorded_calls[step] = record.recorded_calls[step]._replace(phase="waiting")
        record.ends(step, BAD)
        ended = play_either(kind, call, record)
        assert isinstance(ended.error, PayloadRefused)
        assert ended.error.path == "$.lasts"
        assert f"(call {step!r}) does not fit its type at $.lasts: " in str(ended.error)


@EITHER
def test_payload_of_an_event_has_its_type(kind: str) -> None:
    """A wait that timed out has no payload to convert."""
    body = {"name": "e", "correlation_key": "", "id": "evt_1", "timed_out": False}
    body |= {"received_at": "2026-01-05T08:00:00.000000Z"}
    calls: list[Callable[[Any], Any]] = [
        lambda ctx: ctx.step.wait_for_event("e", returns=Shift),
        lambda ctx: ctx.step.wait_for_any([("e", None), ("f", None)], name="e", returns=Shift),
    ]
    for call in calls:
        record = Record()
        assert play_either(kind, call, record) == Ended(parked=("e",))
        waiting = record.recorded_calls["e"]
        record.ends("e", body | {"payload": EIGHT})
        assert play_either(kind, call, record).value.payload == EIGHT
        record.recorded_calls["e"] = waiting
        record.ends("e", body | {"payload": BAD})
        ended = play_either(kind, call, record)
        assert isinstance(ended.error, PayloadRefused)
        assert "event 'e' (wait 'e') does not fit its type at $.lasts: " in str(ended.error)
        record.recorded_calls["e"] = waiting
        record.ends("e", {"timed_out": True})
        assert play_either(kind, call, record).value.timed_out is True


@EITHER
def test_value_of_the_state_has_its_type(kind: str) -> None:
    """The default is given back as it is."""
    record = Record()
    entry = {"key": "k", "version": 1, "expires_at": None, "updated_by": "client"}
    entry |= {"updated_at": "2026-01-05T08:00:00.000000Z"}
    record.answers = {
        "[state.get k]": entry | {"value": plain(EIGHT)},
        "[state.get bad]": entry | {"key": "bad", "value": BAD},
        "[state.get none]": None,
    }

    def get(key: str) -> Ended:
        return play_either(kind, lambda ctx: ctx.state.get(key, "none", returns=Shift), record)

    assert get("k") == get("k") == Ended(EIGHT)
    assert get("none") == Ended("none")
    refused = get("bad").error
    assert isinstance(refused, PayloadRefused)
    assert "the value of 'bad' does not fit its type at $.lasts: " in str(refused)


@EITHER
def test_function_can_have_parameters_named_name_and_fn(kind: str) -> None:
    """What is the step's own is `retry`, `timeout` and `returns`; nothing else."""
    record = Record()

    def greet(name: str, fn: str, key: str) -> str:
        return f"{name} {fn} {key}"

    def call(ctx: Any) -> Any:
        return ctx.step.run("greet", greet, name="bob", fn="f", key="k")

    assert play_either(kind, call, record) == Ended("bob f k")
