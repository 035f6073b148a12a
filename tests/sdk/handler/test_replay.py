"""The identity of a call: its name and occurrence, when it is called; one branch per name."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from sdk.handler.passes import Ended, Record, play, play_either
from stackshift_jobs import JobContext
from stackshift_jobs.errors import ReplayError, Usage

Context = JobContext[Any]


def test_repeated_name_is_distinguished_by_occurrence() -> None:
    """`page`, `page#2` and `page#3` each have a result of their own."""
    record = Record()

    def handler(ctx: Context) -> list[Any]:
        return [ctx.step.run("page", lambda n=n: n) for n in range(3)]

    assert play(handler, record) == play(handler, record) == Ended([0, 1, 2])
    assert list(record.recorded_calls) == ["page", "page#2", "page#3"]


def test_loop_that_grew_runs_only_what_is_new() -> None:
    """Earlier occurrences keep their results."""
    record = Record()

    def handler(count: int) -> Any:
        return lambda ctx: [ctx.step.run("page", lambda n=n: n) for n in range(count)]

    play(handler(2), record)
    assert play(handler(4), record) == Ended([0, 1, 2, 3])
    assert record.calls() == ["page", "page#2", "page#3", "page#4"]


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ("run", "sleep", "recorded as a step; the code now asks for a sleep"),
        ("sleep", "run", "recorded as a sleep; the code now asks for a step"),
        ("start", "call", "the start of a run; the code now asks for a wait for a run"),
        ("call", "start", "a wait for a run; the code now asks for the start of a run"),
        ("run", "map", "recorded as a step; the code now asks for a map"),
    ],
)
def test_record_of_another_kind_is_refused(first: str, second: str, told: str) -> None:
    """The error says what is recorded and what the code asks for, and is not retryable."""
    ways: dict[str, Any] = {
        "run": lambda ctx: ctx.step.run("a", int),
        "sleep": lambda ctx: ctx.step.sleep("a", 1),
        "start": lambda ctx: ctx.step.start("job", name="a"),
        "call": lambda ctx: ctx.step.call("job", name="a"),
        "map": lambda ctx: ctx.step.map("a", int, [1]),
    }
    record = Record()
    play(ways[first], record)
    before = dict(record.recorded_calls)
    ended = play(ways[second], record)
    assert isinstance(ended.error, ReplayError)
    assert told in str(ended.error)
    assert record.recorded_calls == before


def test_name_used_from_two_threads_is_refused_at_once() -> None:
    """Their order would be random."""
    record = Record()
    caught: list[BaseException] = []

    def handler(ctx: Context) -> Any:
        def other() -> None:
            try:
                ctx.step.run("page", int)
            except ReplayError as error:
                caught.append(error)

        ctx.step.run("page", int)
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    play(handler, record)
    assert "used from two threads" in str(caught[0])
    assert record.calls() == ["page"]


def test_two_threads_with_names_of_their_own_are_fine() -> None:
    """Each branch is identified by the names it uses."""
    record = Record()

    def handler(ctx: Context) -> Any:
        threads = [threading.Thread(target=ctx.step.run, args=(f"page-{n}", int)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert play(handler, record).error is None
    assert sorted(record.recorded_calls) == [f"page-{n}" for n in range(4)]


@pytest.mark.parametrize("name", ["", "a#2", "a[0]", "a=b", "a\nb", "x" * 129, 7])
def test_name_that_cannot_name_a_step_is_refused(name: Any) -> None:
    """Before anything runs."""
    record = Record()
    assert isinstance(play(lambda ctx: ctx.step.run(name, int), record).error, Usage)
    assert record.performed == []


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("method", ["call", "start"])
def test_call_of_another_job_under_a_recorded_name_is_refused(kind: str, method: str) -> None:
    """It would be given the result of the first job. The error names both, and a record that does
    not say which job it was, from an early journal, answers any."""
    record = Record()

    def ask(job: str) -> Ended:
        return play_either(kind, lambda ctx: getattr(ctx.step, method)(job, name="sub"), record)

    first = ask("a")
    assert first.error is None
    told = list(record.told)
    assert ask("a") == first
    refused = ask("b").error
    assert isinstance(refused, ReplayError)
    assert str(refused) == "'sub' is recorded as a call of job 'a'; the code now calls 'b'"
    record.recorded_calls["sub"] = record.recorded_calls["sub"]._replace(job="")
    assert ask("b") == first
    assert record.told == told


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_wait_for_another_run_under_a_recorded_name_is_refused(kind: str) -> None:
    """As is a wait, under the name of a call, for a run that it did not start."""
    record = Record()

    def ask(run: str) -> Ended:
        return play_either(kind, lambda ctx: ctx.step.result(run), record)

    assert ask("run_2") == ask("run_2") == Ended(parked=("result",))
    refused = ask("run_3").error
    assert isinstance(refused, ReplayError)
    assert "is recorded as a wait for run_2; the code now waits for run_3" in str(refused)
