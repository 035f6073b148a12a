"""The frames between daemon and worker: what a call is known by does not depend on how it came."""

from __future__ import annotations

from stackshift_jobs.handler.ops import RecordedCall
from stackshiftd.worker.execution import recorded_call
from stackshiftd.worker.frames import Outcome, Recall


def test_outcome_says_of_a_call_what_its_recall_does() -> None:
    """The end of a wait may reach the worker before its handler has come to the call. It is checked
    against the record then, as on any other pass: is it a call of the same job?"""
    of_functions = {"input", "undo", "undone"}  # They are not waited for.
    fields = set(RecordedCall._fields) - of_functions
    assert fields <= set(Outcome.__struct_fields__) & set(Recall.__struct_fields__)
    known = {"kind": "child", "phase": "completed", "child": "run_2", "job": "gives", "seq": 7}
    came = recorded_call(Outcome(run="run_1", token=1, step="sub", **known))  # type: ignore[arg-type]
    assert came == recorded_call(Recall(run="run_1", step="sub", **known))  # type: ignore[arg-type]
    assert (came.job, came.seq) == ("gives", 7)
