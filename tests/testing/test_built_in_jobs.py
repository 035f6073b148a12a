"""The built-in jobs in a test: they are there, beside those of the project."""

from __future__ import annotations

import pytest

from stackshift_jobs.errors import PayloadRefused
from stackshift_jobs.testing import Stackshift


def test_program_runs_and_fails_with_its_status(stackshift: Stackshift) -> None:
    """Its status is the result, or stands in the error of the run, the attempt and the step."""
    run = stackshift.start("exec", {"command": ["true"]})
    assert (run.status, run.result) == ("completed", {"exit_code": 0})
    failed = stackshift.start("exec", {"command": ["sh", "-c", "echo no >&2; exit 3"]})
    assert failed.status == "failed"
    assert failed.error is not None
    assert failed.error["message"] == "sh exited with 3: no"
    assert failed.error["exit_code"] == 3
    [step] = stackshift.call("run.get", run=failed.id, detail=True)["steps"]
    assert step["error"]["exit_code"] == 3
    stackshift.restart()
    again = stackshift.run(failed.id).error
    assert again is not None
    assert again["exit_code"] == 3


def test_what_is_no_program_is_refused_at_the_start(stackshift: Stackshift) -> None:
    """With the place in the payload, and nothing is stored."""
    with pytest.raises(PayloadRefused, match=r"\$\.command"):
        stackshift.start("exec", {"command": "ls -l"})
    assert stackshift.runs == []


def test_backoff_of_a_start_is_that_of_its_attempts(stackshift: Stackshift) -> None:
    """`backoff_ms` is the delay before the first retry, doubled each time."""
    program = {"command": ["false"]}
    call = stackshift.call(
        "run.start", job="exec", payload=program, max_attempts=3, backoff_ms=5000
    )
    run = stackshift.run(call["id"])
    assert run.status == "retrying"
    stackshift.advance("5s")
    assert (run.status, run.attempt) == ("retrying", 2)
    stackshift.advance("9s")
    assert (run.status, run.attempt) == ("retrying", 2)
    stackshift.advance("1s")
    assert (run.status, run.attempt) == ("failed", 3)
