"""Errors of StackShift pass through whatever carries exceptions: copies, pickles, pools."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

from stackshift_jobs import CancelRun, ChildFailed, NonRetryable, RetryAfter, StepFailed
from stackshift_jobs.errors import CommandFailed, Conflict, RunCancelled, RunFailed, StackshiftError


class Declined(NonRetryable):
    """A job's own error, whose `__init__` takes what it likes and does not call ours."""

    def __init__(self, *, number: int) -> None:
        self.number = number


ERRORS: list[StackshiftError] = [
    NonRetryable("no", hint="ask again"),
    RetryAfter("30s", counts=False),
    RetryAfter(at="2026-05-06T09:00:00Z"),
    CancelRun("withdrawn"),
    Conflict("taken", owner="run_1"),
    StepFailed("charge", "Declined", "51", "the traceback", 3),
    CommandFailed(["pg_dump"], 1, "out", "err"),
    RunFailed("run_1", {"type": "ValueError", "message": "bad"}),
    RunCancelled("run_1", "cancelled: withdrawn"),
    ChildFailed("run_1", "failed", {"type": "ValueError", "message": "bad"}),
    Declined(number=51),
]


@pytest.mark.parametrize("passed", [copy.copy, lambda e: pickle.loads(pickle.dumps(e))])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_copy_of_an_error_says_the_same(
    error: StackshiftError, passed: Callable[[Any], Any]
) -> None:
    """Its class, text and fields are those of the original."""
    copied = passed(error)
    assert type(copied) is type(error)
    assert str(copied) == str(error)
    assert copied.as_json() == error.as_json()
    assert vars(copied) == vars(error)


def _later() -> None:
    raise RetryAfter("30s", "not yet")


def test_error_of_a_function_comes_out_of_a_pool_of_processes() -> None:
    """The pool broke (`BrokenProcessPool`) when it could not read the error."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        error = pool.submit(_later).exception(timeout=60)
    assert isinstance(error, RetryAfter)
    assert (str(error), error.delay_ms) == ("not yet", 30_000)


def test_error_without_our_init_has_what_every_error_has() -> None:
    """As far as that is known."""
    assert Declined(number=51).as_json() == {"code": "non_retryable", "message": "", "hint": ""}
    with pytest.raises(AttributeError):
        _ = Declined(number=51).nothing  # type: ignore[attr-defined]  # that is the point
