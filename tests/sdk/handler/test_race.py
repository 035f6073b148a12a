"""`ctx.step.first` without a daemon: the decision is recorded, and followed."""

from __future__ import annotations

from typing import Any

import pytest

from sdk.handler.passes import Record, play, play_async
from stackshift_jobs import AsyncJobContext, JobContext
from stackshift_jobs.errors import ReplayError, Usage


def two_sleeps(ctx: JobContext[Any]) -> Any:
    """A race between two waits."""
    return ctx.step.first(
        "d", a=lambda: ctx.step.sleep("a", "1s"), b=lambda: ctx.step.sleep("b", "2s")
    )


def test_race_without_an_outcome_waits_for_all_of_its_calls() -> None:
    """Each begins once, however often the race is looked at."""
    record = Record()
    assert play(two_sleeps, record).parked == ("a", "b")
    assert play(two_sleeps, record).parked == ("a", "b")
    assert record.kinds() == ["Sleep", "Sleep"]
    assert record.withdrawn == []


def test_decision_on_record_is_followed_by_later_passes() -> None:
    """Even if the call that lost has an outcome by then."""
    record = Record()
    play(two_sleeps, record)
    record.ends("b")
    assert play(two_sleeps, record).value == ("b", None)
    assert record.withdrawn == ["a"]
    record.ends("a")
    assert play(two_sleeps, record).value == ("b", None)
    assert record.kinds() == ["Sleep", "Sleep", "RecordValue"]


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_race_without_calls_is_refused(kind: str) -> None:
    """At once, with an example."""

    async def handler(ctx: AsyncJobContext[Any]) -> Any:
        return await ctx.step.first("d")

    record = Record()
    ended = play(lambda ctx: ctx.step.first("d"), record)
    if kind == "async def":
        ended = play_async(handler, record)
    assert isinstance(ended.error, Usage)
    assert record.told == []


def test_decision_for_a_call_that_the_code_no_longer_has_is_an_error() -> None:
    """And is not decided again."""
    record = Record()
    play(two_sleeps, record)
    record.ends("a")
    play(two_sleeps, record)
    ended = play(lambda ctx: ctx.step.first("d", b=lambda: ctx.step.sleep("b", "2s")), record)
    assert isinstance(ended.error, ReplayError)
    assert "decided by 'a', which the code no longer has" in str(ended.error)
