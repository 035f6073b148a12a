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
from stackshiftd.core import records as r
from stackshiftd.core.records import Entry
from stackshiftd.core.state.entries import written_json
from stackshiftd.core.state.events import sent_json
from stackshiftd.core.why import events_text

KINDS: Final = ("run", "sleep", "event", "lock", "call", "start", "value")
"""What a step can be: a function; a wait for a time, an event, a lock, or a child (or another run);
the start of a run; a recorded value (a read, a write, a sent event)."""
_WAIT_KINDS: Final = {"sleep": "sleep", "event": "event", "lock": "lock", "child": "call"}
_PENDING: Final = ("running", "waiting", "retrying")


def error_object(error: r.Error | None) -> dict[str, str] | None:
    """`{type, message, traceback}`."""
    if error is None:
        return None
    return {"type": error.type, "message": error.message, "traceback": error.traceback}


class Steps:
    """The steps and attempts of one run so far, as JSON values."""

    def __init__(self) -> None:
        self.by_name: dict[str, dict[str, Any]] = {}
        self.attempts: list[dict[str, Any]] = []
        self.cancelled: dict[str, str] = {}
        """Step → its status when the run was cancelled, for steps that were under way then."""
        self.withdrawn: set[str] = set()

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
            },
        )

    def finish(self, name: str, kind: str, at_us: int, **facts: Any) -> None:
        """Finish the step `name`. `facts` are fields to set; its status is `completed` unless they
        contain another."""
        step = self.begin(name, kind, at_us) | {"status": "completed"} | facts
        step["finished_at"] = rfc3339(at_us)
        step["duration_ms"] = max(0, (at_us - from_rfc3339(step["started_at"])) // 1000)
        self.by_name[name] |= step

    def end_attempt(self, outcome: str, at_us: int, error: r.Error | None = None) -> None:
        """End the last attempt with `outcome`, if it is under way."""
        if self.attempts and self.attempts[-1]["outcome"] is None:
            self.attempts[-1] |= {
                "outcome": outcome,
                "finished_at": rfc3339(at_us),
                "error": error_object(error),
            }


def _attempt_started(steps: Steps, entry: Entry, record: r.AttemptStarted) -> None:
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


def _attempt_resumed(steps: Steps, _entry: Entry, record: r.AttemptResumed) -> None:
    if steps.attempts:
        steps.attempts[-1]["code"] = record.code


def _attempt_failed(steps: Steps, entry: Entry, record: r.AttemptFailed) -> None:
    steps.end_attempt("failed", entry.at_us, record.error)
    for name in (record.step, *record.more_steps):
        if name is not None and name in steps.by_name:
            steps.by_name[name]["status"] = "failed"


def _run_completed(steps: Steps, entry: Entry, _record: r.RunCompleted) -> None:
    steps.end_attempt("completed", entry.at_us)


def _run_failed(steps: Steps, entry: Entry, record: r.RunFailed) -> None:
    steps.end_attempt("failed", entry.at_us, record.error)
    if record.step is not None and record.step in steps.by_name:
        steps.by_name[record.step] |= {
            "status": "failed",
            "result": None,
            "error": error_object(record.error),
        }


def _run_cancelled(steps: Steps, entry: Entry, _record: r.RunCancelled) -> None:
    steps.end_attempt("cancelled", entry.at_us)
    for step in steps.by_name.values():
        if step["status"] in _PENDING:
            steps.cancelled[step["name"]] = step["status"]
            step |= {"status": "cancelled", "finished_at": rfc3339(entry.at_us)}


def _run_retried(steps: Steps, entry: Entry, record: r.RunRetried) -> None:
    for name in record.forgotten:
        steps.by_name.pop(name, None)
        steps.withdrawn.discard(name)
    for name, status in steps.cancelled.items():
        if name in steps.by_name:
            steps.by_name[name] |= {"status": status, "finished_at": None}
    steps.cancelled.clear()
    for name, value in record.replaced.items():
        step = steps.begin(name, "run", entry.at_us)
        step |= {"status": "completed", "result": value, "error": None}


def _step_started(steps: Steps, entry: Entry, record: r.StepStarted) -> None:
    steps.begin(record.step, "run", entry.at_us)["status"] = "running"


def _step_completed(steps: Steps, entry: Entry, record: r.StepCompleted) -> None:
    steps.begin(record.step, "run", entry.at_us - record.duration_ms * 1000)
    facts = {"attempts": record.tried, "result": record.result, "error": None}
    steps.finish(record.step, "run", entry.at_us, **facts)


def _step_failed(steps: Steps, entry: Entry, record: r.StepFailed) -> None:
    step = steps.begin(record.step, "run", entry.at_us - record.duration_ms * 1000)
    facts = {"attempts": record.tried, "error": error_object(record.error)}
    if record.retry_at:
        step |= {"status": "retrying", **facts}
    else:
        steps.finish(record.step, "run", entry.at_us, status="failed", **facts)


def _value_recorded(steps: Steps, entry: Entry, record: r.ValueRecorded) -> None:
    steps.finish(record.step, "value", entry.at_us, result=record.value)


def _child_started(steps: Steps, entry: Entry, record: r.ChildStarted) -> None:
    steps.finish(record.step, "start", entry.at_us, result=record.child)


def _wait_started(steps: Steps, entry: Entry, record: r.WaitStarted) -> None:
    step = steps.begin(record.step, _WAIT_KINDS[record.wait], entry.at_us)
    step |= {"status": "waiting", "detail": _awaited(record)}


def _wait_ended(steps: Steps, entry: Entry, record: r.WaitEnded) -> None:
    step = steps.by_name.get(record.step)
    if step is None:
        return
    if step["status"] == "retrying":
        step["status"] = "running"
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
        facts["detail"] = f"timed out: {step['detail']}"
    steps.finish(record.step, step["kind"], entry.at_us, **facts)


def _call_refused(steps: Steps, entry: Entry, record: r.CallRefused) -> None:
    error = _refusal(record.error)
    steps.finish(record.step, "value", entry.at_us, status="failed", error=error)


def _call_withdrawn(steps: Steps, entry: Entry, record: r.CallWithdrawn) -> None:
    step = steps.begin(record.step, "run", entry.at_us)
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
    r.RunCompleted: _run_completed,
    r.RunFailed: _run_failed,
    r.RunCancelled: _run_cancelled,
    r.RunRetried: _run_retried,
    r.StepStarted: _step_started,
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
