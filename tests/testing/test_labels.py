"""`ctx.label` under the fixture, in both kinds of handlers."""

from __future__ import annotations

from typing import Any

import pytest

from stackshift_jobs import AsyncJobContext, JobContext
from stackshift_jobs.testing import Stackshift


@pytest.mark.parametrize("when", ["before_record", "after_record"])
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_label_is_given_once_and_seen_alike_on_every_pass(
    stackshift: Stackshift, kind: str, when: str
) -> None:
    """Whether the worker dies before or after the record; runs are found by it."""
    seen: list[dict[str, str]] = []

    @stackshift.job("def")
    def labels(ctx: JobContext[Any]) -> dict[str, str]:
        seen.append(ctx.labels)
        ctx.label(customer="c_1")
        ctx.label({"order.id": "o-7"}, customer="c_2")
        ctx.step.sleep("rest", "1h")
        ctx.step.run("note", lambda: ctx.label(step="yes"))
        return ctx.labels

    @stackshift.job("async def")
    async def async_labels(ctx: AsyncJobContext[Any]) -> dict[str, str]:
        seen.append(ctx.labels)
        await ctx.label(customer="c_1")
        await ctx.label({"order.id": "o-7"}, customer="c_2")
        await ctx.step.sleep("rest", "1h")

        async def note() -> None:
            await ctx.label(step="yes")

        await ctx.step.run("note", note)
        return ctx.labels

    with stackshift.crashing("[label customer]", when):
        run = stackshift.start(kind, labels={"team": "sales"})
    found = stackshift.call("run.list", labels={"order.id": "o-7", "customer": "c_2"})["runs"]
    assert [each["id"] for each in found] == [run.id]
    mine = {"team": "sales", "customer": "c_2", "order.id": "o-7"}
    assert run.finish().result == mine
    assert run.labels == mine | {"step": "yes"}
    assert set(map(str, seen)) == {str({"team": "sales"})}
    given = [r["labels"] for r in run.timeline if r["kind"] == "run.labelled"]
    assert given == [{"customer": "c_1"}, {"customer": "c_2", "order.id": "o-7"}, {"step": "yes"}]
    stackshift.assert_replays(run)


def test_label_that_no_start_would_take_fails_the_attempt(stackshift: Stackshift) -> None:
    """The error says which, and why."""

    @stackshift.job("wrong")
    def wrong(ctx: JobContext[Any]) -> None:
        ctx.label(customer=7)  # type: ignore[arg-type]

    run = stackshift.start("wrong").finish()
    assert run.error is not None
    assert run.error["type"] == "Usage"
    assert run.error["message"] == "the label 'customer' is int, not text; hint: str(7)"
    assert run.labels == {}
