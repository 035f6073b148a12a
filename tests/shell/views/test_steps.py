"""The steps of `runs show`, where their records come in an order that is rare."""

from __future__ import annotations

from typing import Any

from msgspec import Raw

from stackshiftd.core import records as r
from stackshiftd.shell.views.steps import Steps

RUN = "run_x"


def steps_of(*records: Any) -> Steps:
    """What these records lead to, one a second."""
    steps = Steps()
    for seq, record in enumerate(records, 1):
        steps.add(r.Entry(seq, seq * 1_000_000, record))
    return steps


def test_call_that_is_withdrawn_twice_keeps_its_kind() -> None:
    """It was made again and given up at once: then only its end is recorded."""
    wait = r.WaitStarted(RUN, 1, "shipped", "event", events=[("shipped", "")])
    withdrawn = r.CallWithdrawn(RUN, 1, "shipped")
    step = steps_of(wait, withdrawn, withdrawn).by_name["shipped"]
    assert (step["kind"], step["status"]) == ("event", "cancelled")


def test_checkpoint_does_not_say_that_a_withdrawn_step_executes() -> None:
    """It may be the last word of one that was given up; one that begins again says so."""
    begun = r.StepStarted(RUN, 1, "load")
    records = [begun, r.CallWithdrawn(RUN, 1, "load")]
    records.append(r.StepCheckpointed(RUN, 1, "load", Raw(b"7")))
    step = steps_of(*records).by_name["load"]
    assert (step["status"], step["checkpoint"]) == ("cancelled", Raw(b"7"))
    assert steps_of(*records, begun).by_name["load"]["status"] == "running"


def test_step_that_is_forgotten_in_its_backoff_does_not_come_back() -> None:
    """It had failed with its attempt, and the run was retried without it."""
    child = r.WaitStarted(RUN, 1, "ship#1", "child", child="run_y")
    error = r.Error("ValueError", "boom")
    failed = r.AttemptFailed(RUN, 1, error, retry_at="2027-01-01T00:00:00.000000Z", step="ship#1")
    forgotten = r.RunRetried(RUN, forgotten=["ship#1"])
    started = r.AttemptStarted(RUN, 2, "w1", "code")
    cancelled = r.RunCancelled(RUN, "requested")
    assert not steps_of(child, failed, cancelled, forgotten, started).by_name
