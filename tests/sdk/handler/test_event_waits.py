"""Waits for events: requested once, durable, and ended by the same event on every later pass."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from sdk.handler.passes import START_US, Ended, Record, play, play_async, play_either
from stackshift_jobs import AsyncJobContext, Event, JobContext, ReplayError, Usage
from stackshift_jobs.handler.ops import Ask

KINDS = pytest.mark.parametrize("kind", ["def", "async def"])
AT = datetime(2026, 11, 22, 6, 57, 11, tzinfo=UTC)


def came(
    name: str, payload: Any = None, key: str | None = None, *, timed_out: bool = False
) -> dict[str, Any]:
    """The outcome of a wait, as the daemon sends it when the event has arrived."""
    return {
        "id": "evt_1",
        "name": name,
        "correlation_key": key,
        "payload": payload,
        "received_at": "2026-11-22T06:57:11.000000Z",
        "timed_out": timed_out,
    }


TIMED_OUT = {
    "id": None,
    "name": "",
    "correlation_key": None,
    "payload": None,
    "received_at": None,
    "timed_out": True,
}


@KINDS
def test_event_that_arrives_later_ends_the_wait(kind: str) -> None:
    """The pass ends meanwhile; every later one gets the same event and asks for nothing."""
    record = Record()

    def call(ctx: Any) -> Any:
        return ctx.step.wait_for_event("paid", correlation_key="user:1", timeout="24h")

    assert play_either(kind, call, record) == Ended(parked=("paid",))
    terms = {"events": [["paid", "user:1"]], "timeout_ms": 86_400_000, "on_timeout": "fail"}
    assert record.asked() == [("paid", "event.wait", terms)]
    assert play_either(kind, call, record) == Ended(parked=("paid",))
    record.ends("paid", came("paid", {"id": 1}, "user:1"))
    for _ in range(2):
        ended = play_either(kind, call, record)
        assert ended == Ended(Event("paid", {"id": 1}, "user:1", "evt_1", AT, timed_out=False))
        assert ended.value
    assert len(record.told) == 1


class Kept(Record):
    """A daemon that has kept an event for the first wait."""

    def take(self, op: Any) -> Any:
        """Record `op`; a wait ends at once with the event `paid`."""
        answer = super().take(op)
        if isinstance(op, Ask):
            self.ends(op.step, came("paid", 7))
        return answer


@KINDS
def test_event_that_arrived_before_is_returned_at_once(kind: str) -> None:
    """The pass continues with it."""
    record = Kept()
    ended = play_either(kind, lambda ctx: ctx.step.wait_for_event("paid"), record)
    assert (ended.parked, ended.value.payload, ended.value.correlation_key) == ((), 7, None)
    assert record.asked() == [
        ("paid", "event.wait", {"events": [["paid", ""]], "timeout_ms": None, "on_timeout": "fail"})
    ]


@KINDS
def test_wait_that_timed_out_returns_an_event_that_is_falsy(kind: str) -> None:
    """It has the name that was waited for, and nothing else."""
    record = Record()

    def call(ctx: Any) -> Any:
        return ctx.step.wait_for_event("paid", timeout=1, on_timeout="continue")

    play_either(kind, call, record)
    assert record.recorded_calls["paid"].due_us == START_US + 1_000_000
    record.ends("paid", TIMED_OUT)
    for _ in range(2):
        event = play_either(kind, call, record).value
        assert not event
        assert event == Event("paid", timed_out=True)


@KINDS
def test_first_of_several_events_is_taken(kind: str) -> None:
    """One wait is for all of them, and its result says which one arrived."""
    record = Record()

    def call(ctx: Any) -> Any:
        return ctx.step.wait_for_any([("approved", "k"), ("rejected", None)], name="decision")

    assert play_either(kind, call, record) == Ended(parked=("decision",))
    (step, method, params) = record.asked()[0]
    assert (step, method) == ("decision", "event.wait")
    assert params["events"] == [["approved", "k"], ["rejected", ""]]
    record.ends("decision", came("rejected"))
    assert play_either(kind, call, record).value.name == "rejected"


@KINDS
def test_wait_for_several_that_timed_out_names_none(kind: str) -> None:
    """None of the events has priority."""
    record = Record()

    def call(ctx: Any) -> Any:
        waited = [("approved", "k"), ("rejected", "k")]
        return ctx.step.wait_for_any(waited, name="d", timeout=1, on_timeout="continue")

    play_either(kind, call, record)
    record.ends("d", TIMED_OUT)
    assert play_either(kind, call, record) == Ended(Event("", timed_out=True))


def test_waits_for_one_event_are_distinguished_by_occurrence() -> None:
    """A handler that waits in a loop gets one event after another."""
    record = Record()

    def handler(ctx: JobContext[Any]) -> list[Any]:
        return [ctx.step.wait_for_event("paid").payload for _ in range(2)]

    assert play(handler, record) == Ended(parked=("paid",))
    record.ends("paid", came("paid", 1))
    assert play(handler, record) == Ended(parked=("paid#2",))
    record.ends("paid#2", came("paid", 2))
    assert play(handler, record) == Ended([1, 2])


def test_wait_can_have_another_name_than_its_event() -> None:
    """So two branches can wait for the same event."""
    record = Record()

    async def handler(ctx: AsyncJobContext[Any]) -> Any:
        async def branch(n: int) -> Any:
            return (await ctx.step.wait_for_event("paid", name=f"branch {n}")).payload

        return await asyncio.gather(branch(0), branch(1))

    assert set(play_async(handler, record).parked) == {"branch 0", "branch 1"}
    for n in range(2):
        record.ends(f"branch {n}", came("paid", n))
    assert play_async(handler, record) == Ended([0, 1])


def test_branch_whose_wait_is_over_continues_while_another_waits() -> None:
    """Each branch has a wait of its own."""
    record = Record()

    async def handler(ctx: AsyncJobContext[Any]) -> Any:
        async def branch(name: str) -> Any:
            event = await ctx.step.wait_for_event(name)
            return await ctx.step.run(f"after {name}", lambda: event.payload)

        return await asyncio.gather(branch("a"), branch("b"))

    assert set(play_async(handler, record).parked) == {"a", "b"}
    record.ends("a", came("a", 1))
    assert play_async(handler, record) == Ended(parked=("b",))
    assert record.calls() == ["after a"]
    record.ends("b", came("b", 2))
    assert play_async(handler, record) == Ended([1, 2])


def test_wait_inside_a_step_is_refused() -> None:
    """A step's function cannot be suspended and resumed."""
    record = Record()

    def handler(ctx: JobContext[Any]) -> None:
        def work() -> None:
            with pytest.raises(ReplayError, match="inside the function of step 's'"):
                ctx.step.wait_for_event("paid")

        ctx.step.run("s", work)

    assert play(handler, record) == Ended()
    assert record.asked() == []


MISTAKES: dict[str, Callable[[Any], Any]] = {
    "name": lambda ctx: ctx.step.wait_for_event("", name="w"),
    "key": lambda ctx: ctx.step.wait_for_event("paid", correlation_key=""),
    "on_timeout": lambda ctx: ctx.step.wait_for_event("paid", on_timeout="fial"),
    "timeout": lambda ctx: ctx.step.wait_for_event("paid", timeout="-1s"),
    "none": lambda ctx: ctx.step.wait_for_any([], name="w"),
    "many": lambda ctx: ctx.step.wait_for_any([("e", str(n)) for n in range(33)], name="w"),
    "step": lambda ctx: ctx.step.wait_for_event("order#paid"),
}


@KINDS
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_in_a_wait_is_refused_before_it_begins(kind: str, mistake: str) -> None:
    """Nothing is requested, and the error is not retryable."""
    record = Record()
    assert isinstance(play_either(kind, MISTAKES[mistake], record).error, Usage)
    assert record.told == []


def test_wait_for_an_event_that_cannot_name_a_step_needs_a_name() -> None:
    """The error says how to give one, and with one the wait begins."""
    record = Record()
    error = play(lambda ctx: ctx.step.wait_for_event("order#paid"), record).error
    assert isinstance(error, Usage)
    assert "name=" in error.hint
    waits = play(lambda ctx: ctx.step.wait_for_event("order#paid", name="paid"), record)
    assert waits == Ended(parked=("paid",))
