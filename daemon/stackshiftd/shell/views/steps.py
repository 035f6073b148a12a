"""Steps and attempts of a run, computed from its records, for `runs show`.

A projection like `fold`: a table of what each kind of record does to them, applied to entries in
order. It is the same for an unfinished run and for one of last month. A property test compares it
with `fold`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Raw

from stackshift_jobs.errors import BY_CODE, StackshiftError
from stackshift_jobs.values.durations import from_rfc3339, rfc3339
from stackshift_jobs.values.identities import undone_by
from stackshiftd.core import records as r
from stackshiftd.core.records import Entry
from stackshiftd.core.state.entries import written_json
from stackshiftd.core.state.events import sent_json
from stackshiftd.core.why import events_text

KINDS: Final = ("run", "sleep", "event", "lock", "call", "start", "value")
"""What a step can be: a function; a wait for a time, an event, a lock, or a child (or another run);
the start of a run; a recorded value (a read, a write, a sent event)."""
_WAIT_KINDS: Final = {"sleep": "sleep", "event": "event", "lock": "lock", "child": "call"}
_TIMED_OUT: Final = {"continue": "completed", "cancel": "cancelled"}
"""The status of a wait that timed out, by its `on_timeout`; otherwise it has failed."""
_PENDING: Final = ("running", "waiting", "retrying")
STARTED_AFTER_US: Final = 250_000
"""A step is recorded as started when it has executed for this long, or at once with a program."""


_NO_CHECKPOINT: Final = {"checkpoint": None, "checkpoint_at": None}


def error_object(error: r.Error | None) -> dict[str, Any] | None:
    """`{type, message, traceback}`, and the `exit_code` of a program that failed."""
    if error is None:
        return None
    shown = {"type": error.type, "message": error.message, "traceback": error.traceback}
    return shown if error.exit_code is None else {**shown, "exit_code": error.exit_code}


class Steps:
    """The steps and attempts of one run so far, as JSON values."""

    def __init__(self) -> None:
        self.by_name: dict[str, dict[str, Any]] = {}
        self.attempts: list[dict[str, Any]] = []
        self.given_up: dict[str, str] = {}
        """Step → its status when the run ended, for waits that a retry of the run goes on with."""
        self.withdrawn: set[str] = set()
        self.failures: dict[str, int] = {}
        """Step → its tries that have failed or were lost."""
        self.backing_off: list[str] = []
        """The steps whose failure ended the attempt, and that the next one tries again."""
        self.executing: set[str] = set()
        """Steps that are recorded as started, and not as ended since."""
        self.unsure: set[str] = set()
        """Steps without a result that may be done, and that the code says how to undo."""
        self.estimated: set[str] = set()
        """Steps under way of which it is not known exactly when they began."""
        self.on_timeout: dict[str, str] = {}
        """Wait → what happens to the run if it times out."""
        self.dispatched_us = 0

    def add(self, entry: Entry) -> None:
        """Apply the run's next entry."""
        handle = _BY_TYPE.get(type(entry.record))
        if handle is not None:
            handle(self, entry, entry.record)

    def begin(self, name: str, kind: str, since_us: int) -> dict[str, Any]:
        """The step `name`, created as running since `since_us` if it does not exist, or was
        withdrawn."""
        if name in self.withdrawn:
            self.withdrawn.discard(name)
            del self.by_name[name]
        return self.by_name.setdefault(
            name,
            {
                "name": name,
                "kind": kind,
                "status": "running",
                "attempts": 1,
                "started_at": rfc3339(since_us),
                "finished_at": None,
                "duration_ms": None,
                "result": None,
                "error": None,
                "detail": None,
                "child": None,
                "undone": None,
                "checkpoint": None,
                "checkpoint_at": None,
                "last_beat_at": None,
            },
        )

    def finish(self, name: str, kind: str, at_us: int, **facts: Any) -> None:
        """Finish the step `name`. `facts` are fields to set; its status is `completed` unless they
        contain another."""
        step = self.begin(name, kind, at_us)
        self.end(step, "completed", at_us)
        step |= facts

    def end_try(self, record: r.StepCompleted | r.StepFailed, at_us: int) -> int:
        """Note when the first try of the step began, which its duration tells exactly.
        Returns which try it was that ended at `at_us`."""
        began_us = self.before(at_us, record.duration_ms * 1000)
        step = self.begin(record.step, "run", began_us)
        self.executing.discard(record.step)
        if record.step in self.estimated:
            self.estimated.discard(record.step)
            step["started_at"] = rfc3339(began_us)
        return max(record.tried, self.failures.get(record.step, 0) + 1)

    def before(self, at_us: int, before_us: int) -> int:
        """The moment so long before `at_us`, but not before the handler was dispatched."""
        return max(self.dispatched_us, at_us - before_us)

    def cut_off(self, status: str) -> None:
        """The attempt has ended: each step that was executing has lost its try."""
        self.estimated.clear()
        for name, step in self.by_name.items():
            if step["status"] == "running" and step["kind"] == "run":
                step["status"] = status
                if name in self.executing:
                    if step["undone"] is False:
                        self.unsure.add(name)
                    step["attempts"] = self.failures[name] = self.failures.get(name, 0) + 1
        self.executing.clear()

    def give_up(self, at_us: int) -> None:
        """The run has ended: what is still under way will have no outcome."""
        self.executing.clear()
        self.estimated.clear()
        for step in self.by_name.values():
            if step["status"] in _PENDING:
                if step["status"] != "running":
                    self.given_up[step["name"]] = step["status"]
                self.end(step, "cancelled", at_us)

    def end(self, step: dict[str, Any], status: str, at_us: int) -> None:
        """End `step` with `status`."""
        took_ms = max(0, (at_us - from_rfc3339(step["started_at"])) // 1000)
        step |= {"status": status, "finished_at": rfc3339(at_us), "duration_ms": took_ms}

    def end_attempt(self, outcome: str, at_us: int, error: r.Error | None = None) -> None:
        """End the last attempt with `outcome`, if it is under way."""
        if self.attempts and self.attempts[-1]["outcome"] is None:
            self.attempts[-1] |= {
                "outcome": outcome,
                "finished_at": rfc3339(at_us),
                "error": error_object(error),
            }


def _attempt_started(steps: Steps, entry: Entry, record: r.AttemptStarted) -> None:
    _dispatched(steps, entry)
    steps.attempts.append(
        {
            "number": record.attempt,
            "outcome": None,
            "started_at": rfc3339(entry.at_us),
            "finished_at": None,
            "error": None,
            "code": record.code,
        }
    )


def _attempt_resumed(steps: Steps, entry: Entry, record: r.AttemptResumed) -> None:
    _dispatched(steps, entry)
    if steps.attempts:
        steps.attempts[-1]["code"] = record.code


def _dispatched(steps: Steps, entry: Entry) -> None:
    steps.dispatched_us = entry.at_us
    for name in steps.backing_off:
        step = steps.by_name[name]
        step |= {"status": "running", "attempts": steps.failures.get(name, 0) + 1}
    steps.backing_off.clear()


def _attempt_failed(steps: Steps, entry: Entry, record: r.AttemptFailed) -> None:
    steps.end_attempt("failed" if record.counts else "snoozed", entry.at_us, record.error)
    status = "retrying" if record.retry_at else "failed"
    steps.cut_off(status)
    for name in (record.step, *record.more_steps):
        if name is not None and name in steps.by_name:
            steps.end(steps.by_name[name], status, entry.at_us)
            if record.retry_at:
                steps.by_name[name] |= {"finished_at": None, "duration_ms": None}
                steps.backing_off.append(name)


def _attempt_lost(steps: Steps, _entry: Entry, _record: r.AttemptLost) -> None:
    steps.cut_off("retrying")


def _run_completed(steps: Steps, entry: Entry, _record: r.RunCompleted) -> None:
    steps.end_attempt("completed", entry.at_us)
    steps.give_up(entry.at_us)


def _run_failed(steps: Steps, entry: Entry, record: r.RunFailed) -> None:
    steps.end_attempt("failed", entry.at_us, record.error)
    if record.step is not None and record.step in steps.by_name:
        step = steps.by_name[record.step]
        steps.end(step, "failed", entry.at_us)
        step |= {"result": None, "error": error_object(record.error)}
    steps.give_up(entry.at_us)


def _run_cancelled(steps: Steps, entry: Entry, _record: r.RunCancelled) -> None:
    steps.end_attempt("cancelled", entry.at_us)
    steps.give_up(entry.at_us)


def _undo_started(steps: Steps, entry: Entry, record: r.UndoStarted) -> None:
    steps.end_attempt(record.status, entry.at_us, record.error)
    steps.cut_off("failed")
    for name in record.steps:
        if name in steps.by_name:
            steps.end(steps.by_name[name], "failed", entry.at_us)


def _run_retried(steps: Steps, entry: Entry, record: r.RunRetried) -> None:
    for name in record.forgotten:
        steps.withdrawn.discard(name)
        step = steps.by_name.get(name)
        if step is not None and step["status"] != "completed" and steps.failures.get(name):
            step |= {"status": "retrying", "finished_at": None, "duration_ms": None}
        else:  # It had an outcome, or was no step: it begins again.
            steps.by_name.pop(name, None)
            steps.failures.pop(name, None)
    steps.backing_off = [name for name in steps.backing_off if name in steps.by_name]
    for name, status in steps.given_up.items():
        if name in steps.by_name:
            under_way = {"status": status, "finished_at": None, "duration_ms": None}
            steps.by_name[name] |= under_way
    steps.given_up.clear()
    for name in record.afresh:
        if name in steps.by_name:
            steps.by_name[name] |= _NO_CHECKPOINT
    for name, value in record.replaced.items():
        step = steps.begin(name, "run", entry.at_us)
        step |= {"status": "completed", "result": value, "error": None}


def _step_started(steps: Steps, entry: Entry, record: r.StepStarted) -> None:
    if record.step not in steps.by_name or record.step in steps.withdrawn:
        steps.estimated.add(record.step)
    steps.executing.add(record.step)
    before_us = 0 if record.program or record.undo else STARTED_AFTER_US
    step = steps.begin(record.step, "run", steps.before(entry.at_us, before_us))
    under_way = {"status": "running", "finished_at": None, "duration_ms": None}
    step |= under_way | {"attempts": steps.failures.get(record.step, 0) + 1}
    # A later try may be the earlier one by the clock, if that was set back.
    since = rfc3339(steps.before(entry.at_us, before_us))
    step["started_at"] = min(step["started_at"], since)
    if record.undo:
        step["undone"] = False


def _step_checkpointed(steps: Steps, entry: Entry, record: r.StepCheckpointed) -> None:
    # One of a step that is made again after it was withdrawn does not say since when it executes.
    step = steps.by_name.get(record.step) or steps.begin(record.step, "run", entry.at_us)
    step |= {"checkpoint": record.value, "checkpoint_at": rfc3339(entry.at_us)}


def _step_completed(steps: Steps, entry: Entry, record: r.StepCompleted) -> None:
    tried = steps.end_try(record, entry.at_us)
    facts = {"attempts": tried, "result": record.result, "error": None, **_NO_CHECKPOINT}
    if record.undo:
        facts["undone"] = False
    steps.finish(record.step, "run", entry.at_us, **facts)
    steps.unsure.discard(record.step)
    if undone := steps.by_name.get(undone_by(record.step)):
        undone["undone"] = True
        steps.unsure.discard(undone["name"])


def _step_failed(steps: Steps, entry: Entry, record: r.StepFailed) -> None:
    tried = steps.end_try(record, entry.at_us)
    steps.failures[record.step] = tried
    if record.undo:
        steps.unsure.add(record.step)
    undone = False if record.step in steps.unsure else None
    facts = {"attempts": tried, "error": error_object(record.error), "undone": undone}
    if record.retry_at:
        steps.by_name[record.step] |= {"status": "retrying", **facts}
    else:
        steps.finish(record.step, "run", entry.at_us, status="failed", **facts)


def _value_recorded(steps: Steps, entry: Entry, record: r.ValueRecorded) -> None:
    steps.finish(record.step, "value", entry.at_us, result=record.value)


def _child_started(steps: Steps, entry: Entry, record: r.ChildStarted) -> None:
    steps.finish(record.step, "start", entry.at_us, result=record.child, child=record.child)


def _wait_started(steps: Steps, entry: Entry, record: r.WaitStarted) -> None:
    step = steps.begin(record.step, _WAIT_KINDS[record.wait], entry.at_us)
    step |= {"status": "waiting", "detail": _awaited(record), "child": record.child}
    steps.on_timeout[record.step] = record.on_timeout


def _wait_ended(steps: Steps, entry: Entry, record: r.WaitEnded) -> None:
    step = steps.by_name.get(record.step)
    if step is None:
        return
    if step["status"] == "retrying":
        step |= {"status": "running", "attempts": steps.failures.get(record.step, 0) + 1}
        return
    failed = record.status in ("failed", "cancelled")
    facts: dict[str, Any] = {
        "status": record.status if failed else "completed",
        "result": record.result,
        "error": error_object(record.error),
    }
    if record.status == "timed_out" and step["kind"] == "lock":
        facts = {"status": "failed", "result": None, "error": _refusal(record.result)}
    elif record.status == "timed_out":
        facts["status"] = _TIMED_OUT.get(steps.on_timeout.get(record.step, ""), "failed")
        facts["detail"] = f"timed out: {step['detail']}"
    steps.finish(record.step, step["kind"], entry.at_us, **facts)


def _call_refused(steps: Steps, entry: Entry, record: r.CallRefused) -> None:
    error = _refusal(record.error)
    steps.finish(record.step, "value", entry.at_us, status="failed", error=error)


def _call_withdrawn(steps: Steps, entry: Entry, record: r.CallWithdrawn) -> None:
    again = steps.by_name.get(record.step)  # Made again, it is of the kind that it was.
    kind = "run" if again is None else again["kind"]
    step = steps.begin(record.step, kind, steps.before(entry.at_us, STARTED_AFTER_US))
    steps.estimated.discard(record.step)
    if record.step in steps.executing and step["undone"] is False:
        steps.unsure.add(record.step)
    steps.executing.discard(record.step)
    steps.finish(record.step, step["kind"], entry.at_us, status="cancelled")
    steps.withdrawn.add(record.step)


def _lock_acquired(steps: Steps, entry: Entry, record: r.LockAcquired) -> None:
    if record.run is not None:
        facts = {"detail": f"lock {record.key}", "result": entry.seq}
        steps.finish(record.step, "lock", entry.at_us, **facts)


def _written(
    result: Callable[[Any], Any],
) -> Callable[[Steps, Entry, Any], None]:
    """Handles a write that a handler's call made (state, a lock, a sent event); `result` computes
    the result of the call from the record."""

    def written(steps: Steps, entry: Entry, record: Any) -> None:
        if record.step:
            steps.finish(record.step, "value", entry.at_us, result=result(record))

    return written


_BY_TYPE: Final[dict[type[r.Record], Callable[[Steps, Entry, Any], None]]] = {
    r.AttemptStarted: _attempt_started,
    r.AttemptResumed: _attempt_resumed,
    r.AttemptFailed: _attempt_failed,
    r.AttemptLost: _attempt_lost,
    r.RunCompleted: _run_completed,
    r.RunFailed: _run_failed,
    r.RunCancelled: _run_cancelled,
    r.UndoStarted: _undo_started,
    r.RunRetried: _run_retried,
    r.StepStarted: _step_started,
    r.StepCheckpointed: _step_checkpointed,
    r.StepCompleted: _step_completed,
    r.StepFailed: _step_failed,
    r.ValueRecorded: _value_recorded,
    r.ChildStarted: _child_started,
    r.WaitStarted: _wait_started,
    r.WaitEnded: _wait_ended,
    r.CallRefused: _call_refused,
    r.CallWithdrawn: _call_withdrawn,
    r.LockAcquired: _lock_acquired,
    r.LockExtended: _written(lambda record: record.expires_at),
    r.StateSet: _written(lambda record: Raw(written_json(record))),
    r.StateDeleted: _written(lambda _record: True),
    r.RunLabelled: _written(lambda record: record.labels),
    r.EventReceived: _written(lambda record: Raw(sent_json(record))),
}


def _refusal(error: Raw) -> dict[str, str]:
    """The error object of a refusal, which is recorded in the form of the protocol."""
    body = msgspec.json.decode(error)
    name = BY_CODE.get(body["code"], StackshiftError).__name__
    return {"type": name, "message": body["message"], "traceback": ""}


def _awaited(record: r.WaitStarted) -> str | None:
    """`event avatar.approved [img_123]`, `lock index:customer_1`."""
    if record.wait == "event":
        return events_text(record.events)
    return f"lock {record.lock}" if record.wait == "lock" else None
