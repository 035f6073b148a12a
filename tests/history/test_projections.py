"""What is read from a run's records agrees with their fold, over random histories of the core.

Four places say what records mean: the fold, rows of the history, the steps of `runs show`, and the
timeline that the command line draws. The last three know less than the fold, and must never say
anything else. The timeline of a run that is fetched says of a step what its steps say.
"""

from __future__ import annotations

import json
from typing import Any, Final

from hypothesis import HealthCheck, settings

from core.histories.test_histories import LONG, Histories
from history.test_rows import facts, live_rows, rows_of
from stackshift_cli.daemon import run_detail
from stackshift_cli.timeline.build import build
from stackshift_cli.timeline.model import NO_STEP, Row
from stackshift_jobs.values.durations import from_rfc3339
from stackshift_jobs.values.identities import is_step
from stackshiftd.core import records as r
from stackshiftd.core.state.state import PENDING, Call, CallKind, Phase, Run, Status
from stackshiftd.shell.views.lookup import ended_by
from stackshiftd.shell.views.steps import KINDS, Steps

_STATUS: Final = {
    Phase.OPEN: "running",
    Phase.WAITING: "waiting",
    Phase.RETRYING: "retrying",
    Phase.COMPLETED: "completed",
    Phase.FAILED: "failed",
    Phase.RELEASED: "completed",
    Phase.GONE: "completed",
    Phase.WITHDRAWN: "cancelled",
}
_KIND: Final = {
    CallKind.RUN: "run",
    CallKind.VALUE: "value",
    CallKind.SLEEP: "sleep",
    CallKind.START: "start",
    CallKind.CHILD: "call",
    CallKind.EVENT: "event",
    CallKind.LOCK: "lock",
    CallKind.REFUSED: "value",
}


def status_of(call: Call) -> str:
    """How a recorded call is shown."""
    if call.phase is Phase.WITHDRAWN:
        return "cancelled"
    if call.kind is CallKind.CHILD and call.child_status in ("failed", "cancelled"):
        return call.child_status
    if call.child_status == "timed_out" and call.wait is not None:
        return "cancelled" if call.wait.on_timeout == "cancel" else "completed"
    return _STATUS[call.phase]


class Projections(Histories):
    """The histories of the core, read in all four ways at their end."""

    def check_replay(self) -> None:
        super().check_replay()
        entries = self.story.entries
        assert {run: facts(row) for run, row in rows_of(entries).items()} == {
            run: facts(row) for run, row in live_rows(entries).items()
        }
        for run in self.story.state.runs.values():
            if run.forked_from is None:
                own = [e for e in entries if getattr(e.record, "run", None) == run.id]
                self.check_steps(run, own)
                self.check_agreement(run, own)
                self.check_end(run, own)

    def check_steps(self, run: Run, own: list[r.Entry]) -> None:
        steps = Steps()
        for entry in own:
            steps.add(entry)
        for name, call in run.calls.items():
            step = steps.by_name[name]
            if call.phase is Phase.OPEN:
                # Cut off with its attempt, until it is recorded that it runs again.
                assert step["status"] in ("running", "retrying", "failed", "cancelled")
            elif run.finished and call.phase in PENDING:
                assert step["status"] == "cancelled", (name, call)
            else:
                assert step["status"] == status_of(call), (name, call)
            assert step["kind"] == _KIND[call.kind]
            assert step["kind"] in KINDS
        starts = [e for e in own if isinstance(e.record, r.AttemptStarted)]
        assert [attempt["number"] for attempt in steps.attempts] == [
            e.record.attempt for e in starts if isinstance(e.record, r.AttemptStarted)
        ]
        open_attempts = [each for each in steps.attempts if each["outcome"] is None]
        assert len(open_attempts) <= 1
        if run.finished:
            assert open_attempts == []

    def check_agreement(self, run: Run, own: list[r.Entry]) -> None:
        """What `--json` says of a step, the picture says too, after every record, whether it was
        fetched then or is watched since the beginning: no tick before success."""
        steps = Steps()
        timeline: list[dict[str, Any]] = []
        watched: dict[str, Any] = {"id": run.id, "timeline": [], "steps": []}
        for entry in own:
            steps.add(entry)
            timeline.append(json.loads(r.entry_json(entry)))
            run_detail.add(watched, timeline[-1])
            fetched = watched | {"timeline": timeline, "steps": [*steps.by_name.values()]}
            rows = {row.key: row for row in build(fetched, entry.at_us).rows}
            for name, step in steps.by_name.items():
                if step["kind"] != "value":
                    self.check_row(rows[name], step)
            seen = {row.key: row for row in build(watched, entry.at_us).rows}
            for row in (*rows.values(), *seen.values()):
                if row.status == "completed" and not row.key.startswith(NO_STEP):
                    known = steps.by_name.get(row.key)
                    assert known is not None, row
                    assert known["status"] == "completed" or not is_step(row.key), row

    def check_row(self, row: Row, step: dict[str, Any]) -> None:
        assert row.status == step["status"], (row, step)
        if step["kind"] == "run":
            assert (row.attempts, row.took_ms) == (step["attempts"], step["duration_ms"])
            assert row.started_us == from_rfc3339(step["started_at"])

    def check_end(self, run: Run, own: list[r.Entry]) -> None:
        end = ended_by(own)
        if run.finished:
            assert end is not None
            # A run that is cancelled may remember why its last attempt failed; it is not its end.
            error = run.error if run.status is Status.FAILED else None
            assert (end.status, end.error) == (run.status.value, error)


TestProjections = Projections.TestCase
TestProjections.settings = settings(
    max_examples=200 if LONG else 40,
    stateful_step_count=60,
    derandomize=not LONG,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
