"""Background tasks: whoever is to be answered is answered, and no failure is silent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from helpers.deadline import until
from stackshift_jobs.errors import Busy, StackshiftError
from stackshiftd.shell.tasks import Tasks


async def returns() -> str:
    """A task that ends well."""
    return "done"


async def refuses() -> None:
    """A task that ends with an error of ours."""
    raise Busy("not now")


async def breaks() -> None:
    """A task that ends as nobody thought of."""
    raise OSError(5, "Input/output error")


def answered(work: Any) -> Any:
    """What a client is answered with."""
    told: list[Any] = []

    async def story() -> None:
        Tasks().begin(work(), told.append)
        await until(lambda: told, "an answer")

    asyncio.run(story())
    [one] = told
    return one


def test_result_is_the_answer() -> None:
    """What the task returns."""
    assert answered(returns) == "done"


def test_refusal_is_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    """It is for the client alone, and not in the log."""
    told = answered(refuses)
    assert (type(told), str(told)) == (Busy, "not now")
    assert caplog.text == ""


def test_unforeseen_failure_is_answered_too(caplog: pytest.LogCaptureFixture) -> None:
    """The client is sent to the log, where the failure is."""
    told = answered(breaks)
    assert type(told) is StackshiftError
    assert told.hint == "stackshift daemon logs"
    assert "Input/output error" in caplog.text


@pytest.mark.parametrize("work", [refuses, breaks])
def test_failure_that_nobody_waits_for_is_logged(
    caplog: pytest.LogCaptureFixture, work: Any
) -> None:
    """Whichever it is."""

    async def story() -> None:
        Tasks().begin(work())
        await until(lambda: caplog.text, "a line in the log")

    asyncio.run(story())
    assert "a background task failed" in caplog.text


def test_cancelled_task_answers_nobody() -> None:
    """The daemon ends."""
    told: list[Any] = []

    async def story() -> None:
        tasks = Tasks()
        tasks.begin(asyncio.Event().wait(), told.append)
        await asyncio.sleep(0)
        tasks.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(story())
    assert told == []
