"""`ctx.step.first` in real workers: one decision, whatever dies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stackshift_jobs import AsyncJobContext, JobContext, Retry
from stackshift_jobs.errors import StepFailed
from stackshift_jobs.testing import Run, Stackshift
from worker.test_random_handlers import EveryCall

Calls = dict[str, Callable[[], Any]]


def calls_of(case: str, step: Any) -> Calls:
    """The calls of a race."""
    late = {"late": lambda: step.sleep("late", "2h")}
    cases: dict[str, Calls] = {
        "sleep": late | {"soon": lambda: step.sleep("soon", "1h")},
        "event": late | {"paid": lambda: step.wait_for_event("paid")},
        "too-late": {"paid": lambda: step.wait_for_event("paid")} | late,
        "failure": late | {"bad": lambda: step.run("bad", int, "no number")},
        "step": late | {"good": lambda: step.run("good", int, "3")},
    }
    return cases[case]


def race(stackshift: Stackshift, kind: str) -> None:
    """Define the job `race`, which returns what the race gives, after a rest."""
    if kind == "async def":

        @stackshift.job("race", retry=Retry(max_attempts=1))
        async def race_async(ctx: AsyncJobContext[Any]) -> Any:
            calls = calls_of(ctx.payload, ctx.step)
            try:
                name, _ = await ctx.step.first("d", **{key: calls[key]() for key in calls})
            except StepFailed as failed:
                name = f"failed {failed.step}"
            await ctx.step.sleep("rest", "5h")
            return name
    else:

        @stackshift.job("race", retry=Retry(max_attempts=1))
        def race(ctx: JobContext[Any]) -> Any:
            try:
                name, _ = ctx.step.first("d", **calls_of(ctx.payload, ctx.step))
            except StepFailed as failed:
                name = f"failed {failed.step}"
            ctx.step.sleep("rest", "5h")
            return name


def of(run: Run, kind: str) -> list[str]:
    """The calls of the run's records of this kind."""
    return [record["step"] for record in run.timeline if record["kind"] == kind]


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("crashing", [False, True], ids=["whole", "crashing"])
@pytest.mark.parametrize(
    ("case", "won", "lost"),
    [
        ("sleep", "soon", ["late"]),
        ("event", "paid", ["late"]),
        ("too-late", "late", ["paid"]),
        ("failure", "failed bad", None),
        ("step", "good", None),
    ],
)
def test_first_outcome_decides_on_every_pass(
    stackshift: Stackshift, kind: str, crashing: bool, case: str, won: str, lost: list[str] | None
) -> None:
    """One decision at most is recorded, what lost is withdrawn once, and an event that comes after
    it changes nothing, also if the worker dies whenever something is recorded."""
    race(stackshift, kind)
    if crashing:
        stackshift._bench.home.crashes.arm(EveryCall())
    run = stackshift.start("race", case)
    if case == "too-late":
        stackshift.advance("2h")
    if case in ("event", "too-late"):
        stackshift.events.send("paid")
    assert run.finish().result == won
    assert ("attempt.lost" in run.kinds) == crashing
    assert of(run, "value.recorded") == ["d"]
    if lost is not None:
        assert of(run, "call.withdrawn") == lost
    stackshift.assert_replays(run)
